"""YAML as people write it: each name once, and numbers as YAML 1.2 has them (1e-3)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixwell.errors import InputError

if TYPE_CHECKING:
    from yaml import MappingNode, SafeLoader

__all__ = ["read_yaml"]

_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$")
_MERGE = "tag:yaml.org,2002:merge"


def _loader() -> type[SafeLoader]:
    """Return a safe loader that refuses names given twice and knows YAML 1.2's numbers."""
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: MappingNode, deep: bool = False) -> dict[Any, Any]:
            seen: dict[Any, int] = {}
            for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
                name = key.value if isinstance(key, yaml.ScalarNode) else None
                line = key.start_mark.line + 1
                if name is not None and key.tag != _MERGE:
                    if name in seen:
                        raise _Twice(name, seen[name], line)
                    seen[name] = line
            return super().construct_mapping(node, deep)

    # After those that it has: whole numbers stay whole.
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))
    return Loader


class _Twice(Exception):
    """A name that a mapping has twice: it, and the lines."""


def read_yaml(path: str | Path) -> Any:
    """Return what a YAML file holds.

    Raises:
        InputError: it can't be read, is no YAML, or gives a name twice in one mapping.
    """
    import yaml

    try:
        return yaml.load(Path(path).read_text(encoding="utf-8"), _loader())
    except _Twice as error:
        name, first, second = error.args
        raise InputError(
            f"{path} gives {name!r} twice, in lines {first} and {second}; keep one of them"
        ) from error
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror}") from error
    except (yaml.YAMLError, ValueError) as error:  # of no date, of a number without end
        raise InputError(f"{path} is no YAML: {error}") from error
