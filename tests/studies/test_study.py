from dataclasses import replace

import pytest

from mixwell import InputError
from mixwell.studies import PROTOCOLS, Study, read_study
from mixwell.studies.study import build, parse_methods, value_of
from mixwell.training import RunConfig, is_finished

TINY = RunConfig(train_size=100, epochs=1, threads=1)


def test_a_grid_is_seeds_times_parts_times_methods(tmp_path):
    study = Study(TINY, ["erm", "mixup"], [0, 3], {"lr": [0.1, 0.2], "batch_size": [10, 20]})
    cells = study.plan(tmp_path)
    assert len(cells) == 16
    assert len({cell.name for cell in cells}) == 16
    assert [cell.config.seed for cell in cells] == [0] * 8 + [3] * 8
    assert cells[2].vary == {"lr": 0.1, "batch_size": 20}
    assert (cells[2].config.lr, cells[2].config.batch_size) == (0.1, 20)
    assert cells[1].name == "mixup-lr=0.1-batch_size=10-seed0"


def test_settings_go_to_the_methods_that_know_them(tmp_path):
    settings = {"alpha": 0.5, "sk_mixup:tau_std": 0.7}
    methods = ["erm", "mixup", "sk_mixup", "mixup(alpha=2)"]
    cells = Study(TINY, methods, [0], settings=settings).plan(tmp_path)
    options = [cell.config.method_options for cell in cells]
    assert options == [{}, {"alpha": 0.5}, {"alpha": 0.5, "tau_std": 0.7}, {"alpha": 2}]
    assert cells[3].label == "mixup(alpha=2)"


def test_names_that_no_folder_can_have_get_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr("mixwell.studies.study.slug", lambda text: text[:3])
    cells = Study(TINY, ["mixup", "mixup(alpha=0.4)", "mixup(alpha=0.2)"], [0]).plan(tmp_path)
    assert len({cell.folder for cell in cells}) == 3


def test_a_method_may_be_trained_for_another_time(tmp_path):
    study = Study(
        RunConfig(data="digits", epochs=6),
        ["erm", "mixup(epochs=3, lr=1, alpha=0.4)", "mixup"],
        [0],
    )
    plain, own, other = (cell.config for cell in study.plan(tmp_path))
    assert (plain.epochs, own.epochs, other.epochs) == (6, 3, 6)
    assert own.lr == 1.0
    assert isinstance(own.lr, float)
    assert plain.lr == other.lr != 1.0
    assert own.method_options == {"alpha": 0.4}
    assert study.labels()[1] == "mixup(epochs=3, lr=1, alpha=0.4)"
    varied = Study(study.base, study.methods, [0], {"epochs": [3, 6]})
    with pytest.raises(InputError, match=r"mixup\(.*own epochs, which varies"):
        varied.plan(tmp_path)


def test_a_set_up_that_is_named_is_not_for_plain_training(tmp_path):
    base = replace(TINY, published="cifar100")
    cells = Study(base, ["erm", "mixup", "regmixup+cutmix"], [0]).plan(tmp_path)
    assert [cell.config.published for cell in cells] == [None, "cifar100", "cifar100"]
    for methods in (["erm"], ["erm", "am_mixup"]):  # nothing, or not all, can have it
        with pytest.raises(InputError, match=f"{methods[-1]} has no such set-up"):
            Study(base, methods, [0]).plan(tmp_path)


def test_a_protocols_own_settings_give_way_and_stay_out_of_the_label(tmp_path):
    usual = {"sk_mixup": {"tau_max": 5.0, "tau_std": 0.2}}
    study = Study(TINY, ["sk_mixup(tau_std=1)"], [0], usual=usual)
    (cell,) = study.plan(tmp_path)
    assert cell.config.method_options == {"tau_max": 5.0, "tau_std": 1}
    assert cell.label == "sk_mixup(tau_std=1)"


