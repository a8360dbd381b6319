"""Whole recommendations, with runs that are trained."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers import run_scripts
from recommending import METHODS, MOMENTS, SEEDS, STARTED, TINY, decisions, recommended, steady
from torch import nn

import mixwell
from mixwell import InputError, plugins
from mixwell.cli import main
from mixwell.cli.command import settings
from mixwell.cli.importing import taken_out
from mixwell.cli.main import _parser
from mixwell.cli.options import config_of
from mixwell.recommend import driver, page, recommend
from mixwell.recommend.candidates import candidates
from mixwell.recommend.words import code_of, command_of, trained
from mixwell.studies import load_records
from mixwell.studies.study import Study
from mixwell.training import RunConfig
from mixwell.training.build import load_data, resolved
from mixwell.training.prepare import check

ROOT = Path(__file__).parents[2]


@pytest.fixture
def quick(monkeypatch):
    """Leave nothing to the clock, and draw no report."""
    steady(monkeypatch.setattr)
    monkeypatch.setattr(page, "write_page", lambda *_: None)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return the folder of a recommendation, what was told of it, and its answer."""
    folder, told = tmp_path_factory.mktemp("whole") / "out", []
    with pytest.MonkeyPatch.context() as patch:
        steady(patch.setattr)
        found = recommended(folder, report=told.append, command="mixwell recommend ...")
    return SimpleNamespace(folder=folder, told=told, found=found)


def parsed(command):
    """Return the configuration that a command of ours trains."""
    program, *arguments = shlex.split(command)
    assert program == "mixwell"
    _, arguments = taken_out(arguments)
    options = _parser(arguments).parse_args(arguments)
    return config_of(options, method_options=settings("--set", options.set))


def started(folder):
    return (folder.parent / STARTED).read_text().split()


# -------------------------------------------------------------------------------- a whole one


def test_what_was_found_is_written(whole):
    written = json.loads((whole.folder / "recommendation.json").read_text())
    found = whole.found
    assert written["sentence"] == found.sentence
    assert written["seeds"] == found.seeds == SEEDS
    assert written["candidates"] == list(METHODS)
    assert set(written["contrasts"]) == set(found.contrasts) < set(METHODS)
    assert 0 < written["spent"] < written["budget"] == 3600
    text = (whole.folder / "report.html").read_text(encoding="utf-8")
    assert "The answer" in text
    assert "The race" in text
    rows = (whole.folder / "results.csv").read_text().splitlines()
    assert len(rows) == 1 + 2 * SEEDS
    kinds = [event["kind"] for event in whole.told if event["kind"] != "run"]
    assert kinds == [
        "measuring", "plan", "stage", "rung", "stage", "rung", "stage", "stage", "answer",
    ]  # fmt: skip


def test_the_number_is_the_mean_of_the_paired_differences_on_the_test_split(whole):
    records = load_records(whole.folder / "final")
    (name, contrast), *_ = whole.found.contrasts.items()
    by_seed = {(record.label, record.seed): record.metrics["rmse"] for record in records}
    gaps = [by_seed[name, seed] - by_seed["erm", seed] for seed in range(SEEDS)]
    assert contrast.difference == pytest.approx(sum(gaps) / SEEDS)
    assert contrast.pairs == SEEDS
    said = re.search(r"by ([+-]?[\d.]+) ± ([\d.]+)", whole.found.sentence)
    assert abs(float(said[1])) == pytest.approx(abs(contrast.difference), abs=0.05)
    assert float(said[2]) == pytest.approx(contrast.half_width, rel=0.05)


def test_the_better_half_goes_on_by_what_was_measured_on_validation_data(whole):
    race = {record.path.name: record for record in load_records(whole.folder / "race")}
    alive = set(METHODS)
    for rung in whole.found.rungs:
        (seed,) = rung["seeds"]
        measured = {
            name: race[f"{name}-seed{seed}.epoch{rung['epoch']}"].metrics["val_rmse"]
            for name in (*alive, "erm")
        }
        standings = {standing["label"]: standing for standing in rung["standings"]}
        assert {name: -standing["score"] for name, standing in standings.items()} == measured
        best = sorted(alive, key=measured.get)[: rung["keep"]]
        alive = {name for name in alive if standings[name]["goes_on"]}
        assert alive == set(best)
    assert alive == set(whole.found.contrasts)


