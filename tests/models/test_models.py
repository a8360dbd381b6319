from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from mixwell import InputError, models
from mixwell.heads import capture_features, find_head

SMALL = ["cnn", "mlp", "resnet-fast", "resnet18", "wideresnet-10-1"]


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32)])
def test_the_head_is_a_linear_layer_on_the_features(name, shape):
    model = models.build(name, input_shape=shape, num_outputs=7)
    assert model.training
    assert all(p.requires_grad for p in model.parameters())
    model.eval()
    x = torch.randn(3, *shape)
    logits, features = capture_features(model, x)
    assert logits.shape == (3, 7)
    _, head = find_head(model, x)
    assert isinstance(head, nn.Linear)
    assert features.shape == (3, head.in_features)
    torch.testing.assert_close(head(features), model(x))


@pytest.mark.parametrize(
    ("name", "parameters"),
    # As the papers and their usual CIFAR implementations count them, for 10 classes.
    [
        ("resnet18", 11_173_962),
        ("resnet34", 21_282_122),
        ("resnet50", 23_520_842),
        ("wideresnet-28-10", 36_479_194),
    ],
)
def test_residual_networks_have_the_published_size(name, parameters):
    with torch.device("meta"):
        model = models.build(name, input_shape=(3, 32, 32), num_outputs=10)
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_residual_networks_keep_the_resolution_of_small_images():
    model = models.build("resnet18", input_shape=(3, 32, 32), num_outputs=10)
    sizes = []
    model.layer4.register_forward_hook(lambda module, args, output: sizes.append(output.shape))
    model(torch.randn(2, 3, 32, 32))
    assert sizes == [(2, 512, 4, 4)]


def test_cnn_has_a_feature_of_a_useful_size_whatever_the_image():
    for shape in [(1, 8, 8), (1, 28, 28), (3, 48, 48)]:
        model = models.build("cnn", input_shape=shape, num_outputs=10)
        assert 64 <= find_head(model, torch.zeros(2, *shape))[1].in_features <= 128


@pytest.mark.parametrize("name", ["mlp", "cnn", "wideresnet-10-1"])
def test_dropout_acts_in_training_only(name):
    torch.manual_seed(0)
    model = models.build(name, input_shape=(1, 8, 8), num_outputs=3, dropout=0.5)
    x = torch.randn(4, 1, 8, 8)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


@pytest.mark.parametrize("name", ["cnn", "mlp", "wideresnet-10-1"])
def test_a_few_steps_fit_a_batch(name):
    torch.manual_seed(0)
    model = models.build(name, input_shape=(1, 8, 8), num_outputs=4)
    x, y = torch.randn(16, 1, 8, 8), torch.arange(16) % 4
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(30):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        assert all(p.grad is not None for p in model.parameters())
        optimizer.step()
    assert loss < 0.1


def test_same_seed_same_weights():
    torch.manual_seed(3)
    one = models.build("cnn", input_shape=(1, 8, 8), num_outputs=4)
    torch.manual_seed(3)
    two = models.build("cnn", input_shape=(1, 8, 8), num_outputs=4)
    for p, q in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("timm:resnet10t", (1, 28, 28)),
        ("timm:vit_tiny_patch16_224", (3, 64, 32)),
        ("timm:mobilenetv3_small_050", (3, 32, 32)),
    ],
)
def test_timm_models_take_the_data_as_it_is(name, shape):
    pytest.importorskip("timm")
    model = models.build(name, input_shape=shape, num_outputs=5)
    assert model.training
    assert model(torch.randn(2, *shape)).shape == (2, 5)


def test_default_model():
    assert models.default_for("classification", (1, 28, 28)) == "cnn"
    assert models.default_for("regression", (5,)) == "mlp"
    assert models.default_for("classification", (5,)) == "mlp"
    assert models.default_for("classification", (3, 224, 224)).startswith("timm:")


NETS = """
from functools import partial
from torch import nn

class Own(nn.Module):
    def __init__(self, num_outputs, dropout=0.0):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Dropout(dropout), nn.Linear(12, num_outputs))

    def forward(self, x):
        return self.layers(x)

def shaped(input_shape, *, num_classes, **others):
    return nn.Sequential(nn.Flatten(), nn.Linear(input_shape[0] * 4, num_classes), *others.values())

def fixed():
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 5))

def wrong(missing):
    pass

def number(num_classes):
    return num_classes

ready = fixed()
halved = partial(Own, dropout=0.5)
"""


@pytest.fixture
def own_nets(from_outside):
    Path("own_nets.py").write_text(NETS)


@pytest.mark.usefixtures("own_nets")
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("Own", {}), ("Own", {"dropout": 0.3}), ("shaped", {}), ("fixed", {}), ("halved", {}),
        ("shaped", {"last": nn.ReLU()}),
    ],
)  # fmt: skip
def test_a_network_from_outside_is_given_what_it_takes(name, options):
    model = models.build(f"own_nets:{name}", input_shape=(3, 2, 2), num_outputs=5, **options)
    assert model.training
    assert model(torch.randn(2, 3, 2, 2)).shape == (2, 5)
    if name in ("Own", "halved"):
        assert model.layers[1].p == {"Own": 0.0, "halved": 0.5}[name] or options["dropout"] == 0.3


