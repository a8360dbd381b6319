"""``mixwell report``: the report of another day is that of the run."""

import json
import zlib

import pytest

from mixwell import InputError
from mixwell.cli import main
from mixwell.report import markdown_table
from mixwell.studies import Study, load_records, run_study, summarise
from mixwell.studies.engines import Engine
from mixwell.training import RunConfig

TINY = RunConfig(train_size=100, epochs=1, threads=1)


class MadeUp(Engine):
    """An engine whose runs have numbers, and cost nothing."""

    slots = 4

    def __init__(self):
        self.waiting = []

    def start(self, cell, command):
        self.waiting.append(cell)

    def events(self, timeout):
        waiting, self.waiting = self.waiting, []
        for cell in waiting:
            accuracy = (zlib.crc32(cell.name.encode()) % 97) / 100
            result = {
                "metrics": {"accuracy": accuracy}, "classes": ["a"], "command": "made up",
                "seconds": 1 + accuracy, "seconds_per_step": 0.1 + accuracy / 9,
            }  # fmt: skip
            yield cell, {"kind": "result", "result": result}
            yield cell, {"kind": "ended"}

    def stop(self):
        pass


def study(methods, out, base=TINY, vary=None, **options):
    found = run_study(Study(base, methods, [0, 1], vary or {}), out, engine=MadeUp(), **options)
    return [record.label for record in found]


def reported(out, *options):
    """Return the methods in the order of the report, and the baseline that it names."""
    assert main(["report", str(out), *options]) == 0
    rows = json.loads((out / "results.json").read_text())
    untested = [row["method"] for row in rows if not any(row["tests_against_baseline"].values())]
    assert len(untested) == 1
    return [row["method"] for row in rows], untested[0]


@pytest.mark.slow
def test_the_baseline_and_the_order_of_the_last_run_are_kept(tmp_path):
    study(["erm", "mixup", "cutmix"], tmp_path, baseline="mixup")
    assert reported(tmp_path) == (["erm", "mixup", "cutmix"], "mixup")
    assert reported(tmp_path, "--baseline", "cutmix")[1] == "cutmix"
    assert reported(tmp_path)[1] == "mixup"
    # Without erm the first is the baseline: that of the command, not of the folder.
    study(["regmixup", "cutmix", "mixup"], tmp_path)
    assert reported(tmp_path) == (["regmixup", "cutmix", "mixup", "erm"], "regmixup")
    study(["cutmix", "mixup", "regmixup"], tmp_path)
    assert reported(tmp_path) == (["cutmix", "mixup", "regmixup", "erm"], "cutmix")
    study(["mixup", "erm"], tmp_path)
    assert reported(tmp_path) == (["mixup", "erm", "cutmix", "regmixup"], "erm")


def test_a_baseline_that_is_no_method_is_refused_before_a_run(tmp_path):
    with pytest.raises(InputError, match=r"not among.*did you mean 'cutmix'"):
        study(["erm", "cutmix"], tmp_path / "out", baseline="cutmiks")
    assert not (tmp_path / "out").exists()


def test_a_part_without_the_baseline_is_tested_against_no_other(tmp_path):
    study(["erm", "mixup", "cutmix"], tmp_path, vary={"lr": [0.1, 0.2]}, baseline="mixup")
    left = [r for r in load_records(tmp_path) if (r.label, r.vary["lr"]) != ("mixup", 0.2)]
    tested = {(s.group, s.method) for s in summarise(left, "mixup") if s.tests["accuracy"]}
    assert tested == {("lr 0.1", "erm"), ("lr 0.1", "cutmix")}
    text = markdown_table(left, baseline="mixup")
    assert "lr 0.2: mixup has no run here: no test" in text
    assert "lr 0.1: mixup" not in text
