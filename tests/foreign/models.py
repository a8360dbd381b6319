"""Models that others wrote, small and untrained, each with what is true of its head declared.

What is declared is the ground on which the tests stand: they read and mix at the declared head by
hooks of their own, and never ask the library where the head is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

CLASSES = 5
SIZE = 6
LABELS = (0, 1, 2, 3, 4, 1)


@dataclass
class Foreign:
    """A model, a batch for it, and what is true of it.

    Attributes:
        model: what the method is given.
        x: a batch of six, of which the model is a function row by row.
        y: its targets.
        core: the module that layers' names refer to, called by hand.
        head: the name of the one head whose input becomes the logits; None where there is none.
        rivals: the heads, where several make the logits or stand beside each other.
        inner: a layer that all paths pass, whose output is batch-first.
        maps: a layer whose output is the last feature maps; None where there are none.
        expect: by kind of work ("head", "head_rows", "features", "auto", ...), "right", "refuse"
            or "either"; see test_matrix.
        tolerance: of logits, relative to their size.
        context: in which steps and passes by hand run.
        adds_hooks: the model is compiled, and keeps idle hooks.
        own_gradients: gradients can be compared parameter by parameter.
        images: x is a batch of images, for methods that mix by place.
        vit: a plain vision transformer, whose attention can be read.
        changes_x: the model changes its input in place.
        warns: a step may warn, of probabilities.
        process: it needs a process group.
        pick: what returns the logits in the model's output, where that is not usual.
        apart: what returns the features, of core and x, and the logits, of core and features,
            where what enters the head holds more than the features.
    """

    model: nn.Module
    x: Any
    y: Tensor
    core: nn.Module
    head: str | None
    rivals: tuple[str, ...] = ()
    inner: str | None = None
    maps: str | None = None
    task: str = "classification"
    expect: dict[str, str] = field(default_factory=dict)
    tolerance: float = 1e-9
    context: Callable[[], Any] = contextlib.nullcontext
    adds_hooks: bool = False
    own_gradients: bool = True
    images: bool = True
    vit: bool = False
    changes_x: bool = False
    warns: bool = False
    process: bool = False
    pick: Callable[[Any], Tensor] | None = None
    apart: tuple[Callable[..., Tensor], Callable[..., Tensor]] | None = None

    def logits(self, output: Any) -> Tensor:
        """Return the logits in what ``core`` returned."""
        if self.pick is not None:
            return self.pick(output)
        if isinstance(output, dict) and "logits" in output:
            return output["logits"]
        if isinstance(output, tuple) and not hasattr(output, "logits"):
            return output[0]
        return getattr(output, "logits", output)


MAKERS: dict[str, Callable[[], Foreign]] = {}
TRUTHS: dict[str, dict[str, Any]] = {}


def lively(model: nn.Module, seed: int = 0) -> nn.Module:
    """Draw all parameters, so that none is zero or as small as untrained ones may be; eval mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            if parameter.ndim > 1:
                fan_in = parameter[0].numel()
                drawn = drawn / fan_in**0.5
            elif "bias" in name:
                drawn = 0.1 * drawn
            else:
                drawn = 1 + 0.2 * drawn.clamp(-2, 2)
            parameter.copy_(drawn)
    return model.eval()


def make_images(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return a batch of six inputs of this shape, far apart; 3 x 32 x 32 without one."""
    shape = shape or (3, 32, 32)
    generator = torch.Generator().manual_seed(7)
    noise = torch.randn(SIZE, *shape, generator=generator, dtype=torch.float64)
    level = torch.randn(SIZE, shape[0], *[1] * (len(shape) - 1), generator=generator)
    return (0.5 + 0.5 * noise + level).to(dtype)


def make_tokens(length: int = 7, padded: bool = False) -> dict[str, Tensor]:
    """Return sentences of a made-up language; 0 fills up the padded ones."""
    generator = torch.Generator().manual_seed(8)
    ids = torch.randint(2, 30, (SIZE, length), generator=generator)
    lengths = torch.tensor([3, 7, 5, 4, 7, 6]) if padded else torch.full((SIZE,), length)
    mask = (torch.arange(length) < lengths[:, None]).long()
    return {"input_ids": ids * mask, "attention_mask": mask}


def foreign(
    head: str | None,
    *,
    x: Callable[[], Any] = make_images,
    y: Any = LABELS,
    dtype: torch.dtype = torch.float64,
    **truths: Any,
) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    """Register a maker of a model. Its answer is the model, or (what is trained, its core)."""

    def register(make: Callable[[], Any]) -> Callable[[], Any]:
        def complete() -> Foreign:
            made = make()
            model, core = made if isinstance(made, tuple) else (made, made)
            model.to(dtype)
            target = torch.tensor(y)
            target = target.to(dtype) if target.is_floating_point() else target
            return Foreign(model, x(), target, core, head, **truths)

        MAKERS[make.__name__] = complete
        TRUTHS[make.__name__] = {"head": head, **truths}
        return make

    return register


class Keywords(nn.Module):
    """What spreads a dict of inputs over a model's keyword arguments."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(**x)


def convolutions(out: int = 12) -> nn.Sequential:
    """Return a small backbone: images to (B, out, 8, 8)."""
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.GELU()),
        nn.Sequential(nn.Conv2d(8, out, 3, 2, 1), nn.BatchNorm2d(out), nn.GELU()),
    )


