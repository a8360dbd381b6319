"""What may be asked of a model: one object, :class:`ModelView`, and the functions under it."""

from mixwell.view.attention import attending, attention_of, token_grid
from mixwell.view.head import capture_features, check_carries_all, find_head, probabilities
from mixwell.view.hooks import (
    Side,
    check_not_checkpointed,
    copied,
    in_checkpoint,
    inference,
    is_compiled,
    logits_of,
    named_as_layer,
    release,
    run_on_copy,
    tapped,
    unwrap,
    watch,
)
from mixwell.view.maps import Maps, find_maps
from mixwell.view.stages import feature_layer, stages
from mixwell.view.trace import Trace, trace
from mixwell.view.view import ModelView, looks, register_look

__all__ = [
    "Maps",
    "ModelView",
    "Side",
    "Trace",
    "attending",
    "attention_of",
    "capture_features",
    "check_carries_all",
    "check_not_checkpointed",
    "copied",
    "feature_layer",
    "find_head",
    "find_maps",
    "in_checkpoint",
    "inference",
    "is_compiled",
    "logits_of",
    "looks",
    "named_as_layer",
    "probabilities",
    "register_look",
    "release",
    "run_on_copy",
    "stages",
    "tapped",
    "token_grid",
    "trace",
    "unwrap",
    "watch",
]
