"""Any method in Lightning: a callback for modules as they are, a mixin for those you write.

Works with ``lightning`` and with ``pytorch_lightning``.

.. code-block:: python

    trainer = Trainer(callbacks=[MixupCallback("sk_mixup+decoupled", num_classes=10)])
    trainer.fit(module, loader)  # any LightningModule with a forward(), unedited
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from mixwell.errors import InputError
from mixwell.methods import Method, Step, create
from mixwell.view import is_compiled

if TYPE_CHECKING:
    from lightning.pytorch import Callback, LightningModule, Trainer

__all__ = ["MixupCallback", "MixupMixin", "split_batch"]

Split = Callable[[Any], tuple[Any, ...]]
"""Takes a batch apart into (x, y) or (x, y, index)."""

_PACKAGES = ("lightning.pytorch", "pytorch_lightning")
_INPUTS = ("x", "image", "images", "pixel_values", "input", "inputs", "data")
_LABELS = ("y", "label", "labels", "target", "targets")
_INDICES = ("index", "indices", "idx")


def _callback_class() -> type:
    """Return the Callback of the package in use: of both where both are imported."""
    used = [name for name in _PACKAGES if name in sys.modules]
    if not used:
        roots = {name: name.partition(".")[0] for name in _PACKAGES}
        used = [name for name, root in roots.items() if importlib.util.find_spec(root)][:1]
    if not used:
        raise InputError("mixwell.compat.lightning needs Lightning: pip install lightning")
    bases = tuple(importlib.import_module(name).Callback for name in used)
    return type("Callback", bases, {})


if not TYPE_CHECKING:
    Callback = _callback_class()


# --------------------------------------------------------------------------------------- batches


def split_batch(batch: Any) -> tuple[Any, Tensor, Tensor | None]:
    """Return the inputs, the targets and, where they are there, the positions in the training set.

    Args:
        batch: (x, y), (x, y, index), or a mapping in which the target is called "y", "label",
            "labels", "target" or "targets", the position "index", "indices" or "idx", and the
            input "x", "image", "images", "pixel_values", "input", "inputs" or "data", or is the
            only other tensor.

    Raises:
        InputError: it is none of these.

    >>> x, y, index = split_batch({"image": torch.zeros(2, 3), "label": torch.tensor([0, 1])})
    >>> x.shape, y.tolist(), index
    (torch.Size([2, 3]), [0, 1], None)
    """
    if isinstance(batch, Mapping):
        return _split_mapping(batch)
    if isinstance(batch, (tuple, list)) and len(batch) in (2, 3):
        x, y, index = (*batch, None)[:3]
        integers = isinstance(index, Tensor) and not index.is_floating_point() and index.ndim == 1
        if isinstance(y, Tensor) and (index is None or integers):
            return x, y, index
    raise InputError(
        f"can't tell inputs and targets apart in a batch of {_shown(batch)}; known are (x, y), "
        "(x, y, index) with a (B,) tensor of positions, and mappings; say how with "
        "split=lambda batch: (x, y)"
    )


def _split_mapping(batch: Mapping[str, Any]) -> tuple[Any, Tensor, Tensor | None]:
    def find(names: tuple[str, ...]) -> str | None:
        return next((name for name in names if name in batch), None)

    label, index, found = find(_LABELS), find(_INDICES), find(_INPUTS)
    others = [
        name
        for name, value in batch.items()
        if isinstance(value, Tensor) and name not in (label, index)
    ]
    if found is None and len(others) == 1:
        found = others[0]
    if label is None or found is None:
        missing = "target" if label is None else "input"
        names = ", ".join(_LABELS if label is None else _INPUTS)
        raise InputError(
            f"can't tell which is the {missing} in a batch of {_shown(batch)}; known names are "
            f"{names}; say how with split=lambda batch: (batch['...'], batch['...'])"
        )
    return batch[found], batch[label], None if index is None else batch[index]


def _shown(batch: Any) -> str:
    """Return what a batch is made of, for messages."""

    def one(value: Any) -> str:
        return f"{tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__

    if isinstance(batch, Mapping):
        return "{" + ", ".join(f"{name}: {one(value)}" for name, value in batch.items()) + "}"
    if isinstance(batch, (tuple, list)):
        return "[" + ", ".join(map(one, batch)) + "]"
    return one(batch)


def _take_apart(split: Split, batch: Any) -> tuple[Any, Tensor, Tensor | None]:
    parts = split(batch)
    if not isinstance(parts, tuple) or len(parts) not in (2, 3):
        raise InputError(f"split must return (x, y) or (x, y, index), got {_shown(parts)}")
    return cast("tuple[Any, Tensor, Tensor | None]", (*parts, None)[:3])


def _progress(trainer: Trainer) -> float | None:
    """Return the share of the training that is done; None where it has no known end.

    Counted in epochs and batches, not in optimizer steps: their number changes with scheduled
    gradient accumulation and with several optimizers.
    """
    done = []
    if trainer.max_epochs not in (None, -1):
        batches = trainer.num_training_batches
        part = trainer.fit_loop.batch_idx / batches if math.isfinite(batches) else 0.0
        done.append((trainer.current_epoch + part) / max(trainer.max_epochs, 1))
    if trainer.max_steps != -1:
        done.append(trainer.global_step / max(trainer.max_steps, 1))
    return min(max(done), 1.0) if done else None


# -------------------------------------------------------------------------------------- callback


class MixupCallback(Callback):
    """Trains a LightningModule by a method, without a change to the module.

    While ``trainer.fit`` runs, the module's ``training_step`` is replaced by one that returns
    ``method(model, x, y)``; afterwards, and after an exception, it is as it was. Validation, test
    and prediction are untouched. What the own ``training_step`` does besides its loss (metrics of
    the training batches, say) is not done; where it must be, use :class:`MixupMixin`.

    Of a compiled module it is the ``forward`` that runs compiled; :func:`mixwell.heads.release`
    takes off the idle hooks that methods leave on such modules.

    Schedules follow the trainer's epochs and steps. Checkpoints of the trainer hold the method's
    state (progress, remembered features, generator): give a callback with the same method when
    training goes on from one. With several processes that is the state of the first.

    A method's own parameters, where it has any, are trained by the module's optimizer, with the
    settings of its first group, and their gradients are averaged over all processes.

    Args:
        method: a method, or the name of one for :func:`mixwell.create`.
        split: takes a batch apart into (x, y) or (x, y, index); :func:`split_batch` by default.
        model: the name of the part of the module that returns the logits ("net"), where its own
            ``forward`` does not.
        log: what the loss is logged as, None for not at all; the terms of a loss with several are
            logged as "train_loss_clean" and so on.
        arguments: further arguments of :func:`mixwell.create`.

    Raises:
        InputError: a name or an argument is wrong; when training starts: the module optimizes by
            hand, or has no ``forward``.

    >>> callback = MixupCallback("cutmix+decoupled", num_classes=10, alpha=0.5)
    >>> callback.method.name
    'cutmix+decoupled'
    """

    def __init__(
        self,
        method: str | Method,
        *,
        split: Split = split_batch,
        model: str | None = None,
        log: str | None = "train_loss",
        **arguments: Any,
    ) -> None:
        super().__init__()
        if isinstance(method, Method) and arguments:
            raise InputError(
                f"{', '.join(arguments)} can't be given beside a Method, which has its settings "
                "already; give the method's name, or the arguments to mixwell.create"
            )
        self.method = method if isinstance(method, Method) else create(method, **arguments)
        self.split = split
        self.model = model
        self.loss_name = log  # the trainer sets an attribute "log" on callbacks

    # ------------------------------------------------------------------------------------- hooks

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        name = type(pl_module).__name__
        if not pl_module.automatic_optimization:
            raise InputError(
                f"{name} optimizes by hand (automatic_optimization=False) in its training_step, "
                "which MixupCallback would replace; use MixupMixin and call "
                "self.mixed_loss(batch) there"
            )
        owner = next(kind for kind in type(pl_module).__mro__ if "forward" in vars(kind))
        if self.model is None and owner.__name__ == "LightningModule":
            parts = ", ".join(child for child, _ in pl_module.named_children()) or "none"
            raise InputError(
                f"{name} has no forward() that returns logits; name the part of it that does, "
                f"MixupCallback(..., model='net'); its parts: {parts}"
            )
        self._restore(pl_module)
        pl_module.training_step = _MixedStep(self, pl_module)  # type: ignore[method-assign]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        parameters = self._parameters()
        if not parameters:
            return
        self.method.to(pl_module.device)
        if trainer.world_size > 1:
            for parameter in parameters:
                torch.distributed.broadcast(parameter.data, 0)
        trainer.optimizers[0].param_groups[0]["params"].extend(parameters)

    def on_sanity_check_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if is_compiled(pl_module):
            torch.compiler.reset()  # it was compiled without the hooks of a method

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if _progress(trainer) is None:
            warnings.warn(
                "the trainer has neither max_epochs nor max_steps: schedules of "
                f"{self.method.name}, if it has any, stay where they are",
                stacklevel=2,
            )

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        if trainer.world_size == 1:
            return
        for parameter in self._parameters():  # DDP averages the gradients of the module alone
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            parameter.grad = trainer.strategy.reduce(gradient, reduce_op="mean")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restore(pl_module)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._restore(pl_module)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":  # a learning-rate search ends without on_fit_end
            self._restore(pl_module)

    # ------------------------------------------------------------------------------------- state

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = {"method": self.method.state_dict()}
        if self.method.generator is not None:
            state["generator"] = self.method.generator.get_state()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.method.load_state_dict(state_dict["method"])
        if self.method.generator is not None and "generator" in state_dict:
            self.method.generator.set_state(state_dict["generator"].cpu())

    def __getstate__(self) -> dict[str, Any]:
        # The trainer gives each callback its module's log(): a pickle would hold the module.
        return {key: value for key, value in vars(self).items() if key not in ("log", "log_dict")}

    # ---------------------------------------------------------------------------------- workings

    def _parameters(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.method.parameters() if parameter.requires_grad]

    def _restore(self, pl_module: LightningModule) -> None:
        step = vars(pl_module).get("training_step")
        if not isinstance(step, _MixedStep):
            return
        del pl_module.training_step
        if step.replaced is not None:
            pl_module.training_step = step.replaced  # type: ignore[method-assign]

    def _step(self, pl_module: LightningModule, batch: Any) -> Tensor:
        x, y, index = _take_apart(self.split, batch)
        progress = _progress(pl_module.trainer)
        if progress is not None:
            self.method.set_progress(progress)
        model = pl_module if self.model is None else pl_module.get_submodule(self.model)
        step = self.method.step(model, x, y, index=index)
        if self.loss_name is not None:
            size = len(y)
            pl_module.log(self.loss_name, step.loss.detach(), prog_bar=True, batch_size=size)
            if len(step.terms) > 1:
                terms = {f"{self.loss_name}_{name}": loss for name, loss in step.terms.items()}
                pl_module.log_dict(terms, batch_size=size)
        return step.loss


class _MixedStep:
    """What stands in for a module's ``training_step``.

    A copy of the module, by ``copy.deepcopy`` or pickle, gets its own ``training_step`` instead.
    """

    def __init__(self, callback: MixupCallback, pl_module: LightningModule) -> None:
        self.callback, self.pl_module = callback, pl_module
        self.replaced = vars(pl_module).get("training_step")  # a compiled module has one
        # Lightning looks at the arguments and the code of the step.
        self.__wrapped__ = pl_module.training_step

    def __call__(self, batch: Any, *args: Any) -> Tensor:
        return self.callback._step(self.pl_module, batch)

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self.pl_module, "training_step")


# ----------------------------------------------------------------------------------------- mixin


class MixupMixin:
    """For a LightningModule that calls a method itself.

    .. code-block:: python

        class Net(MixupMixin, LightningModule):
            def __init__(self):
                super().__init__()
                self.net = ...
                self.mixup = mixwell.create("sk_mixup", num_classes=10)

            def forward(self, x):
                return self.net(x)

            def training_step(self, batch, batch_idx):
                return self.mixed_loss(batch)

    The method is a part of the module: it is saved, moved and, where it has parameters, trained
    with it, and in ``validation_step`` :meth:`mixed_loss` is the plain loss, as the module is in
    evaluation mode there. Export ``self.net``, of which it is no part. DDP sends buffers from the
    first process to all before each step, remembered features among them: for these take
    :class:`MixupCallback`.
    """

    mixup: Method

    def split_batch(self, batch: Any) -> tuple[Any, ...]:
        """Return (x, y) or (x, y, index); override it where :func:`split_batch` does not do."""
        return split_batch(batch)

    def mixed_step(self, batch: Any, model: nn.Module | None = None) -> Step:
        """Run the model on the mixed batch; return the loss and all that it was made of.

        Args:
            batch: what ``training_step`` is given.
            model: what returns the logits; the module itself by default.

        Raises:
            InputError: ``self.mixup`` is no method, or the batch does not fit it.
        """
        method = getattr(self, "mixup", None)
        if not isinstance(method, Method):
            raise InputError(
                "self.mixup must be a method, self.mixup = mixwell.create('mixup', "
                f"num_classes=...) in __init__, got {type(method).__name__}"
            )
        x, y, index = _take_apart(self.split_batch, batch)
        trainer = getattr(self, "_trainer", None)
        if trainer is not None and trainer.training:
            progress = _progress(trainer)
            if progress is not None:
                method.set_progress(progress)
        return method.step(cast(nn.Module, self) if model is None else model, x, y, index=index)

    def mixed_loss(self, batch: Any, model: nn.Module | None = None) -> Tensor:
        """Return the loss of the mixed batch, a scalar. See :meth:`mixed_step`."""
        return self.mixed_step(batch, model).loss
