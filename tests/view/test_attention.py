import copy
import inspect

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import mixwell
from mixwell import InputError
from mixwell.view import attending, attention_of, token_grid

timm = pytest.importorskip("timm")

VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3}


def vit(**arguments):
    torch.manual_seed(0)
    net = timm.models.VisionTransformer(**{**VIT, "num_classes": 5, **arguments})
    sharpen(net)
    return net.eval()


def sharpen(net):
    """Give the weights sizes at which attention is far from uniform."""
    for parameter in net.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.3)


def by_hand(net, x, prefix, queries):
    """Attention of timm's plain layer, sample by sample and head by head, in float64."""
    entered = []
    layer = net.blocks[-1].attn
    handle = layer.register_forward_pre_hook(lambda module, args: entered.append(args[0]))
    with torch.no_grad():
        net(x)
    handle.remove()
    layer = copy.deepcopy(layer).double()
    paid = []
    for tokens in entered[0].double():
        qkv = layer.qkv(tokens)
        width = layer.head_dim
        total = torch.zeros(len(tokens) - prefix, dtype=torch.float64)
        for head in range(layer.num_heads):
            q, k = (
                norm(qkv[:, part * qkv.shape[1] // 3 :][:, head * width : (head + 1) * width])
                for part, norm in ((0, layer.q_norm), (1, layer.k_norm))
            )
            for query in q[queries]:
                total += torch.softmax(k @ query / width**0.5, 0)[prefix:]
        paid.append(total / total.sum())
    return torch.stack(paid).detach().float()


def spied(net, x, prefix, queries):
    """Attention from what enters torch's fused function in the last block."""
    calls = []
    fused = F.scaled_dot_product_attention

    def spy(q, k, *args, **keywords):
        calls.append((q, k))
        return fused(q, k, *args, **keywords)

    F.scaled_dot_product_attention = spy
    try:
        with torch.no_grad():
            net(x)
    finally:
        F.scaled_dot_product_attention = fused
    q, k = calls[-1]
    paid = torch.softmax(q[:, :, queries] @ k.mT * q.shape[-1] ** -0.5, -1)[..., prefix:]
    paid = paid.mean((1, 2))
    return paid / paid.sum(1, keepdim=True)


FIRST, ALL = slice(0, 1), slice(0, None)


@pytest.mark.parametrize(
    ("net", "size", "prefix", "queries"),
    [
        (vit(), (32, 32), 1, FIRST),
        (vit(img_size=(32, 48)), (32, 48), 1, FIRST),
        (vit(dynamic_img_size=True), (24, 40), 1, FIRST),
        (vit(qk_norm=True), (32, 32), 1, FIRST),
        (vit(reg_tokens=3), (32, 32), 4, FIRST),
        (vit(global_pool="avg", reg_tokens=2), (32, 32), 3, slice(3, None)),
        (vit(class_token=False, global_pool="avg"), (32, 32), 0, ALL),
        (vit(class_token=False, reg_tokens=2, global_pool="avg"), (32, 32), 2, slice(2, None)),
    ],
)
def test_it_is_the_class_tokens_attention_to_the_patches(net, size, prefix, queries):
    x = torch.randn(3, 3, *size)
    attention = attention_of(net, x)
    assert attention.shape == (3, size[0] // 8, size[1] // 8)
    expected = by_hand(net, x, prefix, queries)
    torch.testing.assert_close(attention.flatten(1), expected, rtol=1e-4, atol=1e-6)
    assert attention.flatten(1).std(1).min() > 1e-3
    torch.testing.assert_close(attention.sum((1, 2)), torch.ones(3))


def test_distilled_deit_leaves_the_distillation_token_out():
    net = timm.models.deit.VisionTransformerDistilled(**VIT, num_classes=5).eval()
    sharpen(net)
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(attention_of(net, x).flatten(1), by_hand(net, x, 2, FIRST))


@pytest.mark.parametrize(
    ("arguments", "queries"),
    [
        ({"use_rot_pos_emb": True, "global_pool": "avg"}, slice(1, None)),
        ({"use_rot_pos_emb": True, "global_pool": "token", "attn_type": "rope"}, FIRST),
        ({"use_rot_pos_emb": True, "global_pool": "token", "qkv_fused": False}, FIRST),
        ({"use_rot_pos_emb": False, "global_pool": "token", "qk_norm": True}, FIRST),
    ],
)
def test_rotary_positions(arguments, queries):
    lacking = arguments.keys() - inspect.signature(timm.models.Eva).parameters.keys()
    if lacking:
        pytest.skip(f"this timm's Eva has no {', '.join(lacking)}")
    # 32 channels a head: rotation by rows and columns takes four each.
    net = timm.models.Eva(**{**VIT, "embed_dim": 32, "num_heads": 2}, **arguments).eval()
    sharpen(net)
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(attention_of(net, x).flatten(1), spied(net, x, 1, queries))


def test_torchvision():
    torchvision = pytest.importorskip("torchvision")
    net = torchvision.models.VisionTransformer(32, 8, 2, 2, 32, 64, num_classes=5).eval()
    x, entered = torch.randn(2, 3, 32, 32), []
    layer = net.encoder.layers[-1].self_attention
    sharpen(net)
    attention = attention_of(net, x)
    handle = layer.register_forward_pre_hook(lambda module, args: entered.append(args[0]))
    net(x)
    handle.remove()
    weights = layer(*entered * 3)[1][:, 0, 1:]
    torch.testing.assert_close(attention.flatten(1), weights / weights.sum(1, keepdim=True))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "prefix"), [("ViT", 1), ("DeiT", 2), ("Dinov2", 1), ("Dinov2WithRegisters", 5)]
)
def test_hugging_face(kind, prefix):
    transformers = pytest.importorskip("transformers")
    arguments = {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 64, "image_size": 32, "patch_size": 8, "num_labels": 5,
    }  # fmt: skip
    config, model = (
        getattr(transformers, kind + part) for part in ("Config", "ForImageClassification")
    )
    net = model(config(**arguments, attn_implementation="eager")).eval()
    sharpen(net)
    x = torch.randn(2, 3, 32, 32)
    paid = net(x, output_attentions=True).attentions[-1].mean(1)[:, 0, prefix:]
    expected = paid / paid.sum(1, keepdim=True)
    fused = model(config(**arguments, attn_implementation="sdpa")).eval()
    fused.load_state_dict(net.state_dict())
    for way in (net, fused):
        attention = attention_of(way, x)
        torch.testing.assert_close(attention.flatten(1), expected, rtol=1e-4, atol=1e-6)


def test_it_is_read_from_the_pass_that_is_trained_and_leaves_nothing():
    net, x = vit().train(), torch.randn(4, 3, 32, 32)
    expected = attention_of(net, x)
    state = torch.get_rng_state()
    attention_of(net, x)
    assert torch.equal(state, torch.get_rng_state())
    assert all(module.training for module in net.modules())
    seen, keys = [], list(net.state_dict())
    with attending(net, x[:2], seen):
        logits = net(x)
    torch.testing.assert_close(seen[0], expected)  # no dropout in this one
    assert not seen[0].requires_grad
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
    assert list(net.state_dict()) == keys


def test_fused_attention_stays_fused_and_gives_what_plain_attention_does():
    net, x = vit(), torch.randn(2, 3, 32, 32)
    expected = attention_of(net, x)
    calls, fused = [], F.scaled_dot_product_attention
    F.scaled_dot_product_attention = lambda *args, **kw: calls.append(1) or fused(*args, **kw)
    try:
        attention_of(net, x)
    finally:
        F.scaled_dot_product_attention = fused
    assert len(calls) == VIT["depth"]
    for block in net.blocks:
        block.attn.fused_attn = False
    torch.testing.assert_close(attention_of(net, x), expected)


def test_wrapped_models(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    net, x = vit(), torch.randn(2, 3, 32, 32)
    expected = attention_of(net, x)
    found = attention_of(nn.DataParallel(net), x)  # on a GPU, where there is one
    torch.testing.assert_close(found.cpu(), expected)
    net.cpu()
    outer = nn.Sequential(vit(num_classes=0), nn.Linear(24, 5)).eval()
    torch.testing.assert_close(attention_of(outer, x), attention_of(outer[0], x))


@pytest.mark.slow
def test_a_compiled_model_is_compiled_once():
    net, x = vit().train(), torch.randn(4, 3, 32, 32)
    expected = attention_of(net, x)
    torch.compiler.reset()
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for _ in range(3):
            seen = []
            with attending(compiled, x, seen):
                compiled(x)
            torch.testing.assert_close(seen[0], expected)


@pytest.mark.parametrize("autocast", [True, False])
def test_half_precision(autocast):
    net, x = vit(), torch.randn(2, 3, 32, 32)
    expected = attention_of(net, x)
    if autocast:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            attention = attention_of(net, x)
    else:
        attention = attention_of(net.bfloat16(), x.bfloat16())
    assert attention.dtype == torch.float32
    torch.testing.assert_close(attention.sum((1, 2)), torch.ones(2))
    assert F.cosine_similarity(attention.flatten(1), expected.flatten(1)).min() > 0.9


def test_the_grid_of_tokens():
    net = vit(dynamic_img_size=True)
    assert token_grid(net, torch.randn(2, 3, 24, 40)) == (3, 5)
    assert token_grid(net, torch.randn(1, 3, 32, 32)) == (4, 4)


SMALL = {"img_size": 32, "patch_size": 4, "num_classes": 5}


@pytest.mark.parametrize(
    ("net", "words"),
    [
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.LazyLinear(5)), "is known"),
        (
            timm.models.SwinTransformer(
                **SMALL, window_size=4, embed_dim=16, depths=(1, 1), num_heads=(1, 1)
            ),
            r"is known \(WindowAttention ran",
        ),
        (
            timm.models.Beit(
                **SMALL, embed_dim=16, depth=1, num_heads=2, use_shared_rel_pos_bias=True
            ),
            r"is known \(Attention ran",
        ),
        (vit(class_token=False, global_pool="map"), "'attn_pool' is a AttentionPoolLatent"),
        (
            timm.models.MlpMixer(img_size=32, patch_size=8, num_classes=5, num_blocks=1),
            "is known",
        ),
    ],
)
def test_other_models_are_refused(net, words):
    with pytest.raises(InputError, match=rf"attention of \w+ can't be read: .*{words}"):
        attention_of(net, torch.randn(2, 3, 32, 32))


