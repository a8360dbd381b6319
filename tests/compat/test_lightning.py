import copy
import importlib.util
import pickle
import subprocess
import sys
import textwrap
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import mixwell
from mixwell import InputError, Method, Recipe, Term
from mixwell.losses.base import Loss

pytest.importorskip("lightning")

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.tuner import Tuner

from mixwell.compat import lightning as compat
from mixwell.compat.lightning import MixupCallback, MixupMixin
from mixwell.heads import stages

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:lightning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


class Indexed(Dataset):
    """32 samples of 4 classes, with their positions."""

    def __init__(self, size=32):
        generator = torch.Generator().manual_seed(2)
        self.y = torch.arange(size) % 4
        means = 2 * torch.randn(4, 6, generator=generator)
        self.x = means[self.y] + torch.randn(size, 6, generator=generator)

    def __len__(self):
        return len(self.y)

    def __getitem__(self, i):
        return self.x[i], self.y[i], i


class Net(LightningModule):
    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4))
        self.validated = []

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        loss = F.cross_entropy(self(batch[0]), batch[1])
        self.log("own_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        loss = F.cross_entropy(self(batch[0]), batch[1])
        self.validated.append(loss.item())
        self.log("val_loss", loss)

    test_step = validation_step

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


class Mixed(MixupMixin, Net):
    def __init__(self, name="mixup", seed=0, **arguments):
        super().__init__(seed)
        self.mixup = mixwell.create(name, num_classes=4, **arguments)

    def training_step(self, batch, batch_idx):
        loss = self.mixed_loss(batch, index=2)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.validated.append(self.mixed_loss(batch, index=2).item())


class LearntTemperature(Loss):
    """Cross-entropy at a temperature that is trained: a part with a parameter."""

    def __init__(self):
        super().__init__()
        self.log_t = nn.Parameter(torch.zeros(()))

    def forward(self, logits, target):
        return F.cross_entropy(logits / self.log_t.exp(), target.dense(4))


def loader(batch_size=8, **arguments):
    return DataLoader(Indexed(), batch_size, **arguments)


def make_callback(*args, **arguments):
    """The loaders give (x, y, index)."""
    where = {} if "split" in arguments else {"index": 2}
    return MixupCallback(*args, **{**where, **arguments})


def make_trainer(*callbacks, **arguments):
    quiet = {
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "log_every_n_steps": 1,
        "max_epochs": 2,
    }
    return Trainer(callbacks=list(callbacks), **(quiet | arguments))


def generator(seed=7):
    return torch.Generator().manual_seed(seed)


def weights(module):
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


def plain_loop(module, method, epochs=2, accumulate=1, batches=None):
    """Train as a Trainer with the callback should."""
    optimizer = module.configure_optimizers()
    batches = list(batches or loader())
    total = epochs * len(batches)
    for step in range(total):
        x, y, index = batches[step % len(batches)]
        method.set_progress(step / total)
        (method(module, x, y, index=index) / accumulate).backward()
        if (step + 1) % accumulate == 0:
            optimizer.step()
            optimizer.zero_grad()
    return weights(module)


class Spy(Callback):
    """Calls a function after each training batch."""

    def __init__(self, look):
        self.look = look

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.look(trainer, pl_module)


# -------------------------------------------------------------------------------------- training


@pytest.mark.cases(quick=4)
@pytest.mark.parametrize(
    "name", ["erm", "mixup", "sk_mixup+decoupled", "manifold_mixup", "am_mixup", "infinite_class"]
)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_callback_trains_as_a_plain_loop_does(name, accumulate):
    module = Net()
    callback = make_callback(name, num_classes=4, generator=generator())
    make_trainer(callback, accumulate_grad_batches=accumulate).fit(module, loader())
    reference = mixwell.create(name, num_classes=4, generator=generator())
    expected = plain_loop(Net(), reference, accumulate=accumulate)
    torch.testing.assert_close(weights(module), expected, rtol=0, atol=1e-6)
    assert not torch.allclose(weights(module), weights(Net()), atol=1e-3)


def test_the_loss_is_logged_and_the_own_step_does_not_run():
    trainer = make_trainer(make_callback("mixup", num_classes=4))
    trainer.fit(Net(), loader())
    assert set(trainer.callback_metrics) == {"train_loss"}
    assert 0 < trainer.callback_metrics["train_loss"] < 3


def test_the_terms_of_a_loss_with_several_are_logged():
    trainer = make_trainer(make_callback("regmixup", num_classes=4, log="loss"))
    trainer.fit(Net(), loader())
    logged = trainer.callback_metrics
    assert set(logged) == {"loss", "loss_clean", "loss_mixed"}
    torch.testing.assert_close(logged["loss"], logged["loss_clean"] + logged["loss_mixed"])


def test_nothing_is_logged_where_the_name_is_none():
    trainer = make_trainer(make_callback("regmixup", num_classes=4, log=None))
    trainer.fit(Net(), loader())
    assert not trainer.callback_metrics


def test_validation_and_test_are_untouched():
    module, x, y = Net(), Indexed().x, Indexed().y
    trainer = make_trainer(make_callback("mixup", num_classes=4), num_sanity_val_steps=0)
    trainer.fit(module, loader(), loader(32))
    plain = F.cross_entropy(module(x), y).item()
    assert len(module.validated) == 2
    assert module.validated[-1] == pytest.approx(plain)
    trainer.test(module, loader(32), verbose=False)
    assert module.validated[-1] == pytest.approx(plain)
    assert "training_step" not in vars(module)


def test_the_model_may_be_a_part_of_the_module():
    class NoForward(Net):
        forward = LightningModule.forward

    module = NoForward()
    callback = make_callback("mixup", model="net", num_classes=4, generator=generator())
    make_trainer(callback).fit(module, loader())
    method = mixwell.create("mixup", num_classes=4, generator=generator())
    torch.testing.assert_close(weights(module), plain_loop(Net(), method), rtol=0, atol=1e-6)


def test_a_step_without_batch_idx_is_replaced_too():
    class Short(Net):
        def training_step(self, batch):
            raise AssertionError("the own step ran")

    make_trainer(make_callback("mixup", num_classes=4)).fit(Short(), loader())


def test_mixed_precision():
    seen = []

    class Watched(Net):
        def forward(self, x):
            logits = super().forward(x)
            seen.append(logits.dtype)
            return logits

    trainer = make_trainer(make_callback("sk_mixup", num_classes=4), precision="bf16-mixed")
    trainer.fit(Watched(), loader())
    assert set(seen) == {torch.bfloat16}
    assert trainer.callback_metrics["train_loss"].isfinite()


@pytest.mark.cases(quick=2)
@pytest.mark.parametrize(
    ("name", "whole", "sanity_check"),
    [
        *((name, True, False) for name in ("mixup", "sk_mixup", "manifold_mixup", "am_mixup")),
        *((name, False, True) for name in ("mixup", "sk_mixup", "manifold_mixup", "am_mixup")),
        ("sk_mixup", True, True),
    ],
)
def test_compiled_modules(name, whole, sanity_check):
    torch.compiler.reset()
    module = Net()
    if whole:
        compiled = torch.compile(module, backend="eager")
    else:
        module.net = torch.compile(module.net, backend="eager")
        compiled = module
    callback = make_callback(name, num_classes=4, generator=generator())
    validation = [loader()] if sanity_check else []
    make_trainer(callback).fit(compiled, loader(), *validation)
    method = mixwell.create(name, num_classes=4, generator=generator())
    torch.testing.assert_close(weights(module), plain_loop(Net(), method), rtol=0, atol=1e-6)
    # Lightning gave a module compiled as a whole a compiled step of its own.
    assert ("training_step" in vars(module)) == whole
    assert not isinstance(vars(module).get("training_step"), compat._MixedStep)


def test_manifold_mixup_finds_the_stages_of_a_network_that_is_wrapped():
    def block(channels):
        return nn.Sequential(nn.Conv2d(channels, 4, 3, padding=1), nn.ReLU())

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.layer1, self.layer2 = nn.Conv2d(3, 4, 3), block(4), block(4)
            self.fc = nn.Linear(4, 4)

        def forward(self, x):
            return self.fc(self.layer2(self.layer1(self.stem(x))).mean((2, 3)))

    module, x = Net(), torch.randn(2, 3, 8, 8)
    module.net = Network()
    found = stages(module.net, x)
    assert found == ["stem", "layer1.0"]
    assert stages(module, x) == [f"net.{name}" for name in found]
    module.net = torch.compile(module.net, backend="eager")
    again = Net()
    again.net = module.net
    assert stages(again, x) == [f"net._orig_mod.{name}" for name in found]


def test_a_methods_own_parameters_are_trained_by_the_modules_optimizer():
    method = Method(Term(LearntTemperature(), Recipe()), num_classes=4)
    trainer = make_trainer(make_callback(method))
    trainer.fit(Net(), loader())
    loss = method.terms[0].loss
    assert loss.log_t.detach().abs() > 1e-3
    (group,) = trainer.optimizers[0].param_groups
    assert sum(parameter is loss.log_t for parameter in group["params"]) == 1


# -------------------------------------------------------------------------------------- progress


def progress_of(trainer, batches=None):
    seen = []
    callback = next(c for c in trainer.callbacks if isinstance(c, MixupCallback))
    trainer.callbacks.append(Spy(lambda *_: seen.append(callback.method.progress.item())))
    trainer.fit(Net(), loader() if batches is None else batches)
    return seen


@pytest.mark.parametrize(
    ("arguments", "steps", "total"),
    [
        ({"max_epochs": 2}, 8, 8),
        ({"max_epochs": 2, "accumulate_grad_batches": 4}, 8, 8),
        ({"max_epochs": 5, "limit_train_batches": 2}, 10, 10),
        ({"max_epochs": -1, "max_steps": 6}, 6, 6),
        ({"max_epochs": 10, "max_steps": 6}, 6, 6),
        ({"max_epochs": 1, "max_steps": 60}, 4, 4),
    ],
)
def test_progress_is_the_share_that_is_done(arguments, steps, total):
    seen = progress_of(make_trainer(make_callback("am_mixup", num_classes=4), **arguments))
    assert seen == pytest.approx([step / total for step in range(steps)])


def test_progress_does_not_jump_where_accumulation_is_scheduled():
    schedule = GradientAccumulationScheduler({0: 1, 1: 4})
    seen = progress_of(make_trainer(schedule, make_callback("am_mixup", num_classes=4)))
    assert seen == pytest.approx([step / 8 for step in range(8)])


def test_without_a_known_length_progress_goes_by_epochs():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(Indexed())

    trainer = make_trainer(make_callback("am_mixup", num_classes=4))
    assert progress_of(trainer, DataLoader(Stream(), 16)) == [0, 0, 0.5, 0.5]


def test_training_without_an_end_warns_and_leaves_progress_alone():
    callback = make_callback("am_mixup", num_classes=4)
    callback.method.set_progress(0.25)
    trainer = make_trainer(
        callback, Spy(lambda trainer, _: setattr(trainer, "should_stop", True)), max_epochs=-1
    )
    with pytest.warns(UserWarning, match="neither max_epochs nor max_steps"):
        trainer.fit(Net(), loader())
    assert callback.method.progress == 0.25


# ------------------------------------------------------------------------------------- restoring


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_the_module_is_restored_after_an_exception(error):
    def fail(trainer, module):
        assert isinstance(module.training_step, compat._MixedStep)
        raise error("stop")

    module = Net()
    trainer = make_trainer(make_callback("mixup", num_classes=4), Spy(fail))
    with pytest.raises((error, SystemExit)):
        trainer.fit(module, loader())
    assert "training_step" not in vars(module)
    plain = make_trainer()
    plain.fit(module, loader())
    assert set(plain.callback_metrics) == {"own_loss"}


def test_a_step_set_on_the_instance_comes_back():
    module = Net()
    module.training_step = own = lambda batch, batch_idx: module.net(batch[0]).sum()
    make_trainer(make_callback("mixup", num_classes=4)).fit(module, loader())
    assert module.training_step is own


def test_a_learning_rate_search_tries_the_method_and_restores_the_module(tmp_path):
    class Searched(Net):
        def __init__(self):
            super().__init__()
            self.lr = 0.1

        def training_step(self, batch, batch_idx):
            raise AssertionError("the own step ran")

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=self.lr)

    module = Searched()
    trainer = make_trainer(make_callback("mixup", num_classes=4), default_root_dir=tmp_path)
    Tuner(trainer).lr_find(module, loader(), num_training=8)
    assert "training_step" not in vars(module)
    trainer.fit(module, loader())