class Backbone(nn.Module):
    """A small convolutional network of images to features (B, 12), and heads to choose."""

    def __init__(self, **heads: nn.Module) -> None:
        super().__init__()
        self.body = convolutions()
        self.pool = nn.AdaptiveAvgPool2d(1)
        for name, head in heads.items():
            self.add_module(name, head)

    def features(self, x: Tensor) -> Tensor:
        return self.pool(self.body(x)).flatten(1)

    def forward(self, x):
        return self.fc(self.features(x))


def plain() -> Backbone:
    return lively(Backbone(fc=nn.Linear(12, CLASSES)))


NO_CAM = {"cam": "either"}
"""The head weighs no maps' means, or not by a linear layer's rows."""


# --------------------------------------------------------------------------------- torchvision


def torchvision() -> Any:
    return pytest.importorskip("torchvision").models


@foreign("fc", inner="layer2", maps="layer4")
def tv_resnet():
    from torchvision.models.resnet import BasicBlock

    net = torchvision().ResNet(BasicBlock, [1, 1, 1, 1], num_classes=CLASSES)
    narrow = {64: 8, 128: 12, 256: 16, 512: 20}
    for module in list(net.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Conv2d):
                into = narrow.get(child.in_channels, child.in_channels)
                out, size = narrow[child.out_channels], child.kernel_size
                new = nn.Conv2d(into, out, size, child.stride, child.padding, bias=False)
                setattr(module, name, new)
            elif isinstance(child, nn.BatchNorm2d):
                setattr(module, name, nn.BatchNorm2d(narrow[child.num_features]))
    net.fc, net.maxpool = nn.Linear(20, CLASSES), nn.Identity()
    return lively(net)


@foreign(
    "classifier.1",
    inner="features.3",
    expect={"head": "either", "head_rows": "either", "features": "either", "auto": "either"},
)
def tv_squeezenet():
    """The logits are max(0, conv) averaged: the head is a convolution, and not the last layer."""
    from torchvision.models.squeezenet import Fire

    net = torchvision().SqueezeNet("1_1", num_classes=CLASSES)
    net.features = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True),
        Fire(8, 4, 6, 6), nn.MaxPool2d(3, 2, ceil_mode=True), Fire(12, 4, 8, 8),
    )  # fmt: skip
    net.classifier[1] = nn.Conv2d(16, CLASSES, 1)
    return lively(net)


@foreign("classifier.3", inner="features.1", maps="features.3", expect=NO_CAM)
def tv_mobilenet_v3():
    """Squeeze-excitation gates, and a classifier of two linear layers."""
    from torchvision.models.mobilenetv3 import InvertedResidualConfig as Block
    from torchvision.models.mobilenetv3 import MobileNetV3

    torchvision()
    blocks = [
        Block(8, 3, 8, 8, True, "RE", 2, 1, 1.0),
        Block(8, 3, 16, 12, True, "HS", 1, 1, 1.0),
    ]
    return lively(MobileNetV3(blocks, 16, num_classes=CLASSES))


@foreign("classifier", inner="features.transition1", maps="features.norm5")
def tv_densenet():
    return lively(torchvision().DenseNet(6, (2, 2), 8, num_classes=CLASSES))


@foreign("heads.head", inner="encoder.layers.encoder_layer_0", vit=True)
def tv_vit():
    return lively(
        torchvision().VisionTransformer(
            image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32,
            num_classes=CLASSES,
        )
    )  # fmt: skip


@foreign("head", inner="features.2")
def tv_swin():
    return lively(
        torchvision().SwinTransformer(
            [4, 4], embed_dim=16, depths=[1, 1], num_heads=[2, 2], window_size=[4, 4],
            num_classes=CLASSES,
        )
    )  # fmt: skip


@foreign("classifier.2", inner="features.1")
def tv_convnext():
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    torchvision()
    return lively(ConvNeXt([CNBlockConfig(8, 12, 1), CNBlockConfig(12, None, 1)], num_classes=5))


