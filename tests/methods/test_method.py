import copy
import subprocess
import sys

import pytest
import torch
from helpers import run_processes
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import mixwell
from mixwell import InputError, Method, Recipe, Term
from mixwell.coefficient import Constant
from mixwell.interpolation import Linear
from mixwell.losses import DecoupledCrossEntropy, MixedCrossEntropy

CLASSIFIERS = [
    "erm", "mixup", "cutmix", "manifold_mixup", "regmixup", "remix", "mixup_io", "sk_mixup",
    "decoupled", "decoupled_bce", "infinite_class", "am_mixup",
]  # fmt: skip
COMPOSED = [
    "sk_mixup+decoupled", "cutmix+infinite_class", "regmixup+infinite_class",
    "remix+infinite_class", "sk_mixup+regmixup", "am_mixup+mixup", "cutmix+decoupled_bce",
    "manifold_mixup+am_mixup+sk_mixup", "am_mixup+regmixup+cutmix", "mixup_io+decoupled",
]  # fmt: skip


def make(name, num_classes=5, **arguments):
    if "remix" in name:
        arguments["class_counts"] = [100.0, 30, 10, 3, 1, *[1.0] * (num_classes - 5)]
    return mixwell.create(name, num_classes=num_classes, **arguments)


# ------------------------------------------------------------------------------ on a plain model


@pytest.mark.parametrize("name", CLASSIFIERS + COMPOSED)
def test_every_method_trains_the_backbone_of_an_unmodified_model(name, make_net, images):
    net = make_net().train()
    keys = list(net.state_dict())
    step = make(name).step(net, *images)
    step.loss.backward()
    assert step.loss.isfinite()
    assert step.loss.ndim == 0
    for parameter in net.parameters():
        assert parameter.grad.isfinite().all()
    assert net[0].weight.grad.abs().sum() > 0
    assert step.logits.shape == (9, 5)
    assert len(step.target) == len(step.mix) == 9
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
    assert list(net.state_dict()) == keys
    # The sum of the weighted terms is the loss.
    total = sum(step.terms.values())
    torch.testing.assert_close(step.loss.detach(), total)


@pytest.mark.parametrize("name", CLASSIFIERS + COMPOSED)
@pytest.mark.parametrize("size", [1, 2, 3])
def test_tiny_batches_work_where_the_mathematics_does(name, size, make_net, images):
    net = make_net().train()
    x, y = images[0][:size], images[1][:size]
    if "infinite_class" in name and size == 1:
        with pytest.warns(UserWarning, match="nothing to contrast with"):
            loss = make(name)(net, x, y)
    else:
        loss = make(name)(net, x, y)
    loss.backward()
    assert loss.isfinite()


@pytest.mark.parametrize("name", CLASSIFIERS + COMPOSED)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions(name, dtype, make_net, images):
    net = make_net().to(dtype)
    loss = make(name)(net, images[0].to(dtype), images[1])
    loss.backward()
    assert loss.isfinite()
    assert net[0].weight.grad.isfinite().all()


@pytest.mark.parametrize("name", ["mixup", "sk_mixup+decoupled", "am_mixup+infinite_class"])
def test_autocast(name, make_net, images):
    net = make_net()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = make(name)(net, *images)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite()


@pytest.mark.parametrize("name", CLASSIFIERS + COMPOSED)
def test_the_same_generator_gives_the_same_step(name, make_net, images):
    net = make_net().eval()
    losses = []
    for noise in (1, 2):
        torch.manual_seed(5)  # Manifold Mixup draws its layer on the CPU
        generator = torch.Generator().manual_seed(11)
        method = make(name, generator=generator)
        losses.append(method(net, *images).item())
        torch.randn(noise)
    assert losses[0] == losses[1]


def test_the_step_is_what_it_says(make_net, images):
    net, (x, y) = make_net().eval(), images
    step = make("mixup").step(net, x, y)
    mixed = mixwell.functional.mix(x, step.mix)
    torch.testing.assert_close(net(mixed), step.logits)
    torch.testing.assert_close(MixedCrossEntropy()(step.logits, step.target), step.loss)
    assert torch.equal(step.target.a, y)
    assert torch.equal(step.target.b, y[step.mix.partner])
    assert step.clean_logits is None