def test_nothing_of_the_method_is_in_the_module():
    before, keys, module = Net(), list(Net().state_dict()), Net()
    trainer = make_trainer(
        make_callback("sk_mixup+am_mixup", num_classes=4), num_sanity_val_steps=0
    )
    trainer.fit(module, loader())
    assert list(module.state_dict()) == keys
    assert type(module) is type(before)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())
    assert [name for name, _ in module.named_modules()] == [n for n, _ in before.named_modules()]


# ------------------------------------------------------------------------- checkpoints and copies


def test_resuming_gives_the_same_weights_and_memory(tmp_path):
    def make():
        arguments = {"distance": "remembered", "capacity": 32, "generator": generator()}
        return make_callback("sk_mixup+am_mixup", num_classes=4, **arguments)

    straight, whole = make(), Net()
    saved = tmp_path / "saved.ckpt"

    def save(trainer, _):
        if trainer.global_step == 4:
            trainer.save_checkpoint(saved)

    make_trainer(straight, Spy(save), max_epochs=3).fit(whole, loader())
    resumed, module = make(), Net(seed=3)
    make_trainer(resumed, max_epochs=3).fit(module, loader(), ckpt_path=saved)
    assert torch.equal(weights(module), weights(whole))
    expected = straight.method.state_dict()
    assert {name.rpartition(".")[2] for name in expected} >= {"progress", "features", "owner"}
    for name, value in resumed.method.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_a_method_that_copies_the_module_goes_on_from_a_checkpoint(tmp_path):
    """AutoMix keeps a copy of the module in training, with a network and optimizer of its own."""

    class Images(Net):
        def __init__(self, seed=0):
            super().__init__(seed)
            block = nn.Sequential(nn.Conv2d(8, 8, 3, stride=2), nn.ReLU())
            self.net = nn.Sequential(
                *(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), block, nn.AdaptiveAvgPool2d(1)),
                *(nn.Flatten(), nn.Linear(8, 4)),
            )

    def make():
        return MixupCallback("automix", num_classes=4, generator=generator())

    images = TensorDataset(torch.randn(32, 3, 16, 16), Indexed().y)
    batches = DataLoader(images, batch_size=8)
    straight, whole, saved = make(), Images(), tmp_path / "saved.ckpt"

    def save(trainer, _):
        if trainer.global_step == 4:
            trainer.save_checkpoint(saved)

    make_trainer(straight, Spy(save)).fit(whole, batches)
    resumed, module = make(), Images(seed=3)
    make_trainer(resumed).fit(module, batches, ckpt_path=saved)
    assert torch.equal(weights(module), weights(whole))
    assert [name for name, _ in module.named_modules()] == [n for n, _ in Images().named_modules()]


