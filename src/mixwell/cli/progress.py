"""How far runs are: bars on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from mixwell.cli.terminal import plain, tell
from mixwell.errors import last_line

__all__ = ["Progress"]

_ENDS = {
    "done": "done",
    "kept": "was done before",
    "elsewhere": "was done by another process",
    "failed": "failed",
}


class Progress:
    """Bars with the time left on a terminal; a line for each epoch or run elsewhere."""

    def __init__(self, runs: int | None = None) -> None:
        self.runs, self.ended = runs, 0
        self.bars: Any = None
        self.tasks: dict[str, Any] = {}
        self.told: set[str] = set()

    def __enter__(self) -> Callable[[str, dict[str, Any]], None]:
        if not sys.stdout.isatty():
            return self._line
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self.bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", style="dim", markup=False),
        )
        self.bars.start()
        if self.runs is not None:
            self.tasks[""] = self.bars.add_task("all runs", total=self.runs, note="")
        return self._bar

    def __exit__(self, *_: object) -> None:
        if self.bars is not None:
            self.bars.stop()

    def _is_new(self, event: dict[str, Any]) -> bool:
        """Whether a note was not told yet: of many runs alike once is enough."""
        new = event["text"] not in self.told
        self.told.add(event["text"])
        return new

    def _bar(self, name: str, event: dict[str, Any]) -> None:
        kind = event["kind"]
        if kind == "start":
            self.tasks[name] = self.bars.add_task(
                name, total=event["steps"], completed=event["done"], note=""
            )
        elif kind == "step":
            self.bars.update(self.tasks[name], completed=event["done"])
        elif kind == "note" and self._is_new(event):
            self._say(f"{name}: {event['text']}")
        elif kind == "epoch":
            self.bars.update(self.tasks[name], note=_row(event))
        elif kind in _ENDS:
            if name in self.tasks and self.runs is not None:
                self.bars.remove_task(self.tasks.pop(name))
            if self.runs is not None:
                self.bars.advance(self.tasks[""])
            if kind == "failed":
                self._say(f"{name} failed: {last_line(event['error'])}")

    def _say(self, text: str) -> None:
        self.bars.console.print(plain(text), highlight=False, markup=False)

    def _line(self, name: str, event: dict[str, Any]) -> None:
        kind = event["kind"]
        if kind == "start" and event["done"]:
            tell(f"{name}: goes on at epoch {event['epoch'] + 1}")
        elif kind == "note" and self._is_new(event):
            tell(f"{name}: {event['text']}")
        elif kind == "epoch" and self.runs is None:
            tell(f"{name}: {_row(event)}")
        elif kind in _ENDS and self.runs is not None:
            self.ended += 1
            word = _ENDS[kind]
            cause = f": {last_line(event['error'])}" if kind == "failed" else ""
            tell(f"[{self.ended}/{self.runs}] {name} {word}{cause}")


def _row(event: dict[str, Any]) -> str:
    from mixwell.metrics.measures import VALIDATION, registered

    parts = [f"epoch {event['epoch']}", f"loss {event['loss']:.4f}"]
    # The first of those that are taken each epoch: there is no room for all.
    for measure in registered():
        value = event.get(VALIDATION + measure.name)
        if measure.each_epoch and value is not None:
            parts.append(f"validation {measure.title} {measure.text(value)}{measure.unit}")
            break
    return ", ".join(parts)
