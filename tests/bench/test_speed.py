import json
import sys
import types

import pytest
import torch

from mixwell import InputError
from mixwell.bench import SECTIONS, Plan, output, speed
from mixwell.bench import steps as steps_module
from mixwell.bench.mixing import Batch, mixing
from mixwell.bench.steps import Training, compiled_step, epochs, steps
from mixwell.cli import main
from mixwell.training.files import read_json

CPU = torch.device("cpu")
TINY = Plan(
    mixing=(
        Batch(4, 8, compiled=False),
        Batch(4, 8, torch.uint8, group="dtype", peers=False, compiled=False),
    ),
    losses=((4, 6), (6, 9)),
    pairs=16,
    steps=(Training("cnn", 4, 8, 5),),
    compiled=Training("cnn", 4, 8, 5),
    methods=(),
    train_size=100,
    repeats=2,
    step_repeats=2,
)


@pytest.fixture
def no_compiler(monkeypatch):
    """Trace as torch.compile does, but run the graphs as they are: nothing to wait for."""
    monkeypatch.setattr(steps_module._Graphs, "backend", "eager")
    monkeypatch.setattr(steps_module, "_no_compiler", lambda device: "")


@pytest.mark.slow
def test_a_tiny_run_writes_its_files(tmp_path, no_compiler, monkeypatch):
    shown, drawn = [], []

    def draw_the_last(document):  # a second each
        drawn.append(list(document["seconds"]))
        return real_draw(document) if len(drawn) == 6 else {"png": b"", "svg": b""}

    real_draw = output.draw
    monkeypatch.setattr(output, "draw", draw_the_last)
    before = torch.get_num_threads()
    document = speed(TINY, tmp_path / "out", threads=1, show=shown.append)
    assert torch.get_num_threads() == before
    kept = read_json(tmp_path / "out" / "speed.json")
    assert kept == json.loads(json.dumps(document))
    assert sum(map(len, shown)) == len(kept["rows"])
    assert {"cpu", "cores", "threads", "python", "date", "gpu"} <= set(kept["machine"])
    assert torch.__version__.startswith(kept["packages"]["torch"])
    assert list(kept["seconds"]) == list(SECTIONS)
    assert [len(sections) for sections in drawn] == [1, 2, 3, 4, 5, 6]
    for row in kept["rows"]:
        assert set(row) == {
            "section", "group", "case", "name", "kind", "absent", "traits", "seconds", "ratio",
            "repeats", "calls",
        }  # fmt: skip
        if row["absent"]:
            assert row["seconds"] is None
            continue
        for values in (row["seconds"], row["ratio"]):
            assert 0 < values["lower_quartile"] <= values["median"] <= values["upper_quartile"]
        assert row["repeats"] == 2
    measured = {row["name"] for row in kept["rows"] if row["seconds"]}
    assert {
        "torch.add(a, b, out=)", "mix", "cutmix.preview", "by hand: gather, lerp",
        "MixedCrossEntropy", "DM(CE) as published", "sample_beta(τ)", "plain loop", "am_mixup",
        "sk_mixup, features",
    } <= measured  # fmt: skip
    floors = [row for row in kept["rows"] if row["kind"] == "floor"]
    assert all(row["ratio"]["median"] == 1 for row in floors)
    loss = next(row for row in kept["rows"] if row["name"] == "DM(CE) as published")
    assert float(loss["traits"]["peak memory, × (B, C)"]) > 5

    text = (tmp_path / "out" / "speed.md").read_text()
    assert "| **mix** |" in text
    assert "Losses, forward and backward" in text
    assert "4×3×8² uint8" in text
    assert (tmp_path / "out" / "speed.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "out" / "speed.svg").read_text()
    assert not list((tmp_path / "out").glob(".*"))


def test_tables_fit_100_columns():
    from rich.console import Console

    rows = [
        {
            "section": "mixing", "group": "main", "case": "128×3×224² float32", "name": name,
            "kind": "peer", "absent": absent, "traits": {"per sample": "yes", "in place": "always",
            "labels": "dense"}, "seconds": seconds, "ratio": seconds, "repeats": 1, "calls": 1,
        }
        for name, absent, seconds in (
            ("torch-uncertainty WarpingMixup", "",
             {"median": 123.4, "lower_quartile": 111.1, "upper_quartile": 144.4}),
            ("kornia RandomMixUpV2", "refuses uint8: TypeError: " + "because " * 20, None),
        )
    ]  # fmt: skip
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(output.table(rows))
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= 100
    row = next(line for line in lines if "Warping" in line)
    assert "torch-uncertainty WarpingMixup" in row
    assert "123× (111–144)" in row
    assert any("refuses uint8 " in line for line in lines)


def test_peers_that_are_absent_broken_or_wrong_are_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "kornia", None)
    for name in list(sys.modules):
        if name.split(".")[0] == "torch_uncertainty":
            monkeypatch.delitem(sys.modules, name)
    package = tmp_path / "torch_uncertainty" / "transforms"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (tmp_path / "torch_uncertainty" / "__init__.py").touch()
    (package / "mixup.py").write_text("import a_package_that_nobody_has")
    monkeypatch.syspath_prepend(str(tmp_path))

    def refuse(x, y):
        raise TypeError("only on Sundays")

    fake = types.SimpleNamespace(VanillaMixUp=lambda: lambda x, y: (x.double(), y),
                                 CutMix=lambda: refuse)  # fmt: skip
    monkeypatch.setitem(sys.modules, "mixup", fake)
    found = {c.name: c for c in mixing(Batch(4, 8, compiled=False), CPU)}
    assert found["kornia RandomMixUpV2"].absent == "not installed"
    assert found["torch-uncertainty Mixup"].absent == (
        "not installed (a_package_that_nobody_has, which it needs)"
    )
    assert found["mixup VanillaMixUp"].absent == "returns float64 for float32"
    assert found["mixup CutMix"].absent == "refuses float32: TypeError: only on Sundays"
    assert all(c.run is None for c in found.values() if c.absent)