@pytest.mark.usefixtures("own_nets")
@pytest.mark.parametrize(
    ("name", "outputs", "options", "message"),
    [
        ("fixed", 4, {}, r"must return \(1, 4\) for a sample, got .*\(\[1, 5\]\)"),
        ("fixed", 5, {"width": 3}, "has no option 'width'"),
        ("wrong", 5, {}, "can't be built or run .* 'missing'"),
        ("number", 5, {}, "must return an nn.Module, got int"),
        ("ready", 5, {}, "must be a class or a function that makes one, got a Sequential"),
        ("Onw", 5, {}, r"has no 'Onw' \(did you mean 'Own'\?\)"),
    ],
)
def test_a_network_from_outside_that_cant_be_is_named(name, outputs, options, message):
    with pytest.raises(InputError, match=f"model='own_nets:{name}'.*{message}"):
        models.build(f"own_nets:{name}", input_shape=(3, 2, 2), num_outputs=outputs, **options)


def test_what_is_available_can_be_built():
    for name in models.available():
        if ":" not in name:
            concrete = name.replace("-K", "-1")
            shape = (3, 32) if name == "gru" else (3, 32, 32)
            with torch.device("meta"):
                assert models.build(concrete, input_shape=shape, num_outputs=2)


@pytest.mark.parametrize(
    ("name", "shape", "options", "message"),
    [
        ("resnet19", (3, 32, 32), {}, r"'resnet19' is unknown \(did you mean 'resnet18'\?\)"),
        ("wideresnet-27-10", (3, 32, 32), {}, "6n"),
        ("wideresnet-28-0", (3, 32, 32), {}, "width"),
        ("cnn", (5,), {}, "takes images .* use model='mlp'"),
        ("cnn", (1, 2, 2), {}, "can't be built or run for samples of shape"),
        ("cnn", (1, 8, 8), {"widht": 3}, r"no option 'widht' \(did you mean 'width'\?\)"),
        ("cnn", (1, 8, 8), {"dropout": 2.0}, "dropout=2.0.*between 0 and 1"),
        ("resnet18", (3, 32, 32), {"depth": 34}, "no option 'depth'.*none"),
        ("timm:resnet_18", (3, 32, 32), {}, r"unknown to timm .* \(did you mean 'resnet"),
        ("timm:resnet10t", (5,), {}, "takes images"),
        ("timm:resnet10t", (3, 32, 32), {"nonsense": 1}, "nonsense"),
        ("timm:vit_tiny_patch16_224", (3, 8, 8), {}, "can't be built or run"),
    ],
)
def test_bad_input_is_refused(name, shape, options, message):
    if name.startswith("timm:"):
        pytest.importorskip("timm")
    with pytest.raises(InputError, match=message):
        models.build(name, input_shape=shape, num_outputs=3, **options)


# -------------------------------------------------------------------------------------- series


@pytest.mark.parametrize(("shape", "linear"), [((1, 5), 24), ((8, 24), 24), ((3, 40), 10)])
def test_forecaster_heads_a_state_and_the_last_steps(shape, linear):
    model = models.build("gru", input_shape=shape, num_outputs=4, width=6, linear=linear)
    assert isinstance(model, models.Forecaster)
    x = torch.randn(3, *shape)
    name, head = find_head(model, x)
    assert name == "head"
    assert head is model.head
    logits, features = capture_features(model, x)
    seen = min(linear, shape[1])
    assert (logits.shape, features.shape) == ((3, 4), (3, 6 + shape[0] * seen))
    torch.testing.assert_close(head(features), logits)
    assert torch.equal(features[:, 6:], x[..., -seen:].flatten(1))


def test_forecaster_reads_every_step_of_each_sample_alone():
    model = models.build("gru", input_shape=(2, 9), num_outputs=1, linear=1).eval()
    x = torch.randn(4, 2, 9, requires_grad=True)
    model(x)[1].sum().backward()
    assert (x.grad[1].abs().sum(0) > 0).all()
    assert not x.grad[[0, 2, 3]].any()


def test_forecaster_is_the_default_for_series():
    for task in ("regression", "classification"):
        assert models.default_for(task, (8, 24)) == "gru"


def test_forecaster_dropout_acts_on_the_state_in_training_only():
    model = models.build("gru", input_shape=(2, 6), num_outputs=1, dropout=0.5)
    x = torch.randn(4, 2, 6)
    assert not torch.equal(model(x), model(x))
    assert torch.equal(model.recurrent(x)[:, 50:], x.flatten(1))
    model.eval()
    assert torch.equal(model(x), model(x))


def test_forecaster_learns_to_go_on_from_the_present_level():
    model = models.build("gru", input_shape=(1, 6), num_outputs=1, width=4)
    x = torch.randn(64, 1, 6)
    y = 2 * x[:, :, -1]
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(80):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
    assert loss < 0.05


@pytest.mark.parametrize("shape", [(5,), (3, 32, 32)])
def test_forecaster_refuses_what_is_no_series(shape):
    with pytest.raises(InputError, match=r"'gru' takes series .*shape \("):
        models.build("gru", input_shape=shape, num_outputs=3)
