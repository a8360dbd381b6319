"""A run takes a published set-up: the method's settings, and how it was trained."""

from types import SimpleNamespace

import pytest

from mixwell import InputError
from mixwell.cli import main
from mixwell.studies import protocols
from mixwell.training import RunConfig
from mixwell.training.build import make_method, published_of, resolved

CIFAR = SimpleNamespace(
    name="cifar100", task="classification", input_shape=(3, 32, 32), num_classes=100,
    num_outputs=100, classes=[str(c) for c in range(100)], class_counts=[500] * 100, train=[0] * 8,
    target_std=None,
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


@pytest.mark.parametrize("name", ["balanced", "long-tailed", "few-shot", "coarse-to-fine"])
def test_the_papers_preset_runs_methods_at_their_papers_settings(name):
    preset = protocols.PROTOCOLS[name].preset("paper")
    assert preset.defaults["published"] == "data"
    for method in preset.methods:
        options = dict(preset.settings.get(method, {}))
        config = run(method, preset.defaults["published"], method_options=options)
        made = make_method(config, CIFAR)
        if method == "infinite_class":
            assert made.recipe.coefficient.alpha == 0.2
        if method == "regmixup":
            assert (made.recipe.coefficient.alpha, made.terms[0].weight) == (10.0, 0.5)
        if method == "mixup" and name == "balanced":
            assert made.recipe.coefficient.alpha == 0.2


def test_the_command_line_names_the_setups_that_there_are(capsys):
    arguments = ["--data", "digits", "--method", "regmixup", "--published", "cifar11"]
    assert main(["train", *arguments]) == 2
    assert "there are cifar10, cifar100" in capsys.readouterr().err