@pytest.mark.parametrize(
    ("methods", "seeds", "settings", "words"),
    [
        ([], [0], {}, "methods must name one"),
        (["mixup"], [], {}, "seeds must name one"),
        (["mixup", "mixup"], [0], {}, "methods names one twice"),
        (["mixup", "mixup()"], [0], {}, "methods names one twice"),
        (["mixup"], [1, 1], {}, "seeds names one twice"),
        (["mixup", "nonsense"], [0], {}, "'nonsense' is unknown"),
        (["mixup", "c_mixup"], [0], {}, "c_mixup is for regression"),
        (["mixup"], [0], {"tau_std": 1}, "none of mixup has this setting"),
        (["mixup"], [0], {"erm:alpha": 1}, "'erm' is not among the methods"),
        (["mixup"], [0], {"alpha": "much"}, "alpha must be a number"),
        (["mixup(alpha)"], [0], {}, "must be NAME"),
        (["mixup(alpha=1.0, alpha=2.0)"], [0], {}, "gives alpha twice"),
        (["mixup(alpha=1)", "mixup(alpha=1.0)"], [0], {}, "are the same method, trained alike"),
        (["mixup", "mixup(alpha=1.0)"], [0], {}, r"mixup and mixup\(alpha=1.0\) are the same"),
        (["regmixup+cutmix", "erm", "cutmix+regmixup"], [0], {}, "are the same method"),
        (["mixup", "mixup(epochs=1)"], [0], {}, "are the same method, trained alike"),
        (["mixup(per=batch)", "mixup"], [0], {"mixup:per": "batch"}, "names one twice"),
        ("erm,mixup", [0], {}, "methods must be a list"),
        (["mixup(alpha=1"], [0], {}, "is no method"),
    ],
)
def test_everything_is_checked_before_the_first_run(methods, seeds, settings, words, tmp_path):
    with pytest.raises(InputError, match=words):
        Study(TINY, methods, seeds, settings=settings).plan(tmp_path)
    assert not any(is_finished(path) for path in tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ood": "diabetes"}, "has no images"),
        ({"ood": "digits"}, "must be another data set"),
        ({"data": "diabetes", "shift": True, "train_size": None}, "shift needs images"),
        ({"labels": 40, "method": "erm"}, "mixes inside the model"),
        ({"imbalance": 10.0}, "give one of train_size"),
        ({"coarse": True, "data": "moons"}, "has no superclasses"),
    ],
)
def test_what_is_measured_at_the_end_is_checked_at_the_start(changes, words, tmp_path):
    method = "mixup" if changes.get("data") == "diabetes" else "am_mixup"
    with pytest.raises(InputError, match=words):
        Study(replace(TINY, **changes), [method], [0]).plan(tmp_path)


def test_methods_with_settings_are_parsed():
    text = "erm, sk_mixup(tau_std=0.5, tau_max=1),mixup+am_mixup(k=3)"
    assert parse_methods(text) == ["erm", "sk_mixup(tau_std=0.5, tau_max=1)", "mixup+am_mixup(k=3)"]


def test_lists_vary_and_what_is_given_replaces_the_protocols():
    protocol = PROTOCOLS["long-tailed"]
    study = build(protocol, {"data": ["digits", "fashion-mnist"], "imbalance": [10]})
    assert study.vary == {"data": ["digits", "fashion-mnist"]}
    assert study.base.imbalance == 10.0
    assert isinstance(study.base.imbalance, float)
    assert study.methods == list(protocol.methods)
    few = build(PROTOCOLS["few-shot"], {"imbalance": 20})
    assert few.base.imbalance == 20
    assert few.base.shots is None
    assert "shots" not in few.vary


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=str)
def test_every_protocol_and_preset_is_a_study(protocol):
    for preset in (None, *protocol.presets):
        study = build(protocol, {}, preset=preset)
        assert study.methods
        assert study.labels()
        assert "erm" in study.methods
    assert "paper" in protocol.presets
    with pytest.raises(InputError, match=r"preset='papr' is unknown.*did you mean 'paper'"):
        build(protocol, {}, preset="papr")