def test_a_methods_parameters_go_on_from_a_checkpoint(tmp_path):
    def make():
        method = Method(Term(LearntTemperature(), Recipe()), num_classes=4, generator=generator())
        return make_callback(method)

    straight, whole, saved = make(), Net(), tmp_path / "saved.ckpt"

    def save(trainer, _):
        if trainer.global_step == 4:
            trainer.save_checkpoint(saved)

    make_trainer(straight, Spy(save)).fit(whole, loader())
    resumed, module = make(), Net(seed=3)
    make_trainer(resumed).fit(module, loader(), ckpt_path=saved)
    assert torch.equal(weights(module), weights(whole))
    assert torch.equal(weights(resumed.method), weights(straight.method))


def test_the_callback_pickles_before_while_and_after_it_trains():
    copies = []

    def look(trainer, module):
        copies.append(pickle.loads(pickle.dumps(callback)))

    callback = make_callback("mixup", num_classes=4, generator=generator(3))
    fresh = pickle.loads(pickle.dumps(callback))
    make_trainer(callback, Spy(look), max_epochs=1).fit(Net(), loader())
    size = len(pickle.dumps(callback))
    assert size < 10_000
    assert copies[-1].method.progress == 0.75
    for one in (fresh, copies[-1]):
        trainer = make_trainer(one)
        trainer.fit(Net(), loader())
        assert set(trainer.callback_metrics) == {"train_loss"}


