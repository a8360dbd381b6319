import os
import sys
from importlib import metadata
from pathlib import Path

import pytest

import mixwell
from mixwell import InputError, plugins
from mixwell.metrics import measures
from mixwell.training import RunConfig
from mixwell.training.build import load_data

pytestmark = pytest.mark.usefixtures("from_outside")

METHOD = """
from mixwell.methods import Answer, Fidelity, Spec, register
from mixwell.pairing import InterClass
register(Spec(name="{name}", title="t", paper="p", equation="e", doc="Own.",
              answers={{"pairing": Answer(InterClass)}},
              fidelity=Fidelity(same="It is defined here.", against="no publication")))
"""


def write(name="own_bands.py", method="ownmix", more=""):
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(METHOD.format(name=method) + more)
    return name


@pytest.mark.parametrize("name", ["own_bands.py", "deep/own-bands.py", "random.py"])
def test_a_file_registers_once_however_it_is_named(name):
    write(name)
    record = plugins.load(name)
    assert "ownmix" in mixwell.list_methods()
    assert record["name"] == Path(name).name
    assert record["text"] == Path(name).read_text()
    assert plugins.load(str(Path(name).resolve())) == record
    assert plugins.load(os.path.join(".", name)) == record


def test_no_module_of_others_is_hidden_by_a_file_of_its_name():
    import random

    write("random.py")
    record = plugins.load("random.py")
    assert sys.modules["random"] is random
    assert record["module"] != "random"


def test_a_file_and_its_module_are_one():
    write()
    assert plugins.load("own_bands.py") == plugins.load("own_bands")
    assert sys.modules["own_bands"].__file__ == str(Path("own_bands.py").resolve())


def test_a_file_finds_its_neighbours():
    write("deep/own_methods.py", more="import own_helper")
    Path("deep/own_helper.py").write_text("value = 3")
    plugins.load("deep/own_methods.py")
    assert sys.modules["own_helper"].value == 3


def test_a_module_of_an_installed_package_is_known_by_its_version():
    record = plugins.load("torch.nn")
    assert record["version"] == metadata.version("torch")
    assert "text" not in record


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def", r"import='own_bad.py' can't be imported: SyntaxError"),
        ("1 / 0", r"ZeroDivisionError: division by zero \(own_bad.py, line 7\)"),
        ("import own_nothing", r"import='own_bad.py' can't be imported: .*own_nothing"),
        ("raise SystemExit(3)", r"import='own_bad.py' can't be imported: SystemExit"),
        (METHOD.format(name="mixup"), r"import='own_bad.py': name='mixup' is taken"),
    ],
)
def test_what_cant_be_imported_is_named_and_leaves_nothing(text, words):
    before = mixwell.list_methods()
    Path("own_bad.py").write_text(METHOD.format(name="ownmix") + text)
    with pytest.raises(InputError, match=words):
        plugins.load("own_bad.py")
    assert mixwell.list_methods() == before
    assert "own_bad" not in sys.modules
    write("own_bad.py")  # mended, it can be imported
    plugins.load("own_bad.py")
    assert "ownmix" in mixwell.list_methods()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("own_none.py", "import='own_none.py' can't be read"),
        ("own_none.deep", "no module 'own_none' in the current folder or among the installed"),
        ("own/none", "neither a file .* nor a module"),
        ("", "must be a file"),
    ],
)
def test_what_is_not_there_is_named(name, words):
    with pytest.raises(InputError, match=words):
        plugins.load(name)


def test_a_process_that_begins_gets_it_from_the_configuration_alone(from_outside):
    record = plugins.load(write())
    config = RunConfig.from_dict(RunConfig(method="ownmix", imports=(record,)).to_dict())
    from_outside()
    assert "ownmix" not in mixwell.list_methods()
    Path("own_bands.py").unlink()  # on another machine, say
    load_data(config)
    load_data(config)
    assert "ownmix" in mixwell.list_methods()