def test_the_test_split_is_looked_at_by_the_final_alone(whole):
    race, final = (load_records(whole.folder / place) for place in ("race", "final"))
    for record in race:
        assert record.metrics
        assert all(name.startswith("val_") for name in record.metrics)
        assert "test" not in json.dumps([record.history, record.details])
    files = {path.name for path in (whole.folder / "race").rglob("*") if path.is_file()}
    assert not files & {"predictions.npz", "result.json", "model.pt"}
    assert all("rmse" in record.metrics for record in final)
    assert not {record.seed for record in race} & {record.seed for record in final}


def test_runs_of_the_race_go_on_from_their_checkpoints(whole):
    race = {record.path.name: record for record in load_records(whole.folder / "race")}
    first, second = (race[f"erm-seed1000.epoch{epoch}"] for epoch in (2, 4))
    assert second.history[:2] == first.history
    assert len(second.history) == 4


def test_what_is_to_be_typed_can_be(whole):
    assert parsed(whole.found.command) == replace(TINY, method=whole.found.method)
    model = nn.Linear(10, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    before = model.weight.clone()
    loader = [(torch.randn(8, 10), torch.randn(8, 1))] * 2
    exec(whole.found.code, {"model": model, "optimizer": optimizer, "loader": loader})
    assert not torch.equal(model.weight, before)


def test_repeated_it_trains_nothing_and_says_the_same(whole):
    before, runs = decisions(whole.folder), started(whole.folder)
    written = (whole.folder / "recommendation.json").read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        steady(patch.setattr)
        patch.setattr(page, "write_page", lambda *_: None)
        assert str(recommended(whole.folder)) == str(whole.found)
    assert decisions(whole.folder) == before
    assert started(whole.folder) == runs
    assert (whole.folder / "recommendation.json").read_bytes() == written


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"budget": "2h"}, "budget=3600.0, not 7200.0.*look at the test split"),
        ({"methods": METHODS[:2]}, "methods="),
        ({"config": replace(TINY, train_size=70)}, "train_size=60, not 70"),
        ({"baseline": "mixup"}, "baseline='erm', not 'mixup'"),
    ],
)
def test_something_else_in_the_same_folder_is_refused(whole, other, words):
    with pytest.raises(InputError, match=words):
        recommended(whole.folder, **other)


# ------------------------------------------------------------------------------- what goes wrong

BREAKS = """
from mixwell.methods import Answer, Fidelity, Spec, register
from mixwell.pairing import Pairing

class Breaks(Pairing):
    def forward(self, batch):
        if batch.progress > {after}:
            raise RuntimeError("out of partners")
        return batch.randperm()

register(Spec(name="breaks", title="t", paper="p", equation="e", doc="Own.",
              answers={{"pairing": Answer(Breaks)}},
              fidelity=Fidelity(same="It is defined here.", against="no publication")))
"""


@pytest.fixture
def breaking(from_outside, quick):
    """Return a configuration that brings a method which fails from some progress on."""

    def make(after):
        Path("own.py").write_text(BREAKS.format(after=after))
        return replace(TINY, imports=(plugins.load("own.py"),))

    return make


@pytest.mark.slow
def test_a_candidate_that_fails_is_named_and_the_race_goes_on(breaking, tmp_path):
    found = recommended(tmp_path / "out", config=breaking(0.1), methods=["mixup", "breaks"])
    states = {standing["label"]: standing for standing in found.rungs[0]["standings"]}
    assert states["breaks"]["why"] == "a run of it failed"
    assert not states["breaks"]["goes_on"]
    assert list(found.contrasts) == ["mixup"]
    assert found.seeds == SEEDS


def test_where_all_candidates_fail_it_says_so(breaking, tmp_path):
    found = recommended(
        tmp_path / "out", config=breaking(0.1), methods=["breaks", "breaks(alpha=0.2)"]
    )
    assert found.sentence == "Every candidate failed in the race: nothing can be said."
    assert found.method == "erm"


def test_a_finalist_that_fails_is_named(breaking, tmp_path):
    found = recommended(tmp_path / "out", config=breaking(0.1), methods=["breaks"])
    assert "runs failed: nothing can be said" in found.sentence
    assert any("Runs of breaks failed" in note for note in found.notes)


def test_a_baseline_that_fails_ends_it_with_its_error(breaking, tmp_path):
    asked = {"config": breaking(0.1), "methods": ["mixup", "erm"], "baseline": "breaks"}
    with pytest.raises(InputError) as raised:
        recommended(tmp_path / "out", **asked)
    log = tmp_path / "out" / "race" / "breaks-seed1000" / "log.txt"
    assert str(raised.value) == (
        f"breaks, which all are compared with, failed: RuntimeError: out of partners; see {log}"
    )


