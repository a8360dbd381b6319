"""Each loss beside its formula, one number at a time: values, and gradients by differences.

The slow forms are written from the papers' equations in plain Python, in none of the library's ways
(no masks, no log-sum-exp, no closed-form gradients), at published settings.
"""

import itertools
import math

import pytest
import torch

from mixwell import MixedTarget
from mixwell.losses import (
    DecoupledBCE,
    DecoupledCrossEntropy,
    InfiniteClassLoss,
    MixedBCE,
    MixedCrossEntropy,
    MixedL1,
    MixedMSE,
    MixupInference,
    MixupNDCG,
    MixupRanking,
)

CLASSES = 6
# The classes in rising and in falling order, one class twice, λ = 1/2, 1 and on both sides.
A, B = [0, 4, 2, 3, 5, 1], [3, 1, 2, 0, 4, 2]
LAM = [0.7, 0.2, 0.6, 0.5, 1.0, 0.05]


def logits(seed=0, scale=2.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(len(A), CLASSES, dtype=torch.float64, generator=generator)


def target():
    return MixedTarget(torch.tensor(A), torch.tensor(B), torch.tensor(LAM, dtype=torch.float64))


def softmax(z, c, without=()):
    rest = [math.exp(z[i]) for i in range(len(z)) if i not in without]
    return math.exp(z[c]) / sum(rest)


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def check(ours, slow, *inputs):
    """Compare a mean over samples, and its gradients with differences of the slow form's."""
    leaves = [z.clone().requires_grad_() for z in inputs]
    value = ours(*leaves)
    rows = [z.tolist() for z in inputs]
    assert value.item() == pytest.approx(slow(*rows), rel=1e-12)
    step = 1e-5
    for place, grad in enumerate(torch.autograd.grad(value, leaves)):
        for index in itertools.product(*(range(size) for size in grad.shape)):
            ends = []
            for sign in (1, -1):
                moved = [z.clone() for z in inputs]
                moved[place][index] += sign * step
                ends.append(slow(*(z.tolist() for z in moved)))
            assert grad[index].item() == pytest.approx((ends[0] - ends[1]) / (2 * step), abs=2e-9)


def mean(of_one):
    """Return the mean of ``of_one(z, a, b, lam)`` over the samples."""
    return lambda z: sum(of_one(*row) for row in zip(z, A, B, LAM, strict=True)) / len(A)


def mce(z, a, b, lam):
    return -lam * math.log(softmax(z, a)) - (1 - lam) * math.log(softmax(z, b))


def test_mixed_cross_entropy():
    check(lambda z: MixedCrossEntropy()(z, target()), mean(mce), logits())


# ---------------------------------------------------------------------------------- decoupled mixup


def decoupled(eta, weigh):
    """DM(CE), with ``weigh(lam)`` giving w_a and w_b."""

    def of_one(z, a, b, lam):
        loss = mce(z, a, b, lam)
        if a == b:
            return loss
        w_a, w_b = weigh(lam)
        loss -= eta * w_a * math.log(softmax(z, a, without=[b]))
        return loss - eta * w_b * math.log(softmax(z, b, without=[a]))

    return mean(of_one)


def one_side(heavier, power):
    def weigh(lam):
        if lam == 0.5:  # neither is heavier: half of each, this library's choice
            return 0.5 * lam**power, 0.5 * (1 - lam) ** power
        own = (lam > 0.5) == heavier
        return (lam**power, 0) if own else (0, (1 - lam) ** power)

    return weigh


def both_sides(power):
    return lambda lam: (lam**power, (1 - lam) ** power)


RELEASED = {
    "r18 mixup": (0.01, "heavier", 0.5),
    "r18 cutmix": (0.1, "lighter", 0.5),
    "r18 resizemix": (0.1, "lighter", 0.5),
    "r18 saliencymix": (0.01, "lighter", 0),
    "r18 fmix": (0.01, "lighter", 0),
    "r18 manifold": (0.01, "heavier", 0),
    "rx50 mixup": (0.01, "both", 1),
    "rx50 cutmix": (0.1, "both", 1),
    "rx50 saliencymix": (0.1, "both", 1),
    "rx50 manifold": (0.05, "both", 1),
    "rx50 fmix": (0.5, "both", 0),
    "rx50 resizemix": (0.01, "lighter", 0),
}


@pytest.mark.parametrize("name", RELEASED)
def test_released_configurations_of_decoupled_mixup(name):
    eta, side, power = RELEASED[name]
    weigh = both_sides(power) if side == "both" else one_side(side == "heavier", power)
    loss = DecoupledCrossEntropy(eta, side=side, power=power)
    check(lambda z: loss(z, target()), decoupled(eta, weigh), logits())


def test_decoupled_mixup_by_the_papers_formula():
    loss = DecoupledCrossEntropy(0.1, weighting="uniform")
    check(lambda z: loss(z, target()), decoupled(0.1, lambda lam: (1, 1)), logits())


def test_decoupled_mixup_with_few_labels():
    """The authors': both sides, η = 1. The paper's: the labelled side alone."""
    loss = DecoupledCrossEntropy(1.0)
    check(lambda z: loss(z, target()), decoupled(1.0, both_sides(1)), logits())
    loss = DecoupledCrossEntropy(0.1, asymmetric=True)
    check(lambda z: loss(z, target()), decoupled(0.1, lambda lam: (lam, 0)), logits())


def test_decoupled_mixup_where_the_competitor_is_all_but_certain():
    """1 - p_b is 1e-13 here: a sum of the others must make it."""
    z = logits()
    for row, b in enumerate(B):
        z[row, b] += 30
    check(lambda z: DecoupledCrossEntropy(1.0)(z, target()), decoupled(1.0, both_sides(1)), z)


def two_hot(t, k, labelled_alone=False, over_classes="sum"):
    def h(share):
        return min(1.0, (share / t) ** k)

    def of_one(z, a, b, lam):
        loss = 0.0
        for c in range(CLASSES):
            y = h(lam) * (c == a) + (1 - lam if labelled_alone else h(1 - lam)) * (c == b)
            y, p = min(1.0, y), sigmoid(z[c])
            loss -= y * math.log(p) + (1 - y) * math.log(1 - p)
        return loss / (CLASSES if over_classes == "mean" else 1)

    return mean(of_one)


@pytest.mark.parametrize(("t", "k"), [(0.8, 1.0), (1.0, 0.5), (1.0, 0.0), (0.5, 2.0)])
def test_decoupled_bce_summed_over_classes(t, k):
    check(lambda z: DecoupledBCE(t, k)(z, target()), two_hot(t, k), logits())


def test_decoupled_bce_with_few_labels_and_as_a_mean():
    loss = DecoupledBCE(asymmetric=True)
    check(lambda z: loss(z, target()), two_hot(0.8, 1, labelled_alone=True), logits())
    loss = DecoupledBCE(over_classes="mean")
    check(lambda z: loss(z, target()), two_hot(0.8, 1, over_classes="mean"), logits())


# --------------------------------------------------------------------------------- infinite classes


@pytest.mark.parametrize("axis", ["class", "pair", "both"])
def test_infinite_class_mixup(axis):
    def slow(z):
        s = [[lam * row[a] + (1 - lam) * row[b] for a, b, lam in zip(A, B, LAM, strict=True)]
             for row in z]  # fmt: skip
        size, loss = len(z), 0.0
        for i in range(size):
            if axis != "pair":
                loss -= math.log(softmax(s[i], i))
            if axis != "class":
                loss -= math.log(softmax([s[j][i] for j in range(size)], i))
        return loss / size

    check(lambda z: InfiniteClassLoss(axis)(z, target()), slow, logits(scale=1.0))


def test_infinite_class_mixup_from_the_mixed_classifiers_themselves():
    """S_ij = f_i · w̃_j + b̃_j, with the gradients of features, weights and bias."""
    generator = torch.Generator().manual_seed(1)
    features, weight, bias = (
        torch.randn(size, dtype=torch.float64, generator=generator)
        for size in ((len(A), 3), (CLASSES, 3), (CLASSES,))
    )

    def slow(f, w, v):
        mixed = [
            ([lam * x + (1 - lam) * y for x, y in zip(w[a], w[b], strict=True)],
             lam * v[a] + (1 - lam) * v[b])
            for a, b, lam in zip(A, B, LAM, strict=True)
        ]  # fmt: skip
        s = [[sum(x * y for x, y in zip(row, m, strict=True)) + o for m, o in mixed] for row in f]
        size = len(f)
        loss = sum(-math.log(softmax(s[i], i)) for i in range(size))
        loss -= sum(math.log(softmax([s[j][i] for j in range(size)], i)) for i in range(size))
        return loss / size

    loss = InfiniteClassLoss()
    check(lambda f, w, v: loss.from_features(f, w, v, target()), slow, features, weight, bias)


# ----------------------------------------------------------------------------- calibration's losses


def test_mixup_inference_in_training():
    """MIT-L: λ¹ and λ² at least 1/2 apart; solved, then each with its own label."""
    first, second = [0.9, 0.1, 0.75, 0.2, 1.0, 0.05], [0.3, 0.7, 0.2, 0.9, 0.4, 0.6]

    def slow(z1, z2):
        loss = 0.0
        for one, two, a, b, p, q in zip(z1, z2, A, B, first, second, strict=True):
            own = [((1 - q) * x - (1 - p) * y) / (p - q) for x, y in zip(one, two, strict=True)]
            other = [(p * y - q * x) / (p - q) for x, y in zip(one, two, strict=True)]
            loss -= (math.log(softmax(own, a)) + math.log(softmax(other, b))) / 2
        return loss / len(A)

    ones, twos = (
        MixedTarget(torch.tensor(A), torch.tensor(B), torch.tensor(lam, dtype=torch.float64))
        for lam in (first, second)
    )
    loss = MixupInference(margin=0.5)
    check(lambda z1, z2: loss(z1, ones, z2, twos), slow, logits(), logits(1))


def test_rankmixups_margin():
    """MRL with the margin of CIFAR, 2, on logits; no loss where nothing was mixed in."""

    def slow(mixed, clean):
        loss = 0.0
        for z, x, a, b, lam in zip(mixed, clean, A, B, LAM, strict=True):
            if a != b and lam < 1:
                loss += max(0.0, max(z) - max(x) + 2.0)
        return loss / len(A)

    loss = MixupRanking(margin=2.0)
    check(lambda z, x: loss(z, target(), x), slow, logits(), logits(1))


def test_rankmixups_gain():
    """M-NDCG with three mixes, the largest share of each first."""
    lams = [LAM, [0.3, 0.9, 0.1, 0.35, 0.75, 0.6], [0.55, 0.4, 0.8, 0.05, 0.1, 0.85]]

    def slow(clean, *mixed):
        loss = 0.0
        for i, (a, b) in enumerate(zip(A, B, strict=True)):
            ranked = sorted(
                ((1.0 if a == b else max(lam[i], 1 - lam[i]), z[i])
                 for lam, z in zip(lams, mixed, strict=True)),
                key=lambda pair: -pair[0],
            )  # fmt: skip
            dcg = max(softmax(clean[i], c) for c in range(CLASSES))
            ideal = 1.0
            for place, (share, z) in enumerate(ranked, 2):
                dcg += max(softmax(z, c) for c in range(CLASSES)) / math.log2(place + 1)
                ideal += share / math.log2(place + 1)
            loss += 1 - min(dcg / ideal, ideal / dcg)
        return loss / len(A)

    each = [
        MixedTarget(torch.tensor(A), torch.tensor(B), torch.tensor(lam, dtype=torch.float64))
        for lam in lams
    ]
    loss = MixupNDCG(mixes=3)
    check(
        lambda x, z1, z2, z3: loss(z1, each[0], x, z2, each[1], z3, each[2]),
        slow,
        *(logits(seed) for seed in range(4)),
    )


# ------------------------------------------------------------------------- real and several targets


@pytest.mark.parametrize(("loss", "power"), [(MixedMSE(), 2), (MixedL1(), 1)])
def test_regression(loss, power):
    own, partner = logits(2)[:, 0], logits(3)[:, 0]
    lam = torch.tensor(LAM, dtype=torch.float64)

    def slow(f):
        each = zip(f, own.tolist(), partner.tolist(), LAM, strict=True)
        return sum(abs(x - (p * y + (1 - p) * o)) ** power for x, y, o, p in each) / len(f)

    check(lambda f: loss(f, MixedTarget(own, partner, lam)), slow, logits(4)[:, 0])


def test_several_classes_a_sample():
    """The mean over samples and classes, as torch's loss of several classes has it."""
    own, partner = ((logits(seed) > 0).double() for seed in (5, 6))
    lam = torch.tensor(LAM, dtype=torch.float64)

    def slow(z):
        loss = 0.0
        for row, ys, os, p in zip(z, own.tolist(), partner.tolist(), LAM, strict=True):
            for x, y, o in zip(row, ys, os, strict=True):
                mixed = p * y + (1 - p) * o
                loss -= mixed * math.log(sigmoid(x)) + (1 - mixed) * math.log(1 - sigmoid(x))
        return loss / len(z) / CLASSES

    check(lambda z: MixedBCE()(z, MixedTarget(own, partner, lam)), slow, logits())
