import os
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import mixwell
from mixwell import InputError, losses, pairing
from mixwell.coefficient import Beta, Constant, SimilarityKernel
from mixwell.interpolation import CutMix
from mixwell.labels import HeavierSide
from mixwell.methods import Answer, Fidelity, Spec, accepts, register
from mixwell.methods.spec import _SPECS

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
        ("mixup", {"pairing": pairing.InterClass}, r"pairing=InterClass\(\), or its name"),
        ("mixup", {"pairing": Constant(0.3)}, r"another question: coefficient=Constant\(...\)"),
        ("mixup", {"interpolation": nn.Identity()}, "takes a Interpolation of mixwell"),
        (
            "mixup",
            {"loss": nn.CrossEntropyLoss()},
            r"MixedCrossEntropy\(label_smoothing=..., class",
        ),
        ("mixup", {"loss": nn.CrossEntropyLoss}, "take mixwell.losses.MixedCrossEntropy"),
        ("mixup", {"loss": nn.MSELoss(), "task": "regression"}, r"losses.MixedMSE\(\)"),
        ("erm", {"loss": nn.BCEWithLogitsLoss()}, r"losses.MixedBCE\(\)"),
        ("mixup", {"num_classes": 10.0}, "must be a whole number from 2 on, got 10.0"),
        ("mixup", {"num_classes": True}, "num_classes must be a whole number"),
        ("mixup", {"num_classes": "10"}, "num_classes must be a whole number"),
        ("regmixup", {"combine": "add"}, "combine='add' is unknown; known: 'sum', 'mean'"),
        ("mixup", {"combine": "mean"}, "mixup has no argument 'combine'"),
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

    spec = Spec(
        "third", "Title", "Paper", "λ = 1/3", "A third.", {"coefficient": Answer(Third)},
        fidelity=Fidelity(same="It is defined here.", against="no publication"),
    )  # fmt: skip
    register(spec)
    try:
        with pytest.raises(InputError, match="is taken"):
            register(spec)
        step = mixwell.create("cutmix+third+decoupled", num_classes=5).step(make_net(), *images)
        assert step.loss.isfinite()
        assert "third" in mixwell.list_methods()
    finally:
        del _SPECS["third"]


def test_numbers_of_numpy_are_numbers():
    method = mixwell.create(
        "multi_mixup", num_classes=np.int64(10), k=np.int32(4), alpha=np.float32(0.5)
    )
    assert method.num_classes == 10
    assert (method.recipe.coefficient.samples, method.recipe.coefficient.alpha) == (4, 0.5)
    with pytest.raises(InputError, match="num_classes must be a whole number"):
        mixwell.create("mixup", num_classes=np.float64(10.5))


def test_whole_batches_are_left_alone_where_the_authors_do(make_net, images):
    shares = set()
    method = make("guidedmix", num_classes=5)
    assert (method.recipe.p, method.recipe.per) == (0.5, "batch")
    torch.manual_seed(0)
    for _ in range(12):
        lam = method.step(make_net(), *images).mix.lam
        shares.add(float((lam < 1).float().mean()))
    assert shares == {0.0, 1.0}


# ------------------------------------------------------------------------------ combining two terms


@pytest.mark.parametrize("name", ["regmixup", "regmixup+infinite_class", "sk_mixup+regmixup"])
@pytest.mark.parametrize("weight", [0.0, 1.0, 3.0])
def test_the_mean_of_clean_and_mixed_is_the_sum_over_the_weights(name, weight, make_net, images):
    net = make_net().eval()

    def run(combine):
        generator = torch.Generator().manual_seed(1)
        method = mixwell.create(name, combine=combine, weight=weight, generator=generator)
        return method.step(net, *images)

    added, averaged = run("sum"), run("mean")
    clean, mixed = added.terms["clean"], added.terms["mixed"]
    assert added.terms == averaged.terms
    torch.testing.assert_close(added.loss.detach(), clean + weight * mixed)
    torch.testing.assert_close(averaged.loss.detach(), (clean + weight * mixed) / (1 + weight))


def test_the_authors_loss_is_the_mean_over_all_rows(make_net, images):
    net, (x, y) = make_net().eval(), images
    method = mixwell.create("regmixup", combine="mean", generator=torch.Generator().manual_seed(1))
    step = method.step(net, x, y)
    lam = step.mix.lam[:, None, None, None]
    rows = torch.cat([x, lam * x + (1 - lam) * x[step.mix.partner]])
    log_p = net(rows).log_softmax(1)
    own = torch.cat([y, y])
    other = torch.cat([y, y[step.mix.partner]])
    weight = torch.cat([torch.ones(len(y)), step.mix.lam])
    loss = -(weight * log_p.gather(1, own[:, None])[:, 0])
    loss = loss - (1 - weight) * log_p.gather(1, other[:, None])[:, 0]
    torch.testing.assert_close(step.loss, loss.mean())


def test_in_evaluation_the_loss_is_that_of_clean_samples_however_the_terms_combine(
    make_net, images
):
    net, (x, y) = make_net().eval(), images
    method = mixwell.create("regmixup", combine="mean").eval()
    torch.testing.assert_close(method(net, x, y), nn.functional.cross_entropy(net(x), y))


# ---------------------------------------------------------------------- methods found by themselves

BANDS = """
from mixwell.coefficient import Constant
from mixwell.methods.spec import Answer, Fidelity, Spec, register

register(Spec(name="third", title="A title", paper="A paper", equation="x", doc="What it is for.",
              answers={"coefficient": Answer(Constant, lam=0.25)},
              fidelity=Fidelity(same="All of it.", against="no publication")))
"""

LOOK = """
import mixwell
print(mixwell.__file__.startswith({there!r}), len(mixwell.list_methods()))
print(mixwell.create("third+cutmix", num_classes=3).recipe.coefficient.lam)
"""


@pytest.mark.slow
def test_a_file_in_methods_is_found_by_being_there_also_in_a_zip(tmp_path):
    source = Path(mixwell.__file__).parent
    library = tmp_path / "library"
    shutil.copytree(source, library / "mixwell", ignore=shutil.ignore_patterns("__pycache__"))
    (library / "mixwell" / "methods" / "third.py").write_text(BANDS)
    archive = shutil.make_archive(str(tmp_path / "wheel"), "zip", library)
    done = subprocess.run(
        [sys.executable, "-c", LOOK.format(there=archive)],
        env={**os.environ, "PYTHONPATH": archive}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    expected = f"True {len(mixwell.list_methods()) + 1} 0.25"
    assert done.stdout.split() == expected.split(), done.stderr


def test_each_papers_file_registers_its_methods_with_its_own_docstring():
    folder = Path(mixwell.methods.__file__).parent
    for name in mixwell.list_methods():
        file = folder / f"{name.removesuffix('_bce').removesuffix('_ndcg')}.py"
        module = import_module(f"mixwell.methods.{file.stem}")
        assert _SPECS[name].doc == module.__doc__
