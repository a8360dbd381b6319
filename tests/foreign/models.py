"""All foreign models, by name: importing this registers them."""

from __future__ import annotations

from foreign import heads, hub, networks, outputs, vision, wrapped
from foreign.truths import MAKERS, TRUTHS

__all__ = ["MAKERS", "TRUTHS", "heads", "hub", "networks", "outputs", "vision", "wrapped"]