@foreign(
    "classifier.4",
    inner="backbone.1",
    y=torch.randint(CLASSES, (SIZE, 32, 32), generator=torch.Generator().manual_seed(3)).tolist(),
    task="segmentation",
    pick=lambda output: output["out"],
    expect=dict.fromkeys(("head", "named", "features", "inner", "auto", "input", "erm"), "either"),
)
def tv_fcn():
    """A dict of "out" and "aux", each enlarged to the image."""
    from torchvision.models._utils import IntermediateLayerGetter
    from torchvision.models.segmentation.fcn import FCN, FCNHead

    torchvision()
    backbone = IntermediateLayerGetter(convolutions(16), {"1": "out", "0": "aux"})
    return lively(FCN(backbone, FCNHead(16, CLASSES), FCNHead(8, CLASSES)))


# ---------------------------------------------------------------------------------------- timm


def timm() -> Any:
    return pytest.importorskip("timm").models


def timm_small(name: str, **arguments: Any) -> nn.Module:
    pytest.importorskip("timm")
    from timm import create_model

    return lively(create_model(name, num_classes=CLASSES, **arguments))


@foreign("fc", inner="layer2", maps="layer4")
def timm_resnet():
    from timm.models.resnet import BasicBlock

    return lively(
        timm().ResNet(BasicBlock, (1, 1, 1, 1), CLASSES, output_stride=16, channels=(8, 12, 16, 20))
    )


@foreign("classifier", inner="blocks.1")
def timm_efficientnet():
    return timm_small("test_efficientnet")


@foreign("head.fc", inner="stages.1")
def timm_convnext():
    return lively(timm().ConvNeXt(depths=(1, 1, 1, 1), dims=(8, 12, 16, 20), num_classes=CLASSES))


@foreign("head.fc", inner="stages.1")
def timm_byobnet():
    return timm_small("test_byobnet")


@foreign("head.fc", inner="stages.1")
def timm_nfnet():
    return timm_small("test_nfnet")


@foreign("head.fc", inner="stages.1")
def timm_mambaout():
    """Before the head's last layer is another linear one."""
    return timm_small("test_mambaout")


def vision_transformer(**arguments: Any) -> nn.Module:
    return lively(
        timm().VisionTransformer(
            img_size=32, patch_size=8, embed_dim=16, depth=2, num_heads=2, num_classes=CLASSES,
            **arguments,
        )
    )  # fmt: skip


@foreign("head", inner="blocks.1", vit=True)
def timm_vit():
    return vision_transformer()


@foreign("head", inner="blocks.1")
def timm_vit_attention_pool():
    return vision_transformer(global_pool="map", class_token=False)


@foreign("head", inner="blocks.0", vit=True)
def timm_vit_checkpointed():
    """Each block is run by timm's own checkpointing."""
    net = vision_transformer()
    net.set_grad_checkpointing()
    return net


@foreign(None, rivals=("head", "head_dist"), inner="blocks.0", vit=True)
def timm_distilled_deit():
    """In evaluation the mean of two heads."""
    from timm.models.deit import VisionTransformerDistilled

    return lively(
        VisionTransformerDistilled(
            img_size=32, patch_size=8, embed_dim=16, depth=2, num_heads=2, num_classes=CLASSES
        )
    )


@foreign("head.fc", inner="layers.0")
def timm_swin():
    return lively(
        timm().SwinTransformer(
            img_size=32, patch_size=4, embed_dim=16, depths=(1, 1), num_heads=(2, 2),
            window_size=4, num_classes=CLASSES,
        )
    )  # fmt: skip


@foreign("head.fc", inner="stages.1")
def timm_resnetv2():
    """The head is a 1 x 1 convolution of pooled maps."""
    from functools import partial

    from timm.layers import GroupNormAct

    return lively(
        timm().ResNetV2(
            (1, 1, 1), (16, 16, 32), num_classes=CLASSES, stem_chs=8,
            norm_layer=partial(GroupNormAct, num_groups=4),
        )
    )  # fmt: skip


@foreign("classifier", inner="blocks.1")
def timm_mobilenetv3():
    """Between pooling and classifier is a convolution."""
    from timm.models._efficientnet_builder import decode_arch_def

    return lively(
        timm().MobileNetV3(
            decode_arch_def([["ds_r1_k3_s1_e1_c8"], ["ir_r1_k3_s2_e2_c12_se0.25"]]),
            num_classes=CLASSES, num_features=24, stem_size=8,
        )
    )  # fmt: skip


@foreign("head.linear", inner="stages.0")
def timm_levit():
    """The head is a batch norm and a linear layer."""
    return lively(
        timm().Levit(
            img_size=32, embed_dim=(16, 24), key_dim=4, depth=(1, 1), num_heads=(2, 2),
            num_classes=CLASSES,
        )
    )  # fmt: skip