@pytest.mark.parametrize("how", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copy_of_a_module_in_training_has_its_own_step(how):
    copies = []

    def look(trainer, module):
        copies.append(how(module))

    make_trainer(make_callback("mixup", num_classes=4), Spy(look), max_epochs=1).fit(
        Net(), loader()
    )
    one = copies[-1]
    assert one.training_step.__func__ is Net.training_step
    assert one.training_step.__self__ is one
    trainer = make_trainer()
    trainer.fit(one, loader())
    assert set(trainer.callback_metrics) == {"own_loss"}


def test_another_way_to_split():
    def split(batch):
        return batch[0] * 0, batch[1], batch[2]

    seen = []

    class Watched(Net):
        def forward(self, x):
            seen.append(x.abs().max().item())
            return super().forward(x)

    make_trainer(make_callback("mixup", num_classes=4, split=split)).fit(Watched(), loader())
    assert max(seen) == 0
    callback = make_callback("mixup", num_classes=4, split=lambda batch: batch[0])
    with pytest.raises(InputError, match=r"split must return .* got \(8, 6\)"):
        make_trainer(callback).fit(Net(), loader())


# ------------------------------------------------------------------- what the own step does not do


def replaced(recorded):
    return [str(w.message) for w in recorded if "MixupCallback replaces" in str(w.message)]


def test_a_step_that_is_replaced_is_said_once():
    callback, other = make_callback("mixup", num_classes=4), type("Other", (Net,), {})
    with pytest.warns(UserWarning, match=r"replaces Net\.training_step.* self\.log do not") as seen:
        make_trainer(callback).fit(Net(), loader())
    assert len(replaced(seen)) == 1
    with warnings.catch_warnings(record=True) as again:
        warnings.simplefilter("always")
        make_trainer(callback).fit(Net(), loader())
    assert not replaced(again)
    with pytest.warns(UserWarning, match=r"replaces Other\.training_step"):
        make_trainer(callback).fit(other(), loader())


class OwnLoss(Net):
    def __init__(self):
        super().__init__()
        self.criterion = nn.CrossEntropyLoss(
            torch.tensor([1.0, 2.0, 3.0, 4.0]), label_smoothing=0.1
        )

    def training_step(self, batch, batch_idx):
        return self.criterion(self(batch[0]), batch[1])


def test_the_advice_on_a_loss_of_ones_own_works():
    callback = make_callback(
        "erm", num_classes=4, class_weight=[1.0, 2.0, 3.0, 4.0], label_smoothing=0.1
    )
    ours, plain = OwnLoss(), OwnLoss()
    with pytest.warns(UserWarning, match=r"CrossEntropyLoss\(weight=\.\.\., label_smoothing=0\.1"):
        make_trainer(callback).fit(ours, loader())
    make_trainer().fit(plain, loader())
    torch.testing.assert_close(weights(ours), weights(plain), rtol=0, atol=1e-6)


def test_positions_are_taken_where_they_are_asked_for():
    class Third(Dataset):
        """Whose third element is something else."""

        def __len__(self):
            return 32

        def __getitem__(self, i):
            return Indexed().x[i], Indexed().y[i], 0

    module = Net()
    settings = {"num_classes": 4, "distance": "remembered"}
    callback = MixupCallback("sk_mixup", split=lambda batch: batch[:2], **settings)
    with pytest.raises(InputError, match="index"):
        make_trainer(callback).fit(module, DataLoader(Third(), 8))
    with pytest.raises(InputError, match=r"third element.*index=2"):
        make_trainer(MixupCallback("mixup", num_classes=4)).fit(module, DataLoader(Third(), 8))
    torch.testing.assert_close(weights(module), weights(Net()))
    callback = MixupCallback("sk_mixup", index=2, generator=generator(), **settings)
    make_trainer(callback).fit(module, loader())
    reference = mixwell.create("sk_mixup", generator=generator(), **settings)
    torch.testing.assert_close(
        weights(module), plain_loop(Net(), reference), rtol=0, atol=1e-6
    )  # fmt: skip


# ----------------------------------------------------------------------------------------- mixin


class Manual(Mixed):
    """Optimizes by hand, every other batch."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        self.manual_backward(self.mixed_loss(batch, index=2) / 2)
        if batch_idx % 2 == 1:
            optimizer.step()
            optimizer.zero_grad()


@pytest.mark.parametrize("name", ["mixup", "sk_mixup+decoupled", "manifold_mixup", "am_mixup"])
def test_the_mixin_in_manual_optimization(name):
    """As the message to those who would use the callback says."""
    module = Manual(name=name, generator=generator())
    make_trainer().fit(module, loader())
    reference = mixwell.create(name, num_classes=4, generator=generator())
    expected = plain_loop(Net(), reference, accumulate=2)
    torch.testing.assert_close(weights(module), expected, rtol=0, atol=1e-6)


def test_the_mixin_takes_positions_where_it_is_told():
    module = Mixed("sk_mixup", distance="remembered", generator=generator())
    batch = next(iter(loader()))
    with pytest.raises(InputError, match=r"third element.*index=2"):
        module.mixed_loss(batch)
    reference = mixwell.create(
        "sk_mixup", num_classes=4, distance="remembered", generator=generator()
    )
    expected = reference(Net(), *batch[:2], index=batch[2])
    torch.testing.assert_close(module.mixed_loss(batch, index=2), expected)

    class Own(Mixed):
        def split_batch(self, batch):
            return batch[0], batch[1]

    with pytest.raises(InputError, match="index=2 is for the usual split_batch: let Own's own"):
        Own().mixed_loss(batch, index=2)


@pytest.mark.parametrize("name", ["mixup", "sk_mixup+decoupled", "am_mixup"])
def test_the_mixin_trains_as_a_plain_loop_does(name):
    module = Mixed(name, generator=generator())
    make_trainer().fit(module, loader())
    method = mixwell.create(name, num_classes=4, generator=generator())
    torch.testing.assert_close(weights(module), plain_loop(Net(), method), rtol=0, atol=1e-6)
    assert module.mixup.progress == 7 / 8


def test_the_mixins_loss_is_plain_in_validation():
    module = Mixed()
    make_trainer(num_sanity_val_steps=0).fit(module, loader(), loader(32))
    expected = F.cross_entropy(module(Indexed().x), Indexed().y).item()
    assert module.validated[-1] == pytest.approx(expected)


def test_the_mixin_saves_and_trains_its_method(tmp_path):
    class Learnt(Mixed):
        def __init__(self, seed=0):
            super().__init__(seed=seed)
            self.mixup = Method(Term(LearntTemperature(), Recipe()), num_classes=4)

    trainer = make_trainer()
    module = Learnt()
    trainer.fit(module, loader())
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    loaded = Learnt.load_from_checkpoint(tmp_path / "last.ckpt", seed=3)
    assert module.mixup.terms[0].loss.log_t.detach().abs() > 1e-3
    assert torch.equal(weights(loaded), weights(module))
    assert torch.equal(loaded.mixup.progress, module.mixup.progress)


def test_the_mixin_works_without_a_trainer_and_with_another_model_and_split():
    class Odd(Mixed):
        def split_batch(self, batch):
            return batch["a"], batch["b"]

    module = Odd(generator=generator())
    batch = {"a": Indexed().x, "b": Indexed().y, "c": None}
    step = module.mixed_step(batch, model=module.net)
    expected = mixwell.create("mixup", num_classes=4, generator=generator())
    torch.testing.assert_close(step.loss, expected(module.net, batch["a"], batch["b"]))


def test_the_mixin_needs_a_method():
    class Bare(MixupMixin, Net):
        pass

    with pytest.raises(InputError, match=r"self\.mixup must be a method.*got NoneType"):
        Bare().mixed_loss((Indexed().x, Indexed().y))


# ---------------------------------------------------------------------------------------- errors


def test_a_method_takes_no_further_arguments():
    with pytest.raises(InputError, match="alpha, per can't be given beside a Method"):
        make_callback(mixwell.create("mixup"), alpha=0.5, per="batch")
    with pytest.raises(InputError, match="did you mean 'mixup'"):
        make_callback("mixupp", num_classes=4)


def test_two_callbacks_are_refused():
    callbacks = [make_callback("mixup"), make_callback("am_mixup")]
    with pytest.raises(RuntimeError, match="more than one stateful callback"):
        make_trainer(*callbacks)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"model": nn.Linear(2, 2)}, "model must be a name, or None, got Linear"),
        ({"model": 3}, "model must be a name"),
        ({"log": True}, "log must be a name, or None, got bool"),
        ({"split": "x"}, "split must be a function of the batch, got 'x'"),
        ({"index": 2.0}, "index must say where a batch has"),
        ({"index": 2, "split": len}, r"index=2 is for the usual split: let split return"),
        ({"num_classes": 10.0}, "num_classes must be a whole number"),
        ({"alpha": "a"}, "alpha must be a number"),
    ],
)
def test_a_bad_argument_is_named(arguments, words):
    with pytest.raises(InputError, match=words):
        MixupCallback("mixup", **arguments)


@pytest.mark.parametrize("method", [None, 3, nn.Linear(2, 2), ["mixup"], Method])
def test_what_is_no_method_is_named(method):
    with pytest.raises(InputError, match="method must be"):
        MixupCallback(method)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("nett", r"model='nett' is no part of Net \(did you mean 'net'\?\); its parts: net"),
        ("net.7", r"model='net.7' is no part of Net"),
        ("", r"model='' is no part of Net"),
    ],
)
def test_a_part_that_is_not_there_is_named_before_training(model, words):
    module = Net()
    with pytest.raises(InputError, match=words):
        make_trainer(make_callback("mixup", model=model)).fit(module, loader())
    assert "training_step" not in vars(module)


def test_a_callback_and_a_mixin_are_one_too_many():
    with pytest.raises(InputError, match=r"Mixed is a MixupMixin.*leave one of them out"):
        make_trainer(make_callback("mixup")).fit(Mixed(), loader())


def test_a_setup_that_does_not_reach_the_callbacks_is_refused():
    class Mine(MixupCallback):
        def setup(self, trainer, pl_module, stage):
            pass

    with pytest.raises(InputError, match=r"nothing would be mixed: .*super\(\)\.setup\("):
        make_trainer(Mine("mixup", index=2)).fit(Net(), loader())


def test_a_step_that_is_replaced_after_is_refused():
    class Late(Callback):
        def on_fit_start(self, trainer, pl_module):
            pl_module.training_step = lambda batch, batch_idx: pl_module(batch[0]).sum()

    with pytest.raises(InputError, match=r"nothing would be mixed: Net\.training_step"):
        make_trainer(make_callback("mixup"), Late()).fit(Net(), loader())


def test_batches_of_several_loaders_are_refused():
    with pytest.raises(InputError, match=r"which is the target in a batch of \{a: list, b: list\}"):
        make_trainer(MixupCallback("mixup")).fit(Net(), {"a": loader(), "b": loader()})


def test_manual_optimization_is_refused_before_training():
    class Manual(Net):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

    module = Manual()
    with pytest.raises(InputError, match=r"Manual optimizes by hand .* use MixupMixin"):
        make_trainer(make_callback("mixup")).fit(module, loader())
    assert "training_step" not in vars(module)


def test_a_module_without_forward_is_refused_before_training():
    class NoForward(Net):
        forward = LightningModule.forward

    class Inherited(LightningModule):
        def __init__(self):
            super().__init__()
            self.backbone = nn.Linear(6, 4)

        training_step = Net.training_step
        configure_optimizers = Net.configure_optimizers

    with pytest.raises(InputError, match=r"Inherited has no forward\(\).*its parts: backbone"):
        make_trainer(make_callback("mixup")).fit(Inherited(), loader())


def test_lightning_missing_is_said(monkeypatch):
    for name in compat._PACKAGES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install lightning"):
        compat._callback_class()


# ------------------------------------------------------------------------- packages and processes


def run(script, tmp_path):
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(script))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", path], capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.cases(slow=1)
@pytest.mark.skipif(
    importlib.util.find_spec("pytorch_lightning") is None, reason="pytorch_lightning is not there"
)
@pytest.mark.parametrize("order", ["callback first", "both packages"])
def test_pytorch_lightning_too(order, tmp_path):
    package = "from pytorch_lightning import Callback, LightningModule, Trainer\n"
    ours = "from mixwell.compat.lightning import MixupCallback\n"
    imports = {
        "callback first": ours + package,
        "both packages": "import lightning.pytorch\n" + package + ours,
    }[order]
    script = """
        import torch
        from torch import nn
        class Net(LightningModule):
            def __init__(self):
                super().__init__()
                self.net = nn.Linear(6, 4)
            def forward(self, x):
                return self.net(x)
            def training_step(self, batch):
                raise AssertionError("the own step ran")
            def configure_optimizers(self):
                return torch.optim.SGD(self.parameters(), 0.1)
        data = torch.utils.data.TensorDataset(torch.randn(16, 6), torch.randint(4, (16,)))
        callback = MixupCallback("am_mixup", num_classes=4)
        trainer = Trainer(
            callbacks=[callback], max_epochs=1, accelerator="cpu", logger=False,
            enable_checkpointing=False, enable_progress_bar=False,
        )
        module = Net()
        trainer.fit(module, torch.utils.data.DataLoader(data, 4))
        print("logged", sorted(trainer.callback_metrics), callback.method.progress.item())
        print("restored", "training_step" not in vars(module), isinstance(callback, Callback))
    """
    out = run(imports + textwrap.dedent(script), tmp_path)
    assert "logged ['train_loss', 'train_loss_am_mixup', 'train_loss_clean'] 0.75" in out
    assert f"restored True {order != 'callback first'}" in out


@pytest.mark.slow
def test_two_processes_train_as_one_that_averages_their_gradients(tmp_path):
    script = f"""
        import os, sys
        sys.path.insert(0, {str(__file__.rpartition("/")[0])!r})
        import torch
        from torch.utils.data import DistributedSampler
        from test_lightning import (
            Indexed, LearntTemperature, Net, Term, Method, generator, loader, make_callback,
            make_trainer, weights,
        )
        from mixwell import Recipe
        from mixwell.coefficient import SimilarityKernel
        from mixwell.interpolation import Linear

        def make():
            recipe = Recipe(coefficient=SimilarityKernel(), interpolation=Linear(layer="net.0"))
            return Method(Term(LearntTemperature(), recipe), num_classes=4, generator=generator())

        rank = int(os.environ.get("LOCAL_RANK", 0))
        method, module = make(), Net()
        with torch.no_grad():  # must come from the first process
            method.terms[0].loss.log_t.fill_(0.5 if rank == 0 else -3.0)
        trainer = make_trainer(
            make_callback(method), devices=2, strategy="ddp", accumulate_grad_batches=2,
            use_distributed_sampler=False,
        )
        sampler = DistributedSampler(Indexed(), 2, rank, shuffle=False)
        trainer.fit(module, loader(4, sampler=sampler))
        assert trainer.world_size == 2
        found = torch.cat([weights(module), weights(method)])
        gathered = [torch.empty_like(found) for _ in range(2)]
        torch.distributed.all_gather(gathered, found)
        assert torch.equal(*gathered), "the processes differ"

        data, net, methods = Indexed(), Net(), [make(), make()]
        temperatures = [one.terms[0].loss.log_t for one in methods]
        for one in temperatures:
            one.data.fill_(0.5)
        groups = [*net.parameters(), temperatures[0]]
        optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
        for step in range(8):
            for rank, one in enumerate(methods):
                at = torch.arange(32)[rank::2][step % 4 * 4 :][:4]
                one.set_progress(step / 8)
                (one(net, data.x[at], data.y[at]) / 4).backward()
            if step % 2:
                temperatures[0].grad += temperatures[1].grad
                optimizer.step()
                temperatures[1].data.copy_(temperatures[0].data)
                optimizer.zero_grad()
                temperatures[1].grad = None
        expected = torch.cat([weights(net), weights(methods[0])])
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
        print("agrees")
    """
    assert run(script, tmp_path).count("agrees") == 2