def test_relative_positions_and_windows_are_refused():
    net = vit()
    net.rel_pos_bias = nn.Parameter(torch.zeros(3))
    with pytest.raises(InputError, match="relative positions"):
        attention_of(net, torch.randn(2, 3, 32, 32))

    class Windows(nn.Module):
        """Two plain blocks, of which the first sees half of the tokens at a time."""

        def __init__(self):
            super().__init__()
            self.patches = nn.Conv2d(3, 8, 8, 8)
            self.first, self.second = timm.layers.Attention(8, 2), timm.layers.Attention(8, 2)
            self.head = nn.Linear(8, 5)

        def forward(self, x):
            x = self.patches(x).flatten(2).mT
            x = self.first(x.reshape(-1, 8, 8)).reshape(x.shape)
            return self.head(self.second(x).mean(1))

    with pytest.raises(InputError, match="do not all see all tokens"):
        attention_of(Windows(), torch.randn(2, 3, 32, 32))


def test_dropped_patches_are_named():
    net = vit(patch_drop_rate=0.5).train()
    x, y = torch.randn(4, 3, 32, 32), torch.arange(4)
    with pytest.raises(InputError, match="sees 9 tokens, not 1 and 4 x 4 patches"):
        mixwell.create("transmix", num_classes=5)(net, x, y)
