import pytest
import torch

from mixwell import InputError, Mix
from mixwell.batch import Batch
from mixwell.interpolation import Linear


def make_batch():
    return Batch(torch.randn(4, 3, 8, 8), torch.zeros(4).long())


def test_layer_names(make_net):
    net, batch = make_net(), make_batch()
    assert Linear().layer(batch, net) is None
    assert Linear("head").layer(batch, net) == "head"
    assert Linear("3.0").layer(batch, net) == "3.0"
    drawn = {Linear(["input", "head", "3"]).layer(batch, net) for _ in range(60)}
    assert drawn == {None, "head", "3"}


def test_auto_draws_from_the_input_and_the_first_half_of_the_stages(make_net):
    net, batch = make_net(), make_batch()
    drawn = {Linear("auto").layer(batch, net) for _ in range(60)}
    assert None in drawn
    assert len(drawn) >= 3
    assert "7" not in drawn


def test_mixes_linearly():
    x = torch.randn(4, 3)
    mix = Mix(torch.tensor([1, 0, 3, 2]), torch.full((4,), 0.25))
    torch.testing.assert_close(Linear()(x, mix), 0.25 * x + 0.75 * x[mix.partner])


@pytest.mark.parametrize("layer", ["", [], [3], [""]])
def test_bad_layer_is_named(layer):
    with pytest.raises(InputError, match="layer must be"):
        Linear(layer)
