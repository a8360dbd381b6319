import copy
import gc
import importlib.util
import socket
import sys
from pathlib import Path

import pytest
import torch
from helpers import run_scripts
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, SequentialSampler

import mixwell
from mixwell import InputError, Method, Recipe, Term
from mixwell.coefficient import Constant
from mixwell.heads import find_head, unwrap
from mixwell.interpolation import Linear
from mixwell.losses import MixedCrossEntropy
from mixwell.losses.base import Loss
from mixwell.pairing import Flip, Pairing

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from transformers import (  # noqa: E402
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
)

from mixwell.compat import huggingface  # noqa: E402
from mixwell.compat.huggingface import Keywords, MixupTrainer  # noqa: E402


@pytest.fixture(scope="module", autouse=True)
def _quick_collection():
    """The Trainer collects garbage whenever it starts: not all that was imported as well."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
DRY = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def make_vit(**config):
    torch.manual_seed(7)
    images = {"image_size": 8, "patch_size": 4, "num_channels": 1}
    config = {"num_labels": 3, "intermediate_size": 32, **SIZES, **DRY, **images, **config}
    return ViTForImageClassification(ViTConfig(**config))


def make_bert(**config):
    torch.manual_seed(7)
    words = {"vocab_size": 30, "max_position_embeddings": 12}
    config = {"num_labels": 3, "intermediate_size": 32, **SIZES, **DRY, **words, **config}
    return BertForSequenceClassification(BertConfig(**config))


def make_images(count=24):
    generator = torch.Generator().manual_seed(1)
    return [
        {"pixel_values": torch.randn(1, 8, 8, generator=generator), "labels": position % 3}
        for position in range(count)
    ]


def make_texts(lengths=(12, 3, 5, 9, 2, 7, 4, 12)):
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(1, 30, (len(lengths), 12), generator=generator)
    mask = (torch.arange(12) < torch.tensor(lengths)[:, None]).long()
    labels = torch.arange(len(lengths)) % 3
    return [
        {"input_ids": i * m, "attention_mask": m, "labels": y}
        for i, m, y in zip(ids, mask, labels.tolist(), strict=True)
    ]


def stack(samples):
    return {key: torch.stack([torch.as_tensor(s[key]) for s in samples]) for key in samples[0]}


def make_args(folder, **options):
    options = {
        "per_device_train_batch_size": 8, "max_steps": 3, "use_cpu": True, "report_to": [],
        "save_strategy": "no", "disable_tqdm": True, "logging_steps": 1, "optim": "sgd",
        "learning_rate": 0.5, "lr_scheduler_type": "constant", "seed": 5, **options,
    }  # fmt: skip
    return TrainingArguments(str(folder), **options)


class InOrder(MixupTrainer):
    """Goes through the data as they are."""

    def _get_train_sampler(self, *args):
        return SequentialSampler(self.train_dataset)


class Neighbours(Pairing):
    """Pairs 0 with 1, 2 with 3, ...: the same pairs, however a batch is cut in even parts."""

    def forward(self, batch):
        return torch.arange(len(batch)) ^ 1


def deterministic(layer="input", pairing=None, lam=0.3):
    recipe = Recipe(pairing or Neighbours(), Constant(lam), Linear(layer))
    return Method(Term(MixedCrossEntropy(), recipe), num_classes=3, name="deterministic")


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def train(
    folder, model=None, data=None, trainer=MixupTrainer, mixup=None, settings=None, **options
):
    kwargs = {} if trainer is Trainer else {"mixup": mixup, "mixup_arguments": settings}
    trainer = trainer(
        model or make_vit(), make_args(folder, **options),
        train_dataset=data or make_images(), **kwargs,
    )  # fmt: skip
    trainer.train()
    return trainer


# -------------------------------------------------------------------------------------- training


@pytest.mark.cases(quick=2)
@pytest.mark.parametrize(
    "name",
    ["mixup", "cutmix", "manifold_mixup", "regmixup", "sk_mixup+decoupled", "infinite_class"],
)
def test_images_train_with_any_method(name, tmp_path):
    trainer = train(tmp_path, mixup=name)
    assert trainer.method.name == name
    assert trainer.method.num_classes == 3
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert len(losses) == 3
    assert all(torch.tensor(losses).isfinite())
    assert (weights(trainer.model) != weights(make_vit())).any()
    left = [m for m in trainer.model.modules() if m._forward_hooks or m._forward_pre_hooks]
    assert not left
    assert trainer.model.state_dict().keys() == make_vit().state_dict().keys()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 4},
        {"label_smoothing_factor": 0.2},
        {"bf16": True},
        {"gradient_accumulation_steps": 2, "max_steps": 4, "per_device_train_batch_size": 5},
    ],
)
def test_erm_is_the_plain_trainer(options, tmp_path):
    """Step for step the same losses and weights; the last batch of an epoch is a smaller one."""
    ours = train(tmp_path, mixup="erm", data=make_images(18), **options)
    plain = train(tmp_path, trainer=Trainer, data=make_images(18), **options)
    near = {"rtol": 1e-3, "atol": 1e-3} if options.get("bf16") else {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(weights(ours.model), weights(plain.model), **near)
    for a, b in zip(ours.state.log_history[:-1], plain.state.log_history[:-1], strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=2e-2 if options.get("bf16") else 1e-4)


def mixed_gradient_step(model, samples, learning_rate=0.5):
    """One step of gradient descent, written out: neighbours mixed, λ = 0.3."""
    batch = stack(samples)
    x, y = batch["pixel_values"], batch["labels"]
    partner = torch.arange(len(y)) ^ 1
    logits = model(pixel_values=0.3 * x + 0.7 * x[partner]).logits
    loss = 0.3 * F.cross_entropy(logits, y) + 0.7 * F.cross_entropy(logits, y[partner])
    loss.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= learning_rate * parameter.grad
    return loss.item()


@pytest.mark.parametrize(
    ("size", "steps", "count"), [(16, 1, 16), (8, 2, 16), (4, 4, 16), (8, 2, 12)]
)
def test_accumulated_batches_are_one_large_batch(size, steps, count, tmp_path):
    """2 x 8 is 16, and 8 + 4 is 12: weights, and the loss that is logged."""
    trainer = train(
        tmp_path, data=make_images(count), trainer=InOrder, mixup=deterministic(), max_steps=1,
        per_device_train_batch_size=size, gradient_accumulation_steps=steps, max_grad_norm=0.0,
    )  # fmt: skip
    model = make_vit()
    loss = mixed_gradient_step(model, make_images(count))
    torch.testing.assert_close(weights(trainer.model), weights(model), rtol=1e-4, atol=1e-6)
    assert trainer.state.log_history[0]["loss"] == pytest.approx(loss, rel=1e-4)


def test_accumulation_under_the_rule_of_older_trainers(tmp_path):
    """They divide by the number of batches unless the model's loss counts samples, as ViT's."""

    class Older(Trainer):
        def training_step(self, model, inputs, num_items_in_batch=None):
            model.train()
            loss = self.compute_loss(model, inputs, num_items_in_batch=num_items_in_batch)
            if not self.model_accepts_loss_kwargs and self.compute_loss_func is None:
                loss = loss / self.args.gradient_accumulation_steps
            self.accelerator.backward(loss)
            return loss.detach()

    class Mine(InOrder, Older):
        pass

    trainer = train(
        tmp_path, data=make_images(16), trainer=Mine, mixup=deterministic(), max_steps=1,
        gradient_accumulation_steps=2, max_grad_norm=0.0,
    )  # fmt: skip
    model = make_vit()
    mixed_gradient_step(model, make_images(16))
    torch.testing.assert_close(weights(trainer.model), weights(model), rtol=1e-4, atol=1e-6)
    assert trainer.model_accepts_loss_kwargs


def test_evaluation_is_the_plain_trainers(tmp_path):
    data = make_images()
    kwargs = {
        "eval_dataset": data,
        "compute_metrics": lambda p: {"sum": float(p.predictions.sum())},
    }
    ours = MixupTrainer(make_vit(), make_args(tmp_path), mixup="sk_mixup+decoupled", **kwargs)
    plain = Trainer(make_vit(), make_args(tmp_path), **kwargs)
    a, b = ours.evaluate(), plain.evaluate()
    assert a["eval_loss"] == pytest.approx(b["eval_loss"], rel=1e-6)
    assert a["eval_sum"] == pytest.approx(b["eval_sum"], rel=1e-6)
    assert (ours.predict(data).predictions == plain.predict(data).predictions).all()
    x = {key: value for key, value in stack(data).items() if key != "labels"}
    torch.testing.assert_close(
        torch.tensor(ours.predict(data).predictions), make_vit().eval()(**x).logits
    )


def test_evaluation_within_training(tmp_path):
    trainer = MixupTrainer(
        make_vit(), make_args(tmp_path, eval_strategy="steps", eval_steps=1),
        train_dataset=make_images(), eval_dataset=make_images(), mixup="am_mixup",
    )  # fmt: skip
    trainer.train()
    assert sum("eval_loss" in row for row in trainer.state.log_history) == 3


def test_progress_is_that_of_the_trainer(tmp_path):
    seen = []

    class Watch(TrainerCallback):
        def on_substep_end(self, args, state, control, **kwargs):
            seen.append(float(trainer.method.progress))

        on_step_end = on_substep_end

    trainer = MixupTrainer(
        make_vit(), make_args(tmp_path, max_steps=4, gradient_accumulation_steps=2),
        train_dataset=make_images(64), mixup="am_mixup", callbacks=[Watch()],
    )  # fmt: skip
    trainer.train()
    assert seen == [0, 0, 0.25, 0.25, 0.5, 0.5, 0.75, 0.75]


def test_outputs_are_those_of_the_mixed_samples(tmp_path):
    trainer = MixupTrainer(make_vit(), make_args(tmp_path), mixup=deterministic())
    batch = stack(make_images(6))
    loss, outputs = trainer.compute_loss(trainer.model.train(), batch, return_outputs=True)
    x = batch["pixel_values"]
    mixed = 0.3 * x + 0.7 * x[torch.arange(6) ^ 1]
    torch.testing.assert_close(outputs.logits, trainer.model(pixel_values=mixed).logits)
    assert outputs.loss is loss
    assert set(batch) == {"pixel_values", "labels"}


def test_bf16_runs_the_model_in_it_and_the_loss_in_float32(tmp_path):
    seen = []

    class Watched(MixupTrainer):
        def compute_loss(self, model, inputs, **kwargs):
            loss = super().compute_loss(model, inputs, **kwargs)
            seen.append(loss.dtype)
            return loss

    model = make_vit()

    def watch(module, args, output):
        if module.training:  # not where the losses are compared
            seen.append(output.dtype)

    model.classifier.register_forward_hook(watch)
    train(tmp_path, model=model, mixup="infinite_class", trainer=Watched, bf16=True)
    assert seen == [torch.bfloat16, torch.float32] * 3


@pytest.mark.slow
def test_a_compiled_model(tmp_path):
    torch.compiler.reset()
    trainer = train(tmp_path, mixup="am_mixup", torch_compile=True, torch_compile_backend="eager")
    assert trainer.model_wrapped is not trainer.model
    assert trainer.state.log_history[0]["loss"] > 1.5  # both of its terms
    torch.compiler.reset()


def test_it_lies_over_another_trainer(tmp_path):
    calls = []

    class Other(Trainer):
        def compute_loss(self, model, *args, **kwargs):
            calls.append(model.training)
            return super().compute_loss(model, *args, **kwargs)

        def log(self, logs, *args, **kwargs):
            super().log({**logs, "own": 1.0}, *args, **kwargs)

    class Mine(MixupTrainer, Other):
        pass

    with pytest.warns(UserWarning, match=r"Other\.compute_loss runs in evaluation alone") as said:
        trainer = train(tmp_path, trainer=Mine, mixup="mixup")
    assert len(said) == 1
    trainer.evaluate(make_images())
    assert calls
    assert not any(calls)
    assert trainer.state.log_history[0]["own"] == 1.0


def test_a_model_made_at_the_start(tmp_path):
    trainer = MixupTrainer(
        model_init=lambda: make_vit(),
        args=make_args(tmp_path),
        train_dataset=make_images(),
        mixup="am_mixup",
    )
    assert trainer.method.num_classes == 3
    assert trainer.train().training_loss > 0


def test_regression(tmp_path):
    data = [{**sample, "labels": float(at)} for at, sample in enumerate(make_images())]
    kinds = ({"num_labels": 1}, {"num_labels": 1, "problem_type": "regression"})
    for config in kinds:
        trainer = train(
            tmp_path, model=make_vit(**config), data=data, mixup="c_mixup", learning_rate=1e-3
        )
        assert trainer.method.task.name == "regression"
        assert trainer.train().training_loss > 1


def test_several_classes_a_sample(tmp_path):
    data = [
        {**sample, "labels": torch.tensor([1.0, at % 2, at % 3 == 0])}
        for at, sample in enumerate(make_images())
    ]
    model = make_vit(problem_type="multi_label_classification")
    trainer = train(tmp_path, model=model, data=data, mixup="mixup")
    assert trainer.method.task.name == "multilabel"
    # Unmixed it is the model's own loss.
    method = mixwell.create("erm", num_classes=3, task="multilabel")
    batch = stack(data)
    own = model.eval()(**batch).loss
    loss = method(Keywords(model), {"pixel_values": batch["pixel_values"]}, batch["labels"])
    torch.testing.assert_close(loss, own)


def test_soft_labels_where_the_config_says_one_class(tmp_path):
    images = make_images()
    soft = [{**s, "labels": F.one_hot(torch.tensor(s["labels"]), 3).float()} for s in images]
    model = make_vit(problem_type="single_label_classification")
    trainer = train(
        tmp_path, model=model, data=soft, trainer=InOrder, mixup=deterministic(), max_steps=1
    )
    hard = train(tmp_path, data=images, trainer=InOrder, mixup=deterministic(), max_steps=1)
    torch.testing.assert_close(weights(trainer.model), weights(hard.model))


# ---------------------------------------------------------------------------------- parts of data


def test_features_are_remembered_by_position(tmp_path):
    """With the Trainer's own removal of unused columns; unmixed (p = 0), so all are kept."""
    data, model = make_images(20), make_vit()
    settings = {"distance": "remembered", "capacity": 32, "p": 0.0}
    trainer = train(
        tmp_path, model=model, data=data, mixup="sk_mixup", settings=settings,
        learning_rate=0.0, max_steps=3,
    )  # fmt: skip
    assert trainer.args.remove_unused_columns
    memory = trainer.method.recipe.coefficient.memory
    assert memory.owner[:20].tolist() == list(range(20))
    x = stack(data)["pixel_values"]
    features = model.eval().vit(pixel_values=x).last_hidden_state[:, 0]
    torch.testing.assert_close(memory.features[:20].float(), features, rtol=1e-3, atol=2e-3)
    assert trainer.train_dataset is data
    trainer.evaluate(data)


