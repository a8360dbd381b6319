import math

import pytest
import torch

from mixwell import InputError, data
from mixwell.labels import Remix
from mixwell.training import RunConfig
from mixwell.training.build import (
    load_data,
    make_method,
    make_model,
    make_optimizer,
    make_scheduler,
    make_step,
    resolved,
)
from mixwell.training.prepare import check
from mixwell.training.semi_supervised import SemiSupervised


def test_open_fields_are_filled_in_and_given_ones_are_kept():
    dataset = data.load("digits")
    config = resolved(RunConfig(lr=0.3), dataset)
    assert config.lr == 0.3
    assert None not in (config.epochs, config.batch_size, config.optimizer, config.model)
    assert resolved(config, dataset) == config
    regression = resolved(RunConfig(data="diabetes"), data.load("diabetes"))
    assert regression.model == "mlp"


def test_scarce_data_are_trained_on_for_some_hundred_steps():
    whole = resolved(RunConfig(), data.load("digits"))
    for scarce in (RunConfig(shots=3), RunConfig(train_size=40), RunConfig(shots=3, batch_size=8)):
        dataset = load_data(scarce)
        config = resolved(scarce, dataset)
        steps = config.epochs * dataset.train.num_batches(config.batch_size)
        assert 400 <= steps < 410
        assert resolved(RunConfig(shots=3, epochs=7), dataset).epochs == 7
    many = RunConfig(train_size=1000, epochs=None, batch_size=8)
    assert resolved(many, load_data(many)).epochs == whole.epochs


def test_published_and_fine_tuning_epochs_are_kept_where_data_are_scarce(tmp_path):
    dataset = load_data(RunConfig(shots=3))
    published = RunConfig(method="sk_mixup", published="cifar100", shots=3)
    assert resolved(published, dataset).epochs == 200
    published = RunConfig(method="c_mixup", published="airfoil", shots=3, batch_size=128)
    assert resolved(published, dataset).epochs == 100
    model = make_model(resolved(RunConfig(shots=3), dataset), dataset)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    tuned = RunConfig(init=str(tmp_path / "weights.pt"))
    few = RunConfig(init=str(tmp_path / "weights.pt"), shots=3)
    assert resolved(few, dataset).epochs == resolved(tuned, data.load("digits")).epochs


def test_the_data_are_those_that_the_configuration_names():
    config = RunConfig(shots=3, seed=2, coarse=True)
    found, wanted = load_data(config), data.load("digits", shots=3, seed=2, coarse=True)
    assert torch.equal(found.train.x, wanted.train.x)
    assert torch.equal(found.train.y, wanted.train.y)


def test_class_counts_reach_the_method_that_wants_them():
    dataset = data.load("digits", train_size=100)
    method = make_method(RunConfig(method="remix+infinite_class"), dataset)
    remix = next(module for module in method.modules() if isinstance(module, Remix))
    assert torch.equal(remix.class_counts, torch.bincount(dataset.train.y).float())


def test_few_labels_put_pseudo_labels_around_the_method():
    config = RunConfig(labels=40)
    dataset = load_data(config)
    assert isinstance(make_step(resolved(config, dataset), dataset), SemiSupervised)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"data": "diabetes", "method": "mixup", "shift": True}, "shift needs images"),
        ({"ood": "digits"}, "must be another data set"),
        ({"people": "nowhere.npz"}, "people='nowhere.npz': there is no such file"),
        ({"method": "mixup", "method_options": {"tau_std": 1}}, "no argument 'tau_std'"),
    ],
)
def test_what_could_not_be_measured_in_the_end_is_said_at_the_start(options, words):
    config = RunConfig(**options)
    dataset = load_data(config)
    with pytest.raises(InputError, match=words):
        check(config, dataset)


def scheduled(**options):
    """Return the factor of the rate at each of 100 steps, ten to an epoch."""
    dataset = data.load("digits", train_size=20)
    config = resolved(RunConfig(lr=1.0, **options), dataset)
    optimizer = make_optimizer(config, make_model(config, dataset), fused=False)
    scheduler = make_scheduler(config, optimizer, 10, 100)
    rates = []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_schedules_are_their_formulas():
    cosine = scheduled(schedule="cosine")
    assert cosine == pytest.approx([(1 + math.cos(math.pi * i / 100)) / 2 for i in range(100)])
    steps = scheduled(schedule="step")
    assert steps == pytest.approx([1.0] * 50 + [0.1] * 25 + [0.01] * 25)
    warm = scheduled(schedule="constant", warmup_epochs=1)
    assert warm == pytest.approx([(i + 1) / 11 for i in range(10)] + [1.0] * 90)
    rising = scheduled(schedule="onecycle")
    assert rising[0] == pytest.approx(1 / 25)
    assert rising[30] == pytest.approx(1.0)
    assert max(rising) == pytest.approx(1.0)
    assert rising[-1] < 0.01


def test_the_optimiser_decays_every_weight_that_is_trained():
    dataset = data.load("digits", train_size=20)
    config = resolved(RunConfig(optimizer="adamw", weight_decay=0.3), dataset)
    model = make_model(config, dataset)
    next(model.parameters()).requires_grad_(False)
    (group,) = make_optimizer(config, model, fused=False).param_groups
    assert group["weight_decay"] == 0.3
    assert len(group["params"]) == len(list(model.parameters())) - 1
