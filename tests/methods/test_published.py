"""Published set-ups: each creates, says where it stands, and reaches the parts it speaks of."""

import pytest

import mixwell
from mixwell import InputError
from mixwell.coefficient import Constant, SimilarityKernel
from mixwell.methods import (
    Fidelity,
    Setup,
    Spec,
    accepts,
    has_setup,
    register,
    setup_of,
    setups,
)
from mixwell.methods.composition import Composition
from mixwell.methods.slots import arguments_of
from mixwell.methods.spec import _SPECS, find_setup

COUNTS = {"class_counts": [10, 20, 30, 40, 50]}
SETUPS = [(name, published) for name in sorted(_SPECS) for published in _SPECS[name].published]
BESIDE = [
    (name, published, other)
    for name, published in SETUPS
    for other in _SPECS[name].published[published].beside
]
FAMILY = {"cifar": ("cifar", "cifar10", "cifar100")}
"""Names under which a set-up is found: other methods' may be of one of them alone."""
BY_SAMPLE = {"sk_mixup", "unimix", "remix"}
"""Whose authors draw λ for each sample: all others draw one for a batch."""


def make(name, **arguments):
    """A method, told of the data what it needs to know."""
    known = COUNTS if accepts(name, "class_counts") else {}
    of_targets = ("target_std", "target_largest")
    known = {**known, **{argument: 1.0 for argument in of_targets if accepts(name, argument)}}
    return mixwell.create(name, **{**known, **arguments})


def settings_of(name, **arguments):
    """All settings of a method's parts, by part."""
    composition = Composition(name, published=arguments.pop("published", None))
    composition.give(arguments)
    return {key: slot.given for key, slot in composition.slots.items()}


def alpha(name, **arguments):
    return make(name, **arguments).recipe.coefficient.alpha


@pytest.mark.parametrize(("name", "published"), SETUPS)
def test_every_setup_creates_and_all_that_it_says_reaches_a_part(name, published):
    setup = _SPECS[name].published[published]
    method = make(name, published=published)
    given = settings_of(name, published=published)
    for argument, value in setup.settings.items():
        if argument == "feature_mode":
            assert method.feature_mode == value
        elif argument in ("pairing", "interpolation"):
            assert type(getattr(method.recipe, argument)).__name__ == value
        else:
            taken = [part[argument] for part in given.values() if argument in part]
            assert taken, f"no part of {name} knows {argument}"
            assert value in taken
    if setup.task:
        assert method.task.name == setup.task


@pytest.mark.parametrize(("name", "published", "other"), BESIDE)
def test_what_is_said_of_two_methods_together_stands_above_what_each_says(name, published, other):
    setup = _SPECS[name].published[published]
    for composed in (f"{other}+{name}", f"{name}+{other}"):
        make(composed, published=published)
        given = settings_of(composed, published=published)
        for argument, value in setup.beside[other].items():
            taken = [part[argument] for part in given.values() if argument in part]
            assert taken, f"no part of {composed} knows {argument}"
            assert value in taken


@pytest.mark.parametrize(
    ("name", "published", "other"),
    [(name, one, other) for name, key, other in BESIDE for one in FAMILY.get(key, (key,))],
)
def test_methods_published_together_take_the_same_settings_in_either_order(name, published, other):
    one, two = (f"{other}+{name}", f"{name}+{other}")
    assert settings_of(one, published=published) == settings_of(two, published=published)
    assert setup_of(one, published).training == setup_of(two, published).training


@pytest.mark.parametrize(
    ("name", "published"), [(name, one) for name, key in SETUPS for one in FAMILY.get(key, (key,))]
)
def test_mixup_named_beside_a_method_leaves_it_the_settings_of_its_own_setup(name, published):
    """Naming mixup beside what mixes as it does anyway says no more than where it is mixed."""
    alone = settings_of(name, published=published)
    for composed in (f"mixup+{name}", f"{name}+mixup"):
        try:
            beside = settings_of(composed, published=published)
        except InputError:  # the same method twice, or both decide the same question
            continue
        for argument in find_setup(_SPECS[name], published).settings:
            for key, part in alone.items():
                if argument in part and key != "interpolation":  # which mixup decides
                    assert beside[key].get(argument) == part[argument], (composed, key, argument)


