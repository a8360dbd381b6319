import pytest
import torch

import mixwell
from mixwell import InputError, losses, pairing
from mixwell.coefficient import Beta, Constant, SimilarityKernel
from mixwell.interpolation import CutMix
from mixwell.labels import HeavierSide
from mixwell.methods import accepts
from mixwell.methods.registry import _SPECS, Answer, Spec, register

COUNTS = {"class_counts": [10, 20, 30, 40, 50]}
NAMES = [
    "erm", "mixup", "cutmix", "manifold_mixup", "regmixup", "remix", "mixup_io", "sk_mixup",
    "decoupled", "decoupled_bce", "infinite_class", "am_mixup", "c_mixup",
]  # fmt: skip


def make(name, **arguments):
    counts = COUNTS if accepts(name, "class_counts") else {}
    return mixwell.create(name, **{**counts, **arguments})


def main_term(method):
    return next(term for term in method.terms if term.name in ("mixed", "clean"))


def test_all_published_methods_are_there():
    assert set(NAMES) <= set(mixwell.list_methods())


@pytest.mark.parametrize("name", mixwell.list_methods())
def test_descriptions_are_complete_and_their_defaults_create_the_method(name):
    about = mixwell.describe(name)
    text = str(about)
    assert about.equation.strip() in text.replace("\n    ", "\n")
    assert about.paper in text
    assert len(about.doc) > 60
    assert (about.name, about.title) != ("", "")
    given = {k: v for k, v in about.defaults.items() if v != "required"}
    assert repr(make(name, **given)) == repr(make(name))


def test_published_defaults():
    sk = main_term(make("sk_mixup")).recipe.coefficient
    assert (sk.alpha, sk.tau_max, sk.tau_std, sk.distance) == (1.0, 1.0, 0.25, "features")
    airfoil = main_term(make("sk_mixup", task="regression")).recipe.coefficient
    assert (airfoil.tau_max, airfoil.tau_std, airfoil.distance) == (1e-4, 0.5, "label")
    dm = main_term(make("decoupled")).loss
    assert (dm.eta, dm.weighting) == (0.1, "lambda")
    am = make("am_mixup").terms[1]
    assert (am.weight, am.recipe.coefficient.lam0, am.recipe.coefficient.k) == (1.0, 1.0, 5.0)
    remix = main_term(make("remix")).recipe.labels
    assert (remix.kappa, remix.t) == (3.0, 0.5)
    assert make("regmixup").terms[1].recipe.coefficient.alpha == 10.0


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("sk_mixup+decoupled", (SimilarityKernel, losses.DecoupledCrossEntropy)),
        ("cutmix+infinite_class", (CutMix, losses.InfiniteClassLoss)),
        ("regmixup+infinite_class", (Beta, losses.InfiniteClassLoss)),
        ("sk_mixup+regmixup", (SimilarityKernel, losses.MixedCrossEntropy)),
        ("decoupled+sk_mixup+cutmix+mixup_io", (SimilarityKernel, CutMix, HeavierSide)),
    ],
)
def test_answers_compose(name, parts):
    modules = list(make(name).modules())
    for part in parts:
        assert any(type(module) is part for module in modules)


def test_terms_of_compositions():
    def names(name):
        return [term.name for term in make(name).terms]

    assert names("regmixup+infinite_class") == ["clean", "mixed"]
    assert names("am_mixup") == ["clean", "am_mixup"]
    assert names("am_mixup+mixup") == ["mixed", "am_mixup"]
    assert names("regmixup+am_mixup") == ["clean", "mixed", "am_mixup"]
    assert make("regmixup+sk_mixup").terms[1].recipe.coefficient.alpha == 1.0