def test_a_collator_of_ones_own_and_unused_columns(tmp_path):
    seen = []

    def collate(samples):
        seen.append(set(samples[0]))
        return stack(samples)

    data = [{**sample, "name": str(at)} for at, sample in enumerate(make_images(20))]
    trainer = MixupTrainer(
        make_vit(), make_args(tmp_path), train_dataset=data, data_collator=collate,
        mixup="sk_mixup", mixup_arguments={"distance": "remembered", "capacity": 20, "p": 0.0},
    )  # fmt: skip
    trainer.train()
    assert seen[0] == {"pixel_values", "labels"}
    assert trainer.method.recipe.coefficient.memory.owner[:20].tolist() == list(range(20))
    assert trainer.data_collator is collate


def test_a_stream_has_no_positions(tmp_path):
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(make_images())

    settings = {"distance": "remembered"}
    trainer = MixupTrainer(
        make_vit(), make_args(tmp_path), train_dataset=Stream(),
        mixup="sk_mixup", mixup_arguments=settings,
    )  # fmt: skip
    with pytest.raises(InputError, match="dataset must be map-style"):
        trainer.train()
    trainer = train(tmp_path, data=Stream(), mixup="sk_mixup")
    assert trainer.state.global_step == 3


# ----------------------------------------------------------------------------------- checkpoints


