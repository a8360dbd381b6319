import pytest
import torch
from torch import nn

from mixwell import InputError, tasks
from mixwell.batch import Batch
from mixwell.view import ModelView, looks, register_look
from mixwell.view import view as view_module


@pytest.fixture
def no_new_looks(monkeypatch):
    monkeypatch.setattr(view_module, "_LOOKS", dict(view_module._LOOKS))


def view_of(net, images, **options):
    return ModelView(net, *images, tasks.get("classification"), **options)


def test_each_look_is_computed_once_a_step(make_net, images):
    net, passes = make_net(), []

    def look(view):
        view.features()
        view.maps()
        view.saliency("gradient")

    look(view_of(net, images))  # what is known of the model from now on
    net.register_forward_pre_hook(lambda *_: passes.append(1))
    view = view_of(net, images)
    for _ in range(3):
        look(view)
    assert len(passes) == 3


@pytest.mark.usefixtures("no_new_looks")
def test_a_look_from_outside(make_net, images):
    register_look("largest", lambda view: view.features().amax(1))
    assert "largest" in looks()
    batch = Batch(*images, model=make_net().eval())
    expected = batch.model[:7](images[0]).amax(1)
    torch.testing.assert_close(batch.look("largest"), expected)
    assert batch.look("largest") is batch.look("largest")
    with pytest.raises(InputError, match="there is a look of this name already"):
        register_look("largest", len)
    with pytest.raises(InputError, match=r"kind='largst' is unknown .did you mean 'largest'"):
        batch.look("largst")


def test_a_named_head_is_used_by_every_look(images):
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 5),
    ).eval()  # fmt: skip
    view = view_of(net, images, head="4")
    torch.testing.assert_close(view.features(), net[:4](images[0]))
    assert view.last_maps().head == "4"
