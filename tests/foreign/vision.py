"""Networks of torchvision and timm, as small as they come."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from foreign.truths import CLASSES, NO_CAM, SIZE, convolutions, foreign, lively
from torch import nn

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


@foreign("heads.head", inner="encoder.layers.encoder_layer_0", vit=True, stages=False)
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


@foreign("head", inner="patch_embed", vit=True, expect={"auto": "either"})
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


@foreign(None, rivals=("head.0", "head.1"), stages=False)
def timm_crossvit():
    """Two branches, whose heads' outputs are averaged."""
    return lively(
        timm().CrossVit(
            img_size=32, patch_size=(8, 16), embed_dim=(16, 24), depth=((1, 1, 0),),
            num_heads=(2, 2), num_classes=CLASSES,
        )
    )  # fmt: skip
