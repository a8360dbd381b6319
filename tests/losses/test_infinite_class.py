import subprocess
import sys
import textwrap
import warnings

import pytest
import torch
from helpers import make_target, run_processes
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from mixwell import InputError, MixedTarget
from mixwell.losses import InfiniteClassLoss, MixedCrossEntropy


def plain(logits, target, axis="both"):
    """The paper's form, with one-hot products."""
    similarity = logits @ target.dense(logits.shape[1]).to(logits).T
    diagonal = torch.arange(len(logits))
    rows = F.cross_entropy(similarity, diagonal)
    columns = F.cross_entropy(similarity.T, diagonal)
    return {"class": rows, "pair": columns, "both": rows + columns}[axis]


def test_golden(golden):
    """The golden gradient comes from finite differences: it is good to about 1e-9."""
    data = golden("infinite_class")
    target = MixedTarget(data["a"], data["b"], data["lam"])
    logits = data["logits"].requires_grad_()
    for axis, name in (("both", "both"), ("class", "class_axis"), ("pair", "pair_axis")):
        value = InfiniteClassLoss(axis)(logits, target).item()
        assert value == pytest.approx(data[name], rel=1e-10)
        single = InfiniteClassLoss(axis)(logits.float(), target).item()
        assert single == pytest.approx(data[name], rel=1e-5)
    InfiniteClassLoss()(logits, target).backward()
    torch.testing.assert_close(logits.grad, data["grad_of_both"], rtol=0, atol=2e-9)


@given(
    st.integers(2, 9), st.integers(2, 7), st.sampled_from(["both", "class", "pair"]),
    st.integers(0, 50),
)  # fmt: skip
def test_equals_the_one_hot_form(size, num_classes, axis, seed):
    logits = torch.randn(size, num_classes, dtype=torch.float64)
    target = make_target(size, num_classes, seed)
    loss = InfiniteClassLoss(axis)
    torch.testing.assert_close(loss(logits, target), plain(logits, target, axis))
    none = InfiniteClassLoss(axis, reduction="none")(logits, target)
    assert none.shape == (size,)
    torch.testing.assert_close(none.mean(), loss(logits, target))
    soft = MixedTarget.clean(target.dense(num_classes).double())
    torch.testing.assert_close(loss(logits, soft), plain(logits, target, axis))


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("sparse", [True, False])
def test_from_features_is_the_same_loss_with_the_same_gradients(with_bias, sparse):
    head = nn.Linear(6, 11, bias=with_bias).double()
    features = torch.randn(8, 6, dtype=torch.float64, requires_grad=True)
    target = make_target(8, 11)
    loss = InfiniteClassLoss()
    expected = loss(head(features), target)
    wanted = torch.autograd.grad(expected, [features, *head.parameters()])
    value = loss.from_features(features, head.weight, head.bias, target, sparse=sparse)
    torch.testing.assert_close(value, expected)
    found = torch.autograd.grad(value, [features, *head.parameters()])
    assert found[1].is_sparse == sparse
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours.to_dense() if ours.is_sparse else ours, theirs)


@pytest.mark.cases(slow=1)
@pytest.mark.parametrize("sparse", [True, False])
def test_a_million_classes_take_under_one_gibibyte_beyond_the_weight_and_its_gradient(sparse):
    """Peak resident memory of a process of its own; (B, C) logits alone would be 1 GiB."""
    script = textwrap.dedent(
        f"""
        import resource, torch
        from mixwell import MixedTarget
        from mixwell.losses import InfiniteClassLoss
        torch.set_num_threads(1)
        peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        classes, size, width = 1_000_000, 256, 512
        weight = torch.zeros(classes, width).normal_().requires_grad_()
        features = torch.randn(size, width, requires_grad=True)
        target = MixedTarget(*torch.randint(classes, (2, size)), torch.rand(size))
        before = peak()
        loss = InfiniteClassLoss().from_features(features, weight, None, target, sparse={sparse})
        loss.backward()
        assert loss.isfinite() and features.grad.abs().sum() > 0
        gradient = 0.0 if {sparse} else weight.numel() * 4 / 2**30
        print(peak() - before - gradient)
        """
    )
    output = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert float(output.stdout) < 1.0