def test_erm_is_plain_training(make_net, images):
    net, (x, y) = make_net().eval(), images
    step = make("erm").step(net, x, y)
    torch.testing.assert_close(step.loss, F.cross_entropy(net(x), y))
    assert torch.equal(step.logits, step.clean_logits)
    assert step.mix.lam.tolist() == [1.0] * 9


def test_evaluation_mode_does_not_mix(make_net, images):
    net, (x, y) = make_net().eval(), images
    for name in CLASSIFIERS + COMPOSED:
        step = make(name).eval().step(net, x, y)
        torch.testing.assert_close(step.loss, F.cross_entropy(net(x), y))


def test_regmixup_is_the_sum_of_the_clean_and_the_mixed_loss(make_net, images):
    net, (x, y) = make_net().eval(), images
    step = make("regmixup", weight=0.5).step(net, x, y)
    mixed = net(mixwell.functional.mix(x, step.mix))
    expected = F.cross_entropy(net(x), y) + 0.5 * MixedCrossEntropy()(mixed, step.target)
    torch.testing.assert_close(step.loss, expected)
    torch.testing.assert_close(step.clean_logits, net(x))


def test_am_mixup_is_the_papers_loss(make_net, images):
    net, (x, y) = make_net().eval(), images
    method = make("am_mixup", k=2.0, weight=0.7)
    method.set_progress(0.5)
    step = method.step(net, x, y)
    features = net[:7](x)
    lam = 0.5 + 0.5 * torch.exp(torch.tensor(-1.0))
    torch.testing.assert_close(step.mix.lam, lam.expand(9))
    moved = lam * features + (1 - lam) * features[step.mix.partner]
    expected = F.cross_entropy(net[7](features), y) + 0.7 * F.cross_entropy(net[7](moved), y)
    torch.testing.assert_close(step.loss, expected)
    assert (y[step.mix.partner] != y).all()


def test_am_mixup_leaves_out_who_finds_no_partner(make_net):
    net = make_net().eval()
    x, y = torch.randn(4, 3, 8, 8), torch.zeros(4).long()
    step = make("am_mixup").step(net, x, y)
    assert step.terms["am_mixup"] == 0
    torch.testing.assert_close(step.loss, F.cross_entropy(net(x), y))


def test_am_mixup_runs_the_backbone_once(make_net, images):
    net, calls = make_net(), []
    net[0].register_forward_hook(lambda module, args, output: calls.append(len(output)))
    method = make("am_mixup")
    method(net, *images)
    calls.clear()
    method(net, *images)
    assert calls == [9]


@pytest.mark.parametrize("layer", ["head", "3", "0"])
def test_hidden_mixing_mixes_the_layers_output(layer, make_net, images):
    net, (x, y) = make_net().eval(), images
    recipe = Recipe(coefficient=Constant(0.3), interpolation=Linear(layer))
    step = Method(Term(MixedCrossEntropy(), recipe)).step(net, x, y)
    cut = 7 if layer == "head" else int(layer) + 1
    hidden = net[:cut](x)
    expected = net[cut:](mixwell.functional.mix(hidden, step.mix))
    torch.testing.assert_close(step.logits, expected)


def test_terms_with_one_recipe_share_their_samples(make_net, images):
    net = make_net().eval()
    recipe = Recipe()
    method = Method(
        Term(MixedCrossEntropy(), recipe, name="ce"),
        Term(DecoupledCrossEntropy(0.0), recipe, weight=2.0, name="dm"),
    )
    rows = []
    net.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    step = method.step(net, *images)
    assert rows == [9]
    torch.testing.assert_close(step.terms["ce"], step.terms["dm"])
    torch.testing.assert_close(step.loss, 3 * step.terms["ce"])


def test_probability_of_mixing(make_net):
    x, y = torch.randn(400, 3, 8, 8), torch.randint(5, (400,))
    lam = make("cutmix", p=0.25).preview(x, y)[2].lam
    assert 60 < int((lam < 1).sum()) < 140
    whole = [make("mixup", p=0.5, per="batch").preview(x, y)[2].lam for _ in range(20)]
    assert {len(lam.unique()) for lam in whole} == {1}
    assert 0 < sum(bool((lam == 1).all()) for lam in whole) < 20


