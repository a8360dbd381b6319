"""Any method in Lightning: a callback for modules as they are, a mixin for those you write.

Works with ``lightning`` and with ``pytorch_lightning``.

.. code-block:: python

    trainer = Trainer(callbacks=[MixupCallback("sk_mixup+decoupled", num_classes=10)])
    trainer.fit(module, loader)  # any LightningModule with a forward(), unedited
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import math
import sys
import warnings
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from mixwell.compat.batches import Split, check_index, split_batch, take_apart
from mixwell.compat.replaced import say_replaced
from mixwell.errors import InputError, suggest
from mixwell.methods import Method, Step, create
from mixwell.view import is_compiled

if TYPE_CHECKING:
    from lightning.pytorch import Callback, LightningModule, Trainer

__all__ = ["MixupCallback", "MixupMixin", "split_batch"]

_PACKAGES = ("lightning.pytorch", "pytorch_lightning")


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
    and prediction are untouched, and so are all other hooks.

    The own ``training_step`` does not run: not its loss, with class weights or label smoothing that
    it may have, not its metrics and not what it logs. A warning says so once, and what it is in
    this module. Settings of the loss go to the method (``class_weight=...``,
    ``label_smoothing=...``); where more of the step is wanted, use :class:`MixupMixin`. Who knows
    can turn the warning off: ``warnings.filterwarnings("ignore", "MixupCallback replaces")``.

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
        index: where a batch has the positions of its samples in the training set, for methods that
            remember samples: 2 for the third element of (x, y, index), or a mapping's key; None
            for nowhere.
        model: the name of the part of the module that returns the logits ("net"), where its own
            ``forward`` does not.
        log: what the loss is logged as, None for not at all; the terms of a loss with several are
            logged as "train_loss_clean" and so on.
        arguments: further arguments of :func:`mixwell.create`.

    Raises:
        InputError: a name or an argument is wrong; when training starts: the module optimizes by
            hand, has no ``forward`` or no part called ``model``, or is a :class:`MixupMixin`.

    >>> callback = MixupCallback("cutmix+decoupled", num_classes=10, alpha=0.5)
    >>> callback.method.name
    'cutmix+decoupled'
    """

    def __init__(
        self,
        method: str | Method,
        *,
        split: Split | None = None,
        index: int | str | None = None,
        model: str | None = None,
        log: str | None = "train_loss",
        **arguments: Any,
    ) -> None:
        super().__init__()
        if not isinstance(method, (str, Method)):
            raise InputError(
                f"method must be a mixwell.Method or the name of one, 'mixup', got {method!r}"
            )
        if isinstance(method, Method) and arguments:
            raise InputError(
                f"{', '.join(arguments)} can't be given beside a Method, which has its settings "
                "already; give the method's name, or the arguments to mixwell.create"
            )
        if split is not None and not callable(split):
            raise InputError(f"split must be a function of the batch, got {split!r}")
        if split is not None and index is not None:
            raise InputError(
                f"index={index!r} is for the usual split: let split return (x, y, index)"
            )
        for name, value in (("model", model), ("log", log)):
            if value is not None and not isinstance(value, str):
                raise InputError(
                    f"{name} must be a name, or None, got {type(value).__name__}"
                    + (": the part itself is the module's" if isinstance(value, nn.Module) else "")
                )
        self.method = method if isinstance(method, Method) else create(method, **arguments)
        self.split = split or functools.partial(split_batch, index=check_index(index))
        self.model = model
        self.loss_name = log  # the trainer sets an attribute "log" on callbacks
        self._said: set[type] = set()

    # ------------------------------------------------------------------------------------- hooks

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        _check_module(pl_module, self.model)
        self._restore(pl_module)
        step = _MixedStep(self, pl_module)
        pl_module.training_step = step  # type: ignore[method-assign]
        if trainer.is_global_zero and type(pl_module) not in self._said:
            self._said.add(type(pl_module))
            say_replaced(pl_module, step.replaced, self.loss_name)

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
        if not isinstance(vars(pl_module).get("training_step"), _MixedStep):
            raise InputError(
                f"nothing would be mixed: {type(pl_module).__name__}.training_step is not "
                f"{type(self).__name__}'s. What overrides {type(self).__name__}.setup must call "
                "super().setup(trainer, pl_module, stage), and nothing may replace the step after"
            )
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
        x, y, index = take_apart(self.split, batch)
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


def _check_module(module: LightningModule, model: str | None) -> None:
    """Refuse a module whose step can't be replaced by one that calls ``model``, a part of it."""
    name = type(module).__name__
    if isinstance(module, MixupMixin):
        raise InputError(
            f"{name} is a MixupMixin, which mixes by its own self.mixup; MixupCallback would take "
            "the place of that: leave one of them out"
        )
    if not module.automatic_optimization:
        raise InputError(
            f"{name} optimizes by hand (automatic_optimization=False) in its training_step, "
            "which MixupCallback would replace; use MixupMixin and call "
            "self.manual_backward(self.mixed_loss(batch)) there"
        )
    parts = [child for child, _ in module.named_children()]
    if model is not None:
        known = dict(module.named_modules())
        if model not in known or not model:
            raise InputError(
                f"model={model!r} is no part of {name}{suggest(model, known)}; its parts: "
                f"{', '.join(parts) or 'none'}"
            )
        return
    owner = next(kind for kind in type(module).__mro__ if "forward" in vars(kind))
    if owner.__name__ == "LightningModule":
        raise InputError(
            f"{name} has no forward() that returns logits; name the part of it that does, "
            f"MixupCallback(..., model={parts[0] if parts else 'net'!r}); its parts: "
            f"{', '.join(parts) or 'none'}"
        )


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

    def mixed_step(
        self, batch: Any, model: nn.Module | None = None, *, index: int | str | None = None
    ) -> Step:
        """Run the model on the mixed batch; return the loss and all that it was made of.

        Args:
            batch: what ``training_step`` is given.
            model: what returns the logits; the module itself by default.
            index: where the batch has the samples' positions, as of :class:`MixupCallback`.

        Raises:
            InputError: ``self.mixup`` is no method, the batch does not fit it, or ``index`` is
                given beside a :meth:`split_batch` of one's own.
        """
        method = getattr(self, "mixup", None)
        if not isinstance(method, Method):
            raise InputError(
                "self.mixup must be a method, self.mixup = mixwell.create('mixup', "
                f"num_classes=...) in __init__, got {type(method).__name__}"
            )
        if index is not None and type(self).split_batch is not MixupMixin.split_batch:
            raise InputError(
                f"index={index!r} is for the usual split_batch: let {type(self).__name__}'s own "
                "return (x, y, index)"
            )
        usual = functools.partial(split_batch, index=index)
        x, y, positions = take_apart(self.split_batch if index is None else usual, batch)
        trainer = getattr(self, "_trainer", None)
        if trainer is not None and trainer.training:
            progress = _progress(trainer)
            if progress is not None:
                method.set_progress(progress)
        model = cast(nn.Module, self) if model is None else model
        return method.step(model, x, y, index=positions)

    def mixed_loss(
        self, batch: Any, model: nn.Module | None = None, *, index: int | str | None = None
    ) -> Tensor:
        """Return the loss of the mixed batch, a scalar. See :meth:`mixed_step`."""
        return self.mixed_step(batch, model, index=index).loss