def test_a_module_that_is_not_there_is_made_of_its_text_and_one_that_changed_is_refused(
    from_outside,
):
    write()
    record = plugins.load("own_bands")
    from_outside()
    write(more="# edited")
    with pytest.raises(InputError, match="import='own_bands': the text of own_bands has changed"):
        plugins.adopt([record])
    from_outside()
    Path("own_bands.py").unlink()
    plugins.adopt([record])
    assert "ownmix" in mixwell.list_methods()


def test_measures_of_it_are_not_handed_to_processes_twice():
    from mixwell.studies.engines import _measures

    text = (
        "from mixwell.metrics import measures\n"
        "measures.register(measures.Measure('own', 'own', 'x.', lambda evidence: 0.5))"
    )
    Path("own_measure.py").write_text(text)
    plugins.load("own_measure.py")
    assert "own" in [measure.name for measure in measures.outside()]
    assert _measures() == []  # a lambda couldn't be handed on


@pytest.mark.parametrize(
    ("before", "now", "words"),
    [
        ([], [], ""),
        ([{"name": "a.py", "text": "x"}], [], "begun with --import a.py, which is missing now"),
        ([], [{"name": "a.py", "text": "x"}], "begun without --import a.py"),
        ([{"name": "a", "version": "1"}], [{"name": "a", "version": "2"}], "a was of version 1"),
        ([{"name": "a.py", "text": "x"}], [{"name": "a.py", "text": "y"}], "text of a.py has"),
    ],
)
def test_differences_in_words(before, now, words):
    found = plugins.changed(before, now)
    assert words in found if words else not found


@pytest.fixture
def package(from_outside):
    """A package that brings a method, a network and data by entry points."""
    write("own_package.py", "packedmix", (
        "from torch import nn\n"
        "import torch\n"
        "from torch.utils.data import TensorDataset\n"
        "def net(num_classes): return nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes))\n"
        "def points():\n"
        "    return TensorDataset(torch.arange(60.)[:, None], torch.arange(60) % 2)\n"
    ))  # fmt: skip
    info = Path("own_package-1.5.dist-info")
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: own-package\nVersion: 1.5\n")
    (info / "entry_points.txt").write_text(
        "[mixwell.methods]\npacked = own_package\n[mixwell.models]\npackednet = own_package:net\n"
        "[mixwell.data]\npackeddata = own_package:points\n"
    )
    sys.path.insert(0, str(Path.cwd()))
    plugins.entries.cache_clear()


@pytest.mark.usefixtures("package")
def test_an_installed_packages_methods_networks_and_data_are_known(tmp_path):
    from mixwell import data, models
    from mixwell.training import train

    assert "packednet" in models.available()
    assert "packeddata" in data.available()
    config = RunConfig(
        data="packeddata", model="packednet", method="packedmix", epochs=1, batch_size=16, threads=1
    )
    result = train(config, tmp_path / "run")
    assert result["versions"]["own-package"] == "1.5"
    plugins.load_installed()  # again: nothing is taken


@pytest.mark.usefixtures("package")
def test_a_broken_package_is_named():
    Path("own_package.py").write_text(METHOD.format(name="mixup"))
    with pytest.raises(InputError, match=r"entry point 'packed' of mixwell.methods .* is taken"):
        plugins.load_installed()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("own_bands:", "must be MODULE:NAME"),
        ("own_bands.py:Net", "without .py: own_bands:Net"),
        ("own_bands:Answr", r"own_bands.py has no 'Answr' \(did you mean 'Answer'\?\)"),
        ("own_bands:number", "must be a class or a function that makes one, got a int"),
        ("own_gone:Net", "model='own_gone:Net': .*no module 'own_gone'"),
    ],
)
def test_names_of_modules_that_cant_be(text, words):
    write(more="number = 3")
    with pytest.raises(InputError, match=words):
        plugins.find("model", text)
