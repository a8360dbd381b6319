"""The course of a recommendation: measure, plan, race, final, answer; killed, it goes on."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mixwell.data import Dataset
from mixwell.errors import InputError, last_line
from mixwell.metrics.measures import VALIDATION, Measure
from mixwell.recommend.answer import Recommendation, conclude
from mixwell.recommend.ledger import Ledger
from mixwell.recommend.planning import MOST_SEEDS, Costs, Plan, make_plan, thinned
from mixwell.recommend.race import Rung, Scores, Standing, finalists, first_alone, race
from mixwell.recommend.timing import measure_costs
from mixwell.studies.engines import Engine, LocalEngine, fair_threads
from mixwell.studies.records import RunRecord
from mixwell.studies.run import run_cells
from mixwell.studies.store import Cell, Store
from mixwell.studies.study import slug
from mixwell.training.config import RunConfig
from mixwell.training.files import make_folder

__all__ = ["Asked", "Course", "Report"]

Report = Callable[[dict[str, Any]], None]
"""Is told what happens."""

_OVER = 1.05
"""Times the budget, less the report: what still runs then is ended, and what has ended counts."""


class _OutOfTime(Exception):
    """The budget is used up."""


@dataclass(frozen=True)
class Asked:
    """What is asked for, checked.

    Attributes:
        given: the configuration as it was given.
        base: the same resolved: what all runs share.
        dataset: of it.
        configs: the runs' configurations by label, the baseline's first.
        folder: for all files.
        budget: seconds.
        measure: what counts.
        named: whether the candidates were named, and none may be left out.
        workers: runs at a time, on this machine.
        loading: seconds that reading the data took.
        command: the command line.
    """

    given: RunConfig
    base: RunConfig
    dataset: Dataset
    configs: Mapping[str, RunConfig]
    folder: Path
    budget: float
    measure: Measure
    named: bool
    workers: int
    loading: float
    command: str

    @property
    def baseline(self) -> str:
        """The label of what all are compared with."""
        return next(iter(self.configs))


class Course:
    """One recommendation, from where its ledger is.

    Args:
        asked: for.
        ledger: what was decided before.
        engine: makes what runs the runs.
        report: is told what happens.
    """

    def __init__(
        self, asked: Asked, ledger: Ledger, engine: Callable[[], Engine], report: Report
    ) -> None:
        self.asked, self.ledger, self.report = asked, ledger, report
        self._engine = engine
        self.plan: Plan
        self.costs: Costs

    def run(self) -> Recommendation:
        """Do what is still to be done, and answer."""
        content = self.ledger.content
        if not content.get("ended"):
            with self._engine() as session:  # a cluster that it starts stays for all that follow
                if "plan" not in content:
                    self._make_plan(session)
                self._go_on()
                with contextlib.suppress(_OutOfTime):
                    self._final(self._race())
        else:
            self._go_on()
        return self._answer()

    def _go_on(self) -> None:
        """Take up what the ledger holds, and tell of it."""
        content = self.ledger.content
        self.plan, self.costs = Plan.from_dict(content["plan"]), Costs(**content["costs"])
        self.report(
            {
                "kind": "plan", "plan": self.plan, "unfit": content["unfit"],
                "spent": self.ledger.spent, "budget": self.asked.budget,
            }
        )  # fmt: skip
        for rung in content["rungs"]:
            self._tell(rung)

    def _make_plan(self, session: Engine) -> None:
        """Measure what the candidates take, and decide how the budget is spent."""
        asked = self.asked
        self.report({"kind": "measuring", "candidates": list(asked.configs)})
        here = isinstance(session, LocalEngine)
        costs, unfit = measure_costs(
            asked.configs, asked.dataset, budget=asked.budget, loading=asked.loading,
            # A cluster has one slot more than room, for a node to come.
            workers=asked.workers if here else max(1, session.slots - 1),
            threads=asked.base.threads or (fair_threads(asked.workers) if here else 1),
        )  # fmt: skip
        for label, error in unfit.items():
            if asked.named or label == asked.baseline:
                raise InputError(f"{label}: {error}")
        if len(unfit) == len(asked.configs) - 1:
            label, error = next(iter(unfit.items()))
            raise InputError(f"no candidate can make a step: {label}: {error}")
        assert asked.base.epochs is not None
        plan = make_plan(
            costs, [name for name in costs.epoch if name != asked.baseline], asked.baseline,
            usual=asked.base.epochs, budget=asked.budget, spent=self.ledger.spent,
            fixed=asked.given.epochs is not None,
        )  # fmt: skip
        self.ledger.keep(plan=plan.to_dict(), costs=vars(costs), unfit=unfit)

    # ------------------------------------------------------------------------------- the runs

    def _cells(
        self, place: str, labels: Sequence[str], seeds: Sequence[int], until: int | None = None
    ) -> list[Cell]:
        """Return the cells of some methods and seeds: seed by seed, the longest first."""
        order = sorted(labels, key=lambda label: -self.costs.epoch[label])
        cells = []
        for seed in seeds:
            for label in order:
                config = replace(self.asked.configs[label], epochs=self.plan.epochs, seed=seed)
                folder = self.asked.folder / place / f"{slug(label)}-seed{seed}"
                cells.append(Cell(config, folder, {}, label, until))
        return cells

    def _train(self, cells: Sequence[Cell], place: str, stage: str) -> None:
        """Run cells, as long as there is time."""
        folder = self.asked.folder / place
        make_folder("out", folder)
        ended = 0

        latest = _OVER * self.asked.budget - self.costs.closing(self.asked.budget)

        def told(cell: Cell, event: dict[str, Any]) -> None:
            nonlocal ended
            ended += event["kind"] in ("done", "kept", "elsewhere", "failed")
            self.report(
                {
                    "kind": "run", "label": cell.label, "name": cell.name, "event": event,
                    "ended": ended, "runs": len(cells), "spent": self.ledger.spent,
                }
            )  # fmt: skip

        def tick() -> None:
            self.ledger.tick()
            if self.ledger.spent > latest:
                raise _OutOfTime

        self.report({"kind": "stage", "stage": stage, "runs": len(cells)})
        run_cells(
            cells, folder, workers=self.asked.workers, engine=self._engine(), report=told,
            command=self.asked.command, tick=tick, baseline=self.asked.baseline,
        )  # fmt: skip

    def _records(self, place: str, cells: Sequence[Cell]) -> dict[str, RunRecord]:
        """Return the records of the cells that ended or failed, by their names."""
        found = Store(self.asked.folder / place).records([cell.name for cell in cells])
        return {record.path.name: record for record in found}

    def _learn(self, cells: Sequence[Cell], place: str, began: float, before: int = 0) -> None:
        """Take what the runs of a stage took for the measure of what follows.

        Args:
            cells: of the stage.
            place: where they are, "race" or "final".
            began: the seconds of the budget that were gone then.
            before: the epoch that its runs began at.
        """
        records = self._records(place, cells)
        earlier = {}
        if before:
            earlier = self._records(place, [replace(cell, until=before) for cell in cells])
        runs = []
        for cell in cells:
            run = records.get(cell.name)
            if run is not None and run.history:
                start = earlier.get(replace(cell, until=before).name)
                runs.append((cell.label, run.seconds - (start.seconds if start else 0.0)))
        epochs = (cells[0].until or self.plan.epochs) - before
        took = self.ledger.spent - began
        if runs and epochs > 0:
            self.costs = self.costs.learned(runs, epochs, took, whole=place == "final")

    def _time_left(self, last: bool = False) -> float:
        """Return the seconds that training may still take; ``last`` as of the costs."""
        return self.costs.available(self.asked.budget, last) - self.ledger.spent

    # ------------------------------------------------------------------------------- the race

    def _race(self) -> list[str]:
        """Return the finalists."""
        alive, left = list(self.plan.candidates), list(self.plan.rungs)
        if self.ledger.content["rungs"]:
            last = self.ledger.content["rungs"][-1]
            alive = finalists([Standing.from_dict(values) for values in last["standings"]])
            left = [Rung(r["epoch"], tuple(r["seeds"]), r["keep"]) for r in last["left"]]
        self._left = left
        found = race(alive, left, self.asked.baseline, self._scores, self._decide)
        last = self.ledger.content["rungs"][-1:]  # which may have been cut further
        stay = [
            values["label"] for rung in last for values in rung["standings"] if values["goes_on"]
        ]
        return [label for label in found if not last or label in stay]

    def _scores(self, labels: Sequence[str], rung: Rung) -> Scores:
        """Train candidates to a rung; return what they are ranked by."""
        number = len(self.ledger.content["rungs"]) + 1
        if self.ledger.content.get("stage", {}).get("rung") != number:  # not begun before a kill
            self.ledger.keep(stage={"rung": number, "began": self.ledger.spent})
        cells = self._cells("race", labels, rung.seeds, rung.epoch)
        self._train(cells, "race", f"rung {number}, to epoch {rung.epoch} of {self.plan.epochs}")
        before = self.ledger.content["rungs"][-1]["epoch"] if number > 1 else 0
        self._learn(cells, "race", self.ledger.content["stage"]["began"], before)
        records = self._records("race", cells)
        scores: dict[str, list[tuple[float, ...]] | None] = {label: [] for label in labels}
        for cell in cells:
            record, found = records.get(cell.name), scores[cell.label]
            if record is None or record.status != "done":
                scores[cell.label] = None
                if cell.label == self.asked.baseline:
                    why = (record and record.error) or "it left no result"
                    raise InputError(
                        f"{cell.label}, which all are compared with, failed: {last_line(why)}; see "
                        f"{cell.folder / 'log.txt'}"
                    )
            elif found is not None:
                found.append(self._score(record.metrics))
        return scores

    def _score(self, metrics: Mapping[str, float]) -> tuple[float, ...]:
        """Return what a run is ranked by, and what decides between equals; higher is better."""
        sign = 1.0 if self.asked.measure.higher_is_better else -1.0
        value = sign * metrics[VALIDATION + self.asked.measure.name]
        return (value, -metrics.get(VALIDATION + "nll", 0.0))

    def _decide(self, standings: list[Standing]) -> list[Rung]:
        """Enter a rung's standings; return the rungs that follow, as the time allows."""
        rung, *planned = self._left
        self._left = thinned(
            planned, finalists(standings), self.asked.baseline, self.costs,
            self.plan.epochs, rung.epoch, self._time_left(),
        )  # fmt: skip
        if planned and not self._left:
            standings = first_alone(standings, "no time is left for another rung")
        entry = {
            **vars(rung), "standings": [standing.to_dict() for standing in standings],
            "left": [vars(following) for following in self._left], "ended": self.ledger.spent,
        }  # fmt: skip
        self.ledger.add("rungs", entry, costs=vars(self.costs))
        self._tell(entry)
        gone = [standing.label for standing in standings if not standing.goes_on]
        for cell in self._cells("race", gone, rung.seeds):
            (cell.folder / "checkpoint.pt").unlink(missing_ok=True)  # nothing goes on from it
        return self._left

    def _tell(self, rung: Mapping[str, Any]) -> None:
        """Tell how a rung came out."""
        standings = [Standing.from_dict(values) for values in rung["standings"]]
        self.report(
            {
                "kind": "rung", "epoch": rung["epoch"], "epochs": self.plan.epochs,
                "seeds": len(rung["seeds"]), "standings": standings,
                "measure": self.asked.measure, "baseline": self.asked.baseline,
            }
        )  # fmt: skip

    # ------------------------------------------------------------------------------ the final

    def _final(self, chosen: Sequence[str]) -> None:
        """Train the finalists and the baseline with fresh seeds, as many as there is time for.

        How many depends on the time alone, never on what came out.
        """
        self.ledger.keep(finalists=list(chosen))
        labels = [self.asked.baseline, *chosen]
        blocks = self.ledger.content["blocks"]
        if blocks and "ended" not in blocks[-1]:  # it was begun before a kill
            self._block(labels)
        while chosen and (count := self._room(labels)):
            blocks = self.ledger.content["blocks"]
            first = sum(len(block["seeds"]) for block in blocks)
            seeds = list(range(first, first + count))
            self.ledger.add("blocks", {"seeds": seeds, "began": self.ledger.spent})
            self._block(labels)

    def _room(self, labels: Sequence[str]) -> int:
        """Return how many seeds come next; 0 where there is no time for any.

        Half of those that there seems to be time for come first, so that the rest can be planned
        by what these took.
        """
        done = sum(len(block["seeds"]) for block in self.ledger.content["blocks"])
        fit, left = 0, self._time_left()
        while (
            done + fit < MOST_SEEDS and self.costs.final(labels, fit + 1, self.plan.epochs) <= left
        ):
            fit += 1
        if not done:
            return max(2, fit // 2)
        if not fit and done < MOST_SEEDS:  # one more, whose time is known well by now?
            return int(self.costs.final(labels, 1, self.plan.epochs) <= self._time_left(last=True))
        return fit if fit <= 3 else (3 * fit + 3) // 4

    def _block(self, labels: Sequence[str]) -> None:
        """Train the last block of seeds, and learn from it how long they take."""
        *before, block = self.ledger.content["blocks"]
        seeds = block["seeds"]
        stage = f"final, seeds {seeds[0]} to {seeds[-1]}"
        cells = self._cells("final", labels, seeds)
        self._train(cells, "final", stage)
        self._learn(cells, "final", block["began"])
        ended = {**block, "ended": self.ledger.spent}
        self.ledger.keep(blocks=[*before, ended], costs=vars(self.costs))

    # ----------------------------------------------------------------------------- the answer

    def _answer(self) -> Recommendation:
        """Judge what is there, write it, and return it."""
        if not self.ledger.content.get("ended"):  # from here on nothing of it changes
            self.ledger.keep(ended=True)
        content, asked = self.ledger.content, self.asked
        order = [asked.baseline, *content.get("finalists", [])]
        seeds = [seed for block in content["blocks"] for seed in block["seeds"]]
        records: list[RunRecord] = []
        if seeds:
            found = self._records("final", self._cells("final", order, seeds)).values()
            records = sorted(found, key=lambda record: (record.seed, order.index(record.label)))
        answer = conclude(asked, self.plan, content, records)
        answer.write(asked.folder, records, asked.command)
        self.report({"kind": "answer", "answer": answer})
        return answer
