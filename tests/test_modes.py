"""The first use may be in any mode of the caller's: what is kept of it serves all later ones."""

import pytest
import torch
from helpers import run_scripts

import mixwell
from mixwell.modes import undisturbed

MODES = {
    "autocast": "torch.autocast('cpu', torch.bfloat16)",
    "inference": "torch.inference_mode()",
    "no gradient": "torch.no_grad()",
    "default device": "torch.device('meta')",
    "traced": "FakeTensorMode()",
}
_PROGRAM = """
import sys
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from mixwell.beta import beta_icdf
from mixwell.functional import beta_cdf
from mixwell.kernels import native
assert not native.library.cache_info().currsize  # this process has computed nothing yet
with {mode}:
    native.library()
    for u in (0.3, 0.9):
        for tau in (0.5, 3.0):
            try:
                beta_icdf(torch.full((4,), u, device="cpu"), torch.full((4,), tau, device="cpu"))
            except Exception:
                pass  # a mode that has no numbers
u = torch.tensor([0.3, 0.9], dtype=torch.float64)
tau = torch.tensor([0.5, 3.0], dtype=torch.float64)
torch.testing.assert_close(beta_cdf(beta_icdf(u, tau), tau), u)
assert str(native.library() is not None) == sys.argv[1]
"""


@pytest.mark.parametrize("mode", MODES)
def test_what_is_computed_once_is_right_whatever_mode_it_is_asked_for_in(mode):
    from mixwell.kernels import native

    program = _PROGRAM.format(mode=MODES[mode])
    assert run_scripts(program, [native.library() is not None]) == [0]


@pytest.mark.parametrize("name", mixwell.list_methods())
def test_a_step_in_inference_mode_leaves_nothing_that_training_trips_over(name, make_net, images):
    model, x, y = make_net(), *images
    index = torch.arange(len(x))
    try:
        mixwell.create(name, num_classes=5)(make_net(), x, y, index=index)
    except mixwell.InputError as error:
        pytest.skip(f"not for this network: {error}")
    method = mixwell.create(name, num_classes=5)
    with torch.inference_mode():
        if name == "puzzlemix":  # which asks for the gradient of its images
            with pytest.raises(mixwell.InputError, match="inference_mode"):
                method(model, x, y, index=index)
        else:
            method(model, x, y, index=index)
    loss = method(model, x, y, index=index)
    loss.backward()
    assert torch.isfinite(loss)


def test_modes_are_the_callers_alone():
    @undisturbed
    def seen():
        return torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")

    with torch.inference_mode(), torch.autocast("cpu"):
        assert seen() == (False, False)
        assert torch.is_inference_mode_enabled()


def test_an_error_comes_through():
    @undisturbed
    def fails():
        raise ValueError("seen")

    with pytest.raises(ValueError, match="seen"):
        fails()