def test_soft_labels(make_net, images):
    net, (x, y) = make_net().eval(), images
    soft = F.one_hot(y, 5).float()
    for name in ("erm", "mixup", "cutmix", "am_mixup", "regmixup", "sk_mixup", "infinite_class"):
        generator = torch.Generator().manual_seed(2)
        expected = make(name, generator=generator)(net, x, y)
        generator.manual_seed(2)
        torch.testing.assert_close(make(name, generator=generator)(net, x, soft), expected)
    with pytest.raises(InputError, match="two classes a sample"):
        make("decoupled")(net, x, soft)


def test_dict_inputs_and_dict_outputs(images):
    class TwoInputs(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Linear(4, 8), nn.Linear(6, 8)
            self.classifier = nn.Linear(8, 5)

        def forward(self, batch):
            hidden = self.left(batch["left"]) + self.right(batch["right"])
            return {"logits": self.classifier(hidden.relu())}

    x = {"left": torch.randn(9, 4), "right": torch.randn(9, 6)}
    for name in ("mixup", "sk_mixup", "regmixup+am_mixup", "manifold_mixup"):
        assert make(name)(TwoInputs(), x, images[1]).isfinite()
    with pytest.raises(InputError, match="distance='input' needs x to be one tensor"):
        make("sk_mixup", distance="input")(TwoInputs(), x, images[1])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mixup", {}), ("sk_mixup", {"distance": "input"}), ("sk_mixup", {}), ("am_mixup", {}),
        ("saliencymix", {"saliency": "gradient"}), ("automix", {}), ("alignmix", {}),
    ],
)  # fmt: skip
def test_what_stands_beside_the_images_reaches_the_model_as_it_is(name, options):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 6, 3), nn.Linear(6, 5)

        def forward(self, x):
            assert isinstance(x["size"], torch.Size)
            assert x["of"] is Net
            return self.head(self.conv(x["image"]).relu().mean((2, 3)))

    x = {"image": torch.rand(6, 3, 12, 12), "size": torch.Size([12, 12]), "of": Net}
    assert make(name, **options)(Net(), x, torch.arange(6) % 5).isfinite()


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_the_extra_pass_leaves_the_model_as_it_was(mode, make_net, images):
    """After a step, the buffers are those that the mixed pass alone would have left."""
    net = make_net().train()
    net[1].eval()
    twin = copy.deepcopy(net)
    method = make("sk_mixup", feature_mode=mode)
    step = method.step(net, *images)
    torch.manual_seed(0)
    twin(mixwell.functional.mix(images[0], step.mix))
    for (name, ours), theirs in zip(net.named_buffers(), twin.buffers(), strict=True):
        assert torch.equal(ours, theirs), name
    modes = [[module.training for module in model.modules()] for model in (net, twin)]
    assert modes[0] == modes[1]


def test_sk_at_the_head_needs_no_extra_pass(make_net, images):
    net, calls = make_net(), []
    method = make("sk_mixup", layer="head")
    method(net, *images)
    net.register_forward_hook(lambda *_: calls.append(1))
    method(net, *images)
    assert len(calls) == 1


def test_state_dict_holds_the_progress(images, make_net):
    method = make("am_mixup")
    method.set_progress(0.25)
    other = make("am_mixup")
    other.load_state_dict(method.state_dict())
    assert other.progress == 0.25
    with pytest.raises(InputError, match="progress must be"):
        method.set_progress(1.1)
    assert copy.deepcopy(method)(make_net(), *images).isfinite()


# ------------------------------------------------------------------------------------ regression


@pytest.mark.parametrize(
    "name", ["erm", "mixup", "c_mixup", "sk_mixup", "manifold_mixup", "regmixup"]
)
def test_regression(name):
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    x, y = torch.randn(7, 4), torch.randn(7)
    step = mixwell.create(name, task="regression").step(net, x, y)
    step.loss.backward()
    assert net[0].weight.grad.abs().sum() > 0
    two = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    assert mixwell.create(name, task="regression")(two, x, torch.randn(7, 2)).isfinite()
    clean = mixwell.create(name, task="regression").eval()
    torch.testing.assert_close(clean(net, x, y), F.mse_loss(net(x)[:, 0], y))


