"""Hugging Face: a Trainer that mixes, for image and text classification.

.. code-block:: python

    from mixwell.compat.huggingface import MixupTrainer

    trainer = MixupTrainer(model, args, train_dataset=train, mixup="sk_mixup+decoupled")
    trainer.train()

Everything else is the Trainer's: accelerate, precision, gradient accumulation, evaluation,
checkpoints. A Trainer of your own mixes too, as ``class Mine(MixupTrainer, YourTrainer)``.

There is no data collator that mixes: the Trainer collates evaluation with the same one, and its
models take floating labels for several classes a sample (binary cross-entropy).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mixwell.compat.arguments import check_tensor
from mixwell.compat.keywords import Keywords, MaskedKeywords, mixable
from mixwell.compat.making import (
    check_smoothing,
    compare_losses,
    layers_of,
    make_method,
    recipes_of,
)
from mixwell.data.datasets import IndexedDataset
from mixwell.errors import InputError, say
from mixwell.methods import Method, Term
from mixwell.view import find_head, inference

try:
    from transformers import Trainer
    from transformers.modeling_outputs import SequenceClassifierOutput
except ImportError as error:
    raise InputError(
        "mixwell.compat.huggingface needs the packages transformers and accelerate: "
        "pip install 'mixwell[huggingface]'"
    ) from error

__all__ = ["Keywords", "MixupTrainer"]

_LOG = logging.getLogger("mixwell")

_INDEX = "mixwell_index"
"""The key of the samples' positions; no model's argument and no dataset's column."""


