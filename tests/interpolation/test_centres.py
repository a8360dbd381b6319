import copy

import numpy as np
import pytest
import torch
from torch import nn

import mixwell
from mixwell import InputError, Mix
from mixwell.batch import Batch
from mixwell.interpolation import Centres, Linear


def mixed(part, features, y, partner, lam):
    batch = Batch(torch.zeros(len(y), 1), y)
    return part(features, part.shape(batch, Mix(partner, lam)))


Y = torch.tensor([0, 1, 0, 2, 1])
PARTNER = torch.tensor([1, 0, 3, 4, 4])
LAM = torch.tensor([0.9, 0.8, 0.7, 0.6, 1.0])


def test_features_move_toward_the_running_means_of_classes():
    """Three steps beside NumPy, class by class."""
    part = Centres("centres", momentum=0.75, classes=5)
    centres = {}
    for step in range(3):
        features = torch.randn(5, 4, dtype=torch.float64)
        y = Y if step != 1 else torch.tensor([0, 0, 0, 2, 2])  # class 1 is not there
        found = mixed(part, features, y, PARTNER, LAM.double())
        values = features.numpy()
        for k in set(y.tolist()):
            mean = values[y.numpy() == k].mean(0)
            centres[k] = 0.75 * centres[k] + 0.25 * mean if k in centres else mean
        toward = np.stack([centres[int(y[j])] for j in PARTNER])
        lam = LAM.double().numpy()[:, None]
        np.testing.assert_allclose(found.numpy(), lam * values + (1 - lam) * toward, rtol=1e-12)
    assert part.seen.tolist() == [True, True, True, False, False]


def test_without_momentum_the_centres_are_the_batchs():
    part, features = Centres("centres", momentum=0.0, classes=3), torch.randn(5, 4)
    mixed(part, torch.randn(5, 4), Y, PARTNER, LAM)
    mixed(part, features, Y, PARTNER, LAM)
    torch.testing.assert_close(part.centres[1], features[[1, 4]].mean(0))


def test_no_gradient_goes_through_a_centre():
    features = torch.randn(5, 4, requires_grad=True)
    mixed(Centres("centres"), features, Y, PARTNER, LAM).sum().backward()
    torch.testing.assert_close(features.grad, LAM[:, None].expand(5, 4))


def test_maps_have_a_centre_at_each_position_and_keep_their_dtype():
    part, maps = Centres("centres", layer="conv", classes=3), torch.randn(5, 2, 3, 3)
    found = mixed(part, maps, Y, PARTNER, LAM)
    flat = mixed(Centres("centres", classes=3), maps.flatten(1), Y, PARTNER, LAM)
    torch.testing.assert_close(found.flatten(1), flat)
    half = mixed(Centres("centres", classes=3), maps.bfloat16(), Y, PARTNER, LAM)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), found, rtol=0.02, atol=0.02)


def test_samples_are_linear_mixing():
    features = torch.randn(5, 4)
    expected = Linear("head")(features, Mix(PARTNER, LAM))
    assert torch.equal(mixed(Centres(), features, Y, PARTNER, LAM), expected)


def test_centres_are_saved_and_restored():
    def make(classes=4):
        return mixwell.create("am_mixup", num_classes=3, pairs="centres", classes=classes)

    net = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))
    x, y = torch.randn(8, 6), torch.arange(8) % 3
    method = make()
    for _ in range(2):
        method(net, x, y).backward()
    twin = make()
    twin.load_state_dict(copy.deepcopy(method.state_dict()))
    torch.manual_seed(1)
    first = method(net, x + 1, y)
    torch.manual_seed(1)
    assert torch.equal(twin(net, x + 1, y), first)
    method.load_state_dict(make().state_dict())  # one of before the first step
    with pytest.raises(InputError, match="classes=3, but the checkpoint has centres of 4"):
        make(3).load_state_dict(twin.state_dict())


@pytest.mark.parametrize("name", ["am_mixup", "mixup+am_mixup", "decoupled+am_mixup"])
@pytest.mark.parametrize("layer", ["head", "0"])
def test_the_first_step_is_defined_in_any_composition(name, layer):
    net = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))
    options = {"am_mixup__pairs": "centres", "am_mixup__layer": layer}
    method = mixwell.create(name, num_classes=3, **options)
    method.set_progress(0.5)
    for y in (torch.arange(8) % 3, torch.zeros(8).long()):
        step = method.step(net, torch.randn(8, 6), y)
        step.loss.backward()
        assert step.loss.isfinite()
    assert all(p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Centres("middle"), "pairs='middle'"),
        (lambda: Centres("centres", layer="input"), "layer='input'"),
        (lambda: Centres("centres", layer=["a", "b"]), "moves the features of one layer"),
        (lambda: Centres("centres", momentum=2), "momentum must be"),
        (lambda: mixed(Centres("centres", classes=2), torch.randn(5, 4), Y, PARTNER, LAM),
         "give classes=3"),
        (lambda: Centres("centres")((torch.zeros(2, 2),), Centres("centres").shape(
            Batch(torch.zeros(2, 1), torch.tensor([0, 1])), Mix(torch.tensor([1, 0]), LAM[:2]))),
         "must return one tensor"),
    ],
)  # fmt: skip
def test_bad_input_is_named(make, words):
    with pytest.raises(InputError, match=words):
        make()