def resumable(folder, name, settings, **options):
    """Of BERT: the Trainer of transformers 5.23 does not restore ViT's own weights."""
    options = {"max_steps": 8, "save_strategy": "steps", "save_steps": 5, **options}
    return MixupTrainer(
        make_bert(hidden_dropout_prob=0.1), make_args(folder, **options),
        train_dataset=make_texts() * 3, mixup=name, mixup_arguments=settings,
    )  # fmt: skip


REMEMBERED = {"distance": "remembered", "capacity": 40, "layer": "bert.embeddings"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sk_mixup", "mixup+am_mixup"])
def test_a_resumed_run_is_the_run(name, tmp_path):
    """Stopped in mid-epoch and resumed: memory, progress and all random draws go on."""

    def make():
        if name == "sk_mixup":
            return resumable(tmp_path, name, REMEMBERED)
        return resumable(tmp_path, name, {"generator": torch.Generator().manual_seed(3)})

    whole, resumed = make(), make()
    whole.train()
    assert (tmp_path / "checkpoint-5" / "mixwell.pt").is_file()
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    assert torch.equal(weights(resumed.model), weights(whole.model))
    states = [trainer.method.state_dict() for trainer in (whole, resumed)]
    for key, value in states[0].items():
        assert torch.equal(states[1][key], value), key


@pytest.mark.slow
def test_without_its_state_it_would_not_be(tmp_path):
    """The test above can fail: memory that starts anew gives another run."""
    whole, resumed = (resumable(tmp_path, "sk_mixup", REMEMBERED) for _ in range(2))
    whole.train()
    (tmp_path / "checkpoint-5" / "mixwell.pt").unlink()
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    assert not torch.equal(weights(resumed.model), weights(whole.model))


def test_a_checkpoint_of_another_method_is_told(tmp_path, caplog):
    def resume(name):
        caplog.clear()
        trainer = resumable(tmp_path, name, {}, max_steps=2, save_steps=1)
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
        return [r.getMessage() for r in caplog.records if r.name == "mixwell"]

    resumable(tmp_path, "mixup", {}, max_steps=2, save_steps=1).train()
    assert not resume("mixup")
    assert "holds the state of mixup: erm starts without" in resume("erm")[0]
    (tmp_path / "checkpoint-1" / "mixwell.pt").unlink()
    assert "holds no method's state: mixup starts without" in resume("mixup")[0]


def test_weights_alone_are_saved_alone(tmp_path):
    train(tmp_path, mixup="mixup", save_strategy="steps", save_steps=3, save_only_model=True)
    assert not (tmp_path / "checkpoint-3" / "mixwell.pt").exists()
    model = ViTForImageClassification.from_pretrained(tmp_path / "checkpoint-3")
    assert model.state_dict().keys() == make_vit().state_dict().keys()


# ------------------------------------------------------------------------------------------ text


def test_text_is_mixed_at_the_head_by_itself(tmp_path):
    """λ and its loss on the classifier's input, against the same written out."""
    trainer = MixupTrainer(make_bert(), make_args(tmp_path), mixup="mixup")
    assert trainer.method.recipe.interpolation.layers == ["head"]
    batch = stack(make_texts())
    torch.manual_seed(3)
    loss = trainer.compute_loss(trainer.model.train(), dict(batch))
    torch.manual_seed(3)
    step = trainer.method.step(
        Keywords(trainer.model), {k: v for k, v in batch.items() if k != "labels"}, batch["labels"]
    )
    torch.testing.assert_close(loss, step.loss)
    labels = batch.pop("labels")
    features = trainer.model.bert(**batch).pooler_output
    lam = step.mix.lam[:, None]
    mixed = lam * features + (1 - lam) * features[step.mix.partner]
    logits = trainer.model.classifier(mixed)
    torch.testing.assert_close(step.logits, logits)
    log_p = logits.log_softmax(1)
    rows = range(len(labels))
    expected = -sum(
        step.mix.lam[i] * log_p[i, labels[i]]
        + (1 - step.mix.lam[i]) * log_p[i, labels[step.mix.partner[i]]]
        for i in rows
    ) / len(labels)
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("lam", [0.3, 1.0])
def test_mixed_embeddings_are_seen_to_the_end_of_the_longer_text(lam):
    """The embeddings mixed by hand, run with the union of both texts' masks."""
    model, batch = make_bert(initializer_range=0.5).eval(), stack(make_texts())
    labels = batch.pop("labels")
    method = deterministic("bert.embeddings", Flip(), lam)
    step = method.step(Keywords(model), batch, labels)
    partner = torch.arange(len(labels)).flip(0)
    words = model.bert.embeddings(input_ids=batch["input_ids"])
    seen = batch["attention_mask"]
    if lam < 1:
        words = lam * words + (1 - lam) * words[partner]
        seen = torch.maximum(seen, seen[partner])
    embed = model.bert.embeddings.forward
    model.bert.embeddings.forward = lambda *args, **kwargs: words
    expected = model(batch["input_ids"], attention_mask=seen).logits
    model.bert.embeddings.forward = embed
    torch.testing.assert_close(step.logits, expected)
    if lam < 1:  # it matters
        model.bert.embeddings.forward = lambda *args, **kwargs: words
        alone = model(**batch).logits
        assert (alone - step.logits).abs().max() > 1e-3


@pytest.mark.cases(quick=1)
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("mixup", {"layer": "bert.embeddings"}),
        ("mixup", {"layer": ["bert.embeddings", "bert.encoder.layer.0"]}),
        ("manifold_mixup", {"layer": ["bert.embeddings", "head"]}),
        ("sk_mixup+decoupled", {}),
        ("sk_mixup", {"distance": "remembered", "capacity": 8}),
        ("regmixup", {}),
        ("am_mixup+infinite_class", {}),
        ("remix", {"class_counts": [3.0, 3.0, 2.0]}),
    ],
)
def test_texts_train_with_any_method(name, settings, tmp_path):
    trainer = train(
        tmp_path, model=make_bert(), data=make_texts(), mixup=name, settings=settings,
        per_device_train_batch_size=4,
    )  # fmt: skip
    assert torch.tensor([row["loss"] for row in trainer.state.log_history[:-1]]).isfinite().all()
    parts = (weights(trainer.model.bert), weights(make_bert().bert))
    assert (parts[0] != parts[1]).any()
    trainer.evaluate(make_texts())


