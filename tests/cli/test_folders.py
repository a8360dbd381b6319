"""Nothing is written before all is checked, and another experiment has another folder."""

from pathlib import Path

import pytest

from mixwell.cli import main
from mixwell.studies import Study
from mixwell.studies.protocols import PROTOCOLS
from mixwell.studies.study import build
from mixwell.training import RunConfig, prepare
from mixwell.training.naming import folder_name

TINY = ["--train-size", "100", "--epochs", "1", "--threads", "1"]

RUNS = [
    (["--data", "digit"], "did you mean 'digits'"),
    (["--data", "folder:nowhere"], "there is no such folder"),
    (["--model", "cnm"], "did you mean 'cnn'"),
    (["--model-set", "witdh=3"], "did you mean 'width'"),
    (["--set", "alpha=much"], "alpha must be a number"),
    (["--ood", "fashion"], "did you mean 'fashion-mnist'"),
    (["--people", "none.npz"], "no such file"),
    (["--data", "diabetes", "--shift"], "shift needs images"),
    (["--lr", "-1"], "lr must be"),
    (["--precision", "16-mixed", "--accelerator", "cpu"], "precision='16-mixed' is not to be had"),
    (["--published", "cifar"], "published='cifar'"),
]
COMMANDS = {
    "train": ["train", "--method", "mixup"],
    "compare": ["compare", "--methods", "erm,mixup"],
    "study": ["study", "balanced", "--methods", "erm,mixup"],
    "tune": ["tune", "--method", "mixup", "--trials", "1"],
}
OWN = [
    (["train", "--method", "mixupp"], "did you mean 'mixup'"),
    (["train", "--method", "manifold_mixup", "--set", "layer=conv9"], "conv9"),
    (["compare", "--methods", "erm,mixupp"], "did you mean 'mixup'"),
    (["compare", "--methods", "erm,manifold_mixup(layer=conv9)"], "conv9"),
    (["compare", "--methods", "erm,mixup", "--baseline", "emr"], "baseline='emr'"),
    (["compare", "--methods", "erm,mixup", "--seeds", "x"], "seeds must be"),
    (["compare", "--methods", "erm", "--workers", "0"], "workers must be"),
    (["study", "balanced", "--settings", "none.yaml"], "can't be read"),
    (["study", "balanced", "--methods", "mixup", "--set", "tau_std=1"], "none of mixup has this"),
    (["study", "blanced"], "did you mean 'balanced'"),
    (["study", "balanced", "--engine", "ray", "--ray-address", "127.0.0.1:1"], "no cluster at"),
    (["tune", "--method", "mixup", "--search", "alhpa"], "did you mean 'alpha'"),
    (["tune", "--method", "mixup", "--measure", "acuracy"], "did you mean 'accuracy'"),
    (["tune", "--method", "mixup", "--seeds", "x"], "seeds must be"),
]


@pytest.mark.cases(quick=30)
@pytest.mark.parametrize(
    ("arguments", "words"),
    [([*command, *typo], words) for command in COMMANDS.values() for typo, words in RUNS] + OWN,
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
@pytest.mark.parametrize("out", [[], ["--out", "here/there"]], ids=["usual", "named"])
def test_a_typo_leaves_no_folder(arguments, words, out, tmp_path, monkeypatch, capsys):
    if "ray" in arguments:
        pytest.importorskip("ray")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MIXWELL_DATA", str(tmp_path))
    assert main([*arguments, *TINY[:2] * ("diabetes" not in arguments), *TINY[2:], *out]) == 2
    assert words in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "--epoch", "3"], "unrecognized arguments: --epoch (did you mean '--epochs'?)"),
        (["train", "--epoch=3"], "(did you mean '--epochs'?)"),
        (["compare", "--methds", "erm"], "--methds (did you mean '--methods'?)"),
        (["compare", "--methods", "erm", "--no-augmnt"], "(did you mean '--no-augment'?)"),
        (["--versio"], "(did you mean '--version'?)"),
        (["trian"], "invalid choice: 'trian'"),
        (["train", "--schedule", "cosin"], "(did you mean 'cosine'?)"),
        (["study", "toy", "--zzzzzz"], "unrecognized arguments: --zzzzzz (see mixwell study"),
    ],
)
def test_the_nearest_option_is_suggested(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert words in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_same_command_goes_on_and_another_has_another_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    train = ["train", "--method", "mixup", *TINY]
    assert main(train) == 0
    assert main(train) == 0
    assert "was finished before" in capsys.readouterr().out
    assert main([*train, "--lr", "0.01"]) == 0
    assert main([*train, "--seed", "1"]) == 0
    names = sorted(path.name for path in Path("runs").iterdir())
    assert len(names) == 3
    assert all(name.startswith("digits-cnn-mixup-") for name in names)
    assert main([*train, "--lr", "0.01", "--out", f"runs/{names[0]}"]) in (0, 2)
    capsys.readouterr()
    assert main([*train, "--lr", "0.03", "--out", f"runs/{names[0]}"]) == 2
    assert "not 0.03" in capsys.readouterr().err


def name_of(**options):
    return prepare(RunConfig(train_size=100, **options)).name


def test_what_is_given_as_it_is_anyway_changes_no_folders_name():
    plain = name_of()
    assert name_of(lr=0.05, model="cnn", threads=1) == plain
    others = [
        name_of(lr=0.1), name_of(method_options={"alpha": 0.3}), name_of(model="mlp"),
        name_of(data="moons"), name_of(model_options={"width": 8}), name_of(seed=1),
    ]  # fmt: skip
    assert len({plain, *others}) == 7
    whole = prepare(RunConfig()).name
    assert whole == "digits-cnn-mixup-seed0"


def study_of(protocol="balanced", methods=("erm",), **given):
    return build(PROTOCOLS[protocol], {"threads": 1, **given}, methods=methods, seeds=[0])


def folder_of(study, kind=""):
    return study.plan(None, kind)[0].folder.parent


def test_a_studys_folder_is_of_its_settings_and_not_of_what_may_be_added():
    plain = folder_of(study_of())
    assert plain == Path("runs/digits-cnn")
    assert folder_of(study_of(methods=["mixup", "erm"])) == plain
    assert folder_of(Study(study_of().base, ["erm"], [4])) == plain
    others = [study_of(lr=0.01), study_of(lr=[0.01, 0.02]), study_of(train_size=200)]
    assert len({plain, *map(folder_of, others)}) == 4
    assert folder_of(study_of(lr=[0.01, 0.02])) == folder_of(study_of(lr=[0.01, 0.02, 0.03]))
    toy = folder_of(study_of("toy", ["sk_mixup"]), "toy")
    assert toy == Path("runs/toy-moons+circles-mlp")


def test_long_names_stay_apart_and_within_what_a_file_system_takes():
    long = [folder_name("a" * 300, end) for end in ("b", "c")]
    assert len(set(long)) == 2
    assert max(map(len, long)) <= 150