def test_arguments_reach_every_part_that_knows_them_or_the_one_named():
    method = make("cutmix", per="batch", alpha=0.3)
    recipe = method.terms[0].recipe
    assert recipe.coefficient.per == recipe.interpolation.per == recipe.per == "batch"
    assert recipe.coefficient.alpha == 0.3
    only = make("cutmix", coefficient__per="batch").terms[0].recipe
    assert (only.coefficient.per, only.interpolation.per) == ("batch", "sample")
    both = make("regmixup+am_mixup", weight=0.5)
    assert [term.weight for term in both.terms] == [1.0, 0.5, 0.5]
    split = make("regmixup+am_mixup", regmixup__weight=2, am_mixup__weight=3)
    assert [term.weight for term in split.terms] == [1.0, 2.0, 3.0]
    named = make("manifold_mixup+am_mixup", am_mixup__layer="body")
    assert named.terms[1].recipe.interpolation.layers == ["body"]
    assert named.terms[0].recipe.interpolation.layers == ["auto"]


def test_a_published_share_of_mixed_samples_is_a_default():
    assert make("guidedmix").recipe.p == make("guidedmix+decoupled").recipe.p == 0.5
    assert mixwell.describe("guidedmix").defaults["p"] == 0.5
    assert make("guidedmix", p=0.8, per="batch").recipe.p == 0.8
    assert make("guidedmix", per="batch").recipe.per == "batch"


def test_parts_may_be_given_as_objects_or_by_name():
    method = make(
        "mixup", pairing="InterClass", coefficient=Constant(0.3), loss="DecoupledBCE", t=0.5
    )
    term = method.terms[0]
    assert isinstance(term.recipe.pairing, pairing.InterClass)
    assert term.recipe.coefficient.lam == 0.3
    assert term.loss.t == 0.5


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("mixupp", {}, r"'mixupp' is unknown \(did you mean 'mixup'\?\); known: .*erm"),
        ("", {}, "must be a method's name"),
        ("mixup++cutmix", {}, "'' is unknown"),
        ("mixup+mixup", {}, "same method twice"),
        ("erm+mixup", {}, "erm mixes nothing"),
        ("mixup+cutmix", {}, "both decide how and where to mix"),
        ("decoupled+infinite_class", {}, "both decide what the loss is"),
        ("remix+mixup_io", {}, "both decide what the label is"),
        ("c_mixup+decoupled", {}, "c_mixup is for regression, decoupled is for classification"),
        ("am_mixup", {"task": "regression"}, "for task='regression'"),
        ("mixup", {"task": "ranking"}, "task='ranking' is unknown"),
        ("mixup", {"tau_std": 1}, "mixup has no argument 'tau_std'; it knows alpha"),
        ("sk_mixup", {"taustd": 1}, "did you mean 'tau_std'"),
        ("mixup", {"loss__alpha": 1}, "no argument 'loss__alpha'"),
        ("sk_mixup", {"per": "batch"}, "per='batch' has nothing to act on"),
        ("mixup", {"reduction": "none"}, "no argument 'reduction'"),
        ("mixup", {"alpha": "big"}, "alpha must be a number"),
        ("mixup", {"p": 1.2}, "p must be a number"),
        ("remix", {"class_counts": [1, 0]}, "class_counts must hold"),
        ("mixup", {"num_classes": 1}, "num_classes must be"),
        ("mixup", {"pairing": "Random"}, "pairing='Random' is unknown"),
        ("mixup", {"pairing": 3}, "pairing must be a part"),
        ("erm", {"pairing": "Flip"}, "mixes no samples"),
        ("mixup", {"task": "regression", "loss": "MixedCrossEntropy"}, "is for classification"),
    ],
)
def test_bad_names_and_arguments_are_named(name, arguments, words):
    with pytest.raises(InputError, match=words):
        mixwell.create(name, **arguments)


def test_remix_asks_for_its_counts():
    with pytest.raises(InputError, match="needs class_counts"):
        mixwell.create("remix", num_classes=5)


def test_a_new_method_is_one_answer_and_composes(make_net, images):
    class Third(Beta):
        def forward(self, batch, partner):
            return torch.full((len(batch),), 1 / 3)

    spec = Spec("third", "Title", "Paper", "λ = 1/3", "A third.", {"coefficient": Answer(Third)})
    register(spec)
    try:
        with pytest.raises(InputError, match="is taken"):
            register(spec)
        step = mixwell.create("cutmix+third+decoupled", num_classes=5).step(make_net(), *images)
        assert step.loss.isfinite()
        assert "third" in mixwell.list_methods()
    finally:
        del _SPECS["third"]