def test_a_model_that_takes_the_last_token_of_each_text_is_refused(tmp_path):
    model = GPT2ForSequenceClassification(
        GPT2Config(vocab_size=30, n_positions=12, n_embd=16, n_layer=1, n_head=2, num_labels=3,
                   pad_token_id=0)
    )  # fmt: skip
    with pytest.raises(InputError, match="which positions of 'score' become the logits"):
        train(tmp_path, model=model, data=make_texts(), mixup="mixup")
    settings = {"layer": "transformer.wte"}  # the same positions, of one of the two texts
    with pytest.raises(InputError, match=r"x\['input_ids'\] reaches them on a path around it"):
        train(tmp_path, model=model, data=make_texts(), mixup="mixup", settings=settings)


# ----------------------------------------------------------------------------------------- audio


def make_wav2vec2():
    torch.manual_seed(7)
    config = transformers.Wav2Vec2Config(
        num_labels=3, intermediate_size=32, conv_dim=(8, 8), conv_stride=(5, 2),
        conv_kernel=(10, 3), num_feat_extract_layers=2, num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
        mask_time_prob=0.0, classifier_proj_size=8, hidden_dropout=0.0, attention_dropout=0.0,
        activation_dropout=0.0, final_dropout=0.0, feat_proj_dropout=0.0, layerdrop=0.0,
        feat_extract_norm="layer", **SIZES,
    )  # fmt: skip
    return transformers.Wav2Vec2ForSequenceClassification(config)


