"""What was decided and how much of the budget is gone, in a file that a kill can't break."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mixwell.errors import InputError
from mixwell.training.files import read_json, write_json

__all__ = ["Ledger"]

FORMAT = 1
CONTENT = "the data's content"
"""Under which the identity has what the data hold."""
_BEAT = 1.0  # seconds between entries of the time


class Ledger:
    """The file ``state.json``: decisions are entered once and stand; time counts while it is open.

    Args:
        folder: where it lies.
        identity: what makes this recommendation another than others.
        elapsed: seconds that are gone before.

    Raises:
        InputError: the folder holds one of other settings, or of another version.
    """

    FILE = "state.json"

    def __init__(self, folder: Path, identity: Mapping[str, Any], elapsed: float = 0.0) -> None:
        self._path = folder / self.FILE
        self._began = self._written = time.monotonic()
        self.content: dict[str, Any] = {
            "format": FORMAT, "identity": json.loads(json.dumps(identity)), "spent": 0.0,
            "rungs": [], "blocks": [],
        }  # fmt: skip
        if self._path.is_file():
            self._go_on(read_json(self._path))
        self._before = float(self.content["spent"]) + elapsed

    def _go_on(self, found: Any) -> None:
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise InputError(f"{self._path} is of no recommendation of this version of mixwell")
        old, new = found["identity"], self.content["identity"]
        changed = [
            f"{name}={old.get(name)!r}, not {new.get(name)!r}"
            for name in {**old, **new}
            # What data hold was not entered once.
            if old.get(name) != new.get(name) and (name in old or name != CONTENT)
        ]
        if changed:
            words = "; ".join(changed[:3])
            why = ""
            if changed[0].startswith("budget"):
                why = " (seeds that are added after a look at the test split spoil its interval)"
            raise InputError(
                f"out={str(self._path.parent)!r} holds a recommendation of other settings "
                f"({words}){why}; choose another folder or delete it"
            )
        self.content = found

    @property
    def spent(self) -> float:
        """The seconds of the budget that are gone, those of earlier calls among them."""
        return self._before + time.monotonic() - self._began

    def tick(self) -> None:
        """Enter the time, once in a while."""
        if time.monotonic() - self._written >= _BEAT:
            self.keep()

    def keep(self, **values: Any) -> None:
        """Enter what was decided, and the time."""
        self.content.update(values)
        self.content["spent"] = self.spent
        write_json(self._path, self.content)
        self._written = time.monotonic()

    def add(self, name: str, entry: Mapping[str, Any], **values: Any) -> None:
        """Enter one more of "rungs" or "blocks", and what was decided with it."""
        self.keep(**{name: [*self.content[name], dict(entry)]}, **values)