def test_those_that_mix_in_place_leave_the_images_to_the_others():
    contenders = mixing(Batch(4, 8, compiled=False), CPU)
    formula = next(c for c in contenders if c.name == "by hand: gather, lerp")
    expected = formula.run()
    for contender in contenders:
        if contender.run is not None and contender.kind != "floor":
            contender.run()
    torch.testing.assert_close(formula.run(), expected, rtol=0, atol=0)
    plain = next(c for c in contenders if c.name == "mix")
    torch.testing.assert_close(plain.run(), expected)


def test_a_model_that_is_not_there_is_said():
    (only,) = steps(Training("timm:no_such_model", 4, 8), CPU)
    assert "no_such_model" in only.absent


def test_the_steps_of_any_method_are_measured():
    contenders = steps(Training("cnn", 4, 8, 5), CPU, ("fmix", "cutmix+decoupled"))
    assert [c.name for c in contenders] == ["plain loop", "fmix", "cutmix+decoupled"]
    for contender in contenders:
        contender.run()
    assert TINY.changed(methods=["fmix"]).trained == ("fmix",)
    with pytest.raises(InputError, match="'fmixx' is unknown"):
        TINY.changed(methods=["fmixx"])


def test_epochs_are_those_of_train_beside_the_bare_model(monkeypatch):
    seen = []

    def trainer(config, dataset):
        seen.append((config.label, len(dataset.train)))
        return real(config, dataset)

    real = steps_module.trainer
    monkeypatch.setattr(steps_module, "trainer", trainer)
    names = ("erm", "sk_mixup, remembered", "mixup+cutmix")
    contenders = epochs("digits", None, 120, CPU, names)
    assert [c.kind for c in contenders] == ["floor", "reference", *["mixwell"] * 3]
    for contender in contenders[:-1]:
        contender.run()
        contender.run()  # a second epoch
    assert "keep one" in contenders[-1].absent
    assert seen == [("erm", 120), ("sk_mixup(distance=remembered)", 120)]
    (only,) = epochs("airfoil", "nowhere", 120, CPU, names)
    assert "nowhere" in only.absent


