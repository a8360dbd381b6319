"""Tensors of a wrong kind: functions, losses and measures name them; none ends the process."""

import math

import pytest
import torch

from mixwell import InputError, Mix, MixedTarget, functional, losses, metrics

OLD_TORCH = torch.__version__.startswith("2.6.")
LAM, LOGITS = torch.linspace(0.1, 0.9, 6), torch.randn(6, 4, generator=torch.manual_seed(0))
PROBS, FEATURES = LOGITS.softmax(1), torch.randn(6, 5, generator=torch.manual_seed(1))
LABELS, PARTNER = torch.tensor([0, 1, 2, 3, 0, 1]), torch.tensor([1, 0, 3, 2, 5, 4])
WEIGHT, COUNTS = torch.randn(4, 5, generator=torch.manual_seed(2)), torch.tensor([9, 5, 3, 2])
HARD = MixedTarget(LABELS, LABELS[PARTNER], LAM)
SOFT = MixedTarget(PROBS, PROBS[PARTNER], LAM)
REAL = MixedTarget(FEATURES, FEATURES[PARTNER], LAM)
LAYER = {"features": FEATURES, "weight": WEIGHT, "bias": WEIGHT[:, 0], "target": HARD}
GAUSS = {"mean": LAM, "std": LAM, "targets": LAM}
DRAWS = (functional.sample_beta, functional.sample_dirichlet)
CASES = [
    (functional.beta_cdf, {"x": LAM, "tau": LAM}),
    (functional.beta_icdf, {"u": LAM, "tau": LAM}),
    (functional.kernel_tau, {"distance": LAM}),
    (functional.pair_distance, {"features": FEATURES, "partner": PARTNER}),
    (functional.pairwise_distance, {"features": FEATURES}),
    (functional.similarity_tau, {"features": FEATURES, "partner": PARTNER}),
    (functional.remix_lambda, {"lam": LAM, "count_own": LABELS + 1, "count_partner": LABELS + 2}),
    (functional.sample_beta, {"tau": LAM}),
    (functional.sample_dirichlet, {"alpha": PROBS}),
    (functional.mix, {"x": FEATURES, "mix": Mix(PARTNER, LAM)}),
    (Mix, {"partner": PARTNER, "lam": LAM}),
    (MixedTarget, {"a": LABELS, "b": LABELS, "lam": LAM, "weight": LAM}),
    (losses.MixedCrossEntropy(), {"logits": LOGITS, "target": HARD}),
    (losses.MixedCrossEntropy(), {"logits": LOGITS, "target": SOFT}),
    (losses.DecoupledCrossEntropy(), {"logits": LOGITS, "target": HARD}),
    (losses.DecoupledBCE(), {"logits": LOGITS, "target": HARD}),
    (losses.InfiniteClassLoss(), {"logits": LOGITS, "target": HARD}),
    (losses.InfiniteClassLoss(), {"logits": LOGITS, "target": SOFT}),
    (losses.MixedBCE(), {"logits": LOGITS, "target": SOFT}),
    (losses.MixedMSE(), {"logits": FEATURES, "target": REAL}),
    (losses.MixedL1(), {"logits": FEATURES, "target": REAL}),
    (losses.MixupRanking(), {"logits": LOGITS, "target": HARD, "clean": LOGITS}),
    (losses.MixupInference(),
     {"logits": LOGITS, "target": HARD, "twin": LOGITS, "twin_target": HARD}),
    (losses.MixedCrossEntropy().from_features, LAYER),
    (losses.InfiniteClassLoss().from_features, LAYER),
    (metrics.accuracy, {"scores": LOGITS, "labels": LABELS}),
    (metrics.negative_log_likelihood, {"logits": LOGITS, "labels": LABELS}),
    (metrics.fit_temperature, {"logits": LOGITS, "labels": LABELS}),
    *[(measure, {"probs": PROBS, "labels": LABELS}) for measure in (
        metrics.brier_score, metrics.expected_calibration_error, metrics.reliability_diagram,
        metrics.adaptive_calibration_error, metrics.class_accuracies, metrics.balanced_accuracy,
        metrics.balanced_calibration_error,
    )],
    *[(measure, {"features": FEATURES, "labels": LABELS}) for measure in (
        metrics.alignment, metrics.class_variability, metrics.simplex_fit,
    )],
    (metrics.uniformity, {"features": FEATURES}),
    (metrics.nested_variability, {"features": FEATURES, "labels": LABELS, "groups": LABELS}),
    (metrics.class_margins, {"features": FEATURES, "labels": LABELS, "weight": WEIGHT}),
    (metrics.self_duality, {"features": FEATURES, "labels": LABELS, "weight": WEIGHT}),
    (metrics.auroc, {"inliers": LAM, "outliers": LAM}),
    (metrics.false_positive_rate, {"inliers": LAM, "outliers": LAM}),
    (metrics.shot_means, {"values": LAM[:4], "class_counts": COUNTS}),
    (metrics.rank_correlation, {"first": LAM, "second": LAM}),
    *[(measure, {"logits": LOGITS, "counts": COUNTS.expand(6, 4)}) for measure in (
        metrics.people_cross_entropy, metrics.people_divergence,
        metrics.people_entropy_correlation,
    )],
    *[(measure, {"predictions": LAM, "targets": LAM}) for measure in (
        metrics.root_mean_squared_error, metrics.mean_absolute_error, metrics.r2_score,
        metrics.mean_absolute_percentage_error,
    )],
    *[(measure, GAUSS) for measure in (
        metrics.gaussian_nll, metrics.pinball_loss, metrics.uncertainty_calibration_error,
        metrics.calibration_curve, metrics.expected_normalized_calibration_error,
        metrics.fit_variance_scale,
    )],
]  # fmt: skip