def make_sounds(lengths=(200, 80, 120, 200, 60, 150, 90, 200)):
    generator = torch.Generator().manual_seed(3)
    mask = (torch.arange(200) < torch.tensor(lengths)[:, None]).long()
    sounds = torch.randn(len(lengths), 200, generator=generator) * mask
    return [
        {"input_values": sound, "attention_mask": seen, "labels": place % 3}
        for place, (sound, seen) in enumerate(zip(sounds, mask, strict=True))
    ]


def test_sounds_are_mixed_at_the_input_and_seen_to_the_end_of_the_longer(tmp_path):
    trainer = MixupTrainer(make_wav2vec2(), make_args(tmp_path), mixup=deterministic())
    batch = stack(make_sounds())
    loss, outputs = trainer.compute_loss(trainer.model.train(), dict(batch), return_outputs=True)
    partner = torch.arange(8) ^ 1
    x, seen = batch["input_values"], batch["attention_mask"]
    mixed, both = 0.3 * x + 0.7 * x[partner], torch.maximum(seen, seen[partner])
    expected = trainer.model(input_values=mixed, attention_mask=both).logits
    torch.testing.assert_close(outputs.logits, expected)
    alone = trainer.model(input_values=mixed, attention_mask=seen).logits
    assert (alone - expected).abs().max() > 1e-4
    y = batch["labels"]
    written = 0.3 * F.cross_entropy(expected, y) + 0.7 * F.cross_entropy(expected, y[partner])
    torch.testing.assert_close(loss, written)