@pytest.mark.parametrize("name", [name for name in PROTOCOLS if name != "semi-supervised"])
def test_every_protocols_defaults_can_run(name, tmp_path):
    study = build(PROTOCOLS[name], {"epochs": 1}, seeds=[0])
    assert len(study.plan(tmp_path)) >= len(study.methods)


def test_a_yaml_file_declares_a_study(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text("protocol: few-shot\nshots: [5, 10]\nbatch-size: 20\nseeds: [1, 2]\n")
    assert read_study(path) == {
        "protocol": "few-shot", "shots": [5, 10], "batch_size": 20, "seeds": [1, 2],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- a\n", "must hold a mapping"),
        ("a: [1\n", "is no YAML"),
        ("epoch: 3\n", r"'epoch' is no part of a study.*did you mean 'epochs'"),
        ("method: mixup\n", "'method' is no part of a study"),
    ],
)
def test_a_wrong_yaml_file_is_named(text, words, tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=words):
        read_study(path)
    with pytest.raises(InputError, match="can't be read"):
        read_study(tmp_path / "none.yaml")


@pytest.mark.parametrize("methods", [
    ["mixup", "mixup(alpha=0.5)"], ["sk_mixup", "sk_mixup(feature_mode=train)"],
    ["mixup", "mixup(epochs=2)"], ["cutmix", "regmixup+cutmix"], ["mixup(p=0.5)", "mixup"],
    ["infinite_class", "infinite_class(axis=class)"], ["mixup", "mixup(label_smoothing=0.1)"],
])  # fmt: skip
def test_methods_that_differ_in_anything_are_two(methods, tmp_path):
    assert len(Study(TINY, methods, [0]).plan(tmp_path)) == 2


def test_a_method_may_learn_from_the_others_in_a_way_of_its_own(tmp_path):
    few = replace(TINY, labels=20)
    study = Study(few, ["erm", "decoupled", "decoupled(semi=authors, threshold=1)"], [0])
    plain, paper, authors = (cell.config for cell in study.plan(tmp_path))
    assert (plain.semi, paper.semi, authors.semi) == ("paper", "paper", "authors")
    assert (paper.threshold, authors.threshold) == (0.95, 1.0)
    assert authors.method_options == {}
    # The form is one of mixing: what mixes nothing has none.
    alike = ["erm", "erm(semi=authors)"]
    with pytest.raises(InputError, match=r"erm and erm\(semi=authors\) are the same"):
        Study(few, alike, [0]).plan(tmp_path)
    with pytest.raises(InputError, match="semi='theirs' is unknown; known: 'paper', 'authors'"):
        Study(few, ["mixup(semi=theirs)"], [0]).plan(tmp_path)


def test_methods_that_are_alike_in_one_part_alone_are_two(tmp_path):
    study = Study(TINY, ["mixup", "mixup(lr=0.1)"], [0], {"batch_size": [10, 20]})
    assert len(study.plan(tmp_path)) == 4


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (".5", 0.5), ("1.", 1.0), ("+2", 2.0), ("1e-3", 1e-3), ("-.5E2", -50.0), ("3", 3),
        ("[1, .5]", "[1, .5]"), ("1_000", "1_000"), ("e5", "e5"), (".", "."), ("1-2", "1-2"),
        ("true", True), ("None", None), ("٣", "٣"),
    ],
)  # fmt: skip
def test_what_a_person_writes_for_a_number_is_one(text, value):
    found = value_of(text)
    assert (found, type(found)) == (value, type(value))


def test_a_list_is_one_setting():
    study = Study(TINY, ["remix(class_counts=[1, 2, 3], alpha=.5)"], [0])
    assert study.options()[0][2] == {"class_counts": [1, 2, 3], "alpha": 0.5}
