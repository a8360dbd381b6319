"""What a step will run: groups of rows, and who reads which."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from mixwell.batch import Batch
from mixwell.losses import Clean, Loss, Mixes, Need, Twin
from mixwell.methods.recipe import Recipe, Term
from mixwell.mix import Mix, MixedTarget, MultiMix, MultiTarget
from mixwell.processes import several

__all__ = ["CleanGroup", "Group", "MixedGroup", "Plan", "Reading", "TwinGroup", "make_plan"]

Drawn = tuple["Mix | MultiMix", "MixedTarget | MultiTarget"]


@dataclass(frozen=True)
class CleanGroup:
    """B rows of unmixed samples."""

    def __str__(self) -> str:
        return "unmixed"


@dataclass(frozen=True)
class MixedGroup:
    """B rows that are mixed by a recipe.

    Attributes:
        recipe: how.
        beside: the group of the same recipe that it is another draw of; it mixes at the same layer.
    """

    recipe: Recipe
    beside: MixedGroup | None = None

    def draw(self, batch: Batch) -> Drawn:
        """Return how these rows are mixed, and their targets."""
        return self.recipe.draw(batch)

    def __str__(self) -> str:
        recipe = self.recipe
        parts = (recipe.pairing, recipe.coefficient, recipe.interpolation, recipe.labels)
        how = ", ".join(type(part).__name__ for part in parts)
        places = " or ".join(recipe.interpolation.layers)
        return f"mixed by {how} at {places}" + (", drawn anew" if self.beside else "")


@dataclass(frozen=True)
class TwinGroup:
    """The pairs of another group, mixed a second time.

    Attributes:
        beside: that group.
        redraw: the second λ, from the batch and the first.
    """

    beside: MixedGroup
    redraw: Callable[[Batch, Tensor], Tensor]

    @property
    def recipe(self) -> Recipe:
        """How the pairs were drawn."""
        return self.beside.recipe

    def draw_from(self, batch: Batch, mix: Mix) -> Drawn:
        """Return how these rows are mixed, and their targets, from the first mix."""
        return self.recipe.draw_twin(batch, mix, self.redraw)

    def __str__(self) -> str:
        return "the same pairs, with another λ"


Group = CleanGroup | MixedGroup | TwinGroup


@dataclass(frozen=True)
class Reading:
    """What a term reads: numbers of groups.

    Attributes:
        term: the term's name.
        loss: what reads.
        weight: the factor of it in the sum.
        own: the group of its own rows.
        others: the groups that it needs beside, by the kind of need.
    """

    term: str
    loss: Loss
    weight: float
    own: int
    others: dict[type[Need], tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """The groups of rows that go through the model in one step, and who reads them.

    ``print(plan)`` shows it. Where a group is mixed (at the input or at a layer), and by what λ, is
    drawn when the plan is run.

    Attributes:
        groups: of B rows each, in the order in which they are drawn.
        readings: of the terms, in order.
    """

    groups: tuple[Group, ...]
    readings: tuple[Reading, ...]

    @property
    def shown(self) -> int:
        """The group whose logits, target and mix a Step shows: the first that is mixed."""
        mixed = [n for n, group in enumerate(self.groups) if not isinstance(group, CleanGroup)]
        return mixed[0] if mixed else 0

    @property
    def loss_meets(self) -> bool:
        """Whether a loss waits for the other processes of a distributed training."""
        return any(reading.loss.meets for reading in self.readings)

    @property
    def meets(self) -> bool:
        """Whether a loss does, or what learns beside the model."""
        learns = any(
            group.recipe.interpolation.learns
            for group in self.groups
            if not isinstance(group, CleanGroup)
        )
        return self.loss_meets or (learns and several())

    @property
    def clean(self) -> int | None:
        """The group of unmixed samples; None without one."""
        clean = [n for n, group in enumerate(self.groups) if isinstance(group, CleanGroup)]
        return clean[0] if clean else None

    def __str__(self) -> str:
        lines = [f"{len(self.groups)} group(s) of B rows in one pass of the model"]
        for number, group in enumerate(self.groups):
            readers = [
                reading.term
                for reading in self.readings
                if number == reading.own
                or any(number in numbers for numbers in reading.others.values())
            ]
            lines.append(f"  {number}: {group}; read by {', '.join(readers)}")
        for reading in self.readings:
            factor = "" if reading.weight == 1 else f"{reading.weight:g} · "
            lines.append(f"  {reading.term} = {factor}{type(reading.loss).__name__}")
        return "\n".join(lines)


def make_plan(terms: Sequence[Term]) -> Plan:
    """Return the plan of a training step over these terms.

    Terms with the same recipe share their rows; what they need beside comes after.
    """
    groups: list[Group] = []
    readings: list[Reading] = []
    for term in terms:
        own = _number(groups, term.recipe)
        others: dict[type[Need], tuple[int, ...]] = {}
        for need in term.loss.needs:
            others[type(need)] = _beside(groups, own, need)
        readings.append(Reading(term.name, term.loss, term.weight, own, others))
    return Plan(tuple(groups), tuple(readings))


def plan_of_unmixed(term: Term, loss: Loss) -> Plan:
    """Return the plan of a step that mixes nothing: in evaluation mode."""
    return Plan((CleanGroup(),), (Reading(term.name, loss, 1.0, 0),))


def _number(groups: list[Group], recipe: Recipe | None) -> int:
    """Return the number of a recipe's group, or the clean one's, added where it is new."""
    for number, group in enumerate(groups):
        if recipe is None and isinstance(group, CleanGroup):
            return number
        if isinstance(group, MixedGroup) and group.recipe is recipe and group.beside is None:
            return number
    groups.append(CleanGroup() if recipe is None else MixedGroup(recipe))
    return len(groups) - 1


def _beside(groups: list[Group], own: int, need: Need) -> tuple[int, ...]:
    """Return the numbers of the groups that meet a need, added where they are new."""
    if isinstance(need, Clean):
        return (_number(groups, None),)
    group = groups[own]
    assert isinstance(group, MixedGroup)  # as Term sees to
    added: list[Group] = []
    if isinstance(need, Twin):
        added = [TwinGroup(group, need.redraw)]
    elif isinstance(need, Mixes):
        added = [MixedGroup(group.recipe, group) for _ in range(need.count - 1)]
    groups.extend(added)
    return tuple(range(len(groups) - len(added), len(groups)))
