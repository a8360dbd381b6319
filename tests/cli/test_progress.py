import pytest

from mixwell.cli.progress import Progress
from mixwell.metrics import measures
from mixwell.metrics.measures import Measure

CLASSES = {"kind": "epoch", "epoch": 3, "loss": 0.51234, "val_accuracy": 0.97222, "val_nll": 0.1}
REAL = {"kind": "epoch", "epoch": 1, "loss": 0.9, "val_rmse": 57.1204}


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (CLASSES, "mixup: epoch 3, loss 0.5123, validation accuracy 97.22%"),
        (REAL, "mixup: epoch 1, loss 0.9000, validation RMSE 57.120"),
        ({"kind": "start", "done": 0, "steps": 9, "epoch": 0}, ""),
        ({"kind": "start", "done": 4, "steps": 9, "epoch": 1}, "mixup: goes on at epoch 2"),
        ({"kind": "step", "done": 5}, ""),
    ],
)
def test_a_run_tells_each_epoch_by_the_first_measure_that_it_has(event, line, capsys):
    with Progress() as show:
        show("mixup", event)
    assert capsys.readouterr().out.strip() == line


def test_a_task_without_measures_of_its_own_tells_the_loss(capsys):
    with Progress() as show:
        show("mixup", {"kind": "epoch", "epoch": 1, "loss": 2.0})
    assert capsys.readouterr().out == "mixup: epoch 1, loss 2.0000\n"


def test_a_measure_from_outside_is_told_where_it_is_the_only_one(capsys):
    measures.register(
        Measure("hits", "hits", "of ten", lambda e: 0.5, ("counting",), each_epoch=True, digits=1)
    )
    try:
        with Progress() as show:
            show("mixup", {"kind": "epoch", "epoch": 1, "loss": 2.0, "val_hits": 7.25})
    finally:
        measures.remove("hits")
    assert capsys.readouterr().out.strip().endswith("validation hits 7.2")


def test_a_study_tells_how_each_run_ended(capsys):
    with Progress(3) as show:
        show("first", CLASSES)
        show("first", {"kind": "done"})
        show("second", {"kind": "kept"})
        show("third", {"kind": "failed", "error": "Traceback\nValueError: no"})
    assert capsys.readouterr().out.splitlines() == [
        "[1/3] first done", "[2/3] second was done before", "[3/3] third failed: ValueError: no",
    ]  # fmt: skip