def test_a_sound_that_is_not_mixed_keeps_its_mask(tmp_path):
    trainer = MixupTrainer(make_wav2vec2(), make_args(tmp_path), mixup=deterministic(lam=1.0))
    batch = stack(make_sounds())
    _, outputs = trainer.compute_loss(trainer.model.train(), dict(batch), return_outputs=True)
    batch.pop("labels")
    torch.testing.assert_close(outputs.logits, trainer.model(**batch).logits)


@pytest.mark.parametrize("name", ["mixup", "regmixup", "sk_mixup+decoupled"])
def test_sounds_train_with_any_method(name, tmp_path):
    trainer = train(tmp_path, model=make_wav2vec2(), data=make_sounds(), mixup=name)
    assert trainer.method.recipe.interpolation.layers == ["input"]
    assert trainer.state.log_history[-1]["train_loss"] > 0


def test_whole_numbers_at_the_input_are_named(tmp_path):
    data = [{**sound, "speaker": 3} for sound in make_sounds()]
    trainer = MixupTrainer(make_wav2vec2(), make_args(tmp_path), mixup="mixup")
    with pytest.raises(InputError, match="mixup mixes at the input, and 'speaker' holds whole"):
        trainer.compute_loss(trainer.model.train(), stack(data))


# --------------------------------------------------------- what the method takes the place of


class Weighted(ViTForImageClassification):
    """Whose loss has class weights."""

    def forward(self, pixel_values=None, labels=None, **kwargs):
        output = super().forward(pixel_values=pixel_values)
        if labels is not None:
            weight = torch.tensor([1.0, 5.0, 25.0])
            output.loss = F.cross_entropy(output.logits, labels, weight)
        return output


def test_a_loss_of_the_models_own_is_said_once(tmp_path, recwarn):
    config = make_vit().config
    with pytest.warns(UserWarning, match="Weighted has a loss of its own") as said:
        train(tmp_path, model=Weighted(config), mixup="mixup")
    assert len([w for w in said if "loss of its own" in str(w.message)]) == 1
    settings = {"class_weight": [1.0, 5.0, 25.0]}
    recwarn.clear()
    trainer = train(tmp_path, model=Weighted(config), mixup="mixup", settings=settings)
    train(tmp_path, mixup="mixup")
    train(tmp_path, mixup="mixup", bf16=True)
    assert not [w for w in recwarn if "loss of its own" in str(w.message)]
    assert trainer.state.global_step == 3


def test_the_advice_on_a_models_own_loss_works(tmp_path):
    """With its weights the method without mixing trains as the plain Trainer does."""
    settings = {"class_weight": [1.0, 5.0, 25.0]}
    torch.manual_seed(7)
    first = Weighted(make_vit().config)
    second = copy.deepcopy(first)
    ours = train(tmp_path, model=first, mixup="erm", settings=settings)
    plain = train(tmp_path, model=second, trainer=Trainer)
    torch.testing.assert_close(weights(ours.model), weights(plain.model), rtol=1e-4, atol=1e-5)


def test_a_compute_loss_that_leaves_mixing_out_is_refused(tmp_path):
    class Mine(MixupTrainer):
        def compute_loss(self, model, inputs, **kwargs):
            return model(**inputs).loss

    with pytest.raises(InputError, match=r"nothing is mixed: Mine\.compute_loss does not reach"):
        train(tmp_path, trainer=Mine, mixup="mixup")

    class Heavier(MixupTrainer):
        """As the message says: it has super's, and more."""

        def compute_loss(self, model, inputs, **kwargs):
            return 2 * super().compute_loss(model, inputs, **kwargs)

    assert train(tmp_path, trainer=Heavier, mixup="mixup").state.global_step == 3


class LearntTemperature(Loss):
    """A part with a parameter."""

    def __init__(self):
        super().__init__()
        self.log_t = nn.Parameter(torch.zeros(()))

    def forward(self, logits, target):
        return F.cross_entropy(logits / self.log_t.exp(), target.dense(3))


@pytest.mark.slow
def test_parameters_of_the_method_are_trained_and_go_on(tmp_path):
    def make():
        recipe = Recipe(interpolation=Linear("head"))
        method = Method(Term(LearntTemperature(), recipe), num_classes=3, name="learnt")
        return resumable(tmp_path, method, None)

    whole, resumed = make(), make()
    whole.train()
    learnt = whole.method.terms[0].loss.log_t
    assert learnt.detach().abs() > 1e-4
    (found,) = (g for g in whole.optimizer.param_groups if any(p is learnt for p in g["params"]))
    assert sum(p is learnt for p in found["params"]) == 1
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    assert torch.equal(resumed.method.terms[0].loss.log_t, learnt)


# ------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("mixup", "settings", "message"),
    [
        ("cutmix", {}, "'cutmix' mixes at the input, where tokens can't be mixed"),
        ("cutmix+am_mixup", {}, "mixes at the input, where tokens can't be mixed"),
        ("manifold_mixup", {}, "name the layers: mixup_arguments="),
        ("mixupp", {}, "'mixupp' is unknown"),
        ("mixup", {"alpah": 1}, "alpah"),
        (deterministic(), {"alpha": 1}, "mixup is made already, deterministic"),
    ],
)
def test_settings_that_make_no_sense_for_text(mixup, settings, message, tmp_path):
    with pytest.raises(InputError, match=message):
        MixupTrainer(make_bert(), make_args(tmp_path), mixup=mixup, mixup_arguments=settings)


