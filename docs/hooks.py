"""What mkdocs runs: it writes the pages of methods and commands from what the library knows."""

from __future__ import annotations

import argparse
import re
import sys
from html import escape
from pathlib import Path
from typing import Any

import mixwell
from mixwell.methods import Description
from mixwell.methods.description import checked, listed

sys.path.insert(0, str(Path(__file__).parent))  # for what lies beside this file

from equations import mathml

IMAGES = Path(__file__).parent / "images" / "methods"

CREDITS = """
The pictures show photographs that come with scikit-image: the astronaut Eileen Collins (NASA,
public domain), the cat Chelsea (Stéfan van der Walt, CC0), a cup of coffee (Rachel Michetti, CC0),
a Falcon 9 (SpaceX, public domain); and with scikit-learn: a
[temple](https://www.flickr.com/photos/danielbuechele/6061409035) (danielbuechele) and a
[flower](https://www.flickr.com/photos/vultilion/6056698931) (vultilion), both
[CC BY 2.0](https://creativecommons.org/licenses/by/2.0/), cropped and mixed. Where a method asks
the model where it looks, a small network was asked that had learnt to tell crops of them apart.
"""

PAPERS = {  # of the papers that aren't on arXiv
    "mit": "https://openaccess.thecvf.com/content/CVPR2023/html/"
    "Wang_On_the_Pitfall_of_Mixup_for_Uncertainty_Calibration_CVPR_2023_paper.html",
    "gridmix": "https://doi.org/10.1016/j.patcog.2020.107594",
    "smoothmix": "https://openaccess.thecvf.com/content_CVPRW_2020/html/w45/"
    "Lee_SmoothMix_A_Simple_Yet_Effective_Data_Augmentation_to_Train_Robust_CVPRW_2020_paper.html",
    "erm": "https://papers.nips.cc/paper/1991/hash/ff4d5fbbafdf976cfdc032e3bde78de5-Abstract.html",
}
PAPERS["mixup_io"] = PAPERS["mit"]


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


def linked(name: str, paper: str) -> str:
    """Return where a method was published, with links to its papers.

    >>> linked("fmix", "Harris et al., 2020, arXiv:2002.12047")
    'Harris et al., 2020, [arXiv:2002.12047](https://arxiv.org/abs/2002.12047)'
    """
    found = re.sub(r"arXiv:([\d.]+\d(?:v\d+)?)", r"[arXiv:\1](https://arxiv.org/abs/\1)", paper)
    return f"[{paper}]({PAPERS[name]})" if found == paper and name in PAPERS else found


def _equation(known: Description) -> str:
    """Return the equations, typeset; as text, where there is no LaTeX of them."""
    drawn = mathml(known.name)
    text = known.equation.strip("\n")
    return drawn or f"```text\n{text}\n```"


def _settings(known: Description) -> list[str]:
    """Return the section on settings: defaults, meanings, and where they are tuned."""
    rows = [
        (
            f"`{key}`", f"`{value!r}`", known.meanings.get(key, ""),
            str(known.ranges.get(key, "")),
        )
        for key, value in known.defaults.items()
    ]  # fmt: skip
    head = ("argument", "default", "what it is", "searched by `mixwell tune`")
    return ["## Settings", _table(head, rows)] if rows else []


def _shown(name: str) -> str:
    """Return what a method's picture shows, for those who can't see it."""
    special = {
        "sk_mixup": "a similar pair is blended evenly, a dissimilar one hardly",
        "decoupled": "its loss over the logit of one class of an even mix",
        "decoupled_bce": "its loss over the logit of one class of an even mix",
        "am_mixup": "its λ over training, falling to the midpoint",
        "c_mixup": "mixed points of a curve stay by it",
        "infinite_class": "mixed samples find their mixed classifiers",
        "manifold_mixup": "features, and where they are moved",
    }
    return special.get(name, "photographs, and what it makes of them")


