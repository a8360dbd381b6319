"""The gate to raw memory: whether a compiled kernel may read a tensor. All of them ask here.

Beside each kernel stands its plain form in torch's own operations, for whatever does not pass.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor
from torch.autograd import forward_ad

__all__ = ["may_read", "may_record", "must_be_plain"]

_PLAIN = (Tensor, torch.nn.Parameter)

_TRACERS = tuple(torch._C._TorchDispatchModeKey.__members__.values())
"""Torch's own modes, of tensors without values, of functions without mutation and of proxies."""


def must_be_plain() -> bool:
    """Whether operations are recorded, not run: by a compiler, functorch or forward-mode AD."""
    return bool(
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
        or torch._C._get_tracing_state() is not None  # torch.jit.trace
        or (torch._C._len_torch_dispatch_stack() and _is_traced())
    )


def _is_traced() -> bool:
    """Whether one of torch's own dispatch modes is at work; others see what they are shown."""
    return any(torch._C._get_dispatch_mode(mode) is not None for mode in _TRACERS)


def may_read(
    *tensors: Tensor | None,
    dtypes: Collection[torch.dtype] | None = None,
    device: torch.device | None = None,
) -> bool:
    """Whether a compiled kernel may read these tensors' memory, by address, shape and strides.

    So it may where that is all there is to them: operations are run and not recorded; they are no
    subclass (DTensor, tv_tensors, tensors without values), not sparse or nested, and no view that
    is negated or conjugated only when it is read.

    Args:
        tensors: what the kernel reads; None is passed over.
        dtypes: those that it takes; None if it has been seen to.
        device: where it runs; None for the CPU.
    """
    if must_be_plain():
        return False
    for x in tensors:
        if x is None:
            continue
        if (
            type(x) not in _PLAIN
            or not (x.is_cpu if device is None else x.device == device)
            or x.layout is not torch.strided
            or (dtypes is not None and x.dtype not in dtypes)
            or x.is_nested
            or x.is_neg()
            or x.is_conj()
            or x._is_zerotensor()  # it has no memory at all
        ):
            return False
    return True


def may_record(*tensors: Tensor | None) -> bool:
    """Whether an operator may stand for a kernel in what is recorded of these tensors.

    By a compiler or by export it may, and of tensors without values; not where operations are
    transformed (functorch, forward-mode AD), nor for formats that know torch's operators alone
    (TorchScript, ONNX), nor of subclasses, which say themselves what an operation does.
    """
    if (
        torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
        or not (torch.compiler.is_compiling() or _is_traced())
        or torch.onnx.is_in_onnx_export()
    ):
        return False
    return all(
        x is None or (_is_dense(x) and x.layout is torch.strided and not x.is_nested)
        for x in tensors
    )


def _is_dense(x: Tensor) -> bool:
    """Whether a tensor is plain, or one of those that torch has in its place while it traces."""
    if type(x) in _PLAIN:
        return True
    from torch._subclasses import FakeTensor
    from torch._subclasses.functional_tensor import FunctionalTensor

    return isinstance(x, (FakeTensor, FunctionalTensor))  # torch 2.6 traces no union
