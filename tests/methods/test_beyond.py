"""Methods beyond one mix of two samples: MIT, RankMixup, locality, long tails, k samples."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import mixwell
from mixwell import InputError
from mixwell.batch import Batch
from mixwell.coefficient import Dirichlet
from mixwell.labels import Soft
from mixwell.losses import DecoupledCrossEntropy, InfiniteClassLoss, MixedCrossEntropy
from mixwell.methods import accepts
from mixwell.mix import MultiMix, MultiTarget

COUNTS = [400.0, 90, 30, 10, 4]


class Counted(nn.Module):
    """A linear classifier of images that knows how many rows it has seen."""

    def __init__(self, outputs=5):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.Tanh())
        self.head = nn.Linear(16, outputs)
        self.rows = []

    def forward(self, x):
        self.rows.append(len(x))
        return self.head(self.body(x))


def make(name, **arguments):
    if accepts(name, "class_counts"):
        arguments.setdefault("class_counts", COUNTS)
    arguments.setdefault("num_classes", None if arguments.get("task") == "regression" else 5)
    return mixwell.create(name, **arguments)


COMPOSED = [
    "mit", "mit+cutmix", "mit+sk_mixup", "mit+manifold_mixup", "mit+unimix", "mit+am_mixup",
    "rankmixup", "rankmixup+sk_mixup", "rankmixup+cutmix", "rankmixup+multi_mixup",
    "rankmixup_ndcg", "rankmixup_ndcg+cutmix", "rankmixup_ndcg+manifold_mixup",
    "quantile_mixup", "quantile_mixup+sk_mixup", "quantile_mixup+decoupled",
    "unimix+decoupled", "unimix+cutmix", "unimix+infinite_class", "unimix+remix",
    "balanced_mixup", "balanced_mixup+sk_mixup+decoupled", "balanced_mixup+multi_mixup",
    "local_mixup", "local_mixup+cutmix+decoupled", "local_mixup+infinite_class",
    "knn_mixup+decoupled", "distance_mixup+cutmix",
    "multi_mixup+decoupled", "multi_mixup+infinite_class", "multi_mixup+decoupled_bce",
    "multi_mixup+manifold_mixup", "multi_mixup+regmixup", "zeta_mixup+decoupled",
]  # fmt: skip


@pytest.mark.parametrize("name", COMPOSED)
def test_compositions_train(name, images):
    for x, y in (images, (images[0][:2].bfloat16(), images[1][:2])):
        net = Counted().to(x.dtype)
        made = make(name, task="classification", generator=torch.Generator().manual_seed(1))
        step = made.step(net, x, y)
        step.loss.backward()
        assert step.loss.isfinite()
        assert all(p.grad.isfinite().all() for p in net.parameters())
        assert net.head.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mit+decoupled", "both decide what the loss is"),
        ("mit+remix", "both decide what the label is"),
        ("rankmixup+mixup_io", "both decide what the label is"),
        ("rankmixup+rankmixup_ndcg", "both decide what the l"),
        ("unimix+sk_mixup", "both decide how much of each"),
        ("unimix+balanced_mixup", "both decide who mixes with whom"),
        ("multi_mixup+sk_mixup", "both decide how much of each"),
        ("multi_mixup+cutmix", "linear interpolation and soft labels, not for CutMix"),
        ("multi_mixup+remix", "linear interpolation and soft labels, not for Linear and Remix"),
        ("mit+multi_mixup", "MixupInference reads each pair twice, and Dirichlet mixes 3 samples"),
    ],
)
def test_compositions_that_make_no_sense_are_refused_with_the_reason(name, words):
    with pytest.raises(InputError, match=words):
        make(name)


@pytest.mark.parametrize("name", ["quantile_mixup", "local_mixup", "knn_mixup", "distance_mixup",
                                  "multi_mixup", "zeta_mixup"])  # fmt: skip
@pytest.mark.parametrize("task", ["regression", "multilabel"])
def test_other_tasks(name, task, images):
    x, _ = images
    net = Counted(1 if task == "regression" else 5)
    y = torch.randn(9) if task == "regression" else (torch.rand(9, 5) < 0.5).long()
    step = make(name, task=task).step(net, x, y)
    step.loss.backward()
    assert step.loss.isfinite()
    assert net.head.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("name", ["mit", "rankmixup", "unimix", "balanced_mixup"])
def test_what_is_for_classes_alone_says_so(name):
    with pytest.raises(InputError, match=f"{name} is for classification"):
        make(name, task="regression")


def test_unimix_asks_for_its_counts():
    with pytest.raises(InputError, match="needs class_counts"):
        mixwell.create("unimix", num_classes=5)


def test_published_defaults():
    def parts(name):
        method = make(name)
        return method.terms[-1], method.terms[-1].recipe

    term, recipe = parts("mit")
    assert (term.loss.alpha, term.loss.margin, recipe.coefficient.alpha) == (1.0, 0.5, 1.0)
    term, recipe = parts("rankmixup")
    assert (term.weight, term.loss.margin, term.loss.of) == (0.1, 2.0, "logits")
    assert recipe.coefficient.alpha == 2.0
    term, recipe = parts("rankmixup_ndcg")
    assert (term.weight, term.loss.mixes, recipe.coefficient.alpha) == (0.1, 3, 2.0)
    _, recipe = parts("unimix")
    assert (recipe.pairing.tau, recipe.coefficient.alpha) == (-1.0, 0.8)
    _, recipe = parts("balanced_mixup")
    assert recipe.coefficient.alpha == 0.1
    _, recipe = parts("zeta_mixup")
    assert recipe.coefficient.gamma == 2.8


# ----------------------------------------------------------------------------- calibration-driven


def test_mit_at_the_last_layer_is_plain_training(images):
    """There the network is linear, and what is solved for is what the samples have."""
    x, y = images[0].double(), images[1]
    net = Counted().double()
    step = make("mit", layer="head").step(net, x, y)
    torch.testing.assert_close(step.loss, F.cross_entropy(net(x), y), rtol=1e-6, atol=1e-7)


def test_mit_solves_two_mixes_of_each_pair(images):
    x, y = images[0][:8], images[1][:8]
    net = Counted()
    inputs = []
    net.register_forward_pre_hook(lambda module, given: inputs.append(given[0]))
    step = make("mit", pairing="Flip").step(net, x, y)
    assert net.rows == [16]
    first, second = inputs[0].chunk(2)
    partner, lam = step.mix.partner, step.mix.lam
    # The second λ, from the second half of what the network was given.
    away = (x - x[partner]).flatten(1)
    other = ((second - x[partner]).flatten(1) * away).sum(1) / away.square().sum(1)
    assert ((lam - other).abs() > 0.499).all()
    z1, z2 = net(first), net(second)
    gap = (lam - other)[:, None]
    own = ((1 - other)[:, None] * z1 - (1 - lam)[:, None] * z2) / gap
    theirs = (lam[:, None] * z2 - other[:, None] * z1) / gap
    expected = (F.cross_entropy(own, y) + F.cross_entropy(theirs, y[partner])) / 2
    torch.testing.assert_close(step.loss, expected, rtol=1e-4, atol=1e-4)


def test_mit_draws_one_second_lam_for_all_if_asked(images):
    net = Counted()
    inputs = []
    net.register_forward_pre_hook(lambda module, given: inputs.append(given[0]))
    step = make("mit", per="batch").step(net, *images)
    x, partner = images[0], step.mix.partner
    away, second = (x - x[partner]).flatten(1), inputs[0][9:]
    mixed = away.abs().sum(1) > 0
    lam = ((second - x[partner]).flatten(1) * away).sum(1)[mixed] / away.square().sum(1)[mixed]
    assert float(lam.max() - lam.min()) < 1e-4


def test_what_is_not_mixed_has_its_own_loss(images):
    net = Counted()
    step = make("mit", p=0.0).step(net, *images)
    torch.testing.assert_close(step.loss, F.cross_entropy(net(images[0]), images[1]))


def test_rankmixup_is_cross_entropy_and_a_ranking(images):
    x, y = images
    net = Counted()
    step = make("rankmixup", weight=0.3, margin=1.5).step(net, x, y)
    assert net.rows == [18]
    torch.testing.assert_close(step.clean_logits, net(x))
    torch.testing.assert_close(step.terms["clean"], F.cross_entropy(net(x), y))
    gap = step.logits.amax(1) - step.clean_logits.amax(1) + 1.5
    mixed = (y != y[step.mix.partner]).float()
    torch.testing.assert_close(step.terms["mixed"], (gap.clamp_min(0) * mixed).mean().detach())
    total = step.terms["clean"] + 0.3 * step.terms["mixed"]
    torch.testing.assert_close(step.loss.detach(), total)


def test_ndcg_ranks_several_mixes_that_are_drawn_apart(images):
    x, y = images
    net = Counted()
    seen = []
    method = make("rankmixup_ndcg", mixes=4)
    method.terms[1].loss.register_forward_pre_hook(lambda module, given: seen.append(given))
    step = method.step(net, x, y)
    assert net.rows == [5 * 9]
    logits, target, clean, *more = seen[0]
    torch.testing.assert_close(clean, net(x))
    targets = [target, *more[1::2]]
    assert len(targets) == 4
    assert len({tuple(t.lam.tolist()) for t in targets}) == 4
    assert len({tuple(t.b.tolist()) for t in targets}) > 1
    torch.testing.assert_close(step.logits, logits)
    assert 0 < step.terms["mixed"] < 1


@pytest.mark.parametrize("name", ["mit", "rankmixup", "rankmixup_ndcg", "multi_mixup+decoupled"])
def test_in_evaluation_mode_it_is_the_cross_entropy_of_the_samples(name, images):
    net = Counted().eval()
    loss = make(name).eval()(net, *images)
    torch.testing.assert_close(loss, F.cross_entropy(net(images[0]), images[1]))
    assert net.rows[0] == 9


# -------------------------------------------------------------------------- locality and long tails


@pytest.mark.parametrize(("decay", "limit"), [(2.0, float("inf")), (0.0, 1.0), (0.7, 1.1)])
def test_local_mixup_weighs_each_pair_by_its_distance(decay, limit, images):
    x, y = images
    net = Counted()
    step = make("local_mixup", decay=decay, limit=limit).step(net, x, y)
    partner, lam = step.mix.partner, step.mix.lam
    distance = (x - x[partner]).flatten(1).norm(dim=1)
    distance = distance / distance.mean()
    weight = torch.exp(-decay * distance) * (distance <= limit)
    log_p = step.logits.log_softmax(1)
    own, theirs = (-log_p.gather(1, c[:, None])[:, 0] for c in (y, y[partner]))
    expected = (weight * (lam * own + (1 - lam) * theirs)).sum() / weight.sum()
    torch.testing.assert_close(step.loss, expected)


def test_unimix_meets_the_tail_more_often_and_keeps_more_of_it():
    y = torch.tensor([0] * 24 + [1] * 5 + [2] * 2 + [4])
    x = torch.zeros(32, 3)
    recipe = make("unimix").recipe
    generator = torch.Generator().manual_seed(0)
    share = torch.zeros(5)
    for _ in range(300):
        target = recipe.draw(Batch(x, y, generator=generator))[1]
        share += target.dense(5).mean(0) / 300
    assert share[4] > 4 / 32  # of 32 samples one
    assert share[0] < 0.5  # of 32 samples 24


# --------------------------------------------------------------------------------------- k samples


@pytest.mark.parametrize("k", [2, 3, 5])
@pytest.mark.parametrize(
    "loss", [MixedCrossEntropy(), DecoupledCrossEntropy(0.3), InfiniteClassLoss()],
    ids=lambda part: type(part).__name__,
)  # fmt: skip
def test_mixes_of_k_samples_and_their_loss(k, loss, images):
    x, y = images
    net = Counted()
    inputs = []
    net.register_forward_pre_hook(lambda module, given: inputs.append(given[0]))
    step = make("multi_mixup", k=k, loss=loss).step(net, x, y)
    if k == 2:
        partners = torch.stack([torch.arange(9), step.mix.partner], 1)
        weights = torch.stack([step.mix.lam, 1 - step.mix.lam], 1)
    else:
        assert isinstance(step.mix, MultiMix)
        partners, weights = step.mix.partners, step.mix.weights
    assert partners[:, 0].tolist() == list(range(9))
    expected = sum(weights[:, m].view(-1, 1, 1, 1) * x[partners[:, m]] for m in range(k))
    torch.testing.assert_close(inputs[0], expected)
    torch.testing.assert_close(step.loss, loss(step.logits, MultiTarget(y[partners], weights)))


def test_soft_labels_of_k_samples(images):
    x, y = images
    soft = torch.eye(5)[y] * 0.9 + 0.02
    step = make("multi_mixup").step(Counted(), x, soft)
    mixed = sum(step.mix.weights[:, m, None] * soft[step.mix.partners[:, m]] for m in range(3))
    torch.testing.assert_close(step.loss, F.cross_entropy(step.logits, mixed))


def test_p_leaves_samples_alone_and_of_many_too(images):
    x, y = images
    net = Counted()
    step = make("multi_mixup", p=0.0).step(net, x, y)
    assert step.mix.weights[:, 0].tolist() == [1.0] * 9
    torch.testing.assert_close(step.loss, F.cross_entropy(net(x), y))
    half = make("multi_mixup", p=0.5, generator=torch.Generator().manual_seed(3)).step(net, x, y)
    alone = half.mix.weights[:, 0] == 1
    assert 0 < alone.sum() < 9


def test_masks_and_labels_for_pairs_say_so():
    with pytest.raises(InputError, match="mixes 3 samples into one"):
        mixwell.Recipe(coefficient=Dirichlet(), labels=mixwell.labels.HeavierSide())
    assert isinstance(mixwell.Recipe(coefficient=Dirichlet()).labels, Soft)


@pytest.mark.cases(slow=3)
@pytest.mark.parametrize(
    "name",
    ["mit", "rankmixup", "rankmixup_ndcg", "multi_mixup+decoupled", "zeta_mixup+infinite_class",
     "local_mixup", "balanced_mixup", "unimix", "distance_mixup+mit"],
)  # fmt: skip
@pytest.mark.filterwarnings("error")
def test_a_whole_step_compiles_into_one_graph_and_never_again(name):
    torch.compiler.reset()
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    method = make(name, task="classification")
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.ReLU(), nn.Linear(16, 5))
    step = torch.compile(lambda x, y: method(model, x, y), backend=backend, fullgraph=True)
    for _ in range(3):
        loss = step(torch.randn(8, 3, 4, 4), torch.randint(0, 5, (8,)))
        loss.backward()
        assert loss.isfinite()
    assert len(graphs) == 1