def page(name: str) -> str:
    """Return the page of a method, in Markdown."""
    known: Description = mixwell.describe(name)
    paper = linked(name, known.paper)
    parts = [f"# {name}", f"*{known.title}*", f"{paper}.", _told(known.doc)]
    if (IMAGES / f"{name}.png").is_file():
        parts.append(f"![{name}: {_shown(name)}](../images/methods/{name}.png)")
    parts += ["## Equation", _equation(known)]
    arguments = ", num_classes=10" if known.tasks[0] != "regression" else ""
    needed = [f"{key}=..." for key, value in known.defaults.items() if value == "required"]
    call = ", ".join([f'"{name}"{arguments}', *needed])
    parts += ["## Use", f"    method = mixwell.create({call})\n    loss = method(model, x, y)"]
    parts.append(f"For {', '.join(known.tasks)}.")
    parts += _settings(known)
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
        rows.append((f"[`{name}`]({name}.md)", problem, linked(name, known.paper)))
    head = (
        "# Methods\n\nEach name is a composition of answers to five questions, and composes with "
        "the others: [composing](../composing.md). Its page has what papers took on which data, "
        '`mixwell.create(NAME, published="cifar100")`, and what is not as they have it. '
        "`mixwell describe NAME` tells the same in a terminal.\n\n"
    )
    return head + _table(("name", "what it does", "paper"), rows) + f"\n{CREDITS}"


# ---------------------------------------------------------------------------------- the commands


def _parser(name: str) -> argparse.ArgumentParser:
    """Return the parser of a command, with all its options."""
    from mixwell.cli.main import _parser as of_all

    parser = of_all([name])
    (commands,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    return commands.choices[name]


def _option(action: argparse.Action) -> tuple[str, str]:
    """Return how an option is written, and what it does."""
    names = action.option_strings or [str(action.metavar or action.dest)]
    value = ""
    if action.option_strings and action.nargs != 0:
        shown = action.metavar or action.dest.upper()
        value = "|".join(map(str, action.choices)) if action.choices else str(shown)
        value = f" {value} ..." if action.nargs in ("+", "*") else f" {value}"
    text = (action.help or "").replace("%%", "%").replace("%(default)s", str(action.default))
    # No code of Markdown's: there an option would never break, and the page be too wide.
    written = "<br>".join(
        f"<code{' class=whole' if len(name + value) <= 26 else ''}>{escape(name + value)}</code>"
        for name in names
    )
    return written, escape(text).replace("*", "\\*").replace("_", "\\_")


def command(name: str) -> str:
    """Return the page of a command, in Markdown, from its parser."""
    from mixwell.cli.main import COMMANDS

    known = COMMANDS[name]
    parser = _parser(name)
    parts = [f"# mixwell {name}", known.about.strip()]
    examples = known.examples.partition("\n")[2].rstrip()
    if examples:
        lines = [line.removeprefix("  ") for line in examples.splitlines()]
        parts.append("```sh\n" + "\n".join(lines) + "\n```")
    for group in parser._action_groups:
        rows = [_option(action) for action in group._group_actions if action.dest != "help"]
        if rows:
            title = {"positional arguments": "Arguments", "options": "Options"}.get(
                str(group.title), str(group.title).capitalize()
            )
            parts += [f"## {title}", _table(("option", "what it does"), rows)]
    return "\n\n".join(parts) + "\n"


def commands() -> str:
    """Return the list of all commands, in Markdown."""
    from mixwell.cli.main import COMMANDS

    rows = [
        (f"[`mixwell {name}`]({name}.md)", known.help + ".") for name, known in COMMANDS.items()
    ]
    head = (
        "# The command line\n\nWhat each command takes, as `mixwell COMMAND --help` tells it. A "
        "command line that can't work ends with one message and status 2, a run that failed with "
        "status 1.\n\n"
    )
    return head + _table(("command", "what it does"), rows) + "\n"


# ------------------------------------------------------------------------------- what mkdocs calls


def _generated() -> dict[str, str]:
    """Return the pages that are written here, by their paths."""
    from mixwell.cli.main import COMMANDS

    return {
        "methods/index.md": index(),
        **{f"methods/{name}.md": page(name) for name in mixwell.list_methods()},
        "commands/index.md": commands(),
        **{f"commands/{name}.md": command(name) for name in COMMANDS},
    }


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are written here to those that are read from files."""
    from mkdocs.structure.files import File

    for path, text in _generated().items():
        files.append(File.generated(config, path, content=text))
    return files


def on_config(config: Any) -> Any:
    """Put the pages that are written here into the navigation."""
    from mixwell.cli.main import COMMANDS

    own = {
        "Methods": [{name: f"methods/{name}.md"} for name in mixwell.list_methods()],
        "Command line": [{name: f"commands/{name}.md"} for name in COMMANDS],
    }
    _fill(config["nav"], own)
    return config


def _fill(entries: list[Any], own: dict[str, list[dict[str, str]]]) -> None:
    """Put pages below the entries of these names, wherever they stand."""
    for entry in entries:
        for title, value in entry.items() if isinstance(entry, dict) else ():
            if isinstance(value, list):
                _fill(value, own)
            elif title in own and value.endswith("/"):
                entry[title] = [f"{value}index.md", *own[title]]