def test_compiled_steps_tell_graphs_and_failures(no_compiler, monkeypatch):
    case = Training("cnn", 4, 8, 5)
    eager, compiled = compiled_step(case, CPU, "plain loop")
    assert eager.kind == "floor"
    assert compiled.traits == {"fullgraph": "yes", "graphs": "1", "recompilations": "0"}
    monkeypatch.setattr(steps_module, "_created", lambda *_: lambda model, x, y: print(x.sum()))
    (broken,) = compiled_step(case, CPU, "mixup")
    assert broken.traits["fullgraph"] == "no"
    assert broken.absent
    monkeypatch.setattr(steps_module, "_no_compiler", lambda device: "no working compiler: gcc")
    (missing,) = compiled_step(case, CPU, "mixup")
    assert missing.absent == "no working compiler: gcc"


@pytest.mark.slow
def test_plans_cover_what_is_promised():
    full, quick = Plan.full(CPU), Plan.quick()
    assert {str(batch) for batch in full.mixing} >= {"128×3×224² float32", "128×3×32² float32"}
    assert {batch.dtype for batch in full.mixing} == {
        torch.float32, torch.float16, torch.bfloat16, torch.uint8,
    }  # fmt: skip
    assert "compile" in full.sections
    assert "compile" not in quick.sections
    changed = quick.changed(7, ["compile", "mixing"], 16)
    assert changed.sections == ("mixing", "compile")
    assert (changed.repeats, changed.step_repeats, changed.steps[0].size) == (7, 7, 16)
    assert quick.changed(data=["shapes"]).data == ("shapes",)
    with pytest.raises(InputError, match="data is of the sections epoch"):
        changed.changed(data=["shapes"])
    with pytest.raises(InputError, match="data='diabetes' has no classes"):
        quick.changed(data=["digits", "diabetes"])


@pytest.mark.parametrize(("seconds", "text"), [
    (0, "0.00 µs"), (9.996e-6, "10.0 µs"), (0.00099949, "999 µs"), (0.0009996, "1.00 ms"),
    (1.5, "1.50 s"), (250, "250 s"),
])  # fmt: skip
def test_durations(seconds, text):
    assert output.duration(seconds) == text


@pytest.mark.slow
def test_from_the_command_line(tmp_path, capsys):
    out = tmp_path / "speed"
    arguments = ["--quick", "--only", "lambda", "--repeats", "1", "--threads", "1"]
    assert main(["bench", "speed", *arguments, "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "λ of the similarity kernel" in text
    assert "sample_beta" in text
    assert (out / "speed.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sped"], "benchmark 'sped' is unknown; known: speed"),
        (["speed", "--only", "mixin"], "did you mean 'mixing'"),
        (["speed", "--only", ""], "known: mixing, losses"),
        (["speed", "--repeats", "0"], "repeats must be 1"),
        (["speed", "--threads", "-1"], "threads must be 1"),
        (["speed", "--batch-size", "1"], "batch_size must be 2"),
        (["speed", "--quick", "--out", "file/below"], "out='file/below' can't be written to"),
        pytest.param(
            ["speed", "--device", "cuda"], "torch finds no GPU",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
    ],
)  # fmt: skip
def test_what_cannot_work_ends_with_one_message_and_status_2(
    arguments, words, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert main(["bench", *arguments]) == 2
    message = capsys.readouterr().err
    assert message.startswith("mixwell bench: error: ")
    assert words in message
    assert message.count("\n") == 1