@pytest.mark.parametrize("name", ["am_mixup", "regmixup", "mixup+am_mixup"])
def test_texts_are_not_added_behind_the_attention_mask(name, tmp_path):
    settings = {"layer": "bert.embeddings"}
    with pytest.raises(InputError, match=r"to others at layer='bert\.embeddings'"):
        train(tmp_path, model=make_bert(), data=make_texts(), mixup=name, settings=settings)
    settings = {"layer": "vit.embeddings"}  # images have none
    assert train(tmp_path, mixup=name, settings=settings, max_steps=1)


def test_tokens_are_not_mixed_at_the_input(tmp_path):
    with pytest.raises(InputError, match="mix a hidden layer"):
        train(tmp_path, model=make_bert(), data=make_texts(), mixup=deterministic())


@pytest.mark.parametrize("mixup", ["infinite_class", "regmixup+infinite_class"])
def test_label_smoothing_the_method_does_not_know(mixup, tmp_path):
    """And what the message says does: to leave it out."""
    args = make_args(tmp_path, label_smoothing_factor=0.1)
    with pytest.raises(InputError, match=r"label_smoothing_factor=0.1: .* loss \w+ has.* at 0$"):
        MixupTrainer(make_vit(), args, mixup=mixup)
    args.label_smoothing_factor = 0.0
    assert MixupTrainer(make_vit(), args, mixup=mixup)


def test_the_advice_on_label_smoothing_that_differs_works(tmp_path):
    args = make_args(tmp_path, label_smoothing_factor=0.1)
    settings = {"label_smoothing": 0.2}
    with pytest.raises(InputError, match=r"has 0\.2; leave one of the two out"):
        MixupTrainer(make_vit(), args, mixup="mixup", mixup_arguments=settings)
    assert MixupTrainer(make_vit(), args, mixup="mixup")
    made = mixwell.create("mixup", num_classes=3)
    with pytest.raises(InputError, match=r"has 0\.0; .* make the method with label_smoothing=0\.1"):
        MixupTrainer(make_vit(), args, mixup=made)
    made = mixwell.create("mixup", num_classes=3, label_smoothing=0.1)
    assert MixupTrainer(make_vit(), args, mixup=made)
    args.label_smoothing_factor = 0.0
    assert MixupTrainer(make_vit(), args, mixup="mixup", mixup_arguments=settings)


def test_label_smoothing_goes_to_the_method(tmp_path):
    args = make_args(tmp_path, label_smoothing_factor=0.1)
    for name in ("mixup", "decoupled", "regmixup"):
        method = MixupTrainer(make_vit(), args, mixup=name).method
        assert {term.loss.label_smoothing for term in method.terms} == {0.1}


@pytest.mark.parametrize(
    ("mixup", "settings", "words"),
    [
        (None, None, "mixup must be a mixwell.Method or the name of one, got None"),
        (nn.Linear(2, 2), None, "mixup must be a mixwell.Method or the name of one, got Linear"),
        ("mixup", "alpha", "mixup_arguments must be a dict or None, got 'alpha'"),
        ("mixup", {"num_classes": 3.0}, "num_classes must be a whole number"),
        ("mixup", {"loss": nn.CrossEntropyLoss()}, "loss"),
    ],
)
def test_a_bad_argument_is_named(mixup, settings, words, tmp_path):
    with pytest.raises(InputError, match=words):
        MixupTrainer(make_vit(), make_args(tmp_path), mixup=mixup, mixup_arguments=settings)


def test_the_advice_on_a_loss_of_ones_own_works(tmp_path):
    args, loss = make_args(tmp_path), MixedCrossEntropy(label_smoothing=0.3)
    trainer = MixupTrainer(make_vit(), args, mixup="mixup", mixup_arguments={"loss": loss})
    assert trainer.method.terms[0].loss is loss


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda b: {"labels": b["labels"]}, "x must be a tensor or hold tensors"),
        (lambda b: {**b, "labels": b["labels"].tolist()}, "labels must be a tensor, got list"),
        (lambda b: {**b, "labels": b["labels"][:3]}, "batch-first and equally long"),
        (lambda b: {**b, "labels": b["labels"] - 100}, "y must hold class indices"),
        (
            lambda b: {**b, "pixel_values": b["pixel_values"].long()},
            r"'pixel_values' holds whole numbers \(torch.int64\)",
        ),
        (lambda b: {"pixel_values": b["pixel_values"], "label": b["labels"]}, "has no 'labels'"),
    ],
)
def test_a_bad_batch_is_named(change, words, tmp_path):
    trainer = MixupTrainer(make_vit(), make_args(tmp_path), mixup="mixup")
    with pytest.raises(InputError, match=words):
        trainer.compute_loss(trainer.model.train(), change(stack(make_images(6))))