# -------------------------------------------------------------------------------------- preview


def test_preview_shows_what_a_step_would_mix(make_net, images):
    x, y = images
    for name in ("mixup", "cutmix", "sk_mixup", "regmixup"):
        mixed, target, mix = make(name).preview(x, y, model=make_net())
        assert mixed.shape == x.shape
        assert len(target) == len(mix) == 9
    for name, words in (("erm", "doesn't mix"), ("am_mixup", "inside the model")):
        with pytest.raises(InputError, match=words):
            make(name).preview(x, y)
    with pytest.raises(InputError, match="distance='features' needs"):
        make("sk_mixup").preview(x, y)


# --------------------------------------------------------------------------------------- errors


class Pooled(nn.Module):
    def forward(self, x):
        return x.mean((1, 2, 3), keepdim=True).flatten(1).mean(0, keepdim=True)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"y": torch.full((9,), 5)}, r"y must hold class indices in \[0, 4\].*from 5 to 5"),
        ({"y": torch.full((9,), -1)}, "from -1 to -1"),
        ({"y": torch.zeros(8).long()}, "equally long"),
        ({"y": torch.zeros(9)}, "y must be class indices"),
        ({"y": torch.zeros(9, 4)}, r"soft labels \(B, 5\)"),
        ({"y": torch.zeros(9, 1).long()}, "y must be class indices"),
        ({"y": torch.zeros(9).bool()}, "y must be class indices"),
        ({"y": [0] * 9}, "y must be a tensor, got list"),
        ({"x": [1, 2]}, "x must be a tensor"),
        ({"x": torch.zeros(0, 3, 8, 8), "y": torch.zeros(0).long()}, "empty batch"),
        ({"x": torch.full((9, 3, 8, 8), torch.nan)}, "x must be finite, got 1728 NaN"),
        ({"index": torch.arange(4)}, "index must have shape"),
        ({"model": Pooled()}, "one row for each sample"),
        ({"model": nn.Flatten()}, "num_classes=5, but the head of Flatten gives 192 logits"),
        ({"model": nn.Identity()}, r"must return logits \(B, C\)"),
    ],
)
def test_bad_batches_are_named(change, words, make_net, images):
    arguments = {"model": make_net(), "x": images[0], "y": images[1], **change}
    with pytest.raises(InputError, match=words):
        make("mixup")(**arguments)


def test_large_but_finite_inputs_pass_the_check(make_net, images):
    x = torch.full((9, 3, 8, 8), 3e38)  # their sum overflows, they don't
    assert not make("erm")(nn.Flatten(), torch.zeros(2, 5), torch.tensor([0, 1])).isnan()
    make("erm", num_classes=192)(nn.Flatten(), x, images[1])


def test_bad_layers_are_named(make_net, images):
    with pytest.raises(InputError, match=r"layer='9' is no layer of Sequential"):
        make("manifold_mixup", layer="9")(make_net(), *images)
    with pytest.raises(InputError, match=r"head='fc' is no layer"):
        make("am_mixup", head="fc")(make_net(), *images)
    net = nn.Sequential(nn.Flatten(), nn.Unflatten(0, (1, -1)), nn.Flatten(0, 1), nn.Linear(192, 5))
    with pytest.raises(InputError, match="not batch-first"):
        make("manifold_mixup", layer="1")(net, *images)
    with pytest.raises(InputError, match="must hold real targets"):
        mixwell.create("c_mixup")(make_net(1), *images)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"y": torch.full((9, 5), torch.nan)}, "y must be finite, got 45 NaN"),
        ({"y": F.one_hot(torch.zeros(9).long(), 5) * 2.0 - 1}, "probabilities ≥ 0, got .* -1"),
        ({"x": torch.rand(9, 8).to_sparse()}, "x must be dense, got a sparse_coo"),
        ({"index": [1] * 9}, "index must have shape .9,., .* got list"),
    ],
)
def test_values_that_no_batch_has_are_named(change, words, make_net, images):
    arguments = {"model": make_net(), "x": images[0], "y": images[1], **change}
    with pytest.raises(InputError, match=words):
        make("mixup")(**arguments)


