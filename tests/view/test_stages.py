"""Where layer="auto" may mix: the first half of a network's stages, however it is wrapped."""

import pytest
import torch
from torch import nn

import mixwell
from mixwell import models
from mixwell.coefficient import Constant
from mixwell.view import stages

X, Y = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.arange(4)
DEPTH, WIDTH = 5, 6


class Block(nn.Module):
    def __init__(self, width=WIDTH):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)

    def forward(self, x):
        return x + torch.relu(self.norm(self.conv(x)))


class Listed(nn.Module):
    """A stem, and a list of blocks that are run in a loop."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTH, 3)
        self.blocks = nn.ModuleList(Block() for _ in range(DEPTH))
        self.norm = nn.BatchNorm2d(WIDTH)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.norm(x).mean((2, 3))


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.ModuleDict({str(i): Block() for i in range(DEPTH)})

    def forward(self, x):
        for block in self.layer.values():
            x = block(x)
        return x


class Encoded(nn.Module):
    """What embeds, what encodes, and what pools: each of another kind, one of them the network."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Sequential(nn.Conv2d(3, WIDTH, 3), nn.Identity())
        self.encoder = Encoder()
        self.pool = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        return self.pool(self.encoder(self.embed(x)).mean((2, 3)))


class Staged(nn.Module):
    """A ResNet's four stages."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTH, 3)
        for number in range(1, 5):
            setattr(self, f"layer{number}", nn.Sequential(Block(), Block(), Block()))

    def forward(self, x):
        x = self.stem(x)
        for number in range(1, 5):
            x = getattr(self, f"layer{number}")(x)
        return x.mean((2, 3))


class Attribute(nn.Module):
    prefix = "backbone."

    def __init__(self, network):
        super().__init__()
        self.backbone, self.fc = network, nn.Linear(WIDTH, 4)

    def forward(self, x):
        return self.fc(self.backbone(x))


class Method(Attribute):
    """The network's own call is passed by, as with timm's forward_features."""

    def forward(self, x):
        return self.fc(self.backbone.forward(x))


class Deep(nn.Module):
    prefix = "inner.backbone."

    def __init__(self, network):
        super().__init__()
        self.inner = Attribute(network)
        self.inner.fc = nn.Identity()
        self.fc = nn.Linear(WIDTH, 4)

    def forward(self, x):
        return self.fc(self.inner(x))


class Held(nn.Module):
    prefix = "parts.network."

    def __init__(self, network):
        super().__init__()
        self.parts = nn.ModuleDict({"network": network, "fc": nn.Linear(WIDTH, 4)})

    def forward(self, x):
        return self.parts["fc"](self.parts["network"](x))


class InRow(nn.Sequential):
    prefix = "0."

    def __init__(self, network):
        super().__init__(network, nn.Dropout(0.1), nn.Linear(WIDTH, 4))


class Behind(nn.Sequential):
    """A network with its head, behind a layer that adapts the input to it."""

    prefix = "1.backbone."

    def __init__(self, network):
        super().__init__(nn.Conv2d(3, 3, 1), Attribute(network))


class BehindInRow(nn.Sequential):
    prefix = "1.0."

    def __init__(self, network):
        super().__init__(nn.Conv2d(3, 3, 1), InRow(network))


NETWORKS = {
    Listed: ["blocks.0", "blocks.1", "blocks.2"],
    Encoded: ["encoder.layer.0", "encoder.layer.1", "encoder.layer.2"],
    Staged: ["layer1", "layer2"],
}
WRAPPERS = [Attribute, Method, Deep, Held, InRow, Behind, BehindInRow]


@pytest.mark.cases(quick=7)
@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("network", NETWORKS)
def test_a_wrapped_networks_stages_are_its_own(network, wrapper):
    torch.manual_seed(0)
    model = wrapper(network()).eval()
    found = stages(model, X)
    assert found == [wrapper.prefix + name for name in NETWORKS[network]]
    with torch.no_grad():
        clean = nn.functional.cross_entropy(model(X), Y)
    for name in found:  # at λ = 0 all samples change places with others, wherever it is done
        swap = mixwell.create("mixup", num_classes=4, layer=name, coefficient=Constant(0.0))
        torch.testing.assert_close(swap(model, X, Y), clean)


def test_residual_networks_have_the_stages_of_manifold_mixups_authors():
    net = models.build("resnet18", input_shape=(3, 16, 16), num_outputs=4)
    assert stages(net, X) == ["layer1", "layer2"]
    fast = models.build("resnet-fast", input_shape=(3, 32, 32), num_outputs=4)
    assert stages(fast, torch.randn(2, 3, 32, 32)) == ["stages.0", "stages.1"]


@pytest.mark.cases(quick=1)
@pytest.mark.parametrize(("name", "expected"), [
    ("resnet50", ["layer1", "layer2"]),
    ("vit_b_16", [f"encoder.layers.encoder_layer_{i}" for i in range(6)]),
    ("regnet_y_400mf", ["trunk_output.block1", "trunk_output.block2"]),
])  # fmt: skip
def test_networks_of_torchvision(name, expected):
    torchvision = pytest.importorskip("torchvision", reason="torchvision is not installed")
    net = torchvision.models.get_model(name, num_classes=4)
    size = 224 if name.startswith("vit") else 64
    assert stages(net.eval(), torch.randn(2, 3, size, size)) == expected


def test_a_text_transformers_stages_are_its_layers_and_not_the_whole():
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=6, num_attention_heads=2,
        intermediate_size=16, num_labels=4,
    )  # fmt: skip

    class Taking(nn.Module):
        def __init__(self):
            super().__init__()
            self.bert = transformers.BertForSequenceClassification(config)

        def forward(self, x):
            return self.bert(**x).logits

    words = {"input_ids": torch.randint(50, (4, 7)), "attention_mask": torch.ones(4, 7).long()}
    found = stages(Taking().eval(), words)
    inner = [f"bert.bert.encoder.layer.{i}" for i in range(3)]
    assert found == ["bert.bert.embeddings", *inner]


def test_what_also_returns_whole_numbers_is_no_stage():
    class Counting(Block):
        def forward(self, x):
            return super().forward(x), (x > 0).sum((1, 2, 3))

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.third = Counting(3), Block(3), Block(3)
            self.fc = nn.Linear(3, 4)

        def forward(self, x):
            x, count = self.first(x)
            x = self.third(self.second(x / count.clamp(min=1)[:, None, None, None]))
            return self.fc(x.mean((2, 3)))

    assert stages(Net().eval(), X) == ["second"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("scripted", ["all", "the network", "a block"])
def test_of_scripts_which_can_not_be_looked_into_there_are_none(scripted):
    model = Attribute(Listed()).eval()
    if scripted == "all":
        model = torch.jit.trace(model, X)
    elif scripted == "the network":
        model.backbone = torch.jit.trace(model.backbone, X)
    else:
        model.backbone.blocks[0] = torch.jit.trace(
            model.backbone.blocks[0], model.backbone.stem(X).detach()
        )
    found = [f"backbone.blocks.{i}" for i in range(1, DEPTH)] if scripted == "a block" else []
    assert stages(model, X) == found[: len(found) // 2]
