"""A run takes a published set-up: the method's settings, and how it was trained."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import mixwell
from mixwell import InputError
from mixwell.cli import main
from mixwell.methods import has_setup, needs_of_data, setup_of
from mixwell.studies import protocols
from mixwell.studies.study import _parse
from mixwell.training import RunConfig
from mixwell.training.build import load_data, make_method, published_of, resolved

CIFAR = SimpleNamespace(
    name="cifar100", task="classification", input_shape=(3, 32, 32), num_classes=100,
    num_outputs=100, classes=[str(c) for c in range(100)], class_counts=[500] * 100, train=[0] * 8,
    target_std=None, target_largest=None, content=None,
)  # fmt: skip


def run(method, published="data", **given):
    return RunConfig(data="cifar100", method=method, published=published, **given)


def test_the_setup_is_that_of_the_data_set_where_the_method_has_one():
    assert published_of(run("regmixup"), CIFAR) == "cifar100"
    assert published_of(run("erm"), CIFAR) is None
    assert published_of(run("unimix", imbalance=100.0), CIFAR) == "cifar100-lt"
    assert published_of(run("mixup", imbalance=100.0), CIFAR) == "cifar100"
    assert published_of(run("sk_mixup", "imagenet"), CIFAR) == "imagenet"
    assert published_of(run("mixup", None), CIFAR) is None


def test_it_settles_the_methods_settings_and_what_is_given_wins():
    assert make_method(run("infinite_class"), CIFAR).recipe.coefficient.alpha == 0.2
    assert make_method(run("infinite_class", None), CIFAR).recipe.coefficient.alpha == 1.0
    given = run("infinite_class", method_options={"alpha": 0.7})
    assert make_method(given, CIFAR).recipe.coefficient.alpha == 0.7
    with pytest.raises(InputError, match="erm has no such set-up; none is known"):
        make_method(run("erm", "cifar100"), CIFAR)


def test_it_settles_training_where_that_is_left_open():
    config = resolved(run("regmixup", lr=0.3), CIFAR)
    assert (config.epochs, config.model, config.weight_decay, config.lr) == (
        350, "resnet50", 5e-4, 0.3,
    )  # fmt: skip
    usual = resolved(run("am_mixup"), CIFAR)
    assert (usual.epochs, usual.model) == (200, "resnet18")


PAPERS = [
    (name, preset)
    for name, protocol in protocols.PROTOCOLS.items()
    for preset in protocol.presets
    if preset.startswith("paper") and name != "semi-supervised"  # which has forms of its own
]
BESIDE_SK_AND_ICM = ("balanced", "long-tailed", "few-shot", "coarse-to-fine")


def regression(name, shape, outputs):
    """What make_method asks of a regression's data set."""
    return SimpleNamespace(
        name=name, task="regression", input_shape=shape, num_classes=None, num_outputs=outputs,
        classes=(), train=[0] * 8,
        target_std=torch.ones(outputs), target_largest=torch.ones(outputs),
        content=None,
    )  # fmt: skip


DATASETS = {
    "airfoil": regression("airfoil", (5,), 1),
    "exchange-rate": regression("exchange-rate", (8, 168), 8),
    **{name: SimpleNamespace(**{**vars(CIFAR), "name": name})
       for name in ("cifar10", "cifar100", "moons")},
}  # fmt: skip


def parts_of(method):
    """All settings of a method's parts but what it is told of its data."""
    told = ("class_counts", "target_std", "target_largest", "capacity")
    return [
        {name: value for name, value in part.settings().items() if name not in told}
        for term in method.terms
        for part in term.modules()
        if hasattr(part, "settings") and callable(part.settings)
    ]


def made_by(preset, method, data, **options):
    given = {**preset.settings.get(method, {}), **options}
    config = RunConfig(
        data=data, method=method, published=preset.defaults["published"], method_options=given
    )
    return make_method(config, DATASETS[data])


def data_of(preset):
    data = preset.defaults["data"]
    return [data] if isinstance(data, str) else data


