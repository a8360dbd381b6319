"""What protocols measure beside the test split's labels.

Fine classes, outliers, shift, uncertainty, and a toy's decision surface.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixwell import data, metrics
from mixwell.data import Dataset, Split, TensorSplit
from mixwell.data.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from mixwell.data.splits import IMAGENET_MEAN, IMAGENET_STD, seeded
from mixwell.errors import InputError
from mixwell.methods import Method
from mixwell.view import inference, logits_of

if TYPE_CHECKING:
    from mixwell.training.config import RunConfig
    from mixwell.training.evaluate import Findings

__all__ = ["fine_classes", "load_outliers", "outliers", "shift", "surface", "uncertainty"]

_SHIFTED = 2000  # test images that are corrupted: 45 times all would take longer than training
_OUTLIERS = 5000
_STRENGTHS = (0.01, 0.1, 1.0)  # of a probe: scikit-learn's C, less is more regularised
Predict = Callable[..., tuple[Tensor, Tensor, "Tensor | None"]]


# ----------------------------------------------------------------------------- coarse to fine


def fine_classes(
    found: Findings, model: nn.Module, dataset: Dataset, device: torch.device,
    test_features: Tensor, predict: Predict,
) -> None:  # fmt: skip
    """Probe frozen features for the fine classes: a logistic regression on the training split.

    Features are standardised by the training split's moments; the probe's regularisation is
    chosen on the validation split. Measured beside the accuracy: alignment and uniformity by
    fine class, and the margins of the probe's class pairs.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    fine = dataset.fine
    assert fine is not None
    _, _, features = predict(model, dataset.train, device, features=True)
    _, _, held_out = predict(model, dataset.val, device, features=True)
    assert features is not None
    assert held_out is not None
    mean, std = features.mean(0), features.std(0).clamp_min(1e-6)
    train, val, test = (
        ((values - mean) / std).double() for values in (features, held_out, test_features)
    )
    wanted = fine.test.y.cpu()
    tried = []
    for strength in _STRENGTHS:
        probe = LogisticRegression(max_iter=200, C=strength)
        with warnings.catch_warnings():
            # Collapsed features are nearly singular: the last digits would take long to come.
            warnings.simplefilter("ignore", ConvergenceWarning)
            probe.fit(train.numpy(), fine.train.y.cpu().numpy())
        tried.append((probe.score(val.numpy(), fine.val.y.cpu().numpy()), probe))
    found.measures["val_fine_accuracy"], probe = max(tried, key=lambda pair: pair[0])
    scores = probe.decision_function(test.numpy())
    if scores.ndim == 1:  # scikit-learn gives one column for two classes
        scores = np.stack([-scores, scores], 1)
    logits = torch.full((len(wanted), len(fine.classes)), -1e9, dtype=torch.float64)
    logits[:, torch.from_numpy(probe.classes_)] = torch.from_numpy(scores)
    found.measures["fine_accuracy"] = float(metrics.accuracy(logits, wanted))
    found.measures["fine_alignment"] = float(metrics.alignment(test_features, wanted))
    found.measures["fine_uniformity"] = float(metrics.uniformity(test_features))
    if len(probe.coef_) == len(fine.classes):
        margins = metrics.class_margins(
            test, wanted, torch.from_numpy(probe.coef_), torch.from_numpy(probe.intercept_)
        )
        found.measures["fine_margin"] = float(margins.mean)
        found.measures["fine_margin_balance"] = float(margins.balance)
        found.details["fine_margins"] = [
            [None if value != value else round(value, 5) for value in row]
            for row in margins.pairs.tolist()
        ]
    found.details["fine_classes"] = list(fine.classes)
    found.arrays["test_fine"] = np.asarray(wanted)


# -------------------------------------------------------------------------- outliers and shift


def moments(split: Split) -> tuple[Tensor, Tensor]:
    """Return mean and std (1, C, 1, 1) that a split of images is normalised by."""
    if isinstance(split, TensorSplit):
        mean, std = split.mean, split.std
    else:
        mean, std = IMAGENET_MEAN, IMAGENET_STD
    assert mean is not None
    assert std is not None
    return torch.tensor(mean).view(1, -1, 1, 1), torch.tensor(std).view(1, -1, 1, 1)