@pytest.mark.parametrize(
    ("name", "published"),
    [*SETUPS, *((f"{other}+{name}", published) for name, published, other in BESIDE)],
)
def test_setups_draw_by_the_batch_or_by_the_sample_as_their_authors_do(name, published):
    expected = "sample" if BY_SAMPLE & set(name.split("+")) else "batch"
    for key, slot in Composition(name, published=published).slots.items():
        if "per" not in slot.known or (key == "recipe" and slot.given["p"] == 1):
            continue
        assert slot.given.get("per", arguments_of(slot.part)["per"].default) == expected, key


@pytest.mark.parametrize(
    "name",
    [*sorted(_SPECS), "cutmix+decoupled", "decoupled+cutmix", "regmixup+infinite_class",
     "sk_mixup+decoupled", "sk_mixup+regmixup+am_mixup", "guidedmix+infinite_class",
     "mixup+decoupled", "resizemix+decoupled", "remix+infinite_class"],
)  # fmt: skip
def test_listed_setups_are_what_create_makes_of_them(name):
    for published, setup in setups(name).items():
        as_listed = make(name, task=setup.task, **setup.settings)
        assert repr(as_listed) == repr(make(name, published=published))
        assert setup.source in str(mixwell.describe(name)).replace("\n" + " " * 12, " ")


def test_settings_of_the_papers():
    kernels = {
        data: make("sk_mixup", published=data).recipe.coefficient
        for data in ("cifar10", "cifar100", "tiny-imagenet", "imagenet", "airfoil", "exchange-rate")
    }
    assert {data: (part.tau_max, part.tau_std) for data, part in kernels.items()} == {
        "cifar10": (1.0, 0.25), "cifar100": (1.0, 0.25), "tiny-imagenet": (1.0, 1.25),
        "imagenet": (0.1, 0.25), "airfoil": (1e-4, 0.5), "exchange-rate": (5.0, 1.0),
    }  # fmt: skip
    assert {part.distance for part in kernels.values()} == {"features", "label"}
    assert make("sk_mixup", published="airfoil").task.name == "regression"
    assert make("sk_mixup", published="imagenet").feature_mode == "train"
    assert make("sk_mixup").feature_mode == "eval"
    assert alpha("infinite_class", published="cifar10") == 0.2
    for name in ("mixup+decoupled", "mixup+infinite_class", "remix+infinite_class"):
        assert alpha(name, published="cifar100") == 0.2
    assert alpha("mixup+decoupled", published="imagenet") == 1
    assert alpha("mixup_io", published="cifar100") == alpha("mixup_io", published="cifar10") == 0.2
    assert alpha("regmixup", published="cifar10") == 20
    assert alpha("regmixup", published="cifar100") == 10
    for data in ("cifar", "cifar10", "cifar100"):
        regicm = make("regmixup+infinite_class", published=data)
        assert regicm.recipe.coefficient.alpha == 20
        assert [term.weight for term in regicm.terms] == [1.0, 1.0]
    assert [term.weight for term in make("regmixup", published="cifar10").terms] == [0.5, 0.5]
    assert make("cutmix", published="cifar100").recipe.p == 0.5
    assert make("cutmix", published="imagenet").recipe.p == 1
    assert make("saliencymix", published="cifar10").recipe.p == 0.5
    assert make("unimix", published="cifar100-lt").recipe.pairing.tau == -0.1
    assert make("guidedmix", published="cifar100-gradient").recipe.p == 0.8


def test_what_the_caller_gives_wins():
    assert alpha("regmixup", published="cifar10", alpha=3) == 3
    assert make("sk_mixup", published="cifar10", feature_mode="eval").feature_mode == "eval"
    constant = make("regmixup", published="cifar10", coefficient=Constant(0.3))
    assert constant.recipe.coefficient.lam == 0.3
    named = make("mixup", published="imagenet", coefficient="TruncatedBeta")
    assert named.recipe.coefficient.alpha == 1  # its own: the set-up speaks of another part
    paired = make("deit_mix", published="imagenet", pairing="InterClass")
    assert type(paired.recipe.pairing).__name__ == "InterClass"


