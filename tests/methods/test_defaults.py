"""No method leans on torch's default dtype or device: both may be anything."""

import contextlib

import pytest
import torch
from methods.test_seeded import CLASSES, VARIANTS, cases, network, targets

import mixwell
from mixwell.kernels import native
from mixwell.methods.registry import accepts
from mixwell.mix import tensors


@contextlib.contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def make(case, dtype):
    """A method, its model and a batch, all of one dtype, made before the defaults are moved."""
    name, options = VARIANTS.get(case, (case, {}))
    options = dict(options)
    if accepts(name, "class_counts"):
        options["class_counts"] = [40, 20, 10, 5]
    task = options.get("task", mixwell.describe(name).tasks[0])
    torch.manual_seed(0)
    method = mixwell.create(name, num_classes=None if task == "regression" else CLASSES, **options)
    model = network(task, name).to(dtype)
    y = targets(task, 8)
    y = y.to(dtype) if y.is_floating_point() else y
    return method, model, torch.rand(8, 3, 16, 16).to(dtype), y


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_the_compiled_kernels_are_judged_alike(dtype):
    """They are compared with torch when they are first used, whatever the default is then."""
    loaded = native.library()
    if loaded is None:
        pytest.skip("there are none here")
    with default_dtype(dtype):
        assert native._is_right(loaded)


DEFAULTS = {
    "float64 by default": (lambda: default_dtype(torch.float64), torch.float32),
    "half by default": (lambda: default_dtype(torch.bfloat16), torch.float32),
    "double inputs": (contextlib.nullcontext, torch.float64),
    "another device": (lambda: torch.device("meta"), torch.float32),
}


@pytest.mark.cases(quick=42)
@pytest.mark.parametrize("default", DEFAULTS)
@pytest.mark.parametrize("case", cases())
def test_a_step_is_of_the_inputs_dtype_and_device_whatever_the_defaults(case, default):
    context, dtype = DEFAULTS[default]
    method, model, x, y = make(case, dtype)
    with context():
        for t in (0.0, 0.5):
            method.set_progress(t)
            step = method.step(model, x, y, index=torch.arange(8, device="cpu"))
            step.loss.backward()
            assert step.logits.dtype == dtype
            assert step.loss.dtype == dtype
            for value in tensors((step.mix, step.target, step.loss)):
                assert value.device.type == "cpu"
            # λ in half precision would move the label away from the inputs.
            assert step.mix.lam.dtype in (torch.float32, torch.float64)
            assert step.target.dense(CLASSES).dtype in (torch.float32, torch.float64)
            assert step.loss.isfinite()