def test_a_method_that_can_make_no_step_is_refused_before_the_race(breaking, tmp_path):
    with pytest.raises(InputError, match="out of partners"):
        recommended(tmp_path / "out", config=breaking(-1), methods=["mixup", "breaks"])
    assert not (tmp_path / "out" / "race").exists()


# --------------------------------------------------------------------------------- what to type


@pytest.mark.parametrize(
    "data", [{"data": "digits"}, {"data": "digits", "imbalance": 10}, {"data": "diabetes"}]
)
def test_the_lines_and_the_command_of_every_candidate_work(data):
    given = RunConfig(**data, epochs=3, threads=1)
    dataset = load_data(given)
    base = resolved(given, dataset)
    names = ["erm", *candidates(dataset)]
    x, y = dataset.train.x[:16].float(), dataset.train.y[:16]
    classes = len(dataset.classes) or 1
    for label, method, options, _ in Study(base, names, [0]).options():
        config = replace(base, method=method, method_options=options)
        model = nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), 8), nn.Linear(8, classes))
        optimizer = torch.optim.SGD(model.parameters(), 0.01)
        code = code_of(config, dataset)
        batch = (torch.arange(16), (x, y)) if "index=index" in code else (x, y)
        known = {"X": dataset.train.x.float(), "Y": dataset.train.y}
        known.update(step=1, total_steps=2, model=model, optimizer=optimizer, loader=[batch])
        before = model[-1].weight.clone()
        exec(code, known)
        assert not torch.equal(model[-1].weight, before), label
        chosen = trained(given, config, 3)
        assert parsed(command_of(chosen)) == chosen, label


@pytest.mark.parametrize(("name", "taken"), [("cifar100", "cifar100"), ("digits", None)])
def test_the_lines_name_the_set_up_that_was_taken(name, taken):
    given = RunConfig(data="digits", method="mixup", published="data")
    dataset = replace(load_data(given), name=name)
    code = code_of(given, dataset)
    exec(code, {"loader": []})
    assert ("published" in code) == (taken is not None)
    assert taken is None or f'published="{taken}"' in code


def test_a_baseline_is_recommended_without_the_others_set_up():
    given = RunConfig(data="digits", published="cifar100")
    dataset = load_data(given)
    for label, method, options, own in Study(given, ["erm", "mixup"], [0]).options():
        config = replace(given, method=method, method_options=options, **own)
        chosen = trained(given, config, 3)
        assert parsed(command_of(chosen)) == chosen
        check(resolved(chosen, dataset), dataset)
        assert ("published" in code_of(chosen, dataset)) == (label == "mixup")


@pytest.mark.parametrize("published", ["airfoil", "exchange-rate"])
def test_the_lines_say_what_a_published_bandwidths_units_need(published):
    config = RunConfig(data="diabetes", method="c_mixup", published=published)
    dataset = load_data(config)
    code = code_of(config, dataset)
    exec(code, {"loader": []})
    needed = {"target_std", "target_largest"} if published == "exchange-rate" else set()
    assert {name for name in ("target_std", "target_largest") if name in code} == needed


def test_the_lines_bring_what_was_imported(breaking, from_outside):
    config = replace(breaking(0.5), method="breaks")
    code = code_of(config, load_data(config))
    from_outside()
    with pytest.raises(InputError, match="breaks"):
        mixwell.describe("breaks")
    exec(code, {"loader": []})
    assert "breaks" in mixwell.list_methods()


@pytest.mark.parametrize(
    "given",
    [
        {"pretrained": True, "freeze": ("backbone", "head*"), "model": "timm:resnet18"},
        {"data": "folder:my photos", "image_size": 32, "lr": 1e-4, "weight_decay": 0.0},
        {"method_options": {"alpha": 0.2, "layer": "auto", "class_counts": [3, 4]}},
        {"model_options": {"width": 16, "dropout": 0.5}, "published": "cifar10", "seed": 3},
        {"log": "csv,tensorboard", "shift": True, "coarse": True, "labels": 40, "augment": False},
    ],
)  # fmt: skip
def test_whatever_is_set_the_command_says_it(given):
    config = RunConfig(**given)
    assert parsed(command_of(config)) == config


# -------------------------------------------------------------------------------------- killed


