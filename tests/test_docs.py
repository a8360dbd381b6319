"""Every example in docstrings, README, documentation and notebooks runs, and the site builds."""

import doctest
import importlib.util
import pkgutil
import re
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import browser
import pytest
import torch
from torch import nn

import mixwell
from mixwell import Mix, MixedTarget
from mixwell.cli.main import COMMANDS, main

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
# Tutorials are run from top to bottom by a test of their own.
PAGES = [p for p in sorted((ROOT / "docs").rglob("*.md")) if p.parent.name != "tutorials"]
MODULES = [
    name
    for _, name, _ in pkgutil.walk_packages(mixwell.__path__, "mixwell.")
    if name != "mixwell.__main__"
]


@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name):
    if name == "mixwell.compat.huggingface":
        pytest.importorskip("transformers")
    module = importlib.import_module(name)
    extra = {"torch": torch, "Mix": Mix, "MixedTarget": MixedTarget}
    result = doctest.testmod(module, extraglobs=extra)
    assert result.failed == 0


@cache
def loaded(name):
    """Return a module of the site's."""
    pytest.importorskip("latex2mathml" if name == "hooks" else "griffe")
    found = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def blocks_of(page):
    """The page's code, without what it takes from examples/, which have tests of their own."""
    text = page.read_text(encoding="utf-8")
    found = re.findall(r"```python\n(.*?)```", text, re.S)
    return [block for block in found if not block.lstrip().startswith("--8<--")]


