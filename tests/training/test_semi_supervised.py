import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import mixwell
from mixwell import InputError, data
from mixwell.data import Dataset, TensorSplit
from mixwell.losses import DecoupledCrossEntropy
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
    def forward(self, x):
        self.x = x
        return F.one_hot(PSEUDO, 10) * (1 + 4 * BELIEVED)[:, None]  # 0.23 and 0.94 sure


def greys(values, y):
    return TensorSplit(values.view(-1, 1, 1, 1).repeat(1, 1, 8, 8), y, [0.0], [1.0])


def step_of(name, threshold=0.8, weight=1.0, **options):
    # Images are of one grey: the labelled ones of a tenth of their label.
    y = torch.arange(20) % 10
    train = greys(y / 10, y)
    unlabelled = greys(torch.linspace(0.02, 0.98, UNLABELLED), torch.zeros(UNLABELLED).long())
    splits = {"train": train, "val": train, "test": train, "unlabelled": unlabelled}
    dataset = Dataset("made up", "classification", input_shape=(1, 8, 8), **splits)
    config = RunConfig(batch_size=UNLABELLED, threshold=threshold, unlabelled_weight=weight)
    semi = SemiSupervised(mixwell.create(name, num_classes=10, **options), dataset, config)
    teacher, student = Teacher(), Student()
    semi.learn_from(teacher)
    step = semi.step(student, unlabelled.x, unlabelled.y)
    torch.testing.assert_close(teacher.x, unlabelled.x)  # shifting shows on no single grey
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


def test_only_the_labelled_side_is_decoupled_and_the_method_given_stays_as_it_was():
    step, _, semi = step_of("decoupled", eta=1.0)
    assert semi.loss.asymmetric
    assert not semi.method.terms[0].loss.asymmetric
    one, both = (
        DecoupledCrossEntropy(eta=1.0, asymmetric=asymmetric)(step.logits, step.target) / 2
        for asymmetric in (True, False)
    )
    torch.testing.assert_close(step.terms["mixed"], one.detach())
    assert both > one + 0.1


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


def test_an_interrupted_run_ends_bit_for_bit_like_an_uninterrupted_one(tmp_path):
    config = RunConfig(
        data="digits", labels=40, train_size=160, epochs=3, batch_size=15, threads=1, lr=0.1,
        threshold=0.12, ema=0.8, method="decoupled", model_options={"width": 4, "dropout": 0.2},
        checkpoint_minutes=0.0,
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