def load_outliers(dataset: Dataset, config: RunConfig) -> TensorSplit:
    """Return another data set's test images as this one's: size, channels and normalisation.

    Raises:
        InputError: either has no images, or they are the same.
    """
    assert config.ood is not None
    if len(dataset.input_shape) != 3:
        raise InputError(f"ood={config.ood!r} needs images, but data={dataset.name!r} has none")
    if config.ood == config.data:
        raise InputError(f"ood={config.ood!r} must be another data set than data")
    options: dict[str, Any] = {"data_dir": config.data_dir, "download": config.download}
    if config.ood.startswith("folder:"):
        options.update(image_size=config.image_size, workers=config.loader_workers)
    other = data.load(config.ood, **options)
    if len(other.input_shape) != 3:
        raise InputError(f"ood={config.ood!r} has no images")
    chosen = torch.randperm(len(other.test), generator=seeded("ood"))[:_OUTLIERS].sort().values
    mean, std = moments(other.test)
    channels, *size = dataset.input_shape
    parts = []
    for x, _, _ in other.test.subset(chosen).batches(512):
        images = (x * std + mean).clamp(0, 1)
        if images.shape[1] != channels:
            images = images.mean(1, keepdim=True).expand(-1, channels, -1, -1)
        if list(images.shape[2:]) != size:
            images = F.interpolate(images, size, mode="bilinear", antialias=True)
        parts.append((images * 255).round().to(torch.uint8))
    images = torch.cat(parts)
    mean, std = moments(dataset.test)
    return TensorSplit(
        images, torch.zeros(len(images), dtype=torch.int64), mean.flatten().tolist(),
        std.flatten().tolist(),
    )  # fmt: skip


def outliers(
    found: Findings, model: nn.Module, dataset: Dataset, device: torch.device,
    config: RunConfig, logits: Tensor, predict: Predict,
) -> None:  # fmt: skip
    """Tell another data set's images by the highest probability."""
    unknown, _, _ = predict(model, load_outliers(dataset, config), device)
    known, strange = (z.double().softmax(1).amax(1) for z in (logits, unknown))
    found.measures["ood_auroc"] = float(metrics.auroc(known, strange))
    found.measures["ood_fpr95"] = float(metrics.false_positive_rate(known, strange))
    found.arrays["ood_confidence"] = strange.float().numpy()


def shift(
    found: Findings, model: nn.Module, dataset: Dataset, device: torch.device, seed: int,
    predict: Predict,
) -> None:  # fmt: skip
    """Measure accuracy and ECE on corrupted test images, and their means over all corruptions."""
    if len(dataset.input_shape) != 3:
        raise InputError(f"shift needs images, but data={dataset.name!r} has none")
    chosen = torch.randperm(len(dataset.test), generator=seeded("shift"))[:_SHIFTED].sort().values
    part = dataset.test.subset(chosen)
    mean, std = (value.to(device) for value in moments(dataset.test))
    table: dict[str, list[dict[str, float]]] = {}
    for name in CORRUPTIONS:
        table[name] = []
        for severity in SEVERITIES:
            generator = seeded("shift", seed, name, severity)

            def change(
                x: Tensor, name: str = name, severity: int = severity,
                generator: torch.Generator = generator,
            ) -> Tensor:  # fmt: skip
                return (corrupt(x * std + mean, name, severity, generator) - mean) / std

            logits, labels, _ = predict(model, part, device, change=change)
            probs = logits.double().softmax(1)
            accuracy = float(metrics.accuracy(probs, labels))
            ece = float(metrics.expected_calibration_error(probs, labels))
            table[name].append({"severity": severity, "accuracy": accuracy, "ece": ece})
    found.details["shift"] = table
    rows = [row for rows in table.values() for row in rows]
    for measure in ("accuracy", "ece"):
        found.measures[f"shift_{measure}"] = sum(row[measure] for row in rows) / len(rows)


# --------------------------------------------------------------------------------- uncertainty


@contextlib.contextmanager
def _dropping(model: nn.Module) -> Iterator[None]:
    """Run ``model`` in evaluation mode with its dropout at work, without gradient."""
    with inference(model):
        for module in model.modules():
            if isinstance(module, nn.modules.dropout._DropoutNd):
                module.train()
        yield


