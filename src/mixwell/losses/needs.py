"""What a loss reads of a step: it declares what it needs, and gets one value that holds it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from mixwell.errors import InputError
from mixwell.mix import Mix, MixedTarget, MultiMix, MultiTarget

__all__ = ["Clean", "Draws", "Mixes", "Need", "Outcome", "Rows", "Twin"]


class Draws(Protocol):
    """The batch as a loss may see it that draws a second λ: its size, and random numbers."""

    def __len__(self) -> int: ...

    def rand(self, *shape: int) -> Tensor:
        """Return uniform numbers in [0, 1) of this shape."""
        ...


@dataclass(frozen=True)
class Need:
    """What a loss reads beside the rows of its own term: :class:`Clean`, :class:`Twin` or more."""


@dataclass(frozen=True)
class Clean(Need):
    """The unmixed samples, in the order of the mixed ones: ``outcome.clean``."""


@dataclass(frozen=True)
class Twin(Need):
    """The same pairs mixed a second time, with another λ: ``outcome.twin``.

    Args:
        redraw: the second λ (B,), from the batch and the first.
    """

    redraw: Callable[[Draws, Tensor], Tensor]


@dataclass(frozen=True)
class Mixes(Need):
    """So many mixes of the batch, each drawn anew: ``outcome.more`` holds those after the first.

    Args:
        count: how many, the term's own among them; ≥ 1.
    """

    count: int


@dataclass(frozen=True)
class Rows:
    """One group of samples after the model ran.

    Attributes:
        logits: (B, C).
        target: theirs.
        mix: how they were mixed; of unmixed samples, with themselves at λ = 1.
    """

    logits: Tensor
    target: MixedTarget | MultiTarget
    mix: Mix | MultiMix


@dataclass(frozen=True)
class Outcome:
    """What a step came to, as far as a loss has declared that it reads it.

    Attributes:
        mixed: the rows of the loss's own term.
        others: further rows, by the kind of need.
    """

    mixed: Rows
    others: Mapping[type[Need], tuple[Rows, ...]] = field(default_factory=dict)

    @property
    def clean(self) -> Rows:
        """The unmixed samples, for a loss with ``needs = (Clean(),)``."""
        return self._read(Clean)[0]

    @property
    def twin(self) -> Rows:
        """The same pairs mixed again, for a loss with ``needs = (Twin(redraw),)``."""
        return self._read(Twin)[0]

    @property
    def more(self) -> tuple[Rows, ...]:
        """The second mix of the batch and those after, for ``needs = (Mixes(count),)``."""
        return self._read(Mixes)

    def _read(self, need: type[Need]) -> tuple[Rows, ...]:
        if need not in self.others:
            name = need.__name__
            raise InputError(
                f"a loss reads outcome.{'more' if need is Mixes else name.lower()} and does not "
                f"declare it: its class needs a line like needs = ({name}(...),)"
            )
        return self.others[need]
