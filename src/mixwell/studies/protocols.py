"""The papers' protocols: what each trains on, which methods it compares, what it looks at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mixwell.errors import InputError, suggest

__all__ = ["PROTOCOLS", "Protocol"]

_CIFAR: dict[str, Any] = {
    "epochs": 200, "batch_size": 128, "lr": 0.1, "optimizer": "sgd", "weight_decay": 5e-4,
    "augment": True, "model": "resnet18", "published": "data",
}  # fmt: skip
# Beside SK and ICM their authors run these at α = 0.2, where the methods' own papers have others.
# Remix is drawn as Remix-ICM is, λ for each sample: so that the two differ in the loss alone.
_BASELINES = {
    "mixup": {"alpha": 0.2}, "manifold_mixup": {"alpha": 0.2}, "remix": {"alpha": 0.2},
}  # fmt: skip
_SK_TOY = {"distance": "input", "squared": False, "tau_max": 5.0, "tau_std": 0.2}


@dataclass(frozen=True)
class Protocol:
    """A protocol: the defaults of its study.

    Attributes:
        name: what ``mixwell study`` calls it.
        about: what it does, in a sentence or two.
        defaults: options of the runs; one with a list varies.
        methods: that it compares.
        seeds: how many.
        measures: what it looks at first.
        settings: of methods, by their names, where the protocol has others than usual.
        presets: name to what is different: "defaults", "methods", "seeds", "settings".
    """

    name: str
    about: str
    defaults: Mapping[str, Any]
    methods: tuple[str, ...]
    seeds: int = 3
    measures: tuple[str, ...] = ("accuracy", "ece", "nll")
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def preset(self, name: str | None) -> Protocol:
        """Return the protocol with a preset's differences.

        Raises:
            InputError: it has no such preset.
        """
        if name is None:
            return self
        if not isinstance(name, str) or name not in self.presets:
            near = suggest(name, self.presets) if isinstance(name, str) else ""
            raise InputError(
                f"preset={name!r} is unknown to {self.name}{near}; "
                f"it has {', '.join(self.presets) or 'none'}"
            )
        return replace(self, **self.presets[name])


def _mixups(alpha: float) -> dict[str, dict[str, Any]]:
    """Return what C-Mixup's authors run mixup and Manifold Mixup with, beside it, in regression."""
    return {name: {"alpha": alpha, "per": "batch"} for name in ("mixup", "manifold_mixup")}


_ALL = (
    "erm", "mixup", "regmixup", "sk_mixup", "decoupled", "infinite_class", "am_mixup",
)  # fmt: skip

PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            "balanced",
            "Train and test on the data as they are: accuracy, calibration, features.",
            {"data": "digits"},
            _ALL,
            presets={
                "paper": {
                    "defaults": {"data": ["cifar10", "cifar100"], **_CIFAR, "model": "resnet50"},
                    "methods": (*_ALL, "manifold_mixup", "cutmix", "mixup_io"),
                    "settings": _BASELINES,
                },
            },
        ),
        Protocol(
            "long-tailed",
            "Class c keeps n · IF^(-c / (C - 1)) training samples; the test set stays as it is. "
            "Accuracy of all classes, and of those with many, a medium number and few samples.",
            {"data": "digits", "imbalance": [10.0, 50.0], "epochs": 30},
            ("erm", "mixup", "remix", "decoupled", "infinite_class", "remix+infinite_class",
             "am_mixup"),
            measures=("accuracy", "accuracy_many", "accuracy_medium", "accuracy_few",
                      "balanced_ece", "nll"),
            presets={
                "paper": {
                    "defaults": {
                        "data": ["cifar10", "cifar100"], "imbalance": [10.0, 50.0, 100.0, 200.0],
                        **_CIFAR,
                    },
                    "settings": _BASELINES,
                },
            },
        ),
        Protocol(
            "few-shot",
            "A few training samples of each class: accuracy and calibration over their number.",
            {"data": "digits", "shots": [5, 10, 25, 50], "epochs": 40, "batch_size": 25},
            _ALL,
            presets={
                "paper": {
                    "defaults": {
                        "data": ["cifar10", "cifar100"], "shots": [10, 25, 50, 100, 500], **_CIFAR,
                    },
                    "settings": _BASELINES,
                },
            },
        ),
        Protocol(
            "coarse-to-fine",
            "Train on superclasses, freeze, and probe the features for the classes within them: "
            "what a method lets collapse within a class is lost.",
            {"data": "digits", "coarse": True},
            _ALL,
            measures=("fine_accuracy", "fine_uniformity", "fine_alignment", "fine_margin",
                      "fine_margin_balance", "accuracy"),
            presets={
                "paper": {
                    "defaults": {"data": "cifar100", "coarse": True, **_CIFAR},
                    "settings": _BASELINES,
                },
            },
        ),
        Protocol(
            "dynamic",
            "Static masks, losses and masks that ask the model where to cut: what the passes that "
            "these take buy, accuracy beside the time of a step.",
            # Class activation maps want a head that reads the mean of the last feature maps.
            {"data": "digits", "model": "cnn", "model_options": {"pool": True}},
            ("erm", "mixup", "regmixup", "decoupled", "cutmix", "cutmix+decoupled", "saliencymix",
             "puzzlemix", "guidedmix", "attentivemix", "snapmix", "alignmix", "automix"),
            presets={
                "colour": {
                    "defaults": {
                        "data": "shapes", "model": "cnn", "model_options": {"pool": True},
                    },
                },
                "paper": {"defaults": {"data": "cifar100", **_CIFAR}},
            },
        ),
        Protocol(
            "semi-supervised",
            "A few labels, the rest unlabelled: pseudo-labels of a mean teacher on weak views, "
            "trained on strong views, and labelled mixed with pseudo-labelled samples.",
            {"data": "digits", "labels": 40, "epochs": 40, "batch_size": 96, "lr": 0.05},
            ("erm", "mixup", "decoupled"),
            settings={
                "decoupled": {"alpha": 1.0},
            },
            presets={
                "paper": {
                    "defaults": {
                        "data": "cifar10", "labels": [40, 250, 4000], "model": "wideresnet-28-2",
                        "epochs": 1000, "batch_size": 448, "unlabelled_ratio": 7, "lr": 0.03,
                        "optimizer": "sgd", "weight_decay": 5e-4, "ema": 0.999,
                    },
                },
            },
        ),
        Protocol(
            "regression",
            "Tables and time series: errors, and the uncertainty of MC-dropout before and after "
            "variance scaling.",
            {"data": "diabetes", "model_options": {"dropout": 0.2}},
            # The second SK has a kernel of their own, and a wider one, for the targets.
            ("erm", "mixup", "manifold_mixup", "c_mixup", "sk_mixup",
             "sk_mixup(target_tau_std=1.0)"),
            seeds=5,
            measures=("rmse", "mape", "uce", "ence", "nll", "pinball"),
            presets={
                "paper": {
                    "defaults": {
                        "data": "airfoil", "model_options": {"dropout": 0.2}, "published": "data",
                    },
                    "settings": _mixups(2.0),
                },
                "paper-series": {
                    "defaults": {
                        "data": "exchange-rate", "window": 168, "horizon": 12, "epochs": 100,
                        "batch_size": 128, "lr": 1e-3, "optimizer": "adamw", "weight_decay": 0.0,
                        "model_options": {"dropout": 0.2}, "published": "data",
                    },
                    "settings": _mixups(1.5),
                },
            },
        ),
        Protocol(
            "toy",
            "Two moons and two circles: decision surfaces, mixed samples that fall into the "
            "other class (manifold intrusion), and the balance of margins over training.",
            {"data": ["moons", "circles"]},
            ("erm", "mixup", "sk_mixup", "manifold_mixup", "infinite_class", "am_mixup"),
            measures=("accuracy", "intrusion", "off_manifold", "margin_balance", "nll", "ece"),
            settings={"sk_mixup": _SK_TOY},
            presets={
                "paper": {
                    "defaults": {
                        "data": "moons", "train_size": 70, "model": "mlp",
                        "model_options": {"width": 20, "depth": 1}, "epochs": 5000,
                        "batch_size": 128, "lr": 1e-3, "optimizer": "adamw", "weight_decay": 0.0,
                        "published": "data",
                    },
                    "settings": {"mixup": {"alpha": 5.0, "per": "batch"}},
                },
            },
        ),
    )
}  # fmt: skip