def test_rows_and_classes_may_be_permuted():
    logits, target = torch.randn(7, 5), make_target(7, 5)
    value = InfiniteClassLoss()(logits, target)
    rows, order = torch.randperm(7), torch.randperm(5)
    moved = MixedTarget(target.a[rows], target.b[rows], target.lam[rows])
    torch.testing.assert_close(InfiniteClassLoss()(logits[rows], moved), value)
    renamed = MixedTarget(order.argsort()[target.a], order.argsort()[target.b], target.lam)
    torch.testing.assert_close(InfiniteClassLoss()(logits[:, order], renamed), value)


def test_duplicates_are_no_negatives_when_masked():
    a, b = torch.tensor([0, 1, 2, 0, 3]), torch.tensor([1, 0, 2, 1, 1])
    lam = torch.tensor([0.25, 0.75, 0.5, 0.5, 0.5])
    target = MixedTarget(a, b, lam)  # rows 0 and 1 have the same classifier
    logits = torch.randn(5, 4)
    similarity = torch.lerp(logits[:, b], logits[:, a], lam)
    similarity[0, 1] = similarity[1, 0] = -torch.inf
    diagonal = torch.arange(5)
    expected = F.cross_entropy(similarity, diagonal) + F.cross_entropy(similarity.T, diagonal)
    loss = InfiniteClassLoss(mask_duplicates=True)
    torch.testing.assert_close(loss(logits, target), expected)
    soft = MixedTarget.clean(target.dense(4))
    torch.testing.assert_close(loss(logits, soft), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_is_finite_at_extreme_logits(dtype):
    logits = (torch.randn(6, 5).sign() * 1e4).to(dtype).requires_grad_()
    value = InfiniteClassLoss()(logits, make_target(6, 5))
    value.backward()
    assert value.isfinite()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: InfiniteClassLoss("rows"), "axis='rows'"),
        (
            lambda: InfiniteClassLoss().from_features(
                torch.randn(2, 3), torch.randn(5, 4), None, make_target(2, 5)
            ),
            "features must be",
        ),
        (
            lambda: InfiniteClassLoss().from_features(
                torch.randn(4, 3), torch.randn(2, 3), None, make_target(4, 5)
            ),
            "class indices in",
        ),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(InputError, match=words):
        call()


def test_one_sample_alone_has_the_mixed_cross_entropy_and_is_told_once():
    head = nn.Linear(4, 5)
    features, target = torch.randn(1, 4), make_target(1, 5)
    expected = MixedCrossEntropy()(head(features), target)
    for axis in ("both", "class", "pair"):
        loss = InfiniteClassLoss(axis)
        with pytest.warns(UserWarning, match="batch of one sample.* drop_last=True"):
            value = loss(head(features), target)
        assert value.requires_grad
        torch.testing.assert_close(value, expected)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # not again
            torch.testing.assert_close(loss(head(features), target), expected)
            again = loss.from_features(features, head.weight, head.bias, target)
        torch.testing.assert_close(again, expected)
    loss = InfiniteClassLoss(reduction="none")
    soft = MixedTarget.clean(target.dense(5))
    with pytest.warns(UserWarning, match="one sample"):
        torch.testing.assert_close(loss(head(features), soft), expected[None])


