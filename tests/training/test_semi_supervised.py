import math
import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import mixwell
from mixwell import InputError, data
from mixwell.data import Dataset, TensorSplit
from mixwell.training import RunConfig, read_result, train
from mixwell.training.semi_supervised import SemiSupervised, strong_view, weak_view

LABELLED, UNLABELLED = 4, 12


class Student(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        self.x = x
        self.logits = self.head(x.flatten(1))
        self.logits.retain_grad()
        return self.logits

    def labels(self):
        return (10 * self.x[:LABELLED, 0, 0, 0]).round().long()

    def parts(self, values):
        return values.split([LABELLED, UNLABELLED, len(values) - LABELLED - UNLABELLED])


BELIEVED = (torch.arange(UNLABELLED) % 2 == 0).float()
PSEUDO = torch.arange(UNLABELLED) % 10


class Teacher(nn.Module):
    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        self.seen.append(x)  # an attribute that a look sets does not stay
        return F.one_hot(PSEUDO, 10) * (1 + 4 * BELIEVED)[:, None]  # 0.23 and 0.94 sure


def greys(values, y):
    return TensorSplit(values.view(-1, 1, 1, 1).repeat(1, 1, 8, 8), y, [0.0], [1.0])


def step_of(name, threshold=0.8, weight=1.0, progress=0.0, semi="paper", cutoff=None, **options):
    # Images are of one grey: the labelled ones of a tenth of their label.
    y = torch.arange(20) % 10
    train = greys(y / 10, y)
    unlabelled = greys(torch.linspace(0.02, 0.98, UNLABELLED), torch.zeros(UNLABELLED).long())
    splits = {"train": train, "val": train, "test": train, "unlabelled": unlabelled}
    dataset = Dataset("made up", "classification", input_shape=(1, 8, 8), **splits)
    given = {key: value for key, value in options.items() if key != "published"}
    config = RunConfig(
        batch_size=UNLABELLED, threshold=threshold, unlabelled_weight=weight, semi=semi,
        mix_cutoff=cutoff, method_options=given,
    )  # fmt: skip
    semi = SemiSupervised(mixwell.create(name, num_classes=10, **options), dataset, config)
    semi.set_progress(progress)
    teacher, student = Teacher(), Student()
    semi.learn_from(teacher)
    step = semi.step(student, unlabelled.x, unlabelled.y)
    torch.testing.assert_close(teacher.seen[-1], unlabelled.x)  # shifting shows on no single grey
    return step, student, semi


@pytest.mark.parametrize("weight", [0.0, 0.3, 2.0])
@pytest.mark.parametrize("name", ["mixup", "decoupled", "erm"])
def test_the_terms_and_their_weights_add_to_the_loss(name, weight):
    step, _, _ = step_of(name, weight=weight)
    unlabelled = step.terms["pseudo"] + step.terms.get("mixed", 0.0)
    torch.testing.assert_close(step.loss.detach(), step.terms["labelled"] + weight * unlabelled)


def test_the_terms_are_what_they_say():
    step, student, _ = step_of("mixup")
    own, guessed, mixed = student.parts(student.logits.detach())
    y = student.labels()
    sure = PSEUDO[BELIEVED > 0]
    pairs = ((guessed, PSEUDO), (mixed, y.repeat(3)[: len(sure)]), (mixed, sure))
    guess, a, b = (F.cross_entropy(z, c, reduction="none") for z, c in pairs)
    expected = {
        "labelled": F.cross_entropy(own, y),
        "pseudo": (BELIEVED * guess).mean(),
        "mixed": torch.lerp(b, a, step.mix.lam).sum() / UNLABELLED,
        "believed": BELIEVED.mean(),
    }
    torch.testing.assert_close(step.terms, expected)
    assert torch.equal(step.clean_logits, own)
    assert torch.equal(step.logits, mixed)


METHODS = [(name, {}) for name in ("mixup", "cutmix", "decoupled", "regmixup", "infinite_class")]
METHODS.append(("sk_mixup", {"distance": "input"}))


@pytest.mark.parametrize(("name", "options"), METHODS)
def test_pseudo_labels_below_the_threshold_contribute_nothing(name, options):
    step, student, _ = step_of(name, **options)
    step.loss.backward()
    _, guessed, mixed = student.parts(student.logits.grad)
    assert torch.equal(guessed.any(1), BELIEVED > 0)
    assert len(mixed) == BELIEVED.sum()
    assert mixed.any(1).all()
    none = step_of(name, threshold=0.99, **options)[0]
    assert none.terms["believed"] == none.terms["pseudo"] == none.terms["mixed"] == 0
    assert torch.equal(none.loss, none.terms["labelled"])


@pytest.mark.parametrize(("name", "options"), METHODS)
def test_the_labelled_sample_keeps_the_larger_share_and_its_label(name, options):
    step, student, _ = step_of(name, **options)
    labelled, strong, mixed = student.parts(student.x)
    strong = strong[BELIEVED > 0]
    assert torch.equal(step.target.a, student.labels().repeat(3)[: len(strong)])
    assert torch.equal(step.target.b, PSEUDO[BELIEVED > 0])
    lam = step.mix.lam
    assert 0.5 <= lam.min() < lam.max() <= 1
    assert torch.equal(step.target.lam, lam)
    if name != "cutmix":
        expected = torch.lerp(
            strong, labelled.repeat(3, 1, 1, 1)[: len(strong)], lam.view(-1, 1, 1, 1)
        )
        torch.testing.assert_close(mixed, expected)


# ------------------------------------------------------------------- the two forms, step by step


def softmaxes(row):
    high = max(row)
    return [math.exp(z - high) for z in row]


def slow_ce(row, a, b, lam, eta, sides):
    """Return DM(CE) of one sample by its definition; ``sides`` of "a", "b" are decoupled."""
    e = softmaxes(row)
    whole = sum(e)
    loss = -lam * math.log(e[a] / whole) - (1 - lam) * math.log(e[b] / whole)
    for side, own, other, share in (("a", a, b, lam), ("b", b, a, 1 - lam)):
        if side in sides and a != b:
            loss -= eta * share * math.log(e[own] / (whole - e[other]))
    return loss


def slow_bce(row, a, b, lam, sides, t=0.8, k=1.0):
    """Return DM(BCE) of one sample by its definition; ``sides`` of "a", "b" are rescaled."""
    shares = {"a": lam, "b": 1 - lam}
    for side in sides:
        shares[side] = min(1.0, (shares[side] / t) ** k)
    y = [0.0] * len(row)
    y[a] += shares["a"]
    y[b] += shares["b"]
    loss = 0.0
    for z, soft in zip(row, y, strict=True):
        p, soft = 1 / (1 + math.exp(-z)), min(1.0, soft)
        loss -= soft * math.log(p) + (1 - soft) * math.log(1 - p)
    return loss


def slow_sum(of_one, logits, target, keep=None):
    """Return the sum of a slow loss over the samples that count."""
    rows, lam = logits.detach().double().tolist(), target.lam.double().tolist()
    samples = zip(rows, target.a.tolist(), target.b.tolist(), lam, strict=True)
    counts = [True] * len(rows) if keep is None else keep.tolist()
    return sum(of_one(*sample) for sample, one in zip(samples, counts, strict=True) if one)


def close(found, wanted):
    assert float(found.detach()) == pytest.approx(wanted, rel=2e-5, abs=1e-7)


PAPER = [
    ("decoupled", {}, lambda *one: slow_ce(*one, eta=0.1, sides="a")),
    ("decoupled", {"eta": 0.7}, lambda *one: slow_ce(*one, eta=0.7, sides="a")),
    ("decoupled_bce", {}, lambda *one: slow_bce(*one, sides="a")),
    ("decoupled_bce", {"t": 0.6, "k": 2.0}, lambda *one: slow_bce(*one, "a", 0.6, 2.0)),
]


@pytest.mark.parametrize(("name", "options", "of_one"), PAPER)
def test_a_step_of_the_papers_form_is_that_of_a_slow_one(name, options, of_one):
    step, student, _ = step_of(name, progress=0.2, weight=0.5, **options)
    own, guessed, mixed = (z.detach().double() for z in student.parts(student.logits))
    sure = PSEUDO[BELIEVED > 0]
    assert torch.equal(step.target.a, student.labels().repeat(3)[: len(sure)])
    assert torch.equal(step.target.b, sure)
    term = slow_sum(of_one, mixed, step.target) / UNLABELLED
    close(step.terms["mixed"], term)
    pseudo = (BELIEVED * F.cross_entropy(guessed, PSEUDO, reduction="none")).mean()
    close(step.loss, float(F.cross_entropy(own, student.labels()) + 0.5 * pseudo) + 0.5 * term)
    assert set(step.terms) == {"labelled", "pseudo", "believed", "mixed"}


AUTHORS = [
    (
        "decoupled", {},
        lambda *one: slow_ce(*one, eta=1.0, sides="ab"),
        lambda *one: slow_ce(*one, eta=1.0, sides="ab"),
    ),
    (
        "decoupled", {"loss__eta": 0.3},
        lambda *one: slow_ce(*one, eta=0.3, sides="ab"),
        lambda *one: slow_ce(*one, eta=0.3, sides="ab"),
    ),
    (
        "decoupled_bce", {},
        lambda *one: slow_bce(*one, sides="a"), lambda *one: slow_bce(*one, sides="ab"),
    ),
    (
        "mixup", {},
        lambda *one: slow_ce(*one, eta=0.0, sides=""), lambda *one: slow_ce(*one, 0.0, ""),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options", "across", "among"), AUTHORS)
def test_a_step_of_the_authors_form_is_that_of_a_slow_one(name, options, across, among, hooked):
    step, student, semi = step_of(name, progress=0.2, weight=0.5, semi="authors", **options)
    own, guessed, rest = student.parts(student.logits.detach())
    mixed, labelled = rest.split([UNLABELLED, LABELLED])
    (_, among_target), (_, across_target) = hooked(semi.own_loss), hooked(semi.loss)
    # All unlabelled samples are mixed, and those that are not believed are left out by weight.
    y = student.labels()
    assert torch.equal(across_target.a, y.repeat(3))
    assert torch.equal(across_target.b, PSEUDO)
    assert torch.equal(across_target.weight, BELIEVED)
    term = slow_sum(across, mixed, across_target, BELIEVED > 0) / UNLABELLED
    close(step.terms["mixed"], term)
    assert torch.equal(among_target.a, y)
    own_term = slow_sum(among, labelled, among_target) / LABELLED
    close(step.terms["mixed_labelled"], own_term)
    pseudo = (BELIEVED * F.cross_entropy(guessed, PSEUDO, reduction="none")).mean()
    consistent = float(F.cross_entropy(own, y) + 0.5 * pseudo)
    close(step.loss, consistent + 0.5 * math.sin(0.1 * math.pi) ** 2 * term + own_term)


@pytest.fixture
def hooked():
    """Return a function that says what a loss was last called with."""
    seen = {}

    def note(module, given, _):
        seen[module] = given

    handle = nn.modules.module.register_module_forward_hook(note)
    yield seen.__getitem__
    handle.remove()


@pytest.mark.parametrize("name", ["decoupled", "decoupled_bce", "mixup"])
def test_the_authors_form_mixes_the_weak_view_and_labelled_samples_among_themselves(name, hooked):
    step, student, semi = step_of(name, semi="authors")
    labelled, _, rest = student.parts(student.x)
    mixed, own = rest.split([UNLABELLED, LABELLED])
    weak = torch.linspace(0.02, 0.98, UNLABELLED)  # of one grey each, which shifting doesn't show
    lam = step.mix.lam.view(-1, 1, 1, 1)
    expected = torch.lerp(weak.view(-1, 1, 1, 1), labelled.repeat(3, 1, 1, 1), lam)
    torch.testing.assert_close(mixed, expected)
    _, target = hooked(semi.own_loss)
    a, b = target.a.float() / 10, target.b.float() / 10
    torch.testing.assert_close(own[:, 0, 0, 0], torch.lerp(b, a, target.lam))
    assert target.lam.min() >= 0.5
    assert 0.5 <= step.mix.lam.min() <= step.mix.lam.max() < 1
    one_a_batch = name != "mixup"  # another loss keeps the method's own λ
    assert (step.mix.lam == step.mix.lam[0]).all() == one_a_batch


@pytest.mark.parametrize(
    ("options", "alike"), [({"per": "sample"}, False), ({"recipe__per": "sample"}, True)]
)
def test_a_given_per_wins_over_the_authors(options, alike):
    lam = step_of("decoupled", semi="authors", **options)[0].mix.lam
    assert (lam == lam[0]).all() == alike


def losses(name, **options):
    semi = step_of(name, **options)[2]
    return [part and part.settings() for part in (semi.loss, semi.own_loss)]


def test_each_form_has_its_own_settings_of_the_loss_and_given_ones_win():
    alone = {"asymmetric": True, "side": "both"}
    both = {"asymmetric": False, "side": "both", "eta": 1.0, "power": 1.0}
    lighter = {"asymmetric": False, "side": "lighter", "eta": 0.2, "power": 0.5}
    given = {"side": "lighter", "eta": 0.2, "power": 0.5}
    # A published set-up, here of the heavier side, power ½, is for training with all labels.
    published = {"published": "cifar100"}
    for options, wanted in (
        ({}, [{**alone, "eta": 0.1, "power": 1.0}, None]),
        (published, [{**alone, "eta": 0.01, "power": 0.5}, None]),
        ({"semi": "authors"}, [both, both]),
        ({"semi": "authors", **published}, [both, both]),
        ({"semi": "authors", **published, **given}, [lighter, lighter]),
    ):
        for found, expected in zip(losses("decoupled", **options), wanted, strict=True):
            assert expected is None if found is None else expected.items() <= found.items()


def test_decoupled_bce_is_asymmetric_across_in_both_forms():
    (paper, none), (across, among) = (
        losses("decoupled_bce", semi=semi) for semi in ("paper", "authors")
    )
    assert none is None
    assert (paper["asymmetric"], across["asymmetric"], among["asymmetric"]) == (True, True, False)
    assert (paper["reduction"], across["reduction"], among["reduction"]) == ("mean", "none", "mean")


def test_the_method_given_stays_as_it_was():
    for semi in ("paper", "authors"):
        method = step_of("decoupled", semi=semi)[2].method
        settings = method.terms[0].loss.settings()
        assert (settings["eta"], settings["asymmetric"], settings["reduction"]) == (
            0.1, False, "mean",
        )  # fmt: skip
        assert method.recipe.coefficient.per == "sample"


@pytest.mark.parametrize(
    ("name", "semi", "options", "words"),
    [
        ("decoupled", "paper", {"side": "heavier"}, "side='heavier' contradicts semi='paper'"),
        ("decoupled", "paper", {"asymmetric": False}, "in which asymmetric is True"),
        ("decoupled", "authors", {"asymmetric": True}, "contradicts semi='authors'"),
        ("decoupled_bce", "authors", {"asymmetric": False}, "contradicts semi='authors'"),
        ("decoupled", "paper", {"cutoff": 0.5}, "mix_cutoff=0.5 is of semi='authors' alone"),
    ],
)
def test_what_contradicts_the_form_is_refused(name, semi, options, words):
    with pytest.raises(InputError, match=re.escape(words)):
        step_of(name, semi=semi, **options)


def test_a_cutoff_lets_less_certain_guesses_be_mixed_but_not_stand_alone(hooked):
    step, _, semi = step_of("mixup", semi="authors", threshold=0.95, cutoff=0.6, weight=0.5)
    assert step.terms["believed"] == 0  # 0.94 at most
    assert step.terms["pseudo"] == 0
    assert torch.equal(hooked(semi.loss)[1].weight, BELIEVED)


def test_without_anybody_believed_the_authors_form_has_the_labelled_terms_alone():
    step, student, _ = step_of("decoupled", semi="authors", threshold=0.99, progress=1.0)
    assert step.terms["mixed"] == 0
    torch.testing.assert_close(
        step.loss.detach(), step.terms["labelled"] + step.terms["mixed_labelled"]
    )
    step.loss.backward()
    assert torch.isfinite(student.logits.grad).all()


@pytest.mark.parametrize(("name", "options"), METHODS)
@pytest.mark.parametrize("weight", [0.0, 2.0])
def test_the_terms_of_the_authors_form_add_to_the_loss(name, options, weight):
    step, _, semi = step_of(name, semi="authors", progress=0.5, weight=weight, **options)
    mixed = semi.mixed_weight * step.terms["mixed"] / 2
    rest = step.terms["labelled"] + semi.mixed_weight * step.terms["mixed_labelled"]
    expected = rest + weight * (step.terms["pseudo"] + mixed)
    torch.testing.assert_close(step.loss.detach(), expected)


def test_erm_is_the_same_in_both_forms():
    torch.manual_seed(0)
    paper = step_of("erm")[0]
    torch.manual_seed(0)
    authors = step_of("erm", semi="authors")[0]
    assert torch.equal(paper.loss, authors.loss)
    assert set(authors.terms) == {"labelled", "pseudo", "believed"}


# -------------------------------------------------------------------------------- the method's own


def test_the_methods_own_p_and_weight_count():
    never = step_of("mixup", p=0.0)[0]
    assert (never.mix.lam == 1).all()
    double, single = (step_of("regmixup", regmixup__weight=w)[0] for w in (2.0, 1.0))
    for step, weight in ((double, 2.0), (single, 1.0)):
        rest = step.terms["labelled"] + step.terms["pseudo"]
        torch.testing.assert_close(step.loss.detach(), rest + weight * step.terms["mixed"])


def test_erm_mixes_nothing():
    step, student, _ = step_of("erm")
    assert set(step.terms) == {"labelled", "pseudo", "believed"}
    assert len(student.x) == LABELLED + UNLABELLED
    assert torch.equal(step.target.a, student.labels())


@pytest.mark.parametrize(
    "name", ["manifold_mixup", "am_mixup", "sk_mixup", "mixup+am_mixup", "rankmixup"]
)
def test_methods_that_look_inside_the_model_are_refused(name):
    with pytest.raises(InputError, match=re.escape(f"method={name!r} mixes inside the model")):
        step_of(name)


def test_data_without_unlabelled_samples_or_images_are_refused():
    method = mixwell.create("mixup")
    with pytest.raises(InputError, match="labels must be given"):
        SemiSupervised(method, data.load("digits"), RunConfig())
    with pytest.raises(InputError, match="labels needs images, but data='moons' has none"):
        SemiSupervised(method, data.load("moons", labels=20), RunConfig())


@pytest.mark.parametrize("flip", [False, True])
def test_a_weak_view_is_shifted_and_mirrored_only_where_asked(flip):
    x = torch.arange(16.0).expand(50, 3, 8, 16)
    view = weak_view(x, flip)
    assert view.shape == x.shape
    mirrored = view[:, 0, 0, 0] > view[:, 0, 0, -1]
    assert mirrored.any() == flip
    assert not mirrored.all()
    shift = torch.where(mirrored[:, None], view[:, 0, 0].flip(1), view[:, 0, 0]) - x[:, 0, 0]
    assert shift.abs().max() == 2
    assert (view == view[:, :1, :1]).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_a_strong_view_keeps_shape_and_range_and_has_a_grey_patch(channels):
    x = torch.rand(20, channels, 12, 9)
    view = strong_view(x)
    assert view.shape == x.shape
    assert 0 <= view.min() < view.max() <= 1
    patch = (view == 0.5).all(1).flatten(1).sum(1)  # bytes have no half
    assert ((patch >= 1) & (patch <= 9)).all()


@pytest.mark.slow
@pytest.mark.parametrize("semi", ["paper", "authors"])
def test_an_interrupted_run_ends_bit_for_bit_like_an_uninterrupted_one(tmp_path, semi):
    config = RunConfig(
        data="digits", labels=40, train_size=160, epochs=3, batch_size=15, threads=1, lr=0.1,
        threshold=0.12, ema=0.8, method="decoupled", model_options={"width": 4, "dropout": 0.2},
        checkpoint_minutes=0.0, semi=semi, accelerator="cpu",
    )  # fmt: skip
    train(config, tmp_path / "whole")

    def interrupt(event):
        if (event["kind"], event.get("epoch", event.get("done"))) in (("epoch", 1), ("step", 11)):
            raise InterruptedError

    for _ in range(2):
        with pytest.raises(InterruptedError):
            train(config, tmp_path / "parts", report=interrupt)
    train(config, tmp_path / "parts")
    ours, theirs = (torch.load(tmp_path / run / "model.pt") for run in ("whole", "parts"))
    torch.testing.assert_close(theirs, ours, rtol=0, atol=0)
    whole, parts = (read_result(tmp_path / run) for run in ("whole", "parts"))
    assert whole["metrics"] == parts["metrics"]
    for one, other in zip(whole["history"], parts["history"], strict=True):
        assert {**one, "seconds": 0} == {**other, "seconds": 0}
    assert 0 < whole["history"][0]["believed"] < 1


@pytest.mark.parametrize(
    ("name", "semi", "threshold", "said"),
    [
        ("erm", "paper", 0.999, "taught nothing; train"),
        ("mixup", "paper", 0.999, "taught nothing, and mixup mixed none of them; train"),
        ("mixup", "authors", 0.999, "taught nothing, and mixup mixed none of them; train"),
        ("mixup", "paper", 0.1, ""),  # of ten classes one has as much
    ],
)
def test_a_training_in_which_nothing_was_believed_says_so(name, semi, threshold, said, tmp_path):
    config = RunConfig(
        data="digits", labels=40, train_size=160, epochs=1, batch_size=15, threads=1, lr=0.01,
        threshold=threshold, method=name, model_options={"width": 4}, semi=semi, accelerator="cpu",
    )  # fmt: skip
    told = []
    notes = train(config, tmp_path / "run", report=lambda e: told.append(e.get("text")))["notes"]
    assert [said in note for note in notes] == ([True] if said else [])
    assert set(notes) <= set(told)
    assert all(f"threshold={threshold:g} " in note for note in notes)
