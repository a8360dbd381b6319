"""What mkdocs runs: it writes a page for each method, from what the library knows of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import mixwell
from mixwell.methods import Description
from mixwell.methods.description import checked, listed

IMAGES = Path(__file__).parent / "images" / "methods"


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"
                     for row in lines)  # fmt: skip


def _told(doc: str) -> str:
    """Return a method's docstring, with when it helps and when it hurts set off."""
    return re.sub(r"^(Helps|Hurts):", r"**\1:**", doc, flags=re.M)


def _published(known: Description) -> list[str]:
    """Return the section on published set-ups."""
    if not known.published:
        return ["## Published set-ups", "None is known."]
    call = f'mixwell.create("{known.name}", published="{next(iter(known.published))}", ...)'
    rows = [
        (
            f"`{name}`",
            f"`{listed(setup.settings)}`" if setup.settings else "as by default",
            f"`{listed(setup.training)}`" if setup.training else "not known",
            setup.source,
        )
        for name, setup in known.published.items()
    ]
    table = _table(("name", "settings", "training", "source"), rows)
    return ["## Published set-ups", f"    {call}", "What is given beside it wins.", table]


def _fidelity(known: Description) -> list[str]:
    """Return the section on how true to its source the method is."""
    parts = ["## As published?"]
    for fidelity in known.fidelity.values():
        differs = "\n".join(f"- {text}" for text in fidelity.differs)
        parts.append(f"**The same.** {fidelity.same}")
        parts += ["**What differs.**", differs] if differs else ["**What differs.** Nothing known."]
        parts += [f"**Why.** {fidelity.why}"] if fidelity.why else []
        parts.append(f"**Checked** {checked(fidelity)}")
    return parts


def page(name: str) -> str:
    """Return the page of a method, in Markdown."""
    known: Description = mixwell.describe(name)
    parts = [f"# {name}", f"*{known.title}*", f"{known.paper}.", _told(known.doc)]
    if (IMAGES / f"{name}.png").is_file():
        parts.append(
            f"![{name}: two samples, and what it makes of them](../images/methods/{name}.png)"
        )
    equation = known.equation.strip("\n")
    parts += ["## Equation", f"```text\n{equation}\n```"]
    arguments = ", num_classes=10" if known.tasks[0] != "regression" else ""
    needed = [f"{key}=..." for key, value in known.defaults.items() if value == "required"]
    call = ", ".join([f'"{name}"{arguments}', *needed])
    parts += ["## Use", f"    method = mixwell.create({call})\n    loss = method(model, x, y)"]
    parts.append(f"For {', '.join(known.tasks)}.")
    rows = [(f"`{key}`", f"`{value!r}`", str(known.ranges.get(key, ""))) for key, value in
            known.defaults.items()]  # fmt: skip
    if rows:
        parts += [
            "## Settings",
            _table(("argument", "default", "searched by `mixwell tune`"), rows),
        ]
    parts += [*_published(known), *_fidelity(known)]
    rows = [(question, f"`{part}`") for question, part in known.parts.items()]
    parts += ["## Parts", _table(("question", "answer"), rows)]
    return "\n\n".join(parts) + "\n"


def index() -> str:
    """Return the list of all methods, in Markdown."""
    rows = []
    for name in mixwell.list_methods():
        known = mixwell.describe(name)
        problem = known.doc.strip().split("\n\n")[0].replace("\n", " ")
        rows.append((f"[`{name}`]({name}.md)", problem, known.paper))
    head = (
        "# Methods\n\nEach name is a composition of answers to five questions, and composes with "
        "the others: [composing](../composing.md). Its page has what papers took on which data, "
        '`mixwell.create(NAME, published="cifar100")`, and what is not as they have it. '
        "`mixwell describe NAME` tells the same in a terminal.\n\n"
    )
    return head + _table(("name", "what it does", "paper"), rows) + "\n"


def on_files(files: Any, config: Any) -> Any:
    """Add the pages of the methods to those that are read from files."""
    from mkdocs.structure.files import File

    files.append(File.generated(config, "methods/index.md", content=index()))
    for name in mixwell.list_methods():
        files.append(File.generated(config, f"methods/{name}.md", content=page(name)))
    return files


def on_config(config: Any) -> Any:
    """Put the methods' pages into the navigation."""
    pages = [{name: f"methods/{name}.md"} for name in mixwell.list_methods()]
    for entry in config["nav"]:
        if "Methods" in entry:
            entry["Methods"] = ["methods/index.md", *pages]
    return config