@foreign("head", inner="blocks.0")
def timm_mixer():
    return lively(
        timm().MlpMixer(img_size=32, patch_size=8, num_blocks=2, embed_dim=16, num_classes=CLASSES)
    )


@foreign(None, rivals=("head", "aux_head"), inner="pos_drop")
def timm_volo():
    """The logits are the head's and half of the largest of the auxiliary head's."""
    return lively(
        timm().VOLO(
            (1, 1), img_size=32, patch_size=4, stem_hidden_dim=8, embed_dims=(8, 16),
            num_heads=(2, 2), downsamples=(True, False), outlook_attention=(True, False),
            num_classes=CLASSES,
        )
    )  # fmt: skip


@foreign(None, rivals=("head.0", "head.1"))
def timm_crossvit():
    """Two branches, whose heads' outputs are averaged."""
    return lively(
        timm().CrossVit(
            img_size=32, patch_size=(8, 16), embed_dim=(16, 24), depth=((1, 1, 0),),
            num_heads=(2, 2), num_classes=CLASSES,
        )
    )  # fmt: skip


# -------------------------------------------------------------------------------- transformers


def transformers() -> Any:
    return pytest.importorskip("transformers")


BERT = {
    "vocab_size": 30, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 32, "max_position_embeddings": 16, "num_labels": CLASSES,
}  # fmt: skip
VIT = {
    "image_size": 32, "patch_size": 8, "hidden_size": 16, "num_hidden_layers": 2,
    "num_attention_heads": 2, "intermediate_size": 32, "num_labels": CLASSES,
}  # fmt: skip


@foreign("classifier", inner="vit.embeddings", vit=True)
def hf_vit():
    hf = transformers()
    return lively(hf.ViTForImageClassification(hf.ViTConfig(**VIT)))


@foreign(None, rivals=("cls_classifier", "distillation_classifier"), inner="deit.embeddings")
def hf_distilled_deit():
    """The mean of two heads, of which neither is called so."""
    hf = transformers()
    return lively(hf.DeiTForImageClassificationWithTeacher(hf.DeiTConfig(**VIT)))


TEXT = {"images": False}


@foreign(
    "model.classifier", x=lambda: make_tokens(padded=True), inner="model.bert.embeddings", **TEXT
)
def hf_bert():
    hf = transformers()
    return Keywords(lively(hf.BertForSequenceClassification(hf.BertConfig(**BERT))))


def batch_encoding() -> Any:
    return transformers().BatchEncoding(make_tokens(padded=True))


@foreign("model.classifier", x=batch_encoding, inner="model.bert.embeddings", **TEXT)
def hf_bert_of_batch_encoding():
    """What a tokenizer returns: a mapping, no dict."""
    hf = transformers()
    return Keywords(lively(hf.BertForSequenceClassification(hf.BertConfig(**BERT))))


@foreign(
    "model.classifier",
    x=lambda: make_tokens(padded=True),
    inner="model.distilbert.embeddings",
    **TEXT,
)
def hf_distilbert():
    """Before the classifier is another linear layer of the whole sequence's first position."""
    hf = transformers()
    config = hf.DistilBertConfig(
        vocab_size=30, dim=16, n_layers=2, n_heads=2, hidden_dim=32, max_position_embeddings=16,
        num_labels=CLASSES,
    )  # fmt: skip
    return Keywords(lively(hf.DistilBertForSequenceClassification(config)))


def gpt2() -> nn.Module:
    hf = transformers()
    config = hf.GPT2Config(
        vocab_size=30, n_positions=16, n_embd=16, n_layer=2, n_head=2, num_labels=CLASSES,
        pad_token_id=0,
    )  # fmt: skip
    return Keywords(lively(hf.GPT2ForSequenceClassification(config)))


# Its score is taken of all positions, and the last one's picked, by rows of the input ids.
GPT2 = dict.fromkeys(("head", "head_rows", "named", "features"), "either")


@foreign("model.score", x=make_tokens, inner="model.transformer.drop", expect=GPT2, **TEXT)
def hf_gpt2():
    return gpt2()


def last_words(core: nn.Module, x: Any) -> Tensor:
    hidden = core.model.transformer(**x).last_hidden_state
    return hidden[torch.arange(SIZE), x["attention_mask"].sum(1) - 1]


@foreign(
    "model.score",
    x=lambda: make_tokens(padded=True),
    expect=GPT2,
    apart=(last_words, lambda core, features: core.model.score(features)),
    **TEXT,
)
def hf_gpt2_padded():
    """Sentences of several lengths: the position that is picked is another for each."""
    return gpt2()