def test_each_method_settles_the_parts_that_it_decides():
    method = make("sk_mixup+cutmix", published="cifar100")
    assert isinstance(method.recipe.coefficient, SimilarityKernel)
    assert method.recipe.coefficient.alpha == 1
    assert (method.recipe.interpolation.per, method.recipe.p) == ("batch", 0.5)
    # Of what neither decides, what the first says stands.
    assert alpha("infinite_class+cutmix", published="cifar100") == 0.2
    assert alpha("cutmix+infinite_class", published="cifar100") == 1.0
    # It is enough that one has a set-up of the name.
    assert make("am_mixup+regmixup", published="cifar10").recipe.coefficient.alpha == 20


def test_training_is_told_by_who_knows_of_the_two_together():
    assert setup_of("mixup", "cifar100").training["milestones"] == (100, 150)
    assert setup_of("regmixup", "cifar100").training["epochs"] == 350
    regicm = setup_of("regmixup+infinite_class", "cifar100")
    assert (regicm.training["model"], regicm.training["epochs"]) == ("resnet34", 200)
    assert setup_of("cutmix+sk_mixup", "cifar100").training["lr"] == 0.25  # the first that knows
    assert has_setup("am_mixup+mixup", "cifar10")
    assert not has_setup("am_mixup", "cifar10")


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("sk_mixup", {"published": "cifar-10"}, "has no such set-up.*there are airfoil, cifar, ex"),
        ("sk_mixup", {"published": "imagenette"}, "did you mean 'imagenet'"),
        ("am_mixup", {"published": "cifar10"}, "am_mixup has no such set-up; none is known"),
        ("sk_mixup", {"published": 10}, "published=10: sk_mixup has no such set-up"),
        ("sk_mixup", {"published": "airfoil", "task": "classification"}, "is for task='regress"),
        ("sk_mixup+decoupled", {"published": "airfoil"}, "makes no sense for task='regression'"),
    ],
)
def test_a_setup_that_is_not_there_is_named_with_those_that_are(name, arguments, words):
    with pytest.raises(InputError, match=words):
        mixwell.create(name, **arguments)


# ------------------------------------------------------------------------------------ as published?


@pytest.mark.parametrize("name", mixwell.list_methods())
def test_every_method_says_how_true_to_its_source_it_is(name):
    fidelity = mixwell.describe(name).fidelity[name]
    text = " ".join(str(mixwell.describe(name)).split())
    for told in (fidelity.same, *fidelity.differs, fidelity.why, fidelity.against):
        assert " ".join(told.split()) in text
    assert len(fidelity.same) > 20
    assert all(told.endswith(".") for told in (fidelity.same, *fidelity.differs))


def test_a_composition_says_it_of_each_method():
    about = mixwell.describe("regmixup+infinite_class")
    assert list(about.fidelity) == ["regmixup", "infinite_class"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"same": " ", "against": "their code"}, "same of a Fidelity must be a sentence"),
        ({"same": "All.", "against": ""}, "against of a Fidelity"),
        ({"same": "All.", "against": "x", "checked": "yes"}, "checked='yes' is unknown"),
        ({"same": "All.", "against": "x", "differs": "The mask."}, "must be a tuple"),
        ({"same": "All.", "against": "x", "differs": ("The mask.",)}, "why must give the reason"),
    ],
)
def test_what_a_fidelity_lacks_is_named(arguments, words):
    with pytest.raises(InputError, match=words):
        Fidelity(**arguments)


def test_a_method_without_a_word_on_fidelity_is_refused():
    with pytest.raises(InputError, match=r"third: fidelity must say .*Fidelity\(same='It is def"):
        register(Spec("third", "Title", "Paper", "x", "What it is for."))
    assert "third" not in mixwell.list_methods()


def test_a_setup_says_its_source_and_trains_by_known_words():
    with pytest.raises(InputError, match="source must say"):
        Setup(settings={"alpha": 1.0})
    with pytest.raises(InputError, match="training='learning_rate' is unknown"):
        Setup(training={"learning_rate": 0.1}, source="table 3")