class MixupTrainer(Trainer):
    """A ``transformers.Trainer`` that trains with a method of mixwell's; evaluation is as it was.

    The method runs the model on all inputs but ``labels`` and computes the loss from its logits.
    What depends on progress follows ``state.global_step / state.max_steps``. Checkpoints hold the
    method's state (``mixwell.pt`` beside the optimiser's), and resuming restores it.

    Text is mixed at the input of the classifier head unless the method or
    ``mixup_arguments={"layer": ...}`` says where, since tokens can't be interpolated;
    ``"bert.embeddings"`` mixes embeddings. Features that are remembered
    (``{"distance": "remembered"}``) need nothing more: the training samples' positions come along.

    Masks of audio, and others that come with inputs that are mixed, are 1 where either sample's is.

    The method computes the loss, from the logits. The model's own loss is not computed in training:
    where it is another than that of the logits on the first batch (class weights, terms that a
    model adds), a warning says so once. Likewise the ``compute_loss`` of a Trainer that this one
    lies over, which goes on in evaluation. Parameters of the method, where it has any, are trained
    by the Trainer's optimizer, in its first group.

    With gradient accumulation each batch weighs as many samples as it has, so that what is a mean
    over samples is the mean over all that are accumulated.

    Args:
        args: as of the Trainer: model, arguments, datasets, ...
        mixup: a method's name or composition, or a :class:`~mixwell.Method`.
        mixup_arguments: settings of :func:`mixwell.create` for a name. ``num_classes`` and ``task``
            come from the model's config (``num_labels``, ``problem_type``), label smoothing from
            the training arguments.
        kwargs: as of the Trainer.

    Raises:
        InputError: a setting is wrong; the method doesn't know label smoothing and the training
            arguments ask for it; ``compute_loss_func`` is given, which the method replaces; in
            training: a ``compute_loss`` of one's own does not reach this one; the batch has no
            "labels"; an input of whole numbers is to be mixed.
    """

    # A mean over the batch, to be divided by the number of batches: later Trainers ask this, and
    # what training_step does is for those before.
    loss_is_scaled_for_ga = False

    def __init__(
        self,
        *args: Any,
        mixup: str | Method,
        mixup_arguments: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        if self.compute_loss_func is not None:
            raise InputError(
                "compute_loss_func: the method computes the loss; give it as a part instead, "
                "mixup_arguments={'loss': ...}, one of mixwell.losses or a subclass of "
                "mixwell.losses.base.Loss"
            )
        if not isinstance(mixup, (str, Method)):
            raise InputError(f"mixup must be a mixwell.Method or the name of one, got {mixup!r}")
        if not isinstance(mixup_arguments, (Mapping, type(None))):
            raise InputError(f"mixup_arguments must be a dict or None, got {mixup_arguments!r}")
        smoothing = self.args.label_smoothing_factor
        if isinstance(mixup, Method):
            if mixup_arguments:
                raise InputError(
                    f"mixup_arguments={dict(mixup_arguments)} are for a method's name; "
                    f"mixup is made already, {mixup.name}"
                )
            self.method = mixup
        else:
            self.method = make_method(self.model, mixup, dict(mixup_arguments or {}), smoothing)
        check_smoothing(self.method, smoothing, isinstance(mixup, str))
        self._accumulated, self._share = 0, 1.0
        self._is_checked = self._has_run = False
        self._say_replaced()

    # --------------------------------------------------------------------------------------- loss

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Return the method's loss in training, with the mixed samples' logits if asked."""
        if not model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        labels = inputs.get("labels")
        if labels is None:
            raise InputError(
                f"the training batch has no 'labels'; it has {', '.join(inputs)}; rename the "
                "column of the targets, whatever label_names says"
            )
        check_tensor("labels", labels)
        self._check_labels(labels)
        if _INDEX not in inputs and self._remembers():
            raise InputError(
                f"{self.method.name} remembers samples, and the batch does not tell which they "
                "are: a get_train_dataloader or a collator of one's own must call super()'s, or "
                f"give their positions in the training set as {_INDEX!r}"
            )
        x = {name: value for name, value in inputs.items() if name not in ("labels", _INDEX)}
        keywords = Keywords(model)
        if not self._is_checked:
            self._check_layers(keywords, x)
            if self.label_smoother is None:  # else the Trainer computes it, and not the model
                compare_losses(self.method, model, x, labels)
            self._is_checked = True
        if layers_of(self.method) & {"input", "auto"}:
            x, masks = mixable(x, self.method.name)
            keywords = MaskedKeywords(model, masks) if masks else keywords
        if self.state.max_steps > 0:
            self.method.set_progress(min(self.state.global_step / self.state.max_steps, 1.0))
        self.method.train()
        self._has_run = True
        step = self.method.step(keywords, x, labels, index=inputs.get(_INDEX))
        loss = step.loss if self._share == 1 else step.loss * self._share
        if return_outputs:
            return loss, SequenceClassifierOutput(loss=loss, logits=step.logits)
        return loss

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """Return the batches that are accumulated, and note how many samples they have."""
        batches, count = super().get_batch_samples(*args, **kwargs)
        self.method.zero_grad()  # the Trainer's own is the model's alone
        self._accumulated = sum(len(batch["labels"]) for batch in batches if "labels" in batch)
        return batches, count

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> Tensor:
        """Return the loss of one batch, as it counts among those that are accumulated."""
        # The Trainer divides a batch's loss by the number of batches, unless the model's own loss
        # is one that takes all their samples into account: ours is a mean over this batch's.
        accepts, self.model_accepts_loss_kwargs = self.model_accepts_loss_kwargs, False
        batches = self.args.gradient_accumulation_steps
        batches = getattr(self, "current_gradient_accumulation_steps", batches)
        if self._accumulated and "labels" in inputs:
            self._share = batches * len(inputs["labels"]) / self._accumulated
        self._has_run = False
        try:
            loss = super().training_step(model, inputs, *args, **kwargs)
        finally:
            self.model_accepts_loss_kwargs, self._share = accepts, 1.0
        if not self._has_run:
            raise InputError(
                f"nothing is mixed: {type(self).__name__}.compute_loss does not reach "
                "MixupTrainer.compute_loss in training; call super().compute_loss(...) in it"
            )
        return loss

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """Return the Trainer's optimizer, which trains the method's own parameters as well."""
        optimizer = super().create_optimizer(*args, **kwargs)
        parameters = [each for each in self.method.parameters() if each.requires_grad]
        if parameters and self.args.world_size > 1:
            raise InputError(
                f"{self.method.name} has parameters that are trained, and several processes would "
                "train them apart: train in one process, or by Lightning's MixupCallback"
            )
        self.method.to(self.args.device)
        groups = optimizer.param_groups
        known = {id(each) for group in groups for each in group["params"]}
        groups[0]["params"].extend(each for each in parameters if id(each) not in known)
        return optimizer

    def _say_replaced(self) -> None:
        """Say that another Trainer's loss, which this one lies over, is not computed."""
        kinds = type(self).__mro__
        after = kinds[kinds.index(MixupTrainer) + 1 :]
        other = next(kind for kind in after if "compute_loss" in vars(kind))
        if other is not Trainer:
            say(
                f"{other.__name__}.compute_loss runs in evaluation alone: in training the loss is "
                f"{self.method.name}'s. Class weights and label smoothing of it go to the method, "
                "mixup_arguments={'class_weight': ...}; what has to run in training too, put into "
                f"a subclass of {type(self).__name__} that calls super().compute_loss (said once)"
            )

    def _check_labels(self, labels: Tensor) -> None:
        config = getattr(self.model, "config", None)
        undecided = config is not None and getattr(config, "problem_type", None) is None
        if undecided and self.method.task.one_class and labels.is_floating_point():
            raise InputError(
                f"labels are {labels.dtype} of shape {tuple(labels.shape)}, which the model's own "
                "loss takes for several classes a sample; set model.config.problem_type to "
                "'multi_label_classification', or to 'single_label_classification' if they are "
                "soft labels, before the Trainer is made"
            )

    def _check_layers(self, model: nn.Module, x: dict[str, Any]) -> None:
        """Refuse to mix where the model would go wrong without a word."""
        layers = layers_of(self.method)
        blocks = sorted(layer for layer in layers if any(map(str.isdigit, layer.split("."))))
        again = (getattr(part, "gradient_checkpointing", False) for part in model.modules())
        if blocks and any(again):
            raise InputError(
                f"layer={blocks[0]!r} is run a second time by gradient checkpointing, when nothing "
                "is mixed; mix at the input, the embeddings or the head, or train without it"
            )
        clean = any(isinstance(part, Term) and not part.recipe for part in self.method.modules())
        hidden = sorted(layers - {"input", "head", "auto"})
        if hidden and (clean or len(recipes_of(self.method)) > 1) and "attention_mask" in x:
            raise InputError(
                f"{self.method.name} adds mixed samples to others at layer={hidden[0]!r}, when "
                "the model has its attention mask already; mix at the head, or by one term alone"
            )
        if "head" not in layers:
            return
        name, head = find_head(model, x, self.method.head)
        seen: list[Tensor] = []
        handle = head.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        try:
            with inference(model), torch.compiler.set_stance("force_eager"):
                model(x)
        finally:
            handle.remove()
        if seen and seen[-1].ndim != 2:
            raise InputError(
                f"the head {name!r} runs on each token, shape {tuple(seen[-1].shape)}, and the "
                "model takes one of them: samples of different lengths can't be mixed there; name "
                "another layer, mixup_arguments={'layer': ...}"
            )

    # --------------------------------------------------------------------------------------- data

    def _remembers(self) -> bool:
        return any(recipe.coefficient.remembers for recipe in recipes_of(self.method))

    def get_train_dataloader(self) -> Any:
        """Return the Trainer's loader; with positions where the method remembers samples."""
        if not self._remembers():
            return super().get_train_dataloader()
        dataset, collator = self.train_dataset, self.data_collator
        indexed = IndexedDataset(dataset, key=_INDEX)
        self.train_dataset, self.data_collator = indexed, indexed.collate(collator)
        try:
            return super().get_train_dataloader()
        finally:
            self.train_dataset, self.data_collator = dataset, collator

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        columns: Any = self._signature_columns
        if _INDEX not in columns:  # else it would be removed as unused
            columns.append(_INDEX)

    # -------------------------------------------------------------------------------- checkpoints

    def _state_file(self, folder: str) -> Path:
        """Return where this process's state is; what is remembered is each process's own."""
        own = f"_{self.args.process_index}" if self.args.world_size > 1 else ""
        return Path(folder) / f"mixwell{own}.pt"

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        generator = self.method.generator
        state = {
            "name": self.method.name,
            "method": self.method.state_dict(),
            "generator": None if generator is None else generator.get_state(),
        }
        path = self._state_file(output_dir)
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(state, path)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        path = self._state_file(checkpoint)
        state = torch.load(path, map_location="cpu", weights_only=True) if path.is_file() else {}
        if state.get("name") != self.method.name:
            _LOG.warning(
                "%s holds %s: %s starts without a state of its own",
                path,
                f"the state of {state['name']}" if state else "no method's state",
                self.method.name,
            )
            return
        self.method.load_state_dict(state["method"])
        if self.method.generator is not None and state["generator"] is not None:
            self.method.generator.set_state(state["generator"])