@foreign(
    "classifier",
    x=lambda: make_images(200),
    inner="wav2vec2.feature_projection.projection",
    images=False,
)
def hf_wav2vec2():
    hf = transformers()
    config = hf.Wav2Vec2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        conv_dim=(8, 8), conv_stride=(5, 2), conv_kernel=(10, 3), num_feat_extract_layers=2,
        num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2, classifier_proj_size=12,
        num_labels=CLASSES,
    )  # fmt: skip
    return lively(hf.Wav2Vec2ForSequenceClassification(config))


@foreign("classifier")
def hf_segformer():
    hf = transformers()
    config = hf.SegformerConfig(
        num_encoder_blocks=2, depths=[1, 1], sr_ratios=[2, 1], hidden_sizes=[8, 16],
        patch_sizes=[7, 3], strides=[4, 2], num_attention_heads=[1, 2], mlp_ratios=[2, 2],
        num_labels=CLASSES,
    )  # fmt: skip
    return lively(hf.SegformerForImageClassification(config))


# ---------------------------------------------------------------------------------------- peft


def lora(model: nn.Module, **arguments: Any) -> nn.Module:
    peft = pytest.importorskip("peft")
    return lively(peft.get_peft_model(model, peft.LoraConfig(r=4, **arguments)))


BASE = "base_model.model."


@foreign(f"{BASE}head", inner=f"{BASE}blocks.0", vit=True)
def peft_lora_on_backbone():
    net = vision_transformer()
    return lora(net, target_modules=["qkv"])


@foreign(f"{BASE}head.modules_to_save.default", inner=f"{BASE}blocks.0", vit=True)
def peft_head_saved():
    """Inside a wrapper are two heads, of which the second one runs."""
    net = vision_transformer()
    return lora(net, target_modules=["qkv"], modules_to_save=["head"])


@foreign(f"{BASE}fc", inner=f"{BASE}body.0", maps=f"{BASE}body.1", expect=NO_CAM)
def peft_lora_on_head():
    """The head's last linear layer to run is of rank 4, and its output a part of the logits."""
    return lora(plain(), target_modules=["fc"])


@foreign(f"{BASE}fc", inner=f"{BASE}body.0", maps=f"{BASE}body.1", expect=NO_CAM)
def peft_dora_on_head():
    return lora(plain(), target_modules=["fc"], use_dora=True)


@foreign(f"{BASE}model.classifier", x=make_tokens, inner=f"{BASE}model.bert.embeddings", **TEXT)
def peft_lora_on_bert_and_head():
    hf = transformers()
    net = Keywords(hf.BertForSequenceClassification(hf.BertConfig(**BERT)))
    return lora(net, target_modules=["query", "value", "classifier"])


# ------------------------------------------------------------------------------ by other hands


class LowRank(nn.Module):
    """A linear layer and a low-rank one beside it, as many write them."""

    def __init__(self, base: nn.Linear, rank: int = 2) -> None:
        super().__init__()
        self.base = base
        self.down = nn.Linear(base.in_features, rank, bias=False)
        self.up = nn.Linear(rank, base.out_features, bias=False)

    def forward(self, x):
        return self.base(x) + self.up(self.down(x))


@foreign("fc", inner="body.0", maps="body.1", expect=NO_CAM)
def low_rank_by_hand():
    return lively(Backbone(fc=LowRank(nn.Linear(12, CLASSES))))


class Cosine(nn.Module):
    """Scaled cosines of features and classes; no linear layer."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(CLASSES, width))

    def forward(self, x):
        return 10 * F.linear(F.normalize(x), F.normalize(self.weight))


@foreign("fc", inner="body.0", maps="body.1", expect=NO_CAM)
def cosine_head():
    return lively(Backbone(fc=Cosine()))


class Gate(nn.Module):
    """Squeeze and excitation of linear layers, the last of which looks like a head."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.squeeze, self.excite = nn.Linear(width, 4), nn.Linear(4, width)

    def forward(self, x):
        gate = self.excite(self.squeeze(x.mean((2, 3))).relu()).sigmoid()
        return x * gate[:, :, None, None]


class Gated(nn.Module):
    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.body, self.gate, self.fc = convolutions(width), Gate(width), Cosine(width)

    def forward(self, x):
        return self.fc(self.gate(self.body(x)).mean((2, 3)))


@foreign("fc", inner="gate", maps="gate", expect=NO_CAM)
def cosine_head_behind_a_gate():
    return lively(Gated())


@foreign("fc", inner="gate", maps="gate", expect=NO_CAM)
def cosine_head_behind_a_gate_as_wide_as_classes():
    """Nothing in shapes tells the gate from the head."""
    return lively(Gated(CLASSES))


@foreign("fc", inner="body.0", maps="body.1", expect=NO_CAM)
def weight_norm_head():
    return lively(Backbone(fc=nn.utils.parametrizations.weight_norm(nn.Linear(12, CLASSES))))


