"""Precision, quantisation, and what is put around a model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
import torch
from foreign.heads import LowRank
from foreign.truths import CLASSES, Backbone, foreign, lively, make_images, plain
from torch import nn

# --------------------------------------------------------------------- precision and wrappers


@foreign(
    "fc",
    x=lambda: make_images(dtype=torch.float32),
    inner="body.0",
    maps="body.1",
    dtype=torch.float32,
    tolerance=0.3,
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