def test_real_targets_that_are_not_finite_are_named():
    with pytest.raises(InputError, match="y must be finite"):
        mixwell.create("mixup", task="regression")(
            nn.Linear(2, 1), torch.rand(3, 2), torch.tensor([1.0, torch.inf, 0])
        )


def test_class_weights_hold_in_evaluation(make_net, images):
    net, (x, y) = make_net().eval(), images
    weight = torch.tensor([1.0, 2, 3, 4, 5])
    method = make("decoupled", class_weight=weight).eval()
    torch.testing.assert_close(method(net, x, y), F.cross_entropy(net(x), y, weight=weight))


def test_probabilities_are_said_once(make_net, images):
    net = nn.Sequential(make_net(), nn.Softmax(1))
    method = make("mixup")
    with pytest.warns(UserWarning, match="seems to return probabilities"):
        method(net, *images)
    method(net, *images)


def test_a_model_that_changes_its_input_gets_its_own():
    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.fc = nn.Linear(4, 6), nn.Linear(6, 5)

        def forward(self, x):
            return self.fc(self.body(x.sub_(1).div_(2)).relu())

    x, y = torch.randn(6, 4), torch.arange(6) % 5
    kept = x.clone()
    for name in ("sk_mixup", "am_mixup", "regmixup+am_mixup", "manifold_mixup"):
        for seed in range(3):
            torch.manual_seed(seed)
            make(name)(InPlace(), x, y).backward()
            assert torch.equal(x, kept), name


def test_terms_of_one_name_are_both_in_the_sum(make_net, images):
    recipe = Recipe()
    method = Method(Term(MixedCrossEntropy(), recipe), Term(MixedCrossEntropy(), recipe))
    step = method.step(make_net().eval(), *images)
    torch.testing.assert_close(step.loss, 2 * step.terms["mixed"])


@pytest.mark.parametrize(
    ("make_it", "words"),
    [
        (lambda: Term(nn.CrossEntropyLoss()), "MixedCrossEntropy.label_smoothing"),
        (lambda: Term(F.cross_entropy), "loss must be a mixwell.losses.Loss"),
        (lambda: Recipe(pairing=Constant(0.5)), "pairing must be a mixwell.pairing part"),
        (lambda: Term(MixedCrossEntropy(), MixedCrossEntropy()), "recipe must be a mixwell.Recipe"),
        (lambda: Method(MixedCrossEntropy()), "terms must be mixwell.Term"),
        (
            lambda: Method(Term(MixedCrossEntropy()), num_classes=10.0),
            "num_classes must be a whole",
        ),
        (lambda: Method(Term(MixedCrossEntropy()), head=3), "head must be the name of a layer"),
        (lambda: Method(Term(MixedCrossEntropy()), task="regresion"), "mean 'regression'"),
    ],
)
def test_wrong_parts_are_named(make_it, words):
    with pytest.raises(InputError, match=words):
        make_it()


def test_numbers_of_numpy_are_numbers():
    np = pytest.importorskip("numpy")
    method = Method(Term(MixedCrossEntropy()), num_classes=np.int64(5))
    assert method.num_classes == 5


def test_no_terms():
    with pytest.raises(InputError, match="at least one Term"):
        Method()


@given(
    name=st.sampled_from(CLASSIFIERS + COMPOSED),
    size=st.integers(2, 7),
    num_classes=st.integers(5, 9),
    width=st.integers(1, 5),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    seed=st.integers(0, 99),
)
def test_any_shape_and_dtype(name, size, num_classes, width, dtype, seed):
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(2 * width * 3, 6), nn.Tanh(), nn.Linear(6, num_classes)
    ).to(dtype)
    x = torch.randn(size, 2, width, 3, dtype=dtype)
    y = torch.randint(num_classes, (size,))
    loss = make(name, num_classes=num_classes)(net, x, y)
    loss.backward()
    assert loss.isfinite()
    assert all(parameter.grad.isfinite().all() for parameter in net.parameters())


# ------------------------------------------------------------------------------------- any model

