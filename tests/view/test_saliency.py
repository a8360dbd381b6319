import pytest
import torch
from helpers import run_processes
from torch import nn
from torch.nn import functional as F

from mixwell import InputError, tasks
from mixwell.models import ResNet, SmallCNN
from mixwell.view import ModelView, find_maps


def saliency_of(kind, model, x, y, head=None, mode="eval", task="classification"):
    return ModelView(model, x, y, tasks.get(task), head, mode).look(kind)


# --------------------------------------------------------------------------------------- gradient


class Dense(nn.Module):
    """A segmentation network."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 4, 1))

    def forward(self, x):
        return self.body(x)


def gradients_one_by_one(net, x, loss):
    net.eval()
    found = []
    for i in range(len(x)):
        image = x[i : i + 1].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(net(image), i), image)
        size = gradient[0].square().mean(0).sqrt()
        found.append(size / size.sum())
    net.train()
    return torch.stack(found)


def test_gradient_is_that_of_each_samples_own_loss(make_net, images):
    net, (x, y) = make_net().train(), images
    expected = gradients_one_by_one(net, x, lambda z, i: F.cross_entropy(z, y[i : i + 1]))
    found = saliency_of("gradient", net, x, y)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(found.sum((1, 2)), torch.ones(9))
    # A soft label of one class is that class.
    soft = saliency_of("gradient", net, x, F.one_hot(y, 5).float())
    torch.testing.assert_close(soft, found, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("task", ["soft", "multilabel", "regression", "segmentation"])
def test_gradient_by_the_tasks_own_loss(make_net, images, task):
    x = images[0]
    if task == "segmentation":
        net, y = Dense().train(), torch.randint(0, 4, (9, 8, 8))
        y[:, :2], y[:, 7] = 255, -100  # of no class

        def loss(z, i):
            known = (y[i] >= 0) & (y[i] < 4)
            return -z[0].log_softmax(0).gather(0, (y[i] * known)[None])[0][known].sum()
    else:
        net = make_net().train()
        if task == "multilabel":
            y = torch.randint(0, 2, (9, 5))
            loss = lambda z, i: F.binary_cross_entropy_with_logits(z[0], y[i].float())  # noqa: E731
        elif task == "soft":
            y = torch.rand(9, 5).softmax(1)
            loss = lambda z, i: -(y[i] * z[0].log_softmax(0)).sum()  # noqa: E731
        else:
            y = torch.randn(9, 5)
            loss = lambda z, i: (z[0] - y[i]).square().sum()  # noqa: E731
    expected = gradients_one_by_one(net, x, loss)
    found = saliency_of("gradient", net, x, y, task="classification" if task == "soft" else task)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)


class Two(nn.Module):
    """A network of an image and a vector in a dict."""

    def __init__(self, net):
        super().__init__()
        self.net, self.other = net, nn.Linear(2, 5)

    def forward(self, x):
        return self.net(x["image"].float() / 255) + self.other(x["extra"])


def test_gradient_of_an_image_in_a_dict_and_of_bytes(make_net):
    net = Two(make_net())
    image = torch.randint(0, 255, (4, 3, 8, 8), dtype=torch.uint8)
    x, y = {"image": image, "extra": torch.rand(4, 2)}, torch.arange(4)
    found = saliency_of("gradient", net, x, y)
    assert found.shape == (4, 8, 8)
    as_float = saliency_of("gradient", net, {**x, "image": image.float()}, y)
    torch.testing.assert_close(found, as_float)
    assert x["image"] is image


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("kind", ["gradient", "maps", "cam"])
def test_looking_leaves_the_model_as_it_is(make_net, images, kind, mode):
    net, (x, y) = make_net().train(), images
    net[0].weight.grad = torch.ones_like(net[0].weight)
    net[0].bias.requires_grad_(False)
    net[3].eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    modes = [module.training for module in net.modules()]
    state = torch.get_rng_state()
    with torch.no_grad():
        found = saliency_of(kind, net, x, y, mode=mode)
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert torch.equal(net[0].weight.grad, torch.ones_like(net[0].weight))
    assert all(p.grad is None for p in list(net.parameters())[1:])
    assert not found.requires_grad
    assert found.grad_fn is None
    assert not x.requires_grad
    # The batch's own statistics make a difference.
    other = saliency_of(kind, net, x, y, mode="eval" if mode == "train" else "train")
    assert not torch.allclose(found, other)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("kind", ["gradient", "maps", "cam"])
def test_looks_of_other_precisions(make_net, images, kind, dtype):
    net, (x, y) = make_net().to(dtype), images
    found = saliency_of(kind, net, x.to(dtype), y)
    expected = saliency_of(kind, net.float(), x.to(dtype).float(), y)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0.2, atol=0.02)


def test_a_vanishing_gradient_is_scaled_before_it_is_squared(make_net, images):
    net, (x, y) = make_net(), images
    with torch.no_grad():
        net[-1].weight.mul_(1e-25)
    found = saliency_of("gradient", net, x, y)
    torch.testing.assert_close(found.sum((1, 2)), torch.ones(9))
    assert found.flatten(1).std(1).min() > 1e-4  # not uniform
    with torch.no_grad():
        net[-1].weight.zero_()
    torch.testing.assert_close(saliency_of("gradient", net, x, y), torch.full((9, 8, 8), 1 / 64))


def test_a_model_without_a_gradient_is_named(images):
    class Frozen(nn.Module):
        def forward(self, x):
            return torch.zeros(len(x), 5)

    with pytest.raises(InputError, match="the loss of Frozen has no gradient"):
        saliency_of("gradient", Frozen(), *images)
    with pytest.raises(InputError, match="saliency by gradient looks at pixels"):
        saliency_of("gradient", nn.Linear(3, 5), torch.rand(2, 3), torch.arange(2))


def test_an_unknown_look_is_an_error(make_net, images):
    with pytest.raises(InputError, match=r"kind='map' is unknown.*did you mean 'maps'"):
        saliency_of("map", make_net(), *images)


# ------------------------------------------------------------------------------------------- maps


class Squeezed(nn.Module):
    """A network whose head is a 1 x 1 convolution, pooled afterwards."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU())
        self.classifier = nn.Sequential(
            nn.Dropout(), nn.Conv2d(6, 5, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )

    def forward(self, x):
        return self.classifier(self.features(x))


class Reused(nn.Module):
    """A network that runs one activation everywhere."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3)
        self.relu, self.head = nn.ReLU(), nn.Linear(6, 5)

    def forward(self, x):
        x = self.relu(self.second(self.relu(self.first(x))))
        return self.head(x.mean((2, 3)))


def test_maps_are_the_last_before_the_head(make_net, images):
    net, (x, y) = make_net().eval(), images
    found = find_maps(net, x)
    assert (found.layer, found.head, found.pooled) == ("3", "7", True)
    torch.testing.assert_close(saliency_of("maps", net, x, y), net[:4](x).detach())
    larger = torch.rand(2, 3, 16, 16)
    found = find_maps(SmallCNN((3, 16, 16), 5), larger)
    assert (found.layer, found.pooled) == ("stage3", False)
    # Of images so small that pooling leaves one position in the last stage, what is pooled there.
    assert find_maps(SmallCNN((3, 8, 8), 5), x).layer == "stage3.0"
    assert find_maps(ResNet((3, 16, 16), 5), larger).pooled


def test_maps_of_a_convolutional_head_and_of_layers_that_run_twice(images):
    x, y = images
    assert find_maps(Squeezed(), x) == find_maps(Squeezed(), x, head="classifier.1")
    net = Squeezed().eval()
    torch.testing.assert_close(saliency_of("maps", net, x, y), net.features(x).detach())
    net = Reused()
    assert find_maps(net, x).layer == "relu"
    assert (saliency_of("maps", net, x, y) >= 0).all()
    assert find_maps(net, x, once=True).layer == "second"


@pytest.mark.parametrize(
    ("name", "layer"),
    [("convnext_atto", "norm_pre"), ("resnet10t", "layer4")],
)
def test_maps_of_timms_convolutional_networks(name, layer):
    timm = pytest.importorskip("timm")
    x = torch.rand(2, 3, 64, 64)
    net = timm.create_model(name, num_classes=5).eval()
    assert find_maps(net, x).layer == layer
    maps = saliency_of("maps", net, x, torch.arange(2))
    with torch.no_grad():
        torch.testing.assert_close(maps, net.forward_features(x), rtol=1e-4, atol=1e-4)


class Tokens(nn.Module):
    """Patches as tokens, and attention with a module of (B, heads, N, d)."""

    def __init__(self):
        super().__init__()
        self.embed, self.norm = nn.Conv2d(3, 8, 2, 2), nn.LayerNorm(8)
        self.mix, self.drop = nn.Linear(8, 8), nn.Dropout()
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = self.norm(self.embed(x).flatten(2).mT)
        x = x + self.drop(self.mix(x).unflatten(2, (2, 4)).transpose(1, 2)).transpose(1, 2).flatten(
            2
        )
        return self.head(x.mean(1))


class ChannelsLast(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.norm, self.head = nn.Conv2d(3, 8, 2, 2), nn.LayerNorm(8), nn.Linear(8, 5)

    def forward(self, x):
        return self.head(self.norm(self.embed(x).movedim(1, 3)).mean((1, 2)))


@pytest.mark.parametrize("make", [Tokens, ChannelsLast])
@pytest.mark.parametrize("kind", ["maps", "cam"])
def test_a_model_of_tokens_has_no_maps(make, kind, images):
    with pytest.raises(InputError, match=f"{make.__name__} has no feature maps.*'head'"):
        saliency_of(kind, make(), *images)


def test_maps_where_there_are_none(images):
    x, y = images
    with pytest.raises(InputError, match=r"Sequential has no feature maps.*\(9, 3, 8, 8\)"):
        saliency_of("maps", nn.Sequential(nn.Flatten(), nn.Linear(192, 5)), x, y)
    net = Reused()
    net.other = nn.Linear(2, 2)
    with pytest.raises(InputError, match="head='other' of Reused is no part"):
        saliency_of("maps", net, x, y, head="other")


# ------------------------------------------------------------------------------------------- cams


def cams_one_by_one(maps, weight, y):
    found = []
    for sample, label in zip(maps, y, strict=True):
        cam = sum(w * channel for w, channel in zip(weight[label], sample, strict=True))
        cam = cam - cam.min()
        found.append(cam / cam.sum())
    return torch.stack(found).detach()


def test_cam_is_the_maps_as_the_head_weighs_them(make_net, images):
    net, (x, y) = make_net().eval(), images
    found = saliency_of("cam", net, x, y)
    torch.testing.assert_close(found, cams_one_by_one(net[:4](x), net[-1].weight, y))
    soft = saliency_of("cam", net, x, F.one_hot(y, 5).double())
    torch.testing.assert_close(soft, found)
    many = saliency_of("cam", net, x, F.one_hot(y, 5), task="multilabel")
    torch.testing.assert_close(many, found)


def test_cam_of_a_convolutional_head(images):
    net, (x, y) = Squeezed().eval(), images
    expected = cams_one_by_one(net.features(x), net.classifier[1].weight.flatten(1), y)
    torch.testing.assert_close(saliency_of("cam", net, x, y), expected)


def test_cam_needs_a_head_that_reads_the_maps_means(images):
    x, y = images
    net = SmallCNN((3, 8, 8), 5)
    with pytest.raises(
        InputError, match=r"SmallCNN the head 'head'.*does not read the 64 channels"
    ):
        saliency_of("cam", net, x, y)
    hidden = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 6), nn.Linear(6, 5)
    )
    with pytest.raises(InputError, match="or other layers with weights lie between"):
        saliency_of("cam", hidden, x, y)


def test_cam_needs_classes(make_net, images):
    with pytest.raises(InputError, match="task='regression' has none"):
        saliency_of("cam", make_net(), images[0], torch.rand(9, 5), task="regression")


# --------------------------------------------------------------------------------------- wrappers


def test_looks_of_a_compiled_model_are_the_same(make_net, images):
    net, (x, y) = make_net(), images
    expected = {kind: saliency_of(kind, net, x, y) for kind in ("gradient", "maps", "cam")}
    compiled = torch.compile(net, backend="eager")
    for kind, value in expected.items():
        torch.testing.assert_close(saliency_of(kind, compiled, x, y), value)


@pytest.mark.slow
def test_looking_at_a_distributed_model_leaves_its_gradients_in_step(tmp_path):
    run_processes(
        """
        import sys, torch
        from torch import distributed, nn
        from mixwell import create

        rank, store = int(sys.argv[1]), sys.argv[2]
        distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)

        class Wrapped(nn.Module):
            def __init__(self, net):
                super().__init__()
                self.net, self.unused = net, nn.Linear(2, 2)

            def forward(self, x):
                return self.net(x)

        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3),
        )
        model = nn.parallel.DistributedDataParallel(Wrapped(net), static_graph=True)
        method = create("puzzlemix", num_classes=3)
        torch.manual_seed(rank)
        for _ in range(3):
            model.zero_grad()
            method(model, torch.rand(4, 3, 8, 8), torch.arange(4) % 3).backward()
            gradient = torch.cat([p.grad.flatten() for p in net.parameters()])
            other = gradient.clone()
            distributed.broadcast(other, 0)
            assert gradient.abs().sum() > 0
            assert torch.equal(gradient, other)
        distributed.destroy_process_group()
        """,
        tmp_path,
    )