@pytest.mark.cases(slow=2)
@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_it_goes_on_with_the_same_decisions(moment, whole, quick, tmp_path):
    folder = tmp_path / "out"
    script = (ROOT / "tests" / "recommending.py").read_text()
    assert run_scripts(script, (folder, moment)) == [-signal.SIGKILL]
    race = folder / "race"
    if race.exists():
        names = {name for record in load_records(race) for name in record.metrics}
        assert all(name.startswith("val_") for name in names)
    recommended(folder)
    assert decisions(folder) == decisions(whole.folder)
    assert sorted(started(folder)) == sorted(started(whole.folder))  # none is trained twice


@pytest.mark.release
@pytest.mark.skipif(
    not (shutil.which("cc") and sys.platform.startswith("linux")), reason="needs LD_PRELOAD"
)
def test_killed_at_any_change_of_a_file_it_goes_on_with_the_same_decisions(tmp_path):
    library = tmp_path / "faults.so"
    faults = ROOT / "tests" / "reliability" / "faults.c"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", faults, "-ldl", "-o", library], check=True)
    job = {"kinds": ["kill"], "stride": 157, "first": 20, "limit": 60, "folder": str(tmp_path)}
    environment = {
        **os.environ, "LD_PRELOAD": str(library), "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT / "src"),
    }  # fmt: skip
    worker = [sys.executable, ROOT / "tests" / "recommending.py", json.dumps(job)]
    done = subprocess.run(worker, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert found["wrong"] == []
    assert found["tried"] > 0


# ---------------------------------------------------------------------------------- as it is used


@pytest.mark.release
@pytest.mark.timeout(1200)
def test_a_budget_that_is_named_as_enough_is_and_is_kept_to(tmp_path, capsys):
    asked = [
        "recommend", "--data", "diabetes", "--train-size", "60", "--methods", "erm,mixup",
        "--model-set", "width=16", "--threads", "1", "--workers", "1",
    ]  # fmt: skip
    assert main([*asked, "--budget", "1s", "--out", str(tmp_path / "small")]) == 2
    said = capsys.readouterr().err
    assert "is too small for any conclusion" in said
    assert re.search(r"about \d+ (s|min) for the usual", said)
    ((number, unit),) = re.findall(r"about (\d+) (s|min) would be enough", said)
    assert not any((tmp_path / "small").glob("*/"))
    budget = 2 * int(number) * {"s": 1, "min": 60}[unit]  # others may be at work
    assert main([*asked, "--budget", f"{budget:.0f}s", "--out", str(tmp_path / "out")]) == 0
    words = capsys.readouterr().out
    answer = json.loads((tmp_path / "out" / "recommendation.json").read_text())
    assert " ".join(answer["sentence"].split()) in " ".join(words.split())
    assert f"Report: {tmp_path / 'out' / 'report.html'}" in words
    assert answer["spent"] < 1.1 * budget
    assert answer["seeds"] >= 2


@pytest.mark.release
def test_on_ray(tmp_path, quick, monkeypatch):
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    from mixwell.studies import RayEngine

    monkeypatch.setenv("RAY_worker_niceness", "0")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:
        found = recommend(
            TINY, tmp_path / "out", methods=METHODS[:2], budget="1h",
            engine=lambda: RayEngine(None, 1),
        )  # fmt: skip
    finally:
        ray.shutdown()
    assert found.seeds == SEEDS
    alone = recommended(tmp_path / "alone", methods=METHODS[:2])
    assert found.contrasts == alone.contrasts
    assert found.sentence == alone.sentence


@pytest.mark.parametrize("methods", [
    "mixup,mixup(alpha=1)", ["regmixup+cutmix", "cutmix+regmixup"], ["cutmix", "erm(epochs=15)"],
])  # fmt: skip
def test_the_same_method_twice_is_refused(methods, tmp_path):
    with pytest.raises(InputError, match="are the same method, trained alike"):
        recommend(
            RunConfig(train_size=100, epochs=15), tmp_path / "out", budget="5m", methods=methods
        )
    assert not (tmp_path / "out").exists()


def test_candidates_of_ones_own_choice_race_once(monkeypatch):
    config = RunConfig(train_size=100)
    dataset = load_data(config)
    base = resolved(config, dataset)
    chosen = ["mixup", "mixup(alpha=1.0)", "cutmix"]
    monkeypatch.setattr(driver, "candidates", lambda *_: chosen)
    assert list(driver._configs(base, dataset, None, {}, "erm")) == ["erm", "mixup", "cutmix"]
    with pytest.raises(InputError, match="names one twice"):
        driver._configs(base, dataset, chosen, {}, "erm")
