import pytest

from mixwell import InputError
from mixwell.cli import main
from mixwell.studies import read_study
from mixwell.studies.yaml_file import read_yaml


@pytest.mark.parametrize("text", ["1e-3", ".5", "-2E+4", "+.5e1", "3.", "0.25", "1.5e3", "1E5"])
def test_numbers_are_numbers(text, tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(f"lr: {text}\nin: [{text}]\n")
    assert read_yaml(path) == {"lr": float(text), "in": [float(text)]}
    assert isinstance(read_yaml(path)["lr"], float)


def test_all_else_is_as_it_was(tmp_path):
    path = tmp_path / "a.yaml"
    text = "a: 3\nb: 1e-3x\nc: '1e-3'\nd: true\ne:\nf: -4\ng: e5\nh: .\n"
    path.write_text(text)
    found = read_yaml(path)
    assert found == {
        "a": 3, "b": "1e-3x", "c": "1e-3", "d": True, "e": None, "f": -4, "g": "e5", "h": ".",
    }  # fmt: skip
    assert isinstance(found["a"], int)


@pytest.mark.parametrize("text", [
    "epochs: 1\nseeds: 2\nepochs: 3\n", "settings:\n  mixup: {alpha: 1, alpha: 2}\n",
    "- {a: 1}\n- {b: 1, b: 1}\n", "batch-size: 1\nbatch_size: 2\n", "'a': 1\na: 2\n",
])  # fmt: skip
def test_a_name_that_is_given_twice_is_refused(text, tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=r"a\.yaml gives '.*' twice.*keep one"):
        read_study(path)


def test_a_merged_mapping_may_be_overridden(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("a: &x {lr: 1}\nb: {<<: *x, lr: 2}\n")
    assert read_yaml(path)["b"] == {"lr": 2}


def test_a_settings_file_is_read_alike(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.yaml").write_text("settings: {mixup: {alpha: 1e-1, alpha: 2}}\n")
    assert main(["study", "balanced", "--methods", "mixup", "--settings", "s.yaml"]) == 2
    assert "gives 'alpha' twice" in capsys.readouterr().err
