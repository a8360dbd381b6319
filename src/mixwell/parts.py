"""What all parts of a method share: their settings and their repr, from the constructor, once."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from mixwell.checks import Range, check_flag
from mixwell.errors import InputError

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Part", "constructor_arguments"]

_SHOWN = 8
"""How many numbers of a tensor or a list a repr shows."""


def constructor_arguments(cls: type) -> tuple[str, ...]:
    """Return the names of a constructor's arguments, in order."""
    if cls.__init__ is nn.Module.__init__:  # type: ignore[misc]
        return ()
    parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]  # type: ignore[misc]
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return tuple(parameter.name for parameter in parameters if parameter.kind not in several)


def _check_flags(cls: type, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Raise an InputError for an argument that is True or False by default, and is given else."""
    if not args and not kwargs:  # as in copies
        return
    signature = inspect.signature(cls.__init__)  # type: ignore[misc]
    try:
        given = signature.bind(None, *args, **kwargs).arguments
    except TypeError:  # the constructor itself says what is wrong
        return
    for name, value in given.items():
        if isinstance(signature.parameters[name].default, bool):
            check_flag(name, value)


class Part(nn.Module):
    """Base class of the answers to a method's questions.

    A part keeps each argument of its constructor as an attribute of that name, from which
    :meth:`settings` and the repr are read; one that keeps it elsewhere says where in ``kept_as``.
    """

    ranges: ClassVar[Mapping[str, Range]] = {}
    """Where its settings are searched when they are tuned."""

    needs_of_data: ClassVar[tuple[str, ...]] = ()
    """Arguments of its constructor that a data set answers, where nobody gives them:
    "class_counts", (C,) training samples of each class; "capacity", the size of the training set;
    "target_std", (K,) the standard deviation by which real targets were divided;
    "target_largest", (K,) their largest absolute values before that."""

    kept_as: ClassVar[Mapping[str, str]] = {}
    """Arguments that are attributes of another name, and that name."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        _check_flags(cls, args, kwargs)
        return super().__new__(cls)

    def settings(self) -> dict[str, Any]:
        """Return the constructor's arguments, by which an equal part can be built.

        Raises:
            InputError: an argument is not kept as an attribute.
        """
        found = {}
        for name in constructor_arguments(type(self)):
            attribute = self.kept_as.get(name, name)
            if not hasattr(self, attribute):
                raise InputError(
                    f"{type(self).__name__} does not keep its argument {name!r}: its settings are "
                    f"read from attributes; set self.{attribute}, or say in kept_as which it is"
                )
            found[name] = getattr(self, attribute)
        return found

    def extra_repr(self) -> str:
        shown = []
        for name in constructor_arguments(type(self)):
            value = getattr(self, self.kept_as.get(name, name), self)
            # What was not kept can't be shown; modules that are children show themselves.
            if value is not self and not any(value is child for child in self.children()):
                shown.append(f"{name}={_short(value)}")
        return ", ".join(shown)


def _short(value: Any) -> str:
    if isinstance(value, nn.Module):
        return type(value).__name__
    if isinstance(value, Tensor):
        if value.numel() > _SHOWN or value.is_meta:
            return f"tensor of shape {tuple(value.shape)}"
        numbers = [round(number, 6) for number in value.flatten().tolist()]
        return str(numbers if value.ndim else numbers[0])
    if isinstance(value, (list, tuple)) and len(value) > _SHOWN:
        return f"{type(value).__name__} of {len(value)}"
    return repr(value)
