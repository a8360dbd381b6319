"""The names by which models are asked from outside: of :mod:`mixwell.view`, where they live."""

from mixwell.view import (
    capture_features,
    find_head,
    inference,
    is_compiled,
    logits_of,
    release,
    stages,
    tapped,
    unwrap,
    watch,
)

__all__ = [
    "capture_features",
    "find_head",
    "inference",
    "is_compiled",
    "logits_of",
    "release",
    "stages",
    "tapped",
    "unwrap",
    "watch",
]
