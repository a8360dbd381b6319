"""All that a run depends on, as one value."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from mixwell.checks import LARGEST, check_choice, check_range, check_whole, plain, shown
from mixwell.errors import InputError, suggest
from mixwell.plugins import changed as changed_imports
from mixwell.training.naming import content_digest, weights_file

__all__ = ["LOGGERS", "NOT_SAID", "RunConfig", "loggers_of"]

LOGGERS = ("csv", "tensorboard", "wandb", "mlflow")
"""What a run's course may be logged by."""


def _option(default: Any, group: str, text: str, choices: tuple[str, ...] = ()) -> Any:
    """Return a dataclass field that knows how the command line presents it."""
    metadata = {"group": group, "help": text, "choices": choices}
    return field(default=default, metadata=metadata)


def _digest(group: str) -> Any:
    """Return a field for what some data hold, which no option sets: their files may change."""
    return _option(None, group, "")


_WHOLE = {  # fields to their least values
    "train_size": 1, "epochs": 0, "batch_size": 1, "accumulate": 1, "devices": 1, "threads": 1,
    "image_size": 8, "loader_workers": 0, "seed": 0, "largest_class": 1, "shots": 1, "labels": 1,
    "window": 1, "horizon": 1, "unlabelled_ratio": 1, "mc_samples": 2, "val_every": 1,
}  # fmt: skip
_REAL = {  # fields to their greatest values, and whether they must be over 0
    "lr": (math.inf, True), "weight_decay": (math.inf, False), "warmup_epochs": (math.inf, False),
    "grad_clip": (math.inf, True), "momentum": (1.0, False), "threshold": (1.0, False),
    "imbalance": (math.inf, True), "unlabelled_weight": (math.inf, False),
    "checkpoint_minutes": (math.inf, False), "mix_cutoff": (1.0, False),
    "backbone_lr": (math.inf, True), "layer_decay": (1.0, True),
}  # fmt: skip
GREATEST_SEED = 2**32 - 1  # NumPy's
_NO_MATTER = (
    "data_dir", "download", "val_every", "loader_workers", "threads", "checkpoint_minutes", "log",
)  # fmt: skip
_READ_BY = {
    "data": ("data", "target", "task", "image_size", "val_fraction"), "ood": ("ood",),
    "people": ("people",),
}  # fmt: skip
"""Of all data that a run reads, what their content may depend on beside files."""
NOT_SAID = ("imports", "init_digest", *(f"{name}_digest" for name in _READ_BY))
"""Fields that no option and no study's file sets: they are found out."""


def _listed(name: str, value: Any, wanted: str) -> tuple[Any, ...]:
    """Return several as a tuple: of a list, a tuple or nothing at all."""
    if value is None or (isinstance(value, (list, tuple)) and not value):
        return ()
    if not isinstance(value, (list, tuple)):
        raise InputError(f"{name} must hold {wanted}, got {shown(value)}")
    return tuple(value)


def _patterns(value: Any) -> tuple[str, ...]:
    """Return what is frozen as names, one or several."""
    wanted = "names of parameters or parts"
    names = (value,) if isinstance(value, str) else _listed("freeze", value, wanted)
    for name in names:
        if not isinstance(name, str) or not name:
            raise InputError(f"freeze must hold {wanted}, got {shown(name)}")
    return names


def _imported(record: Any) -> dict[str, Any]:
    """Return the record of something imported, if it is one."""
    known = {"name", "module", "version", "text"}
    if not isinstance(record, Mapping) or not {"name", "module"} <= set(record) <= known:
        raise InputError(
            f"imports must hold what mixwell.plugins.load returned, got {shown(record)}"
        )
    return dict(record)


def _of_kind(name: str, kind: str, value: Any) -> Any:
    """Return a field's value if it is of the kind that it is declared with, as JSON can hold it.

    Numbers are left to those checks that know their ranges.
    """
    kind, _, optional = kind.partition(" | ")
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if value is None and optional:
        return None
    if kind == "str" and (not isinstance(value, str) or not value or "\0" in value):
        raise InputError(f"{name} must be a text, such as a name, got {shown(value)}")
    if kind == "bool" and not isinstance(value, bool):
        raise InputError(f"{name} must be true or false, got {shown(value)}")
    if kind.startswith("dict"):
        return _mapping(name, value)
    if value is None and kind in ("int", "float"):
        raise InputError(f"{name} must be a number, got None")
    return value


