import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import needs_gpu

from mixwell import InputError
from mixwell.training import RunConfig, is_finished, read_result, run, state, train
from mixwell.training.build import load_data, resolved
from mixwell.training.files import read_json, write_atomically, write_json

TINY = {"train_size": 200, "epochs": 2, "threads": 1}


def weights(folder):
    return torch.load(folder / "model.pt", weights_only=True)


def assert_same_weights(first, second):
    ours, theirs = weights(first), weights(second)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


@pytest.mark.parametrize(
    "method", ["erm", "sk_mixup+decoupled", "am_mixup", "regmixup+infinite_class", "remix"]
)
def test_a_run_leaves_all_it_should(method, tmp_path):
    events = []
    config = RunConfig(method=method, **TINY)
    result = train(config, tmp_path / "run", report=events.append, command="by hand")
    assert result == read_result(tmp_path / "run")
    assert is_finished(tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoint.pt").exists()
    measures = result["metrics"]
    for name in ("accuracy", "ece", "adaptive_ece", "brier", "nll", "ece_scaled", "nll_scaled",
                 "temperature", "alignment", "uniformity", "nc1", "nc1_test", "nc2", "nc2_norms",
                 "nc2_angles", "nc3", "val_accuracy"):  # fmt: skip
        assert math.isfinite(measures[name]), name
    arrays = np.load(tmp_path / "run" / "predictions.npz")
    right = (arrays["test_logits"].argmax(1) == arrays["test_labels"]).mean()
    assert measures["accuracy"] == pytest.approx(right)
    assert len(result["details"]["class_nc1"]) == 10
    assert len(result["history"]) == 2
    assert result["steps"] == 2 * 4
    assert result["seconds_per_step"] > 0
    assert result["peak_memory_mb"] > 50
    assert result["command"] == "by hand"
    assert [event["kind"] for event in events].count("epoch") == 2
    state = weights(tmp_path / "run")
    assert not any("mixwell" in name for name in state)


def test_the_same_seed_gives_the_same_weights_to_the_bit_and_another_does_not(tmp_path):
    config = RunConfig(method="sk_mixup", accelerator="cpu", **TINY)
    train(config, tmp_path / "a")
    torch.rand(7)  # a run doesn't depend on what was drawn before
    train(config, tmp_path / "b")
    assert_same_weights(tmp_path / "a", tmp_path / "b")
    train(replace(config, seed=1), tmp_path / "c")
    first = next(iter(weights(tmp_path / "a")))
    assert not torch.equal(weights(tmp_path / "a")[first], weights(tmp_path / "c")[first])


def test_a_finished_run_is_not_repeated(tmp_path):
    config = RunConfig(method="erm", **TINY)
    train(config, tmp_path)
    before = (tmp_path / "result.json").stat().st_mtime_ns
    events = []
    train(config, tmp_path, report=events.append)
    assert events == []
    assert (tmp_path / "result.json").stat().st_mtime_ns == before


def test_people_are_asked_at_the_end_or_refused_at_the_start(tmp_path):
    labels = load_data(RunConfig()).test.y.numpy()
    np.savez(tmp_path / "people.npz", counts=18 * np.eye(10, dtype=int)[labels] + 1)
    config = RunConfig(method="erm", people=str(tmp_path / "people.npz"), **TINY)
    result = train(config, tmp_path / "run")
    names = {"people_ce", "people_kl", "people_entropy_rho"}
    assert names | {f"{name}_scaled" for name in names} < set(result["metrics"])
    # All samples are as doubtful: CE and KL differ by people's entropy, and no ranks are there.
    shares = np.array([19] + 9 * [1]) / 28
    gap = result["metrics"]["people_ce"] - result["metrics"]["people_kl"]
    assert gap == pytest.approx(-(shares * np.log(shares)).sum())
    assert math.isnan(result["metrics"]["people_entropy_rho"])
    np.savez(tmp_path / "people.npz", counts=np.ones((3, 10), dtype=int))
    with pytest.raises(InputError, match="people="):
        train(config, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_folder_of_another_run_is_refused(tmp_path):
    train(RunConfig(method="erm", **TINY), tmp_path)
    with pytest.raises(InputError, match=r"holds another run \(seed=0, not 1\)"):
        train(RunConfig(method="erm", seed=1, **TINY), tmp_path)


def test_an_unknown_method_is_named_before_the_data_are_read(tmp_path):
    with pytest.raises(InputError, match=r"method 'mixip' is unknown \(did you mean 'mixup'"):
        train(RunConfig(method="erm+mixip", data="folder:nowhere"), tmp_path / "run")


class Stop(Exception):
    pass


OPTIONS = {
    "plain": {"method": "am_mixup+sk_mixup"},
    "averaged": {"method": "mixup", "ema": 0.9, "model_options": {"dropout": 0.2}},
    "accumulated": {
        "method": "regmixup", "accumulate": 3, "schedule": "onecycle", "grad_clip": 1.0,
    },
    "adamw": {"method": "cutmix", "optimizer": "adamw", "lr": 1e-3, "warmup_epochs": 0.5},
    "regression": {"data": "diabetes", "method": "c_mixup", "schedule": "step"},
}  # fmt: skip


@pytest.mark.cases(quick=1)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_an_interrupted_run_ends_bit_for_bit_like_an_uninterrupted_one(options, tmp_path):
    config = RunConfig(train_size=150, epochs=3, batch_size=20, threads=1, checkpoint_minutes=0.0,
                       accelerator="cpu", **options)  # fmt: skip
    train(config, tmp_path / "whole")
    # Stopped in the first epoch, then in the second, each time between two checkpoints.
    for stop in (2, 5):

        def interrupt(event, stop=stop):
            if event["kind"] == "step" and event["done"] == stop:
                raise Stop

        with pytest.raises(Stop):
            train(config, tmp_path / "parts", report=interrupt)
    train(config, tmp_path / "parts")
    assert_same_weights(tmp_path / "whole", tmp_path / "parts")
    whole, parts = read_result(tmp_path / "whole"), read_result(tmp_path / "parts")
    assert whole["metrics"] == parts["metrics"]
    for ours, theirs in zip(whole["history"], parts["history"], strict=True):
        assert {**ours, "seconds": 0} == {**theirs, "seconds": 0}


@pytest.mark.cases(quick=1)
@pytest.mark.parametrize(("every", "measured"), [(2, [2, 4, 5]), (3, [3, 5]), (9, [5])])
def test_validation_now_and_then_changes_no_result(every, measured, tmp_path):
    config = RunConfig(
        method="mixup", train_size=150, epochs=5, threads=1, model_options={"dropout": 0.2},
        accelerator="cpu",
    )  # fmt: skip
    often = train(config, tmp_path / "often")
    seldom = train(replace(config, val_every=every), tmp_path / "seldom")
    assert_same_weights(tmp_path / "often", tmp_path / "seldom")
    assert seldom["metrics"] == often["metrics"]
    assert [row["epoch"] for row in seldom["history"] if "val_accuracy" in row] == measured
    for ours, theirs in zip(often["history"], seldom["history"], strict=True):
        assert {**ours, **theirs, "seconds": 0} == {**ours, "seconds": 0}
    assert train(config, tmp_path / "seldom") == seldom  # it is the same run


@pytest.mark.cases(slow=1)
@pytest.mark.parametrize("kills", [1, 5])
def test_a_run_killed_at_random_moments_ends_like_an_uninterrupted_one(kills, tmp_path):
    arguments = ["train", "--data", "digits", "--method", "sk_mixup", "--train-size", "300",
                 "--epochs", "20", "--threads", "1", "--accelerator", "cpu",
                 "--checkpoint-minutes", "0.001"]  # fmt: skip
    command = [sys.executable, "-m", "mixwell", *arguments, "--out"]
    subprocess.run([*command, str(tmp_path / "whole")], check=True, capture_output=True)
    generator = np.random.default_rng(0)
    checkpoint = tmp_path / "parts" / "checkpoint.pt"
    killed = 0
    for _ in range(kills):
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        process = subprocess.Popen([*command, str(tmp_path / "parts")], stdout=subprocess.DEVNULL)
        # Once it has written a checkpoint of its own, it is let go on for a random while.
        while process.poll() is None:
            if checkpoint.exists() and checkpoint.stat().st_mtime_ns > before:
                time.sleep(generator.uniform(0.0, 0.3))
                process.send_signal(signal.SIGKILL)
                killed += 1
                break
            time.sleep(0.005)
        process.wait()
    (tmp_path / "parts" / ".model.pt.abc.tmp").write_bytes(b"half")  # as a kill may leave it
    subprocess.run([*command, str(tmp_path / "parts")], check=True, capture_output=True)
    assert killed == kills
    assert_same_weights(tmp_path / "whole", tmp_path / "parts")
    assert sorted(os.listdir(tmp_path / "parts")) == sorted(os.listdir(tmp_path / "whole"))


def test_divergence_is_an_error_that_names_the_step(tmp_path):
    config = RunConfig(method="erm", lr=1e18, optimizer="sgd", **TINY)
    with pytest.raises(InputError, match=r"loss is not finite in epoch 1, step \d+ \(lr=1e\+18"):
        train(config, tmp_path)
    assert not is_finished(tmp_path)


def test_two_processes_do_not_train_in_one_folder(tmp_path):
    config = RunConfig(method="erm", **TINY)

    def again(event):
        if event["kind"] == "epoch":
            with pytest.raises(InputError, match="another process is at work"):
                train(config, tmp_path)
            raise Stop

    with pytest.raises(Stop):
        train(config, tmp_path, report=again)


def test_accumulated_batches_make_one_step(tmp_path):
    """Without batch statistics, four batches of 25 give the step of one batch of 100."""
    common = {
        "method": "erm", "model": "mlp", "train_size": 100, "epochs": 1, "threads": 1,
        "optimizer": "sgd", "lr": 0.1, "schedule": "constant",
    }  # fmt: skip
    train(RunConfig(batch_size=100, **common), tmp_path / "one")
    train(RunConfig(batch_size=25, accumulate=4, **common), tmp_path / "four")
    ours, theirs = weights(tmp_path / "one"), weights(tmp_path / "four")
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-4, atol=1e-6)


def test_the_average_of_the_weights_is_what_is_kept(tmp_path):
    train(RunConfig(method="erm", **TINY), tmp_path / "plain")
    train(RunConfig(method="erm", ema=0.9999, **TINY), tmp_path / "slow")
    # At this decay the average hardly leaves the start, where all weights are near each other.
    moved = [weights(tmp_path / run)["head.weight"] for run in ("plain", "slow")]
    assert moved[0].std() > moved[1].std()


@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true"])
def test_other_precisions(precision, tmp_path):
    result = train(RunConfig(method="sk_mixup", precision=precision, **TINY), tmp_path)
    assert math.isfinite(result["metrics"]["nll"])


@pytest.mark.parametrize(("precision", "plain"), [("32-true", True), ("bf16-mixed", False)])
def test_steps_in_plain_precision_are_fused_and_pass_by_no_wrapper(
    precision, plain, tmp_path, monkeypatch
):
    from lightning.fabric import wrappers

    wrapped, optimizers = [], []

    def call(module, *args, **kwargs):
        wrapped.append(module)
        return real_call(module, *args, **kwargs)

    def make(*args):
        optimizers.append(real_make(*args))
        return optimizers[-1]

    real_call, real_make = wrappers._FabricModule.forward, state.make_optimizer
    monkeypatch.setattr(wrappers._FabricModule, "forward", call)
    monkeypatch.setattr(state, "make_optimizer", make)
    train(RunConfig(method="mixup", precision=precision, **TINY), tmp_path)
    assert bool(wrapped) != plain
    # None leaves torch its own choice; False would not.
    assert [group["fused"] for group in optimizers[0].param_groups] == [True if plain else None]


def test_a_trainer_keeps_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = RunConfig(method="erm", checkpoint_minutes=0, **TINY)
    dataset = load_data(config)
    epoch = run.trainer(resolved(config, dataset), dataset)
    for _ in range(3):  # one more than the schedule is made for
        epoch()
    assert not list(tmp_path.iterdir())


@needs_gpu
@pytest.mark.parametrize("precision", ["16-mixed", "bf16-mixed"])
@pytest.mark.parametrize(
    "method", ["sk_mixup", "cutmix+decoupled", "infinite_class", "am_mixup", "puzzlemix"]
)
def test_precisions_of_a_gpu(method, precision, tmp_path):
    config = RunConfig(method=method, precision=precision, accelerator="cuda", **TINY)
    result = train(config, tmp_path)
    assert math.isfinite(result["metrics"]["nll"])
    assert result["versions"]["device"] == torch.cuda.get_device_name()


@needs_gpu
def test_an_interrupted_run_on_a_gpu_goes_on(tmp_path):
    options = {"model_options": {"dropout": 0.2}, "checkpoint_minutes": 0.0, **TINY}
    config = RunConfig(method="sk_mixup+decoupled", accelerator="cuda", **options)
    whole = train(config, tmp_path / "whole")

    def interrupt(event):
        if event["kind"] == "step" and event["done"] == 2:
            raise Stop

    with pytest.raises(Stop):
        train(config, tmp_path / "parts", report=interrupt)
    parts = train(config, tmp_path / "parts")
    assert parts["steps"] == whole["steps"]
    # Sums of a GPU may differ in their order, from run to run; the draws may not.
    for row, expected in zip(parts["history"], whole["history"], strict=True):
        assert row["loss"] == pytest.approx(expected["loss"], rel=1e-3)


@needs_gpu
def test_the_peak_of_memory_is_of_the_run_not_of_the_process(tmp_path):
    kept = torch.empty(2**28, device="cuda")  # 1 GiB
    del kept
    result = train(RunConfig(accelerator="cuda", **TINY), tmp_path)
    assert 0 < result["peak_memory_mb"] < 1000


@needs_gpu
def test_weights_of_a_gpu_are_kept_where_every_machine_can_read_them(tmp_path):
    train(RunConfig(accelerator="cuda", **TINY), tmp_path)
    assert {value.device.type for value in weights(tmp_path).values()} == {"cpu"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU has this precision")
def test_a_precision_that_the_device_has_not_is_named(tmp_path):
    config = RunConfig(precision="16-mixed", accelerator="cpu", **TINY)
    with pytest.raises(InputError, match="'16-mixed' is not to be had on cpu; 'bf16-mixed' is"):
        train(config, tmp_path)


@pytest.mark.release
def test_two_devices(tmp_path):
    script = tmp_path / "two.py"
    script.write_text(
        "from mixwell.training import RunConfig, train\n"
        "if __name__ == '__main__':\n"
        "    config = RunConfig(method='am_mixup+infinite_class', devices=2, accelerator='cpu',\n"
        "                       train_size=200, epochs=2, batch_size=25, threads=1)\n"
        f"    result = train(config, {str(tmp_path / 'run')!r})\n"
        "    assert result['steps'] == 8, result['steps']\n"
    )
    subprocess.run([sys.executable, str(script)], check=True, timeout=200)
    assert json.loads((tmp_path / "run" / "result.json").read_text())["metrics"]["accuracy"] > 0.2


def test_files_are_whole_or_not_there(tmp_path):
    path = tmp_path / "file.json"
    write_json(path, {"a": 1})

    def half(file):
        file.write(b"half")
        raise Stop

    with pytest.raises(Stop):
        write_atomically(path, half)
    assert read_json(path) == {"a": 1}
    assert os.listdir(tmp_path) == ["file.json"]


def test_an_average_of_weights_forgets_the_random_start():
    update = state.averaging(0.9)
    average, count = torch.zeros(2), torch.tensor(7)
    update([average], [torch.ones(2)], torch.tensor(0))
    assert average.tolist() == pytest.approx([0.9, 0.9])  # 1 - (1 + 0) / (10 + 0)
    update([average], [torch.full((2,), 2.0)], torch.tensor(1000))
    assert average.tolist() == pytest.approx([0.9 * 0.9 + 0.1 * 2] * 2)
    update([count], [torch.tensor(9)], 3)
    assert count == 9


@pytest.mark.cases(quick=1)
@pytest.mark.parametrize("method", ["mixup", "am_mixup"])
def test_a_run_in_parts_ends_like_one_in_one_go(method, tmp_path, monkeypatch):
    config = RunConfig(method=method, train_size=200, epochs=4, threads=1, accelerator="cpu")
    train(config, tmp_path / "whole")
    with monkeypatch.context() as closed:  # nothing of the test split is looked at on the way
        closed.setattr(run, "measure", lambda *_: pytest.fail("the test split was looked at"))
        for until in (1, 1, 3, 9):
            found = train(config, tmp_path / "parts", until=until)
            assert found["epoch"] == len(found["history"]) == min(until, 4)
            assert set(found["metrics"]) == {"val_accuracy", "val_ece", "val_nll"}
            last = found["history"][-1]
            assert found["metrics"]["val_nll"] == pytest.approx(last["val_nll"])
            assert not is_finished(tmp_path / "parts")
    train(config, tmp_path / "parts")
    assert_same_weights(tmp_path / "whole", tmp_path / "parts")
    ours, theirs = (read_result(tmp_path / run)["metrics"] for run in ("whole", "parts"))
    assert ours == theirs


def test_until_is_an_epoch(tmp_path):
    with pytest.raises(InputError, match="until must be a whole number from 1 on, got 0"):
        train(RunConfig(**TINY), tmp_path / "run", until=0)
    assert not (tmp_path / "run").exists()
