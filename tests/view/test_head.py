import copy

import pytest
import torch
from torch import nn

import mixwell
from mixwell import InputError
from mixwell.view import (
    capture_features,
    feature_layer,
    find_head,
    inference,
    logits_of,
    stages,
    tapped,
    unwrap,
)


class Nested(nn.Module):
    """A head inside a submodule, defined before the backbone, with an unused linear last."""

    def __init__(self):
        super().__init__()
        self.top = nn.ModuleDict({"classifier": nn.Linear(4, 3), "norm": nn.LayerNorm(4)})
        self.body = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.ReLU())
        self.unused = nn.Linear(4, 3)

    def forward(self, x):
        return self.top["classifier"](self.top["norm"](self.body(x)))


def snapshot(model):
    return copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]


def assert_unchanged(model, before):
    state, modes = before
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_the_head_is_the_last_linear_that_runs():
    model, x = Nested(), torch.randn(5, 6)
    before = snapshot(model)
    torch.manual_seed(3)
    assert find_head(model, x) == ("top.classifier", model.top["classifier"])
    state = torch.get_rng_state()
    torch.manual_seed(3)
    assert torch.equal(state, torch.get_rng_state())
    assert_unchanged(model, before)
    wrapped = nn.DataParallel(model)
    assert find_head(wrapped, x)[1] is model.top["classifier"]
    assert unwrap(wrapped) is model


def test_a_replaced_head_is_found_again():
    model, x = Nested(), torch.randn(5, 6)
    find_head(model, x)
    model.top["classifier"] = nn.Linear(4, 7)
    assert find_head(model, x)[1].out_features == 7


def test_a_named_head_and_its_errors():
    model, x = Nested(), torch.randn(5, 6)
    assert find_head(model, x, "body.0")[1] is model.body[0]
    with pytest.raises(InputError, match=r"head='top.clasifier' is no layer.*'top.classifier'"):
        find_head(model, x, "top.clasifier")
    with pytest.raises(InputError, match=r"no module's output becomes its logits"):
        find_head(nn.Sequential(nn.Flatten()), torch.randn(2, 3, 1, 1))


def test_exported_and_traced_models_are_refused_where_a_layer_is_needed(make_net, images):
    net, (x, y) = make_net().eval(), images
    for model in (torch.export.export(net, (x,)).module(), torch.jit.trace(net, x)):
        with pytest.raises(InputError, match="exported and traced models"):
            mixwell.create("am_mixup", num_classes=5)(model, x, y)
        assert mixwell.create("mixup", num_classes=5)(model, x, y).isfinite()


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_features_are_the_heads_input_and_the_model_stays_as_it_was(make_net, images, mode):
    net, (x, _) = make_net().train(), images
    net[3].eval()  # a mixed state, to be restored module by module
    before = snapshot(net)
    state = torch.get_rng_state()
    logits, features = capture_features(net, x, mode=mode)
    assert torch.equal(state, torch.get_rng_state())
    assert_unchanged(net, before)
    assert features.shape == (9, 6)
    assert not features.requires_grad
    torch.testing.assert_close(net[7](features), logits)
    if mode == "eval":
        torch.testing.assert_close(logits, copy.deepcopy(net).eval()(x))


def test_the_callers_pass_has_gradients_after_one_without_under_autocast(make_net):
    net, x = make_net(), torch.randn(2, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        with inference(net):
            net(x)
        net(x).float().sum().backward()
    assert all(weight.grad is not None for weight in net.parameters())


def test_modes_return_even_if_the_model_fails(make_net):
    net = make_net().train()
    with pytest.raises(RuntimeError), inference(net):
        net(torch.randn(2, 4, 8, 8))
    assert all(module.training for module in net.modules())


def test_a_layer_that_does_not_run_is_an_error_and_leaves_nothing():
    model, x = Nested(), torch.randn(5, 6)
    before = snapshot(model)
    fired = pytest.raises(InputError, match=r"hook on layer 'unused' of Nested did not fire")
    with fired, tapped(model, "unused", lambda value: value):
        model.eval()(x)
    model.train()
    assert_unchanged(model, before)


def test_logits_are_found_in_what_models_return():
    z = torch.randn(2, 3)

    class Output:
        logits = z

    for output in (z, {"logits": z}, Output(), (z, torch.zeros(1)), [z]):
        assert logits_of(output) is z
    with pytest.raises(InputError, match="model must return logits"):
        logits_of({"scores": z})


def test_stages_are_the_first_half_that_runs_before_the_head(make_net, images):
    assert stages(make_net(), images[0]) == ["0", "1"]
    assert stages(Nested(), torch.randn(3, 6)) == ["body.0"]
    plain = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    assert stages(plain, torch.randn(1, 2)) == ["0"]


def test_measuring_takes_the_last_linear_layer_where_no_head_is_evident_and_says_so():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3), nn.Linear(6, 3)

        def forward(self, x):
            h = self.body(x).relu()
            return (self.a(h) + self.b(h)) / 2

    model, x = Two(), torch.rand(5, 4)
    with pytest.raises(InputError, match=r"candidates: 'a', 'b'.*head='a'"):
        find_head(model, x)
    with pytest.warns(UserWarning, match="measured at what enters 'b'"):
        assert feature_layer(model, x) == "b"
    assert feature_layer(model, x) == "b"  # said once
    assert feature_layer(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), x) == "2"


def test_the_head_is_whatever_makes_the_logits():
    class Cosine(nn.Linear):
        def forward(self, x):
            unit = nn.functional.normalize
            return 9 * nn.functional.linear(unit(x, dim=1), unit(self.weight, dim=1))

    def net(*last):
        return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), *last)

    x = torch.rand(4, 3, 8, 8)
    pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    cases = [
        (net(*pool, Cosine(6, 5)), "4"),
        (net(*pool, nn.Sequential(nn.Dropout(), nn.Linear(6, 5), nn.BatchNorm1d(5))), "4.1"),
        (net(nn.Conv2d(6, 5, 1), *pool), "2"),
        (net(nn.Conv2d(6, 5, 1), nn.ReLU(), *pool), "2"),
        (net(*pool, nn.utils.parametrizations.weight_norm(nn.Linear(6, 5)), nn.Softmax(1)), "4"),
    ]
    for model, head in cases:
        assert find_head(model.eval(), x)[0] == head
    for model in (net(nn.GELU(), *pool), nn.Sequential(nn.Flatten(), nn.ReLU())):
        with pytest.raises(InputError, match="no module's output becomes its logits"):
            find_head(model, x)
