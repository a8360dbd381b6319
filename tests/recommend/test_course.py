"""How a budget is kept to, on a clock that stands still but for what runs are said to take."""

import random
from dataclasses import replace
from types import SimpleNamespace

import pytest

from mixwell.recommend import course, ledger, page, recommend
from mixwell.recommend.planning import MOST_SEEDS, Costs, thinned
from mixwell.recommend.race import Rung
from mixwell.studies.engines import Engine
from mixwell.training import RunConfig

LABELS = ("erm", "mixup", "c_mixup", "sk_mixup", "regmixup", "manifold_mixup", "local_mixup")
TINY = RunConfig(
    data="diabetes", train_size=60, model_options={"width": 8}, epochs=50, threads=1
)  # fmt: skip
REPORT = 5.0


class Pretended(Engine):
    """Runs that end when their time has come; from a moment on all takes longer, or less long."""

    def __init__(self, costs, moment=float("inf"), factor=1.0):
        self.costs, self.moment, self.factor = costs, moment, factor
        self.slots, self.now = costs.workers, 0.0
        self.running, self.epochs, self.seconds = [], {}, {}

    def after(self, start, work):
        """Return when work ends that is begun then."""
        before = max(0.0, min(work, self.moment - start))
        return start + before + (work - before) * self.factor

    def start(self, cell, command):
        epochs = cell.until or cell.config.epochs
        further = (epochs - self.epochs.get(cell.folder, 0)) * self.costs.epoch[cell.label]
        began = self.after(self.now, self.costs.start)
        trained = self.after(began, further)
        ended = trained if cell.until else self.after(trained, self.costs.finish)
        self.epochs[cell.folder] = epochs
        seconds = self.seconds.get(cell.folder, 0.0) + trained - began
        self.seconds[cell.folder] = seconds
        name = "val_rmse" if cell.until else "rmse"
        result = {
            "metrics": {name: random.Random(cell.name).random(), "val_nll": 1.0},
            "history": [{}] * epochs, "seconds": seconds, "task": "regression",
        }  # fmt: skip
        self.running.append((ended, cell, result))

    def events(self, timeout):
        if self.running:
            first = min(self.running, key=lambda entry: entry[0])
            self.running.remove(first)
            self.now, cell, result = first
            yield cell, {"kind": "result", "result": result}
            yield cell, {"kind": "ended"}

    def stop(self):
        self.running.clear()


@pytest.fixture
def spend(monkeypatch, tmp_path):
    """Return what recommends on such a clock: the answer, the plan, and when it ended."""

    def work(budget, *, start=1.0, finish=1.0, epoch=0.05, workers=1, moment=2.0, factor=1.0):
        each = {label: epoch * (1 + 0.1 * place) for place, label in enumerate(LABELS)}
        costs = Costs(each, start, finish, workers, REPORT)
        engine = Pretended(costs, moment * budget, factor)

        def write(*_):
            engine.now = engine.after(engine.now, REPORT)

        monkeypatch.setattr(course, "measure_costs", lambda *_, **__: (costs, {}))
        monkeypatch.setattr(ledger, "time", SimpleNamespace(monotonic=lambda: engine.now))
        monkeypatch.setattr(page, "write_page", write)
        plans = []
        found = recommend(
            TINY, tmp_path / "out", budget=budget, methods=LABELS[1:], workers=workers,
            engine=lambda: engine,
            report=lambda event: event["kind"] == "plan" and plans.append(event["plan"]),
        )  # fmt: skip
        return found, plans[0], engine.now

    return work


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_what_goes_as_planned_has_the_seeds_and_the_time_of_the_plan(spend, workers):
    found, plan, ended = spend(600, workers=workers, epoch=0.05 * workers)
    assert plan.rungs
    assert 5 < plan.seeds < MOST_SEEDS
    assert abs(found.seeds - plan.seeds) <= 2  # it is not known who comes to the final
    assert 0.9 * 600 < ended < 1.0 * 600


