"""Every example in docstrings, README, documentation and notebooks runs, and the site builds."""

import doctest
import importlib.util
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import mixwell
from mixwell import Mix, MixedTarget
from mixwell.methods import spec

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
    module = importlib.import_module(name)
    extra = {"torch": torch, "Mix": Mix, "MixedTarget": MixedTarget}
    result = doctest.testmod(module, extraglobs=extra)
    assert result.failed == 0


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
    blocks, known = blocks_of(README), names()
    assert len(blocks) >= 3
    before = known["model"][1].weight.detach().clone()
    for block in blocks:
        exec(block, known)
    assert not torch.equal(known["model"][1].weight, before)


@pytest.fixture
def no_new_methods():
    """What a page registers is known to that page alone."""
    before = dict(spec._SPECS)
    yield
    spec._SPECS.clear()
    spec._SPECS.update(before)


@pytest.mark.usefixtures("no_new_methods")
@pytest.mark.parametrize("page", [p for p in PAGES if blocks_of(p)], ids=lambda page: page.stem)
def test_pages(page, capsys):
    known = names()
    for block in blocks_of(page):
        exec(block, known)
    if page.stem == "index":
        assert known["accuracy"] > 0.9


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
    found = importlib.util.spec_from_file_location("hooks", ROOT / "docs" / "hooks.py")
    hooks = importlib.util.module_from_spec(found)
    found.loader.exec_module(hooks)
    page, known = hooks.page(name), mixwell.describe(name)
    assert all(text in page for text in known.fidelity[name].differs)
    assert f"**The same.** {known.fidelity[name].same}" in page.split("## As published?")[1]
    setups = page.split("## Published set-ups")[1].split("## As published?")[0]
    assert all(f"`{published}`" in setups for published in known.published)
    assert ("None is known." in setups) == (not known.published)


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    for name in mixwell.list_methods():
        assert (tmp_path / "methods" / name / "index.html").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda p: p.stem)
def test_notebooks(path):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(notebook, timeout=250, kernel_name="python3").execute()
    assert any("image/png" in output.get("data", {}) for cell in notebook.cells
               for output in cell.get("outputs", []))  # fmt: skip