@foreign("fc", inner="body.0", maps="body.1", expect=NO_CAM)
def spectral_norm_head():
    return lively(Backbone(fc=nn.utils.parametrizations.spectral_norm(nn.Linear(12, CLASSES))))


class Tied(nn.Module):
    """Logits against an embedding's own rows."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(CLASSES, 12)
        self.body = nn.Sequential(nn.Linear(12, 12), nn.LayerNorm(12))
        self.stem = nn.Linear(8, 12)

    def forward(self, x):
        return self.body(self.stem(x)) @ self.embed.weight.T


@foreign(None, x=lambda: make_images(8), inner="stem", images=False)
def tied_weights():
    return lively(Tied())


class Bare(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = convolutions()
        self.weight = nn.Parameter(torch.randn(CLASSES, 12))

    def forward(self, x):
        return F.linear(self.body(x).mean((2, 3)), self.weight)


@foreign(None, inner="body.0")
def bare_linear():
    return lively(Bare())


class Wrapper(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x)


@foreign(None, inner="net.body.0")
def bare_linear_in_a_wrapper():
    """The innermost module that returns the logits takes images: no head."""
    return Wrapper(lively(Bare()))


@foreign("net.fc", inner="net.body.0", maps="net.body.1")
def two_wrappers():
    net = Wrapper(plain())
    outer = nn.Module()
    outer.net, outer.forward = net.net, lambda x: net.net(x)
    return outer.eval()


class AgeAndGender(Backbone):
    def forward(self, x):
        features = self.features(x)
        return self.age(features), self.gender(features)


# Of the tuple the first is the logits: the other head may be passed over, or be a reason to ask.
OF_TWO = dict.fromkeys(("head", "head_rows", "features", "auto", "look", "cam"), "either")


@foreign(
    "age",
    rivals=("age", "gender"),
    inner="body.0",
    maps="body.1",
    expect=OF_TWO,
)
def age_and_gender():
    return lively(AgeAndGender(age=nn.Linear(12, CLASSES), gender=nn.Linear(12, 2)))


@foreign(
    "age",
    rivals=("age", "gender"),
    inner="body.0",
    maps="body.1",
    expect=OF_TWO,
)
def two_heads_as_wide():
    return lively(AgeAndGender(gender=nn.Linear(12, CLASSES), age=nn.Linear(12, CLASSES)))


class Heteroscedastic(Backbone):
    def forward(self, x):
        features = self.features(x)
        return self.mean(features), self.logvar(features)


@foreign(
    "mean",
    rivals=("mean", "logvar"),
    y=(0.1, -0.5, 0.3, 1.2, -0.7, 0.0),
    inner="body.0",
    task="regression",
    expect=OF_TWO,
)
def heteroscedastic():
    class Net(Heteroscedastic):
        def forward(self, x):
            mean, logvar = super().forward(x)
            return mean[:, 0], logvar[:, 0]

    return lively(Net(mean=nn.Linear(12, 1), logvar=nn.Linear(12, 1)))


class WithFeatures(Backbone):
    def forward(self, x):
        features = self.features(x)
        return self.fc(features), features


@foreign("fc", inner="body.0", maps="body.1")
def logits_and_features():
    return lively(WithFeatures(fc=nn.Linear(12, CLASSES)))


class AsDict(Backbone):
    def forward(self, x):
        features = self.features(x)
        return {"features": features, "logits": self.fc(features), "loss": None}


@foreign("fc", inner="body.0", maps="body.1")
def dict_of_logits():
    return lively(AsDict(fc=nn.Linear(12, CLASSES)))


class WithAuxiliary(nn.Module):
    """Inception's way: in training, an auxiliary head's logits come along, made last or first."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = convolutions()
        self.fc, self.aux = nn.Linear(12, CLASSES), nn.Linear(8, CLASSES)

    def forward(self, x):
        first = self.stem(x)
        logits = self.fc(self.body(first).mean((2, 3)))
        return SimpleNamespace(logits=logits, aux_logits=self.aux(first.mean((2, 3))))


@foreign("fc", inner="stem", maps="body")
def auxiliary_head():
    return lively(WithAuxiliary())


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 8)
        self.lstm = nn.LSTM(8, 10, 2, batch_first=True)
        self.fc = nn.Linear(10, CLASSES)

    def forward(self, x):
        return self.fc(self.lstm(self.embed(x))[0][:, -1])


@foreign("fc", x=lambda: make_images(6, 4), inner="embed", images=False)
def lstm():
    return lively(Recurrent())


class EveryStep(Recurrent):
    def forward(self, x):
        return self.fc(self.lstm(self.embed(x))[0])[:, -1]