@pytest.mark.cases(slow=2)
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("moment", [0.05, 0.3, 0.6])
def test_what_takes_twice_as_long_from_some_moment_on_has_fewer_seeds(spend, moment, workers):
    found, plan, ended = spend(
        600, workers=workers, epoch=0.05 * workers, moment=moment, factor=2.0
    )
    assert 2 <= found.seeds < plan.seeds
    assert all(contrast.pairs >= 2 for contrast in found.contrasts.values())
    assert 0.9 * 600 < ended < 1.1 * 600


def test_what_slows_down_as_the_final_begins_ends_in_time(spend):
    """A seed of it takes a tenth of the budget, and half of the plan is under way."""
    found, plan, ended = spend(600, epoch=0.3, moment=0.25, factor=2.0)
    assert 2 <= found.seeds < plan.seeds
    assert ended < 1.1 * 600


@pytest.mark.slow
def test_what_goes_faster_has_more_seeds(spend):
    found, plan, ended = spend(600, epoch=0.3, moment=0.1, factor=0.5)
    assert found.seeds > 1.5 * plan.seeds
    assert 0.85 * 600 < ended < 1.0 * 600


def test_where_the_time_is_short_the_race_ends_a_rung_sooner(spend):
    found, plan, ended = spend(600, epoch=0.25, moment=0.0, factor=2.5)
    assert 1 <= len(found.rungs) < len(plan.rungs)
    assert len(found.contrasts) == 1  # the best so far
    *_, last = found.rungs
    (first,) = [s["label"] for s in last["standings"] if s["place"] and s["goes_on"]]
    assert [first] == list(found.contrasts)
    assert last["standings"][0]["label"] == first
    assert found.seeds >= 2
    assert ended < 1.1 * 600


def test_rungs_are_thinned_from_the_end_and_no_further_than_needed():
    costs = Costs({"erm": 1.0, "a": 1.0, "b": 1.0, "c": 1.0}, 0.0, 0.0, 1)
    rungs = [Rung(5, (0, 1), 2), Rung(10, (0, 1), 2)]

    def left(room):
        return thinned(rungs, ["a", "b", "c"], "erm", costs, 10, 2, room)

    final, one = 5 * 10 * 2, 5 * 10 * 3  # five seeds of one finalist, or of two, and the baseline
    assert left(one + 2 * (4 * 3 + 3 * 5)) == rungs
    fewer = [replace(rung, seeds=(0,)) for rung in rungs]
    assert left(one + 4 * 3 + 3 * 5) == fewer
    assert left(final + 4 * 3 + 3 * 5) == [fewer[0], replace(fewer[1], keep=1)]
    assert left(final + 4 * 3) == [replace(fewer[0], keep=1)]
    assert left(final) == left(0) == []
    assert thinned([], ["a", "b"], "erm", costs, 10, 2, 0) == []


def test_what_has_no_time_left_for_two_seeds_is_cut_and_says_so(spend):
    found, _, ended = spend(600, epoch=0.3, moment=0.05, factor=6.0)
    assert ended < 1.3 * 600  # a run is as long as a quarter of the budget, and none is told of
    assert "too few for a conclusion" in "".join(found.notes) or not found.contrasts
    assert not any(contrast.shown for contrast in found.contrasts.values())


def test_what_a_stage_took_beside_its_epochs_explains_all_of_its_time():
    """Three runs, two at a time: the last has no other beside it."""
    costs = Costs({"a": 1.0, "b": 2.0, "c": 7.0}, 5.0, 3.0, 2, REPORT)
    runs = [("a", 20.0), ("b", 40.0), ("b", 40.0)]
    learned = costs.learned(runs, 10, 84.0, whole=False)
    assert learned.epoch == {"a": 2.0, "b": 4.0, "c": 7.0}
    assert learned.start == pytest.approx(12.0)
    assert learned.rung(["a", "b", "b"], 1, 10) == pytest.approx(84.0)
    slower = 84 / costs.rung(["a", "b", "b"], 1, 10)
    assert (learned.finish, learned.report) == pytest.approx((3 * slower, REPORT * slower))
    whole = costs.learned(runs, 10, 84.0, whole=True)
    assert whole.start + whole.finish == pytest.approx(12.0)
    assert whole.final(["a", "b", "b"], 1, 10) == pytest.approx(84.0)
