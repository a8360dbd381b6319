"""Kinds of faults of looks: what training alone shows, orders of rows, what stays behind."""

from __future__ import annotations

import copy
import random
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, rnn

import mixwell
from mixwell import InputError
from mixwell.view import capture_features, inference
from mixwell.view.rows import misplaced

CLASSES = 5
X, Y = torch.randn(8, 6, generator=torch.Generator().manual_seed(1)), torch.arange(8) % CLASSES


def create(name="mixup", **arguments):
    generator = torch.Generator().manual_seed(3)
    return mixwell.create(name, num_classes=CLASSES, generator=generator, **arguments)


class Net(nn.Module):
    """What the others are made of."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.mid, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, CLASSES)
        self.other = nn.Linear(8, CLASSES)

    def forward(self, x):
        return self.head(torch.tanh(self.mid(torch.tanh(self.body(x)))))


# ------------------------------------------------------------------- what is so in training alone


class Deeply(Net):
    def forward(self, x):
        early = torch.tanh(self.body(x))
        late = self.head(torch.tanh(self.mid(early)))
        return [self.other(early), late] if self.training else late


class Helped(Net):
    def forward(self, x):
        found = torch.tanh(self.mid(torch.tanh(self.body(x))))
        return self.head(found) + self.other(found) if self.training else self.head(found)


class Sampled(Net):
    def forward(self, x):
        found = torch.tanh(self.mid(torch.tanh(self.body(x))))
        times = 3 if self.training else 1
        return sum(self.head(F.dropout(found, 0.5, self.training)) for _ in range(times)) / times


class Skipping(Net):
    def forward(self, x):
        early = torch.tanh(self.body(x))
        found = torch.tanh(self.mid(early))
        return self.head(found + early if self.training else found)


@pytest.mark.parametrize(
    ("kind", "name", "layer"),
    [(Deeply, "mixup", "head"), (Helped, "mixup", "head"), (Sampled, "am_mixup", "auto"),
     (Sampled, "mixup", "head"), (Skipping, "mixup", "mid")],
)  # fmt: skip
def test_the_model_is_looked_at_in_the_mode_that_is_trained(kind, name, layer):
    arguments = {} if layer == "auto" else {"layer": layer}
    with pytest.raises(InputError):
        create(name, **arguments)(kind(), X, Y)
    create(name, **arguments)(kind().eval(), X, Y)


def test_logits_that_are_left_out_are_named_once():
    net, method = Deeply(), create()
    with pytest.warns(UserWarning, match="returns 2 outputs of the shape of logits"):
        method(net, X, Y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        method(net, X, Y)
        create()(net.eval(), X, Y)


# ----------------------------------------------------------------------- one layer, several names


class Named(Net):
    def __init__(self):
        super().__init__()
        self.skip = nn.Linear(6, 8)
        self.stages = nn.ModuleList([self.body])
        self.classifier = self.head

    def forward(self, x):
        found = torch.tanh(self.body(x)) + self.skip(x)
        return self.classifier(found) + self.other(found)


@pytest.mark.parametrize("layer", ["body", "stages.0"])
def test_what_goes_around_a_layer_is_seen_by_each_of_its_names(layer):
    with pytest.raises(InputError, match="around it"):
        create(layer=layer)(Named(), X, Y)


@pytest.mark.parametrize("head", ["head", "classifier"])
def test_and_around_the_head(head):
    with pytest.raises(InputError, match="around it"):
        create(layer="head", head=head)(Named(), X, Y)


# -------------------------------------------------------------------------------- rows and orders


class TimeFirst(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.rnn, self.head = nn.LayerNorm(6), nn.GRU(6, 8), nn.Linear(8, CLASSES)

    def forward(self, x):
        return self.head(self.rnn(self.norm(x.transpose(0, 1)))[0][-1])


class ByLength(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb, self.rnn = nn.Embedding(20, 6), nn.GRU(6, 8, batch_first=True)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x):
        lengths, order = x["lengths"].sort(descending=True)
        packed = rnn.pack_padded_sequence(self.emb(x["ids"][order]), lengths, batch_first=True)
        return self.head(self.rnn(packed)[1][0][order.argsort()])


class Permuted(Net):
    def permutation(self, size):
        return torch.tensor([1, 0, *range(2, size // 2), *reversed(range(size // 2, size))])

    def forward(self, x):
        order = self.permutation(len(x))
        found = torch.tanh(self.mid(torch.tanh(self.body(x))[order]))
        return self.head(found)[order.argsort()]


class Shuffled(Permuted):
    def permutation(self, size):
        return torch.randperm(size) if self.training else torch.arange(size)


class Halves(Permuted):
    def permutation(self, size):
        return torch.arange(size).roll(size // 2)


class Interleaved(Permuted):
    def permutation(self, size):
        return torch.cat([torch.arange(0, size, 2), torch.arange(1, size, 2)])


def words():
    lengths = torch.tensor([3, 9, 5, 7, 4, 8, 6, 2])
    return {"ids": torch.randint(20, (8, 9), generator=torch.Generator().manual_seed(1)),
            "lengths": lengths}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "layer", "x"),
    [(TimeFirst, "norm", torch.randn(8, 8, 6)), (ByLength, "emb", words()),
     *[(kind, layer, X) for kind in (Permuted, Shuffled, Halves, Interleaved)
       for layer in ("mid", "head")]],
)  # fmt: skip
def test_rows_of_another_order_are_refused_where_they_would_be_mixed(kind, layer, x):
    with pytest.raises(InputError, match="order of the batch"):
        create(layer=layer)(kind(), x, Y)


@pytest.mark.parametrize("kind", [Permuted, Shuffled, Halves, Interleaved])
def test_and_where_they_would_be_measured(kind):
    for name, more in (("sk_mixup", {}), ("sk_mixup", {"distance": "remembered"})):
        index = {"index": torch.arange(8)} if more else {}
        with pytest.raises(InputError, match="order of the batch"):
            create(name, **more)(kind(), X, Y, **index)
    create()(kind(), X, Y)


class Noisy(Net):
    """All that may be drawn at random beside the order."""

    def __init__(self):
        super().__init__()
        self.norm, self.drop = nn.BatchNorm1d(8), nn.Dropout(0.3)
        self.bare = nn.BatchNorm1d(8, track_running_stats=False)

    def forward(self, x):
        found = self.drop(self.bare(self.norm(self.body(x))))
        if self.training:
            keep = found.new_empty(len(found), 1).bernoulli_(0.7) / 0.7
            found = found * keep + torch.randn_like(found) * 0.1 + 0.1 * torch.rand(8)
            found = found * (torch.rand(len(found), 1) + 0.8).floor_()
            found = F.gumbel_softmax(found, hard=False) + F.alpha_dropout(found, 0.1, True)
        return self.head(torch.tanh(self.mid(found + found.mean(0))))


@pytest.mark.parametrize("layer", ["body", "norm", "mid", "head"])
@pytest.mark.parametrize("seed", range(3))
def test_what_is_drawn_at_random_is_no_other_order(layer, seed):
    torch.manual_seed(seed)
    net = Noisy()
    assert misplaced(net, X) == set()
    if layer in ("mid", "head"):
        assert create(layer=layer)(net, X, Y).isfinite()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_samples_that_hardly_differ_show_no_order(dtype):
    net = Net().to(dtype)
    assert misplaced(net, (1e-7 * X + 5).to(dtype)) == set()
    assert misplaced(Permuted().to(dtype), X.to(dtype)) != set()
    assert misplaced(Permuted(), X[:1]) == set()  # of one sample nothing can be said


# ----------------------------------------------------------------- passes that are run again behind


class Segment(torch.autograd.Function):
    """Checkpointing as it is written by hand."""

    @staticmethod
    def forward(ctx, run, x, *weights):
        ctx.run, ctx.x, ctx.weights = run, x, weights
        with torch.no_grad():
            return run(x)

    @staticmethod
    def backward(ctx, gradient):
        x = ctx.x.detach().requires_grad_()
        with torch.enable_grad():
            found = ctx.run(x)
        return None, *torch.autograd.grad(found, (x, *ctx.weights), gradient)


class ByHand(Net):
    def __init__(self):
        super().__init__()
        self.block = nn.Sequential(nn.Linear(8, 8), nn.Tanh())

    def forward(self, x):
        found = Segment.apply(self.block, self.body(x), *self.block.parameters())
        return self.head(torch.tanh(self.mid(found)))


def test_checkpoints_by_hand_are_refused_inside_and_right_outside():
    for layer in ("block.0", "block.1"):
        with pytest.raises(InputError, match="Function"):
            create(layer=layer)(ByHand(), X, Y)
    found = {}
    for kind in ("by hand", "plain"):
        net = ByHand()
        if kind == "plain":
            net.forward = lambda x, net=net: net.head(torch.tanh(net.mid(net.block(net.body(x)))))
        create(layer="mid")(net, X, Y).backward()
        found[kind] = [None if w.grad is None else w.grad for w in net.parameters()]
    for one, two in zip(*found.values(), strict=True):
        assert (one is None) == (two is None)
        assert one is None or torch.allclose(one, two)


# ------------------------------------------------------------------------ what a look leaves behind


class Stateful(Net):
    """All that a pass may change on a module."""

    def __init__(self):
        super().__init__()
        self.register_buffer("passes", torch.zeros(()))
        self.register_buffer("centre", torch.zeros(8))
        self.register_buffer("mean", torch.zeros(8))
        self.total, self.folded = 0.0, None

    def train(self, mode=True):
        self.folded = None
        return super().train(mode)

    def forward(self, x):
        found = torch.tanh(self.body(x))
        self.passes += 1
        self.centre = 0.9 * self.centre + 0.1 * found.detach().mean(0)
        F.batch_norm(found, self.mean, torch.ones(8), training=True)
        self.total = self.total + float(found.detach().mean())
        if self.training:
            weight = self.mid.weight
        else:
            self.folded = self.mid.weight.detach().clone() if self.folded is None else self.folded
            weight = self.folded
        return self.head(torch.tanh(F.linear(found, weight, self.mid.bias)))


def held(net):
    state = {name: value.clone() for name, value in net.state_dict().items()}
    return {**state, "total": net.total, "folded": net.folded}


@pytest.mark.parametrize("mode", ["eval", "train", "look"])
def test_a_look_leaves_buffers_and_attributes_as_they_were(mode):
    net = Stateful()
    net(X)
    before, objects = held(net), {name: id(buffer) for name, buffer in net.named_buffers()}
    with inference(net, mode):
        net(X)
        net(X)
        assert float(net.passes) == 3
    after = held(net)
    assert all(
        torch.equal(value, after[name]) if isinstance(value, torch.Tensor) else value == after[name]
        for name, value in before.items()
    )
    assert objects == {name: id(buffer) for name, buffer in net.named_buffers()}


@pytest.mark.parametrize(
    ("name", "more"),
    [("sk_mixup", {}), ("sk_mixup", {"feature_mode": "train"}), ("mixup", {"layer": "head"}),
     ("am_mixup", {}), ("regmixup", {"layer": "body"})],
)  # fmt: skip
def test_steps_change_a_model_as_often_as_they_train_it(name, more):
    net, method = Stateful(), create(name, **more)
    for _ in range(3):
        method(net, X, Y).backward()
    assert float(net.passes) == 3
    assert net.folded is None


def test_what_a_model_draws_in_a_look_is_drawn_again_in_training():
    class Draws(Net):
        def forward(self, x):
            drawn = float(np.random.rand())  # noqa: NPY002 (as models do)
            self.drawn = (random.random(), drawn, float(torch.rand(())))
            return super().forward(x)

    found = []
    for name in ("erm", "sk_mixup"):
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002
        torch.manual_seed(1)
        net = Draws()
        create(name)(net, X, Y)
        found.append(net.drawn)
    assert found[0] == found[1]


def test_cached_weights_keep_their_gradients():
    for name, more in (("sk_mixup", {}), ("mixup", {"layer": "head"}), ("am_mixup", {})):
        net = Net()
        parametrizations.weight_norm(net.head)
        parametrizations.weight_norm(net.mid)
        with parametrize.cached():
            create(name, **more)(net, X, Y).backward()
        used = [weight for key, weight in net.named_parameters() if not key.startswith("other")]
        assert all(weight.grad is not None for weight in used), name


def test_lazy_modules_are_made_by_the_first_look():
    net = nn.Sequential(nn.LazyLinear(8), nn.Tanh(), nn.LazyLinear(CLASSES))
    create("sk_mixup")(net, X, Y).backward()
    assert type(net[0]) is type(net[2]) is nn.Linear


# ------------------------------------------------------------------ facts, and how long they hold


class Switched(Net):
    skips = False

    def __init__(self):
        super().__init__()
        self.skip, self.skipping = nn.Linear(6, 8), False

    def forward(self, x):
        found = torch.tanh(self.mid(torch.tanh(self.body(x))))
        return self.head(found + self.skip(x) if self.skipping else found)


def test_a_way_around_that_appears_later_is_seen():
    net, method = Switched(), create(layer="mid")
    method(net, X, Y)
    net.skipping = True
    with pytest.raises(InputError, match="around it"):
        method(net, X, Y)
    net.skipping = False
    method(net, X, Y)
    net.forward = lambda x: Switched.forward(net, x) + net.other(net.body(x))
    with pytest.raises(InputError, match="around it"):
        method(net, X, Y)


def test_and_one_that_images_of_another_size_take():
    class BySize(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.skip = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 8, 1)
            self.head = nn.Linear(8, CLASSES)

        def forward(self, x):
            found = self.conv(x).relu()
            found = found + self.skip(x) if x.shape[-1] > 8 else found
            return self.head(found.mean((2, 3)))

    net, method = BySize(), create(layer="conv")
    method(net, torch.randn(8, 3, 8, 8), Y)
    with pytest.raises(InputError, match="around it"):
        method(net, torch.randn(8, 3, 12, 12), Y)


@pytest.mark.parametrize("own", [True, False])
def test_and_one_around_the_whole_of_what_was_seen(own):
    class Around(nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module
            if own:
                self.weight = nn.Parameter(torch.randn(CLASSES, 6))

        def forward(self, x):
            return self.module(x) + (F.linear(x, self.weight) if own else x[:, :CLASSES])

    net = Net()
    create(layer="mid")(net, X, Y)
    with pytest.raises(InputError, match="around it"):
        create(layer="module.mid" if own else "mid")(Around(net), X, Y)


# -------------------------------------------------------------------------- paths below operations


class Below(Net):
    def __init__(self, kind):
        super().__init__()
        self.side, self.kind = nn.Linear(6, CLASSES), kind

    def forward(self, x):
        same = {
            "parameter": lambda: nn.Parameter(x, requires_grad=False),
            "numpy": lambda: torch.from_numpy(x.numpy()),
            "dlpack": lambda: torch.from_dlpack(x.__dlpack__()),
            "data": lambda: x.data,
        }[self.kind]()
        return super().forward(x) + self.side(same)


@pytest.mark.parametrize("kind", ["parameter", "numpy", "dlpack", "data"])
def test_a_path_that_no_operation_shows_is_seen(kind):
    with pytest.raises(InputError, match="around it"):
        create(layer="body")(Below(kind), X, Y)


class Queries(nn.Module):
    """A head whose first argument is learnt, and whose second is what it looks at."""

    def __init__(self):
        super().__init__()
        self.body, self.queries = nn.Linear(6, 8), nn.Parameter(torch.randn(1, CLASSES, 8))
        self.decoder = Decoder()

    def forward(self, x):
        return self.decoder(self.queries.expand(len(x), -1, -1), torch.tanh(self.body(x)))


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight, self.out = nn.Parameter(torch.randn(8, 8)), nn.Parameter(torch.randn(5, 8))

    def forward(self, queries, found):
        attention = (queries @ self.weight @ found.transpose(1, 2)).softmax(-1)
        return ((attention @ found) * self.out).sum(-1)


def test_what_does_not_come_of_the_input_is_no_feature():
    x = torch.randn(8, 3, 6)
    with pytest.raises(InputError, match="no classifier head"):
        create("sk_mixup")(Queries(), x, Y)
    with pytest.raises(InputError):
        capture_features(Queries(), x)
    create()(Queries(), x, Y)


# ------------------------------------------------------------------------------ compiled in part


class Decorated(Net):
    @torch.compile(backend="eager")
    def forward(self, x):
        return Net.forward(self, x)


class Functions(Net):
    def __init__(self):
        super().__init__()
        self.fast = torch.compile(super().forward, backend="eager")

    def forward(self, x):
        return self.fast(x)


@pytest.mark.cases(quick=1)
@pytest.mark.parametrize("kind", [Decorated, Functions])
@pytest.mark.parametrize(("name", "more"), [("mixup", {"layer": "mid"}), ("am_mixup", {})])
def test_what_is_compiled_in_part_is_mixed_after_other_passes_too(kind, name, more):
    torch._dynamo.reset()
    net, method = kind(), create(name, **more)
    for _ in range(2):
        method(net, X, Y).backward()
        net(X)
        net.eval()
        with torch.no_grad():
            net(X)
        net.train()
    plain, again = Net(), create("mixup", layer="mid")
    if name == "mixup":
        method = create("mixup", layer="mid")
        plain.load_state_dict(net.state_dict())
        assert torch.allclose(method(net, X, Y), again(plain, X, Y))
    mixwell.heads.release(net)


# ------------------------------------------------------------------------------ rows that are added


class Remembers(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(512, CLASSES)

    def forward(self, x):
        size = x.shape[0]
        return self.head(self.conv(x).view(size, -1))


def test_a_model_that_remembers_its_batch_says_why_it_can_have_no_more_rows():
    x = torch.randn(8, 3, 8, 8)
    with pytest.raises(InputError, match="remembers how large its batch was"):
        create("regmixup", layer="conv")(Remembers(), x, Y)
    create("mixup", layer="conv")(Remembers(), x, Y)
    create("regmixup")(Remembers(), x, Y)


def test_an_error_of_the_models_own_stays_its_own():
    class Fails(Net):
        def forward(self, x):
            found = self.body(x)
            if torch.is_grad_enabled():
                raise RuntimeError("out of luck")
            return self.head(torch.tanh(self.mid(found)))

    with pytest.raises(RuntimeError, match=r"^out of luck"):
        create(layer="mid")(Fails(), X, Y)


def test_nested_values_are_refused():
    class Nests(Net):
        def __init__(self):
            super().__init__()
            self.nest = Nest()

        def forward(self, x):
            return super().forward(self.nest(x).to_padded_tensor(0.0)[:, 0])

    class Nest(nn.Module):
        def forward(self, x):
            return torch.nested.as_nested_tensor(list(x[:, None].unbind(0)))

    with pytest.raises(InputError, match="nested"):
        create(layer="nest")(Nests(), X, Y)


def test_a_model_is_the_same_after_all_looks():
    net = Net()
    before = copy.deepcopy(net.state_dict())
    misplaced(net, X)
    capture_features(net, X)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