TIMM = [
    "resnet18", "efficientnet_b0", "convnext_atto", "vit_tiny_patch16_224",
    "swin_tiny_patch4_window7_224", "mobilenetv3_small_100", "densenet121", "mixer_s32_224",
    "regnetx_002", "inception_v3", "ghostnet_050",
]  # fmt: skip
TORCHVISION = [
    "resnet18", "vgg11", "densenet121", "googlenet", "mobilenet_v2", "shufflenet_v2_x0_5",
    "efficientnet_b0", "swin_t", "alexnet", "mnasnet0_5",
]  # fmt: skip


def narrow(model, most=2**22):
    """Let wide linear layers, one after the other, be narrow: their weights cost most of a step."""
    width = None
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.Linear):
                wide = child.weight.numel() > most
                size = width or child.in_features, 64 if wide else child.out_features
                if wide or width:
                    setattr(parent, name, nn.Linear(*size))
                width = 64 if wide else None


def build(library, name):
    if library == "timm":
        timm = pytest.importorskip("timm", reason="timm is not installed")
        sized = name.startswith(("vit", "swin", "mixer"))
        model = timm.create_model(name, num_classes=5, **({"img_size": 64} if sized else {}))
    else:
        models = pytest.importorskip("torchvision", reason="torchvision is not installed").models
        extra = {"init_weights": False} if name in ("googlenet", "vgg11") else {}
        model = getattr(models, name)(num_classes=5, **extra)
    narrow(model)
    for module in model.modules():  # some heads start at zero, and would pass no gradient on
        if isinstance(module, nn.Linear) and module.out_features == 5:
            nn.init.normal_(module.weight, std=0.1)
    return model.train()


@pytest.mark.cases(quick=2, slow=6)
@pytest.mark.parametrize(
    ("library", "name"),
    [*(("timm", name) for name in TIMM), *(("torchvision", name) for name in TORCHVISION)],
)
def test_architectures(library, name):
    model = build(library, name)
    size = 96 if name == "inception_v3" else 64
    x, y = torch.randn(4, 3, size, size), torch.tensor([0, 1, 2, 1])
    first = next(model.parameters())
    for method in ("sk_mixup+decoupled", "am_mixup+cutmix", "manifold_mixup", "infinite_class"):
        model.zero_grad()
        loss = make(method)(model, x, y)
        loss.backward()
        assert loss.isfinite(), method
        assert first.grad.abs().sum() > 0, method


@pytest.mark.slow
def test_several_heads_are_asked_about():
    pytest.importorskip("timm", reason="timm is not installed")
    model = build("timm", "deit_tiny_distilled_patch16_224")
    x, y = torch.randn(2, 3, 224, 224), torch.tensor([0, 1])
    for name in ("sk_mixup", "am_mixup"):
        with pytest.raises(InputError, match=r"'head', 'head_dist'.*head='head'"):
            make(name)(model, x, y)
    assert make("sk_mixup", head="head")(model, x, y).isfinite()
    with pytest.raises(InputError, match=r"layer .head. of .* does not carry all"):
        make("am_mixup", head="head")(model, x, y)
    assert make("am_mixup", am_mixup__layer="norm")(model, x, y).isfinite()


@pytest.mark.cases(slow=6)
@pytest.mark.parametrize("how", ["around", "in place", "inside"])
@pytest.mark.parametrize(
    "name", ["mixup", "cutmix", "sk_mixup", "am_mixup", "manifold_mixup", "regmixup+am_mixup"]
)
def test_compiled_models_give_the_same_loss_and_gradients(how, name, make_net, images):
    from torch._dynamo.utils import counters

    torch.compiler.reset()
    counters.clear()
    plain = make_net().train()
    model = compiled = copy.deepcopy(plain)
    if how == "around":
        compiled = torch.compile(model, backend="aot_eager")
    elif how == "in place":
        model.compile(backend="aot_eager")
    else:
        model[3] = torch.compile(model[3], backend="aot_eager")
    arguments = {"layer": "3"} if name == "manifold_mixup" else {}
    method = make(name, **arguments)
    for seed in range(4):
        losses = []
        for net in (plain, compiled):
            torch.manual_seed(seed)
            net.zero_grad()
            losses.append(method(net, *images))
            losses[-1].backward()
        torch.testing.assert_close(*losses)
        for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5)
    # One graph for training and one for SK's pass: hooks cost no graph breaks or recompilations.
    assert not counters["graph_break"]
    assert counters["stats"]["unique_graphs"] <= 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["manifold_mixup", "alignmix", "manifold_mixup+am_mixup"])