def test_a_loader_of_ones_own_has_no_positions(tmp_path):
    class Mine(MixupTrainer):
        def get_train_dataloader(self):
            return DataLoader(self.train_dataset, 8, collate_fn=stack)

    settings = {"distance": "remembered", "capacity": 32}
    with pytest.raises(InputError, match=r"remembers samples.* must call super\(\)"):
        train(tmp_path, trainer=Mine, mixup="sk_mixup", settings=settings)
    assert train(tmp_path, trainer=Mine, mixup="mixup").state.global_step == 3


def test_batches_and_arguments_that_do_not_fit(tmp_path):
    args = make_args(tmp_path)
    with pytest.raises(InputError, match="compute_loss_func: the method computes the loss"):
        MixupTrainer(make_vit(), args, mixup="mixup", compute_loss_func=lambda *a, **k: None)
    data = [{"pixel_values": sample["pixel_values"]} for sample in make_images()]
    with pytest.raises(InputError, match="no 'labels'; it has pixel_values"):
        train(tmp_path, data=data, mixup="mixup")
    data = [{**sample, "labels": torch.tensor([1.0, 0, 1])} for sample in make_images()]
    with pytest.raises(InputError, match=r"set model\.config\.problem_type"):
        train(tmp_path, data=data, mixup="mixup")
    data = [{**sample, "labels": 3} for sample in make_images()]
    with pytest.raises(InputError, match=r"class indices in \[0, 2\]"):
        train(tmp_path, data=data, mixup="mixup")


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning")
def test_gradient_checkpointing(reentrant, tmp_path):
    """Where mixing is not run again it changes nothing; else it is refused."""
    options = {
        "gradient_checkpointing": True, "max_steps": 1, "trainer": InOrder,
        "gradient_checkpointing_kwargs": {"use_reentrant": reentrant},
    }  # fmt: skip
    method = deterministic("vit.embeddings")
    plain = train(tmp_path, trainer=InOrder, mixup=method, max_steps=1)
    again = train(tmp_path, mixup=method, **options)
    torch.testing.assert_close(weights(again.model), weights(plain.model))
    block = next(name for name, _ in make_vit().named_modules() if name.endswith(".0"))
    with pytest.raises(InputError, match="run a second time by gradient checkpointing"):
        train(tmp_path, mixup=deterministic(block), **options)


# ----------------------------------------------------------------------------------------- parts


def test_keywords_is_looked_through():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.classifier = nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x, scale):
            return self.classifier(self.left(x).relu() * scale[:, None])

    model = Two()
    keywords = Keywords(model)
    x, y = {"x": torch.randn(6, 4), "scale": torch.rand(6)}, torch.arange(6) % 3
    assert unwrap(keywords) is model
    assert find_head(keywords, x) == ("classifier", model.classifier)
    torch.testing.assert_close(keywords(x), model(x["x"], scale=x["scale"]))
    step = deterministic("head", Flip()).step(keywords, x, y)
    features = model.left(x["x"]).relu() * x["scale"][:, None]
    expected = model.classifier(0.3 * features + 0.7 * features.flip(0))
    torch.testing.assert_close(step.logits, expected)
    mixed = deterministic("input", Flip()).step(keywords, x, y).logits
    both = {key: 0.3 * value + 0.7 * value.flip(0) for key, value in x.items()}
    torch.testing.assert_close(mixed, model(**both))


def test_the_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    spec = importlib.util.spec_from_file_location("copy_of_huggingface", huggingface.__file__)
    with pytest.raises(InputError, match=r"transformers and accelerate: pip install 'mixwell"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


@pytest.mark.slow
def test_two_processes_are_one_large_batch(tmp_path):
    """DDP under accelerate: 2 x 8 is 16; each process keeps its own memory in the checkpoint."""
    script = f"""
    import os, sys
    rank, port = sys.argv[1:]
    os.environ |= {{"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2",
                   "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}}
    import torch
    sys.path.insert(0, {str(Path(__file__).parent.parent)!r})
    sys.path.insert(0, {str(Path(__file__).parent)!r})
    import test_huggingface as t
    trainer = t.train({str(tmp_path)!r}, data=t.make_images(16), trainer=t.InOrder, max_steps=1,
                      mixup=t.deterministic(), max_grad_norm=0.0, ddp_backend="gloo")
    assert trainer.args.world_size == 2
    model = t.make_vit()
    # Batches are dealt out: each process has every other one, whatever its pairs are.
    t.mixed_gradient_step(model, t.make_images(16))
    torch.testing.assert_close(t.weights(trainer.model), t.weights(model), rtol=1e-4, atol=1e-6)
    settings = {{"distance": "remembered", "capacity": 40}}
    options = dict(data=t.make_images(48), mixup="sk_mixup", settings=settings,
                   ddp_backend="gloo", save_strategy="steps", save_steps=3)
    t.train({str(tmp_path)!r}, **options)
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert run_scripts(script, *((rank, port) for rank in range(2))) == [0, 0]
    saved = [
        torch.load(tmp_path / "checkpoint-3" / f"mixwell_{rank}.pt", weights_only=True)["method"]
        for rank in range(2)
    ]
    key = next(key for key in saved[0] if key.endswith("owner"))
    assert not torch.equal(saved[0][key], saved[1][key])