@pytest.mark.parametrize(("name", "chosen"), PAPERS)
def test_a_papers_preset_runs_each_method_at_its_published_settings(name, chosen):
    """Where its own set-up says something, that is what it runs with, but for what is beside it."""
    preset = protocols.PROTOCOLS[name].preset(chosen)
    assert preset.defaults["published"] == "data"
    for data in data_of(preset):
        for text in preset.methods:
            method, options = _parse(text)
            made = made_by(preset, method, data, **options)
            given = {**preset.settings.get(method, {}), **options}
            if has_setup(method, data):
                told = needs_of_data(method)
                known = {need: getattr(DATASETS[data], need) for need in told if need != "capacity"}
                alone = mixwell.create(
                    method, num_classes=DATASETS[data].num_classes, published=data,
                    task=DATASETS[data].task, **{**known, **given},
                )  # fmt: skip
                assert parts_of(alone) == parts_of(made)
            elif method == "mixup" or (name != "toy" and method in ("manifold_mixup", "remix")):
                assert given, f"{method} runs at its defaults on {data}"


@pytest.mark.parametrize("name", BESIDE_SK_AND_ICM)
def test_what_stands_beside_sk_and_icm_is_run_as_their_authors_run_it(name):
    preset = protocols.PROTOCOLS[name].preset("paper")
    assert {"sk_mixup", "infinite_class", "remix+infinite_class"} & set(preset.methods)
    for method in ("mixup", "manifold_mixup", "remix", "infinite_class", "remix+infinite_class"):
        made = made_by(preset, method, "cifar10")
        assert made.recipe.coefficient.alpha == 0.2
    # What a loss changes is told apart from how λ is drawn.
    for plain, contrasted in (("mixup", "infinite_class"), ("remix", "remix+infinite_class")):
        for data in ("cifar10", "cifar100"):
            one, two = (made_by(preset, method, data).recipe for method in (plain, contrasted))
            assert one.coefficient.settings() == two.coefficient.settings()


@pytest.mark.parametrize(
    ("name", "chosen", "method"),
    [("toy", "paper", "sk_mixup"), ("regression", "paper", "c_mixup"),
     ("regression", "paper-series", "c_mixup"), ("regression", "paper-series", "sk_mixup")],
)  # fmt: skip
def test_a_papers_preset_trains_as_the_paper_says(name, chosen, method):
    preset = protocols.PROTOCOLS[name].preset(chosen)
    (data,) = data_of(preset)
    options = {key: value for key, value in preset.defaults.items() if key != "published"}
    config = resolved(RunConfig(**options), DATASETS[data])
    training = setup_of(method, data).training
    for option in ("epochs", "batch_size", "optimizer", "lr", "weight_decay"):
        assert getattr(config, option) == training[option], option


def test_few_shots_and_long_tails_are_those_of_the_papers():
    presets = {
        name: protocols.PROTOCOLS[name].preset("paper") for name in ("few-shot", "long-tailed")
    }
    assert presets["few-shot"].defaults["shots"] == [10, 25, 50, 100, 500]
    assert presets["long-tailed"].defaults["imbalance"] == [10.0, 50.0, 100.0, 200.0]


def test_c_mixups_bandwidth_for_exchange_rates_is_in_the_authors_units(tmp_path):
    """They divide each series by its largest absolute value before anything else."""
    rates = np.random.default_rng(0).uniform(0.5, 1, (400, 8)) * np.arange(1, 9)
    np.savetxt(tmp_path / "exchange_rate.txt", rates, delimiter=",")
    config = RunConfig(
        data="exchange-rate", data_dir=str(tmp_path), method="c_mixup", published="data",
        window=10, horizon=2,
    )  # fmt: skip
    dataset = load_data(config)
    part = make_method(config, dataset).recipe.pairing
    assert (part.bandwidth, part.units) == (0.05, "largest")
    shares = dataset.train.y * part.target_std / part.target_largest
    theirs = torch.from_numpy(rates[11:] / np.abs(rates[11:]).max(0))[: len(shares)]
    torch.testing.assert_close(
        shares - shares[:1], (theirs - theirs[:1]).to(shares), atol=1e-5, rtol=0
    )
    assert part._width(dataset.train.y) == 0.05
    torch.testing.assert_close(part._scaled(dataset.train.y), shares)


def test_the_command_line_names_the_setups_that_there_are(capsys):
    arguments = ["--data", "digits", "--method", "regmixup", "--published", "cifar11"]
    assert main(["train", *arguments]) == 2
    assert "there are cifar10, cifar100" in capsys.readouterr().err