@foreign(
    "fc",
    x=lambda: make_images(6, 4),
    inner="embed",
    images=False,
    expect={"head": "either", "named": "either"},
)
def lstm_that_scores_every_step():
    """The head's output is (B, T, C), of which the last step is picked."""
    return lively(EveryStep())


class InPlace(Backbone):
    def forward(self, x):
        return super().forward(x.sub_(0.5).div_(0.25))


@foreign("fc", inner="body.0", maps="body.1", changes_x=True)
def input_changed_in_place():
    return lively(InPlace(fc=nn.Linear(12, CLASSES)))


class Probabilities(Backbone):
    def forward(self, x):
        return super().forward(x).softmax(1)


SOFTMAX = dict.fromkeys(("head", "head_rows", "features", "auto", "look", "cam"), "either")


@foreign("fc", inner="body.0", maps="body.1", expect=SOFTMAX, warns=True)
def returns_probabilities():
    return lively(Probabilities(fc=nn.Linear(12, CLASSES)))


@foreign("fc.0", inner="body.0", maps="body.1", expect=SOFTMAX, warns=True)
def returns_probabilities_by_a_module():
    return lively(Backbone(fc=nn.Sequential(nn.Linear(12, CLASSES), nn.Softmax(1))))


class Twice(Backbone):
    def forward(self, x):
        return (self.fc(self.features(x)) + self.fc(self.features(x.flip(3)))) / 2


@foreign(None, rivals=("fc",))
def head_runs_twice():
    """The mean over an image and its mirror image."""
    return lively(Twice(fc=nn.Linear(12, CLASSES)))


class Crops(Backbone):
    def forward(self, x):
        return super().forward(x.flatten(0, 1)).unflatten(0, x.shape[:2]).mean(1)


# The head sees more rows than there are samples.
CROPS = {
    **dict.fromkeys(("head", "head_rows", "auto", "look", "cam"), "either"),
    "features": "refuse",
}


@foreign(None, x=lambda: make_images(2, 3, 16, 16), expect=CROPS)
def several_crops():
    return lively(Crops(fc=nn.Linear(12, CLASSES)))


@foreign("fc.0", inner="body.0", maps="body.1", expect={"features": "either"})
def batch_norm_after_the_head():
    net = Backbone(fc=nn.Sequential(nn.Linear(12, CLASSES), nn.BatchNorm1d(CLASSES)))
    return lively(net)


@foreign("fc.3", inner="body.0", maps="body.1", expect=NO_CAM)
def head_of_two_layers():
    net = nn.Sequential(nn.Linear(12, 10), nn.ReLU(), nn.Dropout(0.5), nn.Linear(10, CLASSES))
    return lively(Backbone(fc=net))


@foreign("fc", inner="body.0", maps="body.1")
def scaled_logits():
    """Divided by a learnt temperature, and cast."""

    class Scaled(Backbone):
        def __init__(self) -> None:
            super().__init__(fc=nn.Linear(12, CLASSES))
            self.temperature = nn.Parameter(torch.ones(1))

        def forward(self, x):
            return (super().forward(x) / self.temperature).double()

    return lively(Scaled())


class ConvolutionHead(nn.Module):
    """NIN's way: a convolution to classes, then the mean over positions."""

    def __init__(self) -> None:
        super().__init__()
        self.body = convolutions()
        self.conv = nn.Conv2d(12, CLASSES, 1)

    def forward(self, x):
        return self.conv(self.body(x)).mean((2, 3))


@foreign("conv", inner="body.0", maps="body.1", expect={"look": "either", "cam": "either"})
def convolution_head():
    return lively(ConvolutionHead())


