"""What mkdocstrings runs: docstrings' references and code, from Sphinx's marks to Markdown's."""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:class|meth|func|attr|mod|data):`~?([^`<]+?)(?:\s+<[^`>]+>)?`")
CODE = re.compile(r"^( *)\.\. code-block:: *(\w+)\n\n((?:(?:\1 +.*)?\n)+)", re.M)


PROMPTS = re.compile(r"^( *)>>> .*\n(?:\1\S.*\n|\1 +\S.*\n)*", re.M)


def _session(found: re.Match[str]) -> str:
    """Return an example at the prompt as a block of code: with its colours, and its lines kept."""
    indent = found[1]
    lines = [line.removeprefix(indent) for line in found[0].rstrip("\n").split("\n")]
    body = "\n".join(indent + line for line in lines)
    return f"{indent}```pycon\n{body}\n{indent}```\n"


def _fenced(found: re.Match[str]) -> str:
    indent, language, body = found.groups()
    lines = [line[4:] if line.strip() else "" for line in body.rstrip("\n").split("\n")]
    text = "\n".join(lines).rstrip()
    return f"{indent}```{language}\n{text}\n{indent}```\n\n"


class Markdown(griffe.Extension):
    """Rewrites the docstrings as they are read."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite one."""
        if obj.docstring:
            text = CODE.sub(_fenced, obj.docstring.value + "\n")
            text = PROMPTS.sub(_session, text)
            obj.docstring.value = ROLE.sub(r"`\1`", text).rstrip("\n")