def never(value):
    """Return what can never stand for a tensor."""
    wrong = [None, "x", ["a", "b"], 3, 0.5, object(), {}]
    if isinstance(value, torch.Tensor):
        wrong += [value.tolist(), value.numpy(), value.to(torch.complex64), value.to_sparse()]
        whole = not value.is_floating_point()
        wrong += [value.to(torch.float32) * 0.5] if whole and value.max() < 4 else []
    return wrong


def perhaps(value):
    """Return what may do for some: other shapes, dtypes, devices and values."""
    short = [value[:0], value[:-1], torch.cat([value, value[:1]]), value[None], value.flatten()[0]]
    other = [value > 0, value - 100, value + 100, value.to("meta"), value.to(torch.int8)]
    if value.is_floating_point():
        other += [value.half(), value.double(), value.to(torch.float8_e4m3fn)]
        other += [torch.full_like(value, number) for number in (math.nan, math.inf)]
    else:
        other += [torch.full_like(value, -(2**63)), torch.full_like(value, 2**62)]
    return short + other


def named(call, names):
    """Return what a call gives; None where it was refused by the name of an argument."""
    try:
        return call()
    except InputError as error:
        said = str(error)
    assert any(name in said for name in names), said
    return None


@pytest.mark.parametrize(("function", "given"), CASES)
def test_what_is_no_such_tensor_is_refused_by_name(function, given):
    assert named(lambda: function(**given), ()) is not None
    for name, value in given.items():
        wrong = [w for w in never(value) if not (w is None and name in ("weight", "bias"))]
        if function == functional.mix and name == "x":  # takes trees and complex numbers
            wrong = wrong[:7]
        if function in (functional.pair_distance, functional.similarity_tau) or name == "counts":
            wrong = [w for w in wrong if not (name == "features" and isinstance(w, list))]
        for bad in wrong:
            assert named(lambda b=bad, n=name: function(**{**given, n: b}), [name]) is None


@pytest.mark.parametrize(("function", "given"), CASES)
def test_other_shapes_devices_and_values_are_refused_or_computed(function, given):
    for name, value in given.items():
        if isinstance(value, torch.Tensor):
            for other in perhaps(value):
                if other.device.type == "meta" and (
                    function is metrics.shot_means  # either may be on another device
                    or (OLD_TORCH and function in DRAWS)  # draws none there
                ):
                    continue
                named(lambda o=other, n=name: function(**{**given, n: o}), given)


@pytest.mark.parametrize("field", ["a", "b", "lam", "weight"])
@pytest.mark.parametrize("target", [HARD, SOFT, REAL])
def test_targets_on_another_device_do_not_reach_a_kernel(target, field):
    parts = {"a": target.a, "b": target.b, "lam": target.lam, "weight": LAM}
    with pytest.raises(InputError, match="one device"):
        MixedTarget(**{**parts, field: parts[field].to("meta")})
    with pytest.raises(InputError, match=f"{field} must|of one kind"):
        MixedTarget(**{**parts, field: parts[field].to(torch.complex64)})


def test_a_partner_for_each_sample_is_asked_for_before_memory_is_read():
    for partner in (PARTNER[:0], PARTNER[:3], PARTNER + 100, PARTNER - 100):
        for function in (functional.pair_distance, functional.similarity_tau):
            with pytest.raises(InputError, match="partner"):
                function(FEATURES, partner)


def test_nan_is_never_made_a_number():
    distance = torch.tensor([1.0, math.nan])
    assert functional.kernel_tau(distance).isnan().all()
    assert metrics.r2_score(torch.ones(3), torch.tensor([1.0, 2.0, math.nan])).isnan()