def uncertainty(
    found: Findings, model: nn.Module, dataset: Dataset, device: torch.device, samples: int
) -> None:
    """Measure the predictive distribution of MC-dropout, as it is and after variance scaling.

    Of several targets, in units of their standard deviations. Networks without dropout have none.
    """
    rates = [m.p for m in model.modules() if isinstance(m, nn.modules.dropout._DropoutNd)]
    if not any(rates):
        return
    parts: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
    single = dataset.num_outputs == 1
    for name, split in (("val", dataset.val), ("test", dataset.test)):
        total, squares, targets = [], [], []
        with _dropping(model), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            for x, y, _ in split.batches(512, device=device):
                x = x.double() if next(model.parameters()).dtype == torch.float64 else x
                passes = torch.stack([logits_of(model(x)).double() for _ in range(samples)])
                total.append(passes.mean(0).cpu())
                squares.append(passes.var(0).cpu())
                targets.append(y.cpu())
        mean, wanted = torch.cat(total), torch.cat(targets).double()
        std = torch.cat(squares).sqrt().clamp_min(1e-6)
        wanted = wanted.reshape(len(wanted), -1)
        if single:
            assert dataset.target_std is not None
            mean, wanted = dataset.in_units(mean), dataset.in_units(wanted)
            std = std * dataset.target_std
        parts[name] = (mean, std, wanted)
    scale = metrics.fit_variance_scale(*parts["val"])
    mean, std, wanted = parts["test"]
    for suffix, spread in (("", std), ("_scaled", scale * std)):
        found.measures["nll" + suffix] = float(metrics.gaussian_nll(mean, spread, wanted))
        found.measures["pinball" + suffix] = float(metrics.pinball_loss(mean, spread, wanted))
        found.measures["uce" + suffix] = float(
            metrics.uncertainty_calibration_error(mean, spread, wanted)
        )
        found.measures["ence" + suffix] = float(
            metrics.expected_normalized_calibration_error(mean, spread, wanted)
        )
    found.measures["variance_scale"] = scale
    found.arrays.update(
        test_mean=mean.float().numpy(), test_std=std.float().numpy(),
        test_targets=wanted.float().numpy(),
    )  # fmt: skip


# ---------------------------------------------------------------------------------------- toys

_GRID = 100
_DRAWS = 4


def surface(
    found: Findings, model: nn.Module, dataset: Dataset, device: torch.device,
    method: Method | None, seed: int,
) -> None:  # fmt: skip
    """Keep the decision surface of a toy, and where its samples are mixed to.

    A mixed sample *intrudes* where it lies among the samples of a class that makes up less than
    half of its label (manifold intrusion, arXiv:1809.02499), and is *off the manifold* where it
    lies among none. "Among": its nearest neighbour of 20,000 fresh samples is as near as that of
    99 % of the test samples.
    """
    assert isinstance(dataset.train, TensorSplit)
    split = dataset.train
    mean, std = (torch.tensor(value) for value in (split.mean, split.std))
    points, labels = data.toy(dataset.name, 20_000, seed=7)
    points = ((points - mean) / std).float()
    low, high = points.min(0).values - 0.4, points.max(0).values + 0.4
    axes = [torch.linspace(float(low[i]), float(high[i]), _GRID) for i in range(2)]
    grid = torch.cartesian_prod(*axes)
    probs = _probabilities(model, grid, device)[:, 1].view(_GRID, _GRID)
    test, _, _ = next(iter(dataset.test.batches(len(dataset.test))))
    reach = _nearest(test, points)[0].quantile(0.99)
    found.arrays.update(
        surface=probs.numpy(), surface_x=axes[0].numpy(), surface_y=axes[1].numpy(),
        train_points=next(iter(split.batches(len(split))))[0].numpy(),
        train_labels=split.y.numpy(),
    )  # fmt: skip
    recipe = None if method is None else method.recipe
    if method is None or recipe is None or list(recipe.interpolation.layers) != ["input"]:
        return  # no inputs are mixed, or not always: there is nothing to look at
    mixed, weights = [], []
    was_training = method.training
    method.train()
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            for epoch in range(_DRAWS):
                for x, y, index in split.batches(
                    64, shuffle=True, seed=seed, epoch=epoch, device=device
                ):
                    x = x.to(next(model.parameters()).dtype)
                    made, target, _ = method.preview(x, y, model=model, index=index)
                    mixed.append(made.float().cpu())
                    weights.append(target.dense(len(dataset.classes)).cpu())
    finally:
        method.train(was_training)
    samples, weight = torch.cat(mixed), torch.cat(weights)
    distance, place = _nearest(samples, points)
    among = distance <= reach
    own = weight.gather(1, labels[place][:, None])[:, 0]
    intrudes = among & (own < 0.5)
    found.measures["intrusion"] = float(intrudes.double().mean())
    found.measures["off_manifold"] = float((~among).double().mean())
    found.arrays.update(
        mixed_points=samples.numpy(), mixed_intrudes=intrudes.numpy(),
        mixed_weight=weight[:, 1].float().numpy(),
    )  # fmt: skip


def _probabilities(model: nn.Module, x: Tensor, device: torch.device) -> Tensor:
    dtype = next(model.parameters()).dtype
    with inference(model):
        return logits_of(model(x.to(device, dtype))).float().cpu().softmax(1)


def _nearest(x: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Return distance and position of each row's nearest point."""
    found = [torch.cdist(part, points).min(1) for part in x.split(512)]
    return torch.cat([part.values for part in found]), torch.cat([part.indices for part in found])