def test_layers_that_are_drawn_later_are_tapped_before_a_compiled_model_runs(name):
    torch.compiler.reset()
    plain = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU()),
        nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.ReLU()),
        nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.ReLU()),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5),
    )  # fmt: skip
    compiled = torch.compile(copy.deepcopy(plain), backend="eager")
    method = make(name)
    for seed in range(8):
        losses = []
        for net in (plain, compiled):
            torch.manual_seed(seed)
            losses.append(method(net, torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 3])))
        torch.testing.assert_close(*losses)


@pytest.mark.cases(quick=1)
@pytest.mark.parametrize("name", ["am_mixup", "sk_mixup", "manifold_mixup", "regmixup+am_mixup"])
def test_a_compiled_step_that_mixes_inside_is_run_by_itself(name, make_net, images):
    torch.compiler.reset()
    net = make_net().eval()
    method = make(name)
    step = torch.compile(lambda x, y: method(net, x, y), backend="eager")
    losses = []
    for run in (step, lambda x, y: method(net, x, y)):
        torch.manual_seed(3)
        losses.append(run(*images))
    torch.testing.assert_close(*losses)


@pytest.mark.slow
def test_a_compiled_model_that_ran_before_is_an_error_and_then_mended(make_net, images):
    torch.compiler.reset()
    compiled = torch.compile(make_net().train(), backend="aot_eager")
    compiled(images[0])
    method = make("am_mixup")
    with pytest.raises(InputError, match=r"did not fire.*torch.compiler.reset\(\)"):
        method(compiled, *images)
    torch.compiler.reset()
    assert method(compiled, *images).isfinite()


@pytest.mark.slow
def test_the_default_compiler(make_net, images):
    torch.compiler.reset()
    plain = make_net().eval()
    compiled = torch.compile(copy.deepcopy(plain))
    method = make("am_mixup+sk_mixup")
    losses = []
    for net in (plain, compiled):
        torch.manual_seed(0)
        losses.append(method(net, *images))
    torch.testing.assert_close(*losses)


def test_two_ddp_processes(tmp_path):
    """Every method's gradient under DDP is the mean of the two processes' own gradients."""
    script = """
        import copy, sys, torch, torch.distributed as dist
        from torch import nn
        from torch.nn.parallel import DistributedDataParallel
        import mixwell

        rank = int(sys.argv[1])
        dist.init_process_group("gloo", init_method=sys.argv[2], rank=rank, world_size=2)
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Flatten(), nn.Linear(12, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 5)
        )
        twin, model = copy.deepcopy(net), DistributedDataParallel(net)
        torch.manual_seed(rank)
        x, y = torch.randn(6, 3, 2, 2), torch.randint(5, (6,))
        for name in ("mixup", "sk_mixup+decoupled", "am_mixup", "regmixup+am_mixup",
                     "manifold_mixup", "infinite_class"):
            method = mixwell.create(name, num_classes=5)
            grads = []
            for module in (model, twin):
                torch.manual_seed(3)
                module.zero_grad()
                method(module, x, y).backward()
                grads.append([p.grad.clone() for p in module.parameters()])
            for ours, own in zip(*grads):
                dist.all_reduce(own)
                torch.testing.assert_close(ours, own / 2)
            assert sum(float(grad.abs().sum()) for grad in grads[0]) > 0
        dist.barrier()
        dist.destroy_process_group()
        """
    run_processes(script, tmp_path)


def test_importing_needs_torch_alone_and_little_time():
    script = """
import sys, time
begin = time.process_time()
import torch
start = time.process_time()
import mixwell
seconds = time.process_time() - start
heavy = {"torchvision", "timm", "lightning", "sklearn", "scipy", "rich", "matplotlib", "jinja2"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
print(seconds / (start - begin))
"""

    def share():
        command = [sys.executable, "-c", script]
        return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    # Of what torch takes: a busy machine slows both, but not always both alike.
    assert any(share() < 0.15 for _ in range(3))