MEETING = """
import sys, torch, torch.distributed as dist
from torch import nn
from mixwell import InputError, MixedTarget
from mixwell.losses import InfiniteClassLoss
from mixwell.mix import MultiTarget

rank, count = int(sys.argv[1]), int(sys.argv[3])
dist.init_process_group("gloo", init_method=sys.argv[2], rank=rank, world_size=count)
torch.manual_seed(0)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "cases",
    [[[4, 3]], [[4, 4], [1, 6]], [[5, 1, 3]]],
    ids=str,
)
def test_processes_give_the_loss_and_gradients_of_one(cases, tmp_path):
    """Each holds a part of a batch; averaged as DDP does, the gradients are the whole's."""
    script = (
        MEETING
        + f"""
def compare(sizes):
    N, first = sum(sizes), sum(sizes[:rank])
    net = nn.Linear(4, 5).double()
    x = torch.randn(N, 4).double()
    a, b = torch.randint(5, (2, N))
    lam, weight = torch.rand(N).double(), torch.rand(N)
    shares = torch.rand(N, 3).softmax(1)
    soft = torch.rand(2, N, 5).softmax(2)
    part = slice(first, first + sizes[rank])
    targets = {{
        "pair": (MixedTarget, (a, b, lam)),
        "weighed": (MixedTarget, (a, b, lam.float(), weight)),
        "soft": (MixedTarget, (*soft, lam.float())),
        "many": (MultiTarget, (torch.stack([a, b, a.flip(0)], 1), shares)),
    }}
    for name, (kind, values) in targets.items():
        for mask, reduction in ((False, "mean"), (True, "mean"), (False, "sum")):
            loss = InfiniteClassLoss(mask_duplicates=mask, reduction=reduction)
            alone = InfiniteClassLoss(mask_duplicates=mask, reduction=reduction, gather=False)
            own = kind(*(value[part] for value in values))
            wanted = alone(net(x), kind(*values))
            expected = torch.autograd.grad(wanted, list(net.parameters()))
            scale = count if reduction == "mean" else 1
            for form in ("logits", "features"):
                if form == "logits":
                    value = loss(net(x[part]), own)
                elif name == "soft":
                    continue
                else:
                    value = loss.from_features(x[part], net.weight, net.bias, own)
                found = torch.autograd.grad(value, list(net.parameters()))
                mean = value.detach().clone()
                dist.all_reduce(mean)
                torch.testing.assert_close(mean / scale, wanted.detach())
                for ours, theirs in zip(found, expected):
                    dist.all_reduce(ours)
                    torch.testing.assert_close(ours / scale, theirs)
        none = InfiniteClassLoss(reduction="none")
        rows = InfiniteClassLoss(reduction="none", gather=False)(net(x), kind(*values))[part]
        own = kind(*(value[part] for value in values))
        torch.testing.assert_close(none(net(x[part]), own), rows)
    assert InfiniteClassLoss(gather=False)(net(x[part]), own).isfinite()

for sizes in {cases}:
    compare(sizes)
dist.barrier()
dist.destroy_process_group()
"""
    )
    run_processes(script, tmp_path, len(cases[0]))


@pytest.mark.cases(slow=1)
@pytest.mark.parametrize("count", [2, 3])
def test_what_one_process_can_not_take_is_refused_by_all(count, tmp_path):
    """The last process's input is bad: it says what, the others say who, and all can go on."""
    script = (
        MEETING
        + """
last = rank == count - 1
soft = torch.rand(4, 3).softmax(1)
y = torch.arange(4) % 3

def pair(a, size=4):
    return MixedTarget(a, a.flip(0), torch.rand(size))

bad = {
    "a class that is none": (torch.randn(4, 3), pair(y + 1), "class indices in"),
    "another batch size": (torch.randn(5, 3), pair(y), "logits are for 5 samples"),
    "logits of images": (torch.randn(4, 3, 2), pair(y), "must be .B, C."),
    "whole logits": (torch.ones(4, 3).long(), pair(y), "floating"),
}
for name, (logits, target, words) in bad.items():
    loss = InfiniteClassLoss()
    given = (logits, target) if last else (torch.randn(4, 3), pair(y))
    try:
        loss(*given)
    except InputError as error:
        import re
        assert re.search(words, str(error)), (name, error)
        assert last or f"process {count - 1} can't take this step" in str(error), (name, error)
    else:
        raise AssertionError(f"{name}: it went on")
    assert loss(torch.randn(4, 3), pair(y)).isfinite()
for other in (MixedTarget.clean(soft), MultiTarget(y[:, None].expand(4, 3), soft)):
    try:
        InfiniteClassLoss()(torch.randn(4, 3), other if last else pair(y))
    except InputError as error:
        assert "of one kind" in str(error), error
    else:
        raise AssertionError("it went on")
dist.barrier()
dist.destroy_process_group()
"""
    )
    run_processes(script, tmp_path, count)