def _mapping(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise InputError(f"{name} must map names to settings, got {shown(value)}")
    found = {key: plain(inner) for key, inner in value.items()}
    for key, inner in found.items():
        try:
            json.dumps(inner)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"{name}: {key}={shown(inner)} is nothing that a file can hold: {error}; give "
                "numbers, texts, or lists of them"
            ) from error
    return found


def loggers_of(text: str | None) -> tuple[str, ...]:
    """Return the loggers that "csv,tensorboard" names.

    Raises:
        InputError: one is unknown, or named twice.

    >>> loggers_of("csv, tensorboard")
    ('csv', 'tensorboard')
    """
    if text is None:
        return ()
    if not isinstance(text, str):
        raise InputError(f"log must name loggers (csv,tensorboard), got {shown(text)}")
    names = tuple(part.strip() for part in text.split(","))
    for name in names:
        check_choice("log", name, LOGGERS)
    if len(set(names)) < len(names):
        raise InputError(f"log={text!r} names one twice")
    return names


@dataclass(frozen=True)
class RunConfig:
    """A run's configuration: a value, which :mod:`mixwell.training.build` makes things of.

    Where a field is None, :func:`resolved <mixwell.training.build.resolved>` fills in what the
    data set is usually trained with.
    """

    data: str = _option("digits", "data", "the data set, by name; folder:PATH for image files")
    data_dir: str | None = _option(
        None, "data", "the folder with its files (default: $MIXWELL_DATA)"
    )
    download: bool = _option(False, "data", "fetch its files into the folder first")
    train_size: int | None = _option(
        None, "data", "train on so many samples, of each class its share"
    )
    val_fraction: float = _option(0.1, "data", "share of the training data held out for validation")
    imbalance: float | None = _option(
        None, "data", "long-tailed: how many times the smallest class the largest is"
    )
    largest_class: int | None = _option(
        None, "data", "long-tailed: training samples of the largest class (default: all can have)"
    )
    shots: int | None = _option(None, "data", "few-shot: training samples of each class")
    labels: int | None = _option(
        None, "data", "semi-supervised: labelled samples; the others are unlabelled"
    )
    coarse: bool = _option(
        False, "data", "train on superclasses, then probe the features for the classes"
    )
    target: str | None = _option(
        None, "data", "the column that is predicted, of csv, parquet, hf and series"
    )
    data_digest: str | None = _digest("data")
    task: str | None = _option(
        None,
        "data",
        "of csv, parquet and hf: classification takes numbers in the target for classes, too "
        "(default: text is classes, numbers are a regression)",
        ("classification", "regression"),
    )
    window: int = _option(24, "data", "of a series, the steps that are seen")
    horizon: int = _option(12, "data", "of a series, how far ahead the predicted step lies")
    augment: bool | None = _option(None, "data", "random crops and mirror images")
    image_size: int | None = _option(
        None,
        "data",
        "height and width of the images of folder:PATH and hf:PATH, and of all where pretrained "
        "weights are trained on (default: these weights' own, or 224)",
    )
    loader_workers: int = _option(2, "data", "processes that decode images of files")
    method: str = _option("mixup", "method", "a method, or several joined by '+'")
    method_options: dict[str, Any] = field(  # of the method
        default_factory=dict, metadata={"group": "method", "help": "", "choices": ()}
    )
    published: str | None = _option(
        None,
        "method",
        "a published set-up of the method, by name; data: that of the data set's "
        "name, where there is one",
    )
    model: str | None = _option(
        None,
        "network",
        "mlp, cnn, gru, resnet-fast, resnet18, resnet34, resnet50, wideresnet-28-K, timm:NAME, "
        "torchvision:NAME or MODULE:NAME",
    )
    model_options: dict[str, Any] = field(  # of the network
        default_factory=dict, metadata={"group": "network", "help": "", "choices": ()}
    )
    pretrained: bool = _option(
        False, "network", "start from the weights that timm or torchvision has for the model"
    )
    init: str | None = _option(
        None,
        "network",
        "start from the weights in a file (a state_dict, .safetensors) or a run's folder",
    )
    init_digest: str | None = field(  # of these weights: the file may go
        default=None, metadata={"group": "network", "help": "", "choices": ()}
    )
    freeze: tuple[str, ...] = field(
        default=(),
        metadata={
            "group": "network",
            "help": "parameters that stay as they are: names of parts (layer1), with * or as a "
            "regular expression; backbone: all but the head",
            "choices": (),
        },
    )
    epochs: int | None = _option(None, "optimisation", "passes over the training data")
    batch_size: int | None = _option(None, "optimisation", "samples a step, on each device")
    lr: float | None = _option(None, "optimisation", "peak learning rate")
    backbone_lr: float | None = _option(
        None, "optimisation", "rate of all but the head, as a factor of lr"
    )
    layer_decay: float | None = _option(
        None, "optimisation", "rate of each layer as a factor of the next one's, of timm's models"
    )
    schedule: str = _option(
        "cosine", "optimisation", "of the learning rate", ("cosine", "step", "onecycle", "constant")
    )
    warmup_epochs: float | None = _option(
        None, "optimisation", "epochs of linear warm-up, a tenth of the run at most"
    )
    optimizer: str | None = _option(
        None, "optimisation", "sgd has Nesterov momentum", ("sgd", "adamw")
    )
    momentum: float = _option(0.9, "optimisation", "of sgd")
    weight_decay: float | None = _option(None, "optimisation", "on all parameters")
    grad_clip: float | None = _option(None, "optimisation", "largest norm of the gradient")
    accumulate: int = _option(1, "optimisation", "batches whose gradients make one step")
    ema: float | None = _option(
        None, "optimisation", "decay of an average of the weights, which is then the result (0.999)"
    )
    semi: str = _option(
        "paper",
        "semi-supervised",
        "how labelled samples are mixed with others: the paper's form, or the authors' code's",
        ("paper", "authors"),
    )
    unlabelled_ratio: int = _option(
        3, "semi-supervised", "unlabelled samples for each labelled one of a batch"
    )
    unlabelled_weight: float = _option(
        1.0, "semi-supervised", "of the loss on pseudo-labels, of plain and of mixed samples"
    )
    threshold: float = _option(
        0.95, "semi-supervised", "the teacher's confidence from which on it is believed"
    )
    mix_cutoff: float | None = _option(
        None,
        "semi-supervised",
        "semi=authors: the confidence that is enough to be mixed, or 1 - λ where that is more, up "
        "to the threshold (default: the threshold)",
    )
    val_every: int = _option(
        1, "evaluation", "epochs between measurements of the validation split; the last has one"
    )
    people: str | None = _option(
        None,
        "evaluation",
        "a .npz file of how many people named each class, (N, C), of the test split in its order",
    )
    ood: str | None = _option(
        None, "evaluation", "a data set of images that the model should not be confident on"
    )
    ood_digest: str | None = _digest("evaluation")
    people_digest: str | None = _digest("evaluation")
    shift: bool = _option(
        False, "evaluation", "measure accuracy and ECE on corrupted images of five severities"
    )
    mc_samples: int = _option(
        50, "evaluation", "passes of MC-dropout, where a regression's network has dropout"
    )
    accelerator: str = _option(
        "auto", "machine", "what to train on", ("auto", "cpu", "cuda", "gpu", "mps")
    )
    devices: int = _option(1, "machine", "how many of them")
    precision: str = _option(
        "32-true", "machine", "of arithmetic", ("32-true", "bf16-mixed", "16-mixed", "64-true")
    )
    threads: int | None = _option(None, "machine", "processor threads of each process")
    checkpoint_minutes: float = _option(
        5.0, "machine", "longest time between checkpoints; the end of each epoch writes one, too"
    )
    log: str | None = _option(
        None,
        "machine",
        "log its course by these, too: csv,tensorboard,wandb,mlflow",
    )
    seed: int = _option(0, "method", "of the split, the weights, the order and the mixing")
    imports: tuple[dict[str, Any], ...] = field(  # what mixwell.plugins.load returned
        default=(), metadata={"group": "method", "help": "", "choices": ()}
    )

    # ------------------------------------------------------------------------------- validation

    def __post_init__(self) -> None:
        wanted = "what mixwell.plugins.load returned"
        imports = _listed("imports", self.imports, wanted)
        object.__setattr__(self, "imports", tuple(map(_imported, imports)))
        object.__setattr__(self, "freeze", _patterns(self.freeze))
        for spec in fields(self):
            value = plain(getattr(self, spec.name))  # NumPy's numbers, say, which JSON doesn't know
            object.__setattr__(self, spec.name, _of_kind(spec.name, str(spec.type), value))
        for name, least in _WHOLE.items():
            if getattr(self, name) is not None:
                most = GREATEST_SEED if name == "seed" else LARGEST
                check_whole(name, getattr(self, name), least, most)
        for name, (high, is_open) in _REAL.items():
            if getattr(self, name) is not None:
                check_range(name, getattr(self, name), 0, high, open=is_open)
        loggers_of(self.log)
        if not 0 < check_range("val_fraction", self.val_fraction, 0, 1) < 1:
            raise InputError(f"val_fraction must be between 0 and 1, got {self.val_fraction!r}")
        if self.ema is not None and not 0 < check_range("ema", self.ema, 0, 1) < 1:
            raise InputError(f"ema must be between 0 and 1, got {self.ema!r}")
        for spec in fields(self):
            value = getattr(self, spec.name)
            if spec.metadata["choices"] and value is not None:
                check_choice(spec.name, value, spec.metadata["choices"])

        if self.pretrained and self.init is not None:
            raise InputError(
                f"give pretrained or init={self.init!r}: both say which weights a run starts from"
            )
        if self.layer_decay is not None and self.backbone_lr not in (None, 1):
            raise InputError("give layer_decay or backbone_lr: both say at which rates it trains")

    # --------------------------------------------------------------------------------- as a value

    @property
    def fine_tunes(self) -> bool:
        """Whether it starts from weights that were trained before."""
        return self.pretrained or self.init is not None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON can hold them."""
        return {
            **asdict(self),
            "imports": [dict(record) for record in self.imports],
            "freeze": list(self.freeze),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunConfig:
        """Return the configuration of :meth:`to_dict`'s fields."""
        known = [spec.name for spec in fields(cls)]
        for name in values:
            if name not in known:
                raise InputError(f"{name!r} is no option of a run{suggest(name, known)}")
        return cls(**values)

    @property
    def fingerprint(self) -> str:
        """A short hash of all that changes the result."""
        text = json.dumps(self.changes(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def changes(self) -> dict[str, Any]:
        """Return the fields that change the result and are not as by default.

        Without the defaults, an option that is new tomorrow orphans no result of today; without its
        folder, a file is the same on another machine.
        """
        default, given = RunConfig().to_dict(), self._identity()
        return {k: v for k, v in given.items() if k not in _NO_MATTER and v != default[k]}

    def _identity(self) -> dict[str, Any]:
        """Return the fields, with what weights are in place of where they lie."""
        given = {**self.to_dict(), "people": self._of_file("people")}
        digest = given.pop("init_digest")
        for name in _READ_BY:  # a run of before they were kept is the same run
            given.pop(f"{name}_digest")
        if self.init is not None:
            given["init"] = digest or content_digest(weights_file(self.init))
        if not self.fine_tunes and self.image_size == 224:
            given["image_size"] = None  # what it is anyway
        return given

    def difference(self, other: RunConfig) -> str:
        """Return in words the first fields that differ in what changes the result."""
        if changed_data := self.other_data(other):
            return changed_data
        old, new = self._identity(), other._identity()
        imports = changed_imports(old.pop("imports"), new.pop("imports"))
        changed = [imports] if imports else []
        changed += [
            f"{k}={old[k]!r}, not {new[k]!r}"
            for k in new
            if old[k] != new[k] and k not in _NO_MATTER
        ]
        return "; ".join(changed[:3])

    def is_same_run(self, other: RunConfig) -> bool:
        """Whether all is alike that changes the result, the data as far as is known of them."""
        return self.fingerprint == other.fingerprint and not self.other_data(other)

    def other_data(self, other: RunConfig) -> str:
        """Return in words which data, named and read alike, are known to hold something else.

        Of the data that it is trained on, and of outliers and people's answers; "" where none do.
        """
        new = other.held
        for name, (reading, held) in self.held.items():
            as_read, holds = new.get(name, (None, None))
            if as_read == reading and holds != held:
                return f"{name}={getattr(other, name)!r} held {held}, and holds {holds}"
        return ""

    @property
    def held(self) -> dict[str, tuple[tuple[Any, ...], str]]:
        """How data are read and what they hold, of those of which that is known."""
        digests = {name: getattr(self, f"{name}_digest") for name in _READ_BY}
        return {
            name: (tuple(map(self._of_file, _READ_BY[name])), digest)
            for name, digest in digests.items()
            if digest is not None
        }

    def _of_file(self, name: str) -> Any:
        """Return a field; of people's answers the file's name, wherever it lies."""
        value = getattr(self, name)
        return Path(value).name if name == "people" and value else value

    @property
    def label(self) -> str:
        """The method with its settings: ``sk_mixup(tau_std=0.5)``."""
        settings = ", ".join(f"{key}={value}" for key, value in self.method_options.items())
        return f"{self.method}({settings})" if settings else self.method
