"""Names are text: what means something in HTML, LaTeX, CSV, mathtext or a terminal stands there."""

import csv
import json
import re
import warnings
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from mixwell import report
from mixwell.cli import main
from mixwell.training import RunConfig, train

NASTY = (
    "a$b$c_{", '<script>alert("1")</script>', "[bold]x[/]", "=1+1", "\\input{x}\\", "עברית‮abc",
    "two\nlines",
)  # fmt: skip
AS_NASTY = (
    "_x_ ^2~", "a&amp;<b>", "'q' \"p\" `r`", "[/red]", "+cmd|' /C calc'!A0", "-2", "@sum",
    "%d {0} {x}", "#h --> -- x", "🎉👩‍🔬", "\tx", "null", "1e3",
)  # fmt: skip


class Reader(HTMLParser):
    """Reads a page: its texts, its elements' names, and the values of attributes."""

    def __init__(self, page):
        super().__init__()
        self.texts, self.names, self.values = [], [], []
        self.feed(page)
        self.text = "\n".join(self.texts)

    def handle_starttag(self, tag, attrs):
        self.names.append(tag)
        self.values += [value for _, value in attrs]

    def handle_data(self, data):
        self.texts.append(data)


def unescaped(text):
    """Return what LaTeX would show of an escaped text."""
    words = {
        "textbackslash": "\\", "textasciitilde": "~", "textasciicircum": "^", "textless": "<",
        "textgreater": ">", "textbar": "|", "textasciigrave": "`",
    }  # fmt: skip
    text = text.replace("{\\char34}", '"').replace("-{}-", "--")
    text = text.replace("{[}", "[").replace("{]}", "]")

    def shown(found):
        return words[found[1]] if found[1] else found[2]

    found = re.sub(r"\\(\w+)\{\}|\\([&%$#_{}])", shown, text)
    left = re.sub(r"\\(\w+)\{\}|\\([&%$#_{}])", "", text)
    assert not set(left) & set("\\{}$&#_^~%"), text  # nothing in it is a command
    return found


def flat(text):
    return " ".join(text.split())


@pytest.fixture
def plain_elements(make_records, tmp_path, _known=[]):  # noqa: B006  (made once)
    """Return the elements of a page whose names hold nothing special."""
    if not _known:
        records = make_records(("erm", "b"), seeds=2, parts=({"data": "a"},), start="plain")
        paths = report.write(records, tmp_path, command="m")
        _known.append(Reader(paths.html.read_text(encoding="utf-8")).names)
    return _known[0]


@pytest.mark.cases(quick=1, slow=4)
@pytest.mark.parametrize(
    "name",
    [*NASTY, *AS_NASTY],
)
def test_a_name_stands_in_every_output_as_it_is(name, make_records, plain_elements, tmp_path):
    records = [
        replace(record, classes=(name, "other", name * 2))
        for record in make_records(("erm", name), seeds=2, parts=({"data": name},))
    ]
    (tmp_path / "out").mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        paths = report.write(records, tmp_path / "out", command=f"mixwell {name}")
    page = Reader(paths.html.read_text(encoding="utf-8"))
    assert set(page.names) == set(plain_elements)
    assert page.names.count("script") == plain_elements.count("script")
    assert flat(name) in flat(page.text)
    assert flat(name) in {flat(value) for value in page.values if value}

    with paths.csv.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    dangerous = name.startswith(("=", "+", "-", "@", "\t", "\r"))
    told = f"'{name}" if dangerous else name
    assert {row["method"] for row in rows} == {"erm", told}
    assert {row["data"] for row in rows} == {told}
    assert all(float(row["uniformity"]) < 0 for row in rows)  # numbers stay numbers
    found = json.loads(paths.json.read_text(encoding="utf-8"))
    assert {row["method"] for row in found} == {"erm", name}

    lines = [line for line in paths.latex.read_text(encoding="utf-8").splitlines() if " & " in line]
    assert flat(name) in {unescaped(line.split(" & ")[0]) for line in lines}

    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    for table in report.tables(records, width=200):
        console.print(table)
    printable = "".join(c if c.isprintable() else " " for c in name)  # moves no cursor
    assert flat(printable) in flat(console.export_text())
    cells = report.markdown_table(records).splitlines()[-1]
    assert len(re.findall(r"(?<!\\)\|", cells)) == len(
        re.findall(r"(?<!\\)\|", report.markdown_table(records).splitlines()[1])
    )


@pytest.mark.slow
def test_predictions_of_files_and_classes_of_any_name_come_back(tmp_path, capsys):
    classes = ["=1+1", "<b>$x_", '🎉, "q"', "two\nlines"]
    generator = np.random.default_rng(0)
    data = tmp_path / "-a $b"
    for name in classes:
        (data / name).mkdir(parents=True)
        for place in range(6):
            image = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(image).save(data / name / f"@{place}.png")
    config = RunConfig(
        data=f"folder:{data}",
        epochs=1,
        threads=1,
        image_size=8,
        loader_workers=0,
        model="cnn",
        val_fraction=0.3,
    )
    train(config, tmp_path / "run")
    out = tmp_path / "p.csv"
    assert main(["predict", str(tmp_path / "run"), str(data), "--out", str(out)]) == 0
    with out.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert sorted(list(rows[0])[3:]) == sorted(["'=1+1", *classes[1:]])
    assert len(rows) == 24
    assert {row["predicted"] for row in rows} <= set(list(rows[0])[3:])
    assert all(0 <= float(row["<b>$x_"]) <= 1 for row in rows)
    assert all(row["path"].startswith(str(data)) for row in rows)
    assert main(["preview", "--data", f"folder:{data}", "--image-size", "8",
                 "--val-fraction", "0.3",
                 "--out", str(tmp_path / "p.png")]) == 0  # fmt: skip
