import json
import re
from pathlib import Path

import pytest

import mixwell
from mixwell.cli import main

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "add_a_method.md").read_text(encoding="utf-8")
TINY = ["--train-size", "100", "--epochs", "1", "--threads", "1"]


@pytest.fixture
def bands(from_outside):
    """The file of the guide, in the current folder."""
    Path("bands.py").write_text(re.search(r"```python\n(.*?)```", GUIDE, re.DOTALL)[1])
    return from_outside


@pytest.mark.release
def test_the_guides_method_is_compared_in_processes_of_their_own(bands, capsys):
    arguments = ["compare", "--methods", "bandmix,erm", "--seeds", "1", *TINY, "--out", "out"]
    assert main([*arguments, "--import", "bands.py"]) == 0
    assert "bandmix" in capsys.readouterr().out
    config = json.loads(Path("out/bandmix-seed0/config.json").read_text())
    (kept,) = config["imports"]
    assert (kept["name"], kept["text"]) == ("bands.py", Path("bands.py").read_text())
    # It goes on with the same alone, and says so.
    assert main([*arguments, "--import=./bands.py"]) == 0
    capsys.readouterr()
    arguments[2] = "erm"
    assert main(arguments) == 2
    assert "import=['bands.py (" in capsys.readouterr().err
    bands()
    Path("bands.py").write_text(Path("bands.py").read_text() + "# edited\n")
    assert main([*arguments, "--import", "bands.py"]) == 2
    assert "import=['bands.py (" in capsys.readouterr().err


def test_a_run_goes_on_with_what_it_was_begun_with_alone(bands, capsys):
    arguments = ["train", "--method", "mixup", *TINY, "--out", "run"]
    assert main(["--import", "bands.py", *arguments]) == 0
    capsys.readouterr()
    assert main(arguments) == 2
    assert "begun with --import bands.py, which is missing now" in capsys.readouterr().err
    assert main(["train", "--import", "bands.py", *arguments[1:]]) == 0


@pytest.mark.slow
@pytest.mark.usefixtures("bands")
def test_other_commands_know_it(capsys):
    assert main(["methods", "--import", "bands.py"]) == 0
    assert "bandmix" in capsys.readouterr().out
    assert main(["describe", "bandmix+decoupled", "--import", "bands.py"]) == 0
    assert "Stripes keep" in capsys.readouterr().out
    preview = ["preview", "--import", "bands.py", "--method", "bandmix", "--train-size", "64"]
    assert main([*preview, "--out", "p.png"]) == 0
    tune = ["tune", "--import", "bands.py", "--method", "bandmix", "--trials", "1", *TINY]
    assert main([*tune, "--search", "alpha", "--workers", "1", "--out", "tuned"]) == 0
    assert "bandmix" in Path("tuned/tuned.yaml").read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("bands")
def test_a_studys_file_says_what_is_imported_beside_it(monkeypatch, capsys):
    Path("study.yaml").write_text(
        "protocol: balanced\nimport: bands.py\nmethods: [bandmix]\nseeds: 1\ntrain_size: 100\n"
        "epochs: 1\nthreads: 1\n"
    )
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert main(["study", "../study.yaml", "--out", "out"]) == 0
    assert json.loads(Path("out/bandmix-seed0/result.json").read_text())["label"] == "bandmix"
    Path("../study.yaml").write_text("import: {a: b}\nmethods: [erm]\n")
    capsys.readouterr()
    assert main(["study", "../study.yaml", "--out", "no"]) == 2
    assert "import must be a text or a list of texts" in capsys.readouterr().err


@pytest.mark.usefixtures("bands")
def test_what_cant_be_imported_ends_with_status_2_and_no_folder(capsys):
    before = mixwell.list_methods()
    Path("taken.py").write_text(Path("bands.py").read_text().replace('"bandmix"', '"mixup"'))
    for name, words in (
        ("taken.py", "import='taken.py': name='mixup' is taken"),
        ("none.py", "import='none.py' can't be read"),
        ("no.such.module", "import='no.such.module': there is no module"),
    ):
        assert main(["train", "--import", name, *TINY, "--out", "out"]) == 2
        assert words in capsys.readouterr().err
        assert not Path("out").exists()
    assert mixwell.list_methods() == before
    assert main(["train", "--import"]) == 2
    assert "--import takes a file" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        main(["train", "--imp", "bands.py"])
    assert stop.value.code == 2
    assert "did you mean '--import'?" in capsys.readouterr().err


NETS = """
import torch
from torch import nn
from torch.utils.data import TensorDataset

def net(num_classes, input_shape, width=8):
    size = torch.Size(input_shape).numel()
    return nn.Sequential(nn.Flatten(), nn.Linear(size, width), nn.ReLU(),
                         nn.Linear(width, num_classes))

def points():
    x = torch.randn(200, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return TensorDataset(x, (x.mean((1, 2, 3)) > 0).long())
"""


@pytest.mark.slow
@pytest.mark.usefixtures("from_outside")
def test_a_network_and_data_of_the_current_folder(capsys):
    Path("own_nets.py").write_text(NETS)
    arguments = ["--data", "own_nets:points", "--model", "own_nets:net", "--epochs", "1"]
    arguments += ["--batch-size", "20", "--threads", "1", "--model-set", "width=6"]
    assert main(["compare", "--methods", "mixup", "--seeds", "1", *arguments, "--out", "a"]) == 0
    result = json.loads(Path("a/mixup-seed0/result.json").read_text())
    assert result["parameters"] == 64 * 6 + 6 + 6 * 2 + 2
    assert [record["text"] for record in result["config"]["imports"]] == [NETS]
    capsys.readouterr()
    for command in ("train", "compare"):
        given = ["--methods", "mixup", "--seeds", "1"] if command == "compare" else []
        for model in ("own_nets:nt", "own_nets:points"):
            arguments[3] = model
            assert main([command, *given, *arguments, "--out", "no"]) == 2
            assert f"model='{model}'" in capsys.readouterr().err
            assert not Path("no").exists()