def names():
    """What the pages' code takes for granted: a model, data and an optimizer."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 16), nn.ReLU(), nn.Linear(16, 10))
    loader = [(torch.randn(8, 3, 8, 8), torch.randint(10, (8,))) for _ in range(2)]
    images, labels = loader[0]
    return {
        "torch": torch, "model": net, "optimizer": torch.optim.SGD(net.parameters(), lr=0.1),
        "loader": loader, "images": images, "labels": labels, "logits": net(images),
    }  # fmt: skip


def test_readme():
    pytest.importorskip("transformers", reason="one of its blocks needs transformers")
    blocks, known = blocks_of(README), names()
    assert len(blocks) >= 3
    before = known["model"][1].weight.detach().clone()
    for block in blocks:
        exec(block, known)
    assert not torch.equal(known["model"][1].weight, before)


@pytest.mark.cases(quick=8)
@pytest.mark.usefixtures("from_outside")  # what a page registers is known to it alone
@pytest.mark.parametrize("page", [p for p in PAGES if blocks_of(p)], ids=lambda page: page.stem)
def test_pages(page, capsys):
    known = {**names(), "__name__": "__main__"}
    for block in blocks_of(page):
        exec(block, known)
    if page.stem == "python_studies":
        assert "sk_mixup(tau_std=0.5)" in capsys.readouterr().out
        assert set(known["results"].seed) == {0, 1}
    if page.stem == "index":
        assert known["accuracy"] > 0.9


def test_readme_and_the_options_help_name_all_data_and_networks():
    from dataclasses import fields

    from mixwell import models
    from mixwell.data.catalogue import SOURCES, WITH_PATH, called_with
    from mixwell.training import RunConfig

    text = README.read_text("utf-8")
    helped = next(spec for spec in fields(RunConfig) if spec.name == "model").metadata["help"]
    for name in models.available():
        assert f"`{name}`" in text or f"--model {name}" in text, name
        assert name in re.split(r", | or ", helped), name
    for name in SOURCES:
        assert f"`{called_with(name)}`" in text, name
    own = (ROOT / "docs" / "recipes" / "own_data.md").read_text("utf-8")
    assert all(f"`{called_with(name)}`" in own for name in WITH_PATH)


@pytest.mark.parametrize("page", [README, *PAGES], ids=lambda page: page.stem)
def test_labels_in_the_pages_commands_are_as_many_of_each_class(page):
    """Of the ten classes that all data have which the pages give few labels of."""
    counts = re.findall(r"--labels[ =](\d[\d,]*)", page.read_text("utf-8"))
    assert all(int(one) % 10 == 0 for found in counts for one in found.split(","))


def test_the_method_that_the_guide_adds_takes_fewer_than_forty_lines():
    block = blocks_of(ROOT / "docs" / "add_a_method.md")[0]
    assert len(block.strip().splitlines()) < 40


@pytest.mark.parametrize("name", mixwell.list_methods())
def test_every_method_says_when_it_helps_and_when_it_hurts(name):
    known = mixwell.describe(name)
    assert known.paper
    assert known.equation.strip()
    if name != "erm":
        assert re.search(r"^Helps: \w", known.doc, re.M)
        assert re.search(r"^Hurts: \w", known.doc, re.M)


@pytest.mark.parametrize("name", mixwell.list_methods())
def test_every_methods_page_has_its_setups_and_says_whether_it_is_as_published(name):
    page, known = loaded("hooks").page(name), mixwell.describe(name)
    assert all(text in page for text in known.fidelity[name].differs)
    assert f"**The same.** {known.fidelity[name].same}" in page.split("## As published?")[1]
    setups = page.split("## Published set-ups")[1].split("## As published?")[0]
    assert all(f"`{published}`" in setups for published in known.published)
    assert ("None is known." in setups) == (not known.published)


@pytest.mark.parametrize("name", mixwell.list_methods())
def test_every_methods_page_has_its_equations_links_and_what_its_settings_are(name):
    hooks, known = loaded("hooks"), mixwell.describe(name)
    page = hooks.page(name)
    assert page.count("<math") >= len(hooks.mathml(name).splitlines()) - 2
    assert "\\" not in re.sub(r"<annotation.*?</annotation>", "", hooks.mathml(name))
    assert "](https://" in page.split("## Equation")[0]
    settings = page.split("## Settings")[1].split("## Published")[0] if known.defaults else ""
    for key in known.defaults:
        (row,) = [line for line in settings.splitlines() if line.startswith(f"| `{key}` ")]
        assert len(row.split(" | ")[2]) > 5


def test_an_equation_without_latex_is_shown_as_text():
    known = replace(mixwell.describe("mixup"), name="unheard_of")
    assert loaded("hooks")._equation(known).startswith("```text\nλ_i ~ Beta")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_commands_page_has_all_its_options(name, capsys):
    page = loaded("hooks").command(name)
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert stop.value.code == 0
    helped = capsys.readouterr().out
    options = set(re.findall(r"^  (--[a-z][a-z-]*)", helped, re.M))
    assert options
    assert all(f"{option}" in page for option in options)
    assert page.startswith(f"# mixwell {name}\n")
    assert "==SUPPRESS==" not in page


def test_examples_in_docstrings_are_shown_as_code():
    docstrings = loaded("docstrings")
    text = "A sum.\n\n>>> f(\n...     1)\n3\n\nMore.\n"
    shown = docstrings.PROMPTS.sub(docstrings._session, text)
    assert shown == "A sum.\n\n```pycon\n>>> f(\n...     1)\n3\n```\n\nMore.\n"


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return folder


@pytest.mark.slow
def test_the_site_builds_without_a_warning(site):
    for name in mixwell.list_methods():
        assert (site / "methods" / name / "index.html").is_file()
    for name in COMMANDS:
        assert (site / "commands" / name / "index.html").is_file()
    shown = (site / "reference" / "studies" / "index.html").read_text(encoding="utf-8")
    assert 'id="mixwell.studies.summarise"' in shown


@pytest.mark.cases(slow=6)
@pytest.mark.parametrize(("width", "dark"), [(390, True), (1280, False)])
@pytest.mark.parametrize(
    "page",
    ["methods/sk_mixup", "methods/puzzlemix", "methods", "commands/train", "reference/studies",
     "tutorials/new_method", "studies", "changes", "."],
)  # fmt: skip
def test_no_page_is_cut_or_white_in_the_dark(page, width, dark, site, tmp_path):
    found = browser.run(
        site / page / "index.html",
        tmp_path,
        """
        const white = async image => {
          await image.decode();
          const canvas = document.createElement("canvas");
          canvas.width = canvas.height = 1;  // the corner: what the picture lies on
          const pen = canvas.getContext("2d");
          pen.drawImage(image, 0, 0);
          const [r, g, b, seen] = pen.getImageData(0, 0, 1, 1).data;
          return seen > 100 && Math.min(r, g, b) > 230;
        };
        const images = [...document.querySelectorAll(".md-content img")];
        const cut = [...document.querySelectorAll(".md-content *")].filter(part =>
          !part.closest(".md-typeset__scrollwrap, .equations, mjx-container, .tabbed-labels")
          && part.getClientRects().length && getComputedStyle(part).position !== "absolute"
          && part.getBoundingClientRect().right > innerWidth + 1);
        return {scroll: document.documentElement.scrollWidth, width: innerWidth,
                white: (await Promise.all(images.map(white))).filter(Boolean).length,
                cut: cut.map(part => part.outerHTML.slice(0, 100))};
        """,
        width=width,
        dark=dark,
    )
    assert found["width"] == width
    assert found["scroll"] <= width
    assert found["cut"] == []
    assert found["white"] == 0


@pytest.mark.cases(slow=1)
@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda p: p.stem)
def test_notebooks(path):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(notebook, timeout=250, kernel_name="python3").execute()
    assert any("image/png" in output.get("data", {}) for cell in notebook.cells
               for output in cell.get("outputs", []))  # fmt: skip