class UNet(nn.Module):
    """Two levels, with a connection around the lower one; pooled to classes."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.GELU())
        self.down = nn.Sequential(nn.Conv2d(6, 8, 3, 2, 1), nn.GELU())
        self.deep = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.GELU())
        self.up = nn.Sequential(nn.ConvTranspose2d(8, 6, 2, 2), nn.GELU())
        self.join = nn.Sequential(nn.Conv2d(12, 8, 3, padding=1), nn.GELU())
        self.fc = nn.Linear(8, CLASSES)

    def forward(self, x):
        first = self.enter(x)
        up = self.up(self.deep(self.down(first)))
        return self.fc(self.join(torch.cat([first, up], 1)).mean((2, 3)))


@foreign("fc", x=lambda: make_images(3, 12, 12), inner="join", maps="join")
def u_net():
    return lively(UNet())


class Checkpointed(nn.Module):
    """A segment of the body is computed again in backward."""

    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.reentrant = reentrant
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.GELU())
        self.segment = nn.Sequential(
            nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.GELU()),
            nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.GELU()),
        )
        self.last = nn.Sequential(nn.Conv2d(8, 12, 3, 2, 1), nn.GELU())
        self.fc = nn.Linear(12, CLASSES)

    def forward(self, x):
        x = self.stem(x)
        if self.reentrant is None:
            x = self.segment(x)
        else:
            x = checkpoint(self.segment, x, use_reentrant=self.reentrant)
        return self.fc(self.last(x).mean((2, 3)))


# A layer inside the segment may be drawn; torch knows no autograd.grad through the reentrant form.
CHECKPOINTED = {"auto": "either"}
REENTRANT = {"auto": "either", "gradient": "either"}


@foreign("fc", inner="stem", maps="last", expect=CHECKPOINTED)
def checkpointed():
    return lively(Checkpointed(False))


@foreign("fc", inner="stem", maps="last", expect=REENTRANT)
def checkpointed_reentrant():
    return lively(Checkpointed(True))


@foreign("6", x=lambda: make_images(2, 40), inner="1", images=False)
def signals():
    net = nn.Sequential(
        nn.Conv1d(2, 6, 5, 2), nn.GELU(), nn.Conv1d(6, 8, 5, 2), nn.GELU(),
        nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, CLASSES),
    )  # fmt: skip
    return lively(net)


@foreign("5", x=lambda: make_images(1, 6, 12, 12), inner="1", images=False)
def volumes():
    net = nn.Sequential(
        nn.Conv3d(1, 6, 3), nn.GELU(), nn.Conv3d(6, 8, 3), nn.AdaptiveAvgPool3d(1), nn.Flatten(),
        nn.Linear(8, CLASSES),
    )  # fmt: skip
    return lively(net)


@foreign("4", x=lambda: make_images(8), inner="1", images=False)
def tabular():
    net = nn.Sequential(
        nn.Linear(8, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 12), nn.Linear(12, CLASSES)
    )
    return lively(net)


@foreign("1", x=lambda: make_images(8), images=False, expect={"auto": "either"})
def one_linear_layer():
    """Softmax regression: the head's input is the input."""
    return lively(nn.Sequential(nn.Flatten(), nn.Linear(8, CLASSES)))


# --------------------------------------------------------------------- precision and wrappers


@foreign(
    "fc",
    x=lambda: make_images(dtype=torch.float32),
    inner="body.0",
    maps="body.1",
    dtype=torch.float32,
    tolerance=0.1,
    expect={"cam": "either"},
)
def quantised_head():
    """A dynamically quantised layer, whose scale is the batch's, and what is trained beside it."""
    net = lively(Backbone(fc=LowRank(nn.Linear(12, CLASSES)))).float()
    quantisation = torch.ao.quantization
    if "fbgemm" not in torch.backends.quantized.supported_engines:
        pytest.skip("torch is built without fbgemm")
    base = net.fc.base
    base.qconfig = quantisation.default_dynamic_qconfig
    net.fc.base = torch.ao.nn.quantized.dynamic.Linear.from_float(base)
    return net


@foreign(
    "fc",
    x=lambda: make_images(dtype=torch.bfloat16),
    inner="body.0",
    maps="body.1",
    dtype=torch.bfloat16,
    tolerance=0.05,
)
def half_precision():
    return plain()


@foreign(
    "fc",
    x=lambda: make_images(dtype=torch.float32),
    inner="body.0",
    maps="body.1",
    dtype=torch.float32,
    tolerance=0.05,
    context=lambda: torch.autocast("cpu", dtype=torch.bfloat16),
)
def autocast():
    return plain()


@contextlib.contextmanager
def one_process() -> Iterator[None]:
    """A group of one process, while in the context."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        torch.distributed.init_process_group(
            "gloo", rank=0, world_size=1, init_method=f"file://{folder}/store"
        )
        try:
            yield
        finally:
            torch.distributed.destroy_process_group()


@foreign("fc", inner="body.0", maps="body.1", process=True)
def wrapped_ddp():
    net = plain().double()
    return nn.parallel.DistributedDataParallel(net), net


@foreign(
    "fc",
    x=lambda: make_images(dtype=torch.float32),
    inner="body.0",
    maps="body.1",
    dtype=torch.float32,
    tolerance=1e-5,
    process=True,
    own_gradients=False,
)
def wrapped_fsdp2():
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    net, mesh = plain().float(), init_device_mesh("cpu", (1,))
    for part in (net.body, net.fc):
        fully_shard(part, mesh=mesh)
    return fully_shard(net, mesh=mesh)


COMPILED = {"adds_hooks": True}


@foreign("fc", inner="body.0", maps="body.1", **COMPILED)
def wrapped_compile():
    torch.compiler.reset()  # or code that was compiled for another model of the class is run
    net = plain().double()
    return torch.compile(net, backend="eager"), net
