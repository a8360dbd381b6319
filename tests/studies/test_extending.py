"""A study that is gone on with: the same folder, with more methods, seeds and values."""

from dataclasses import replace

import pytest

from mixwell import InputError
from mixwell.studies import Study, load_records, load_results, run_study
from mixwell.studies.engines import Engine
from mixwell.training import RunConfig

TINY = RunConfig(train_size=100, epochs=1, threads=1)


class Counting(Engine):
    """An engine that makes results up, and counts its runs."""

    slots = 4

    def __init__(self):
        self.started, self.waiting = [], []

    def start(self, cell, command):
        self.started.append((cell.label, cell.config.seed, cell.config.lr, cell.config.data))
        self.waiting.append(cell)

    def events(self, timeout):
        waiting, self.waiting = self.waiting, []
        for cell in waiting:
            yield cell, {"kind": "result", "result": {"metrics": {"accuracy": cell.config.lr}}}
            yield cell, {"kind": "ended"}

    def stop(self):
        pass


@pytest.fixture
def go(tmp_path):
    """Return what runs a study in one folder, and returns what it trained and its records."""

    def run(study):
        engine = Counting()
        records = run_study(study, tmp_path / "out", engine=engine)
        return engine.started, records

    return run


def parts(records):
    return {(record.label, record.seed, *record.vary.values()) for record in records}


def test_an_option_that_had_one_value_gets_another(go, tmp_path):
    one = Study(replace(TINY, lr=0.1), ["erm", "mixup"], [0, 1])
    assert len(go(one)[0]) == 4
    wide = Study(TINY, ["erm", "mixup"], [0, 1], {"lr": [0.1, 0.2]})
    started, records = go(wide)
    assert {lr for _, _, lr, _ in started} == {0.2}
    assert len(started) == 4
    assert len(parts(records)) == 8
    assert parts(load_records(tmp_path / "out")) == parts(records)
    assert {record.group for record in records} == {"lr 0.1", "lr 0.2"}
    # The former command is a part of what is there now, and nothing is trained twice.
    started, records = go(one)
    assert started == []
    assert {record.group for record in records} == {"lr 0.1"}
    assert go(wide)[0] == []


def test_what_the_wider_study_does_not_name_is_of_its_part_as_well(go, tmp_path):
    go(Study(replace(TINY, lr=0.1), ["erm", "mixup"], [0, 1, 2]))
    started, _ = go(Study(TINY, ["erm", "cutmix"], [0], {"lr": [0.1, 0.2]}))
    assert sorted(started) == [
        ("cutmix", 0, 0.1, "digits"), ("cutmix", 0, 0.2, "digits"), ("erm", 0, 0.2, "digits"),
    ]  # fmt: skip
    everything = load_records(tmp_path / "out")
    assert all(list(record.vary) == ["lr"] for record in everything)
    assert set(load_results(tmp_path / "out").lr) == {0.1, 0.2}
    # One value alone adds to what varies, under a name that no other has.
    started, records = go(Study(replace(TINY, lr=0.4), ["erm"], [0]))
    assert (len(started), records[0].vary) == (1, {"lr": 0.4})
    assert len({record.path.name for record in load_records(tmp_path / "out")}) == 10
    started, records = go(Study(replace(TINY, lr=0.2), ["mixup"], [0]))
    assert (len(started), records[0].vary) == (1, {"lr": 0.2})
    assert go(Study(TINY, ["mixup", "erm"], [0], {"lr": [0.2, 0.4]}))[0] == [
        ("mixup", 0, 0.4, "digits")
    ]


def test_another_data_set_is_a_part_and_the_first_stays(go):
    moons = replace(TINY, data="moons", train_size=None)
    go(Study(moons, ["erm"], [0]))
    both = Study(replace(TINY, train_size=None), ["erm"], [0], {"data": ["circles", "moons"]})
    started, records = go(both)
    assert [data for *_, data in started] == ["circles"]
    assert [record.group for record in records] == ["circles", "moons"]


def test_two_options_one_after_the_other(go):
    go(Study(replace(TINY, lr=0.1, batch_size=20), ["erm"], [0]))
    assert len(go(Study(replace(TINY, lr=0.1), ["erm"], [0], {"batch_size": [20, 50]}))[0]) == 1
    started, records = go(Study(TINY, ["erm"], [0], {"lr": [0.1, 0.2], "batch_size": [20, 50]}))
    assert {lr for _, _, lr, _ in started} == {0.2}
    assert len({record.group for record in records}) == 4
    assert all(list(record.vary) == ["lr", "batch_size"] for record in records)


@pytest.mark.parametrize(("base", "vary", "words"), [
    ({"lr": 0.2}, {}, r"lr=0\.1, not 0\.2.*one study has both if lr is given both"),
    ({}, {"lr": [0.2, 0.3]}, r"lr=0\.1, not 0\.2, 0\.3.*name 0\.1 among the values of lr"),
    ({"lr": 0.1, "epochs": 2}, {}, "epochs=1, not 2"),
    ({"epochs": 2}, {"lr": [0.1, 0.2]}, "epochs=1, not 2"),
    ({"lr": 0.1, "train_size": None}, {"data": ["moons", "circles"]}, "train_size=100, not None"),
    ({"lr": 0.1}, {"data": ["fashion-mnist", "circles"]}, "data|fashion"),
])  # fmt: skip
def test_a_study_of_other_settings_is_refused_as_before(base, vary, words, go, tmp_path):
    go(Study(replace(TINY, lr=0.1), ["erm"], [0]))
    before = parts(load_records(tmp_path / "out"))
    with pytest.raises(InputError, match=words):
        go(Study(replace(TINY, **base), ["erm"], [0], vary))
    assert parts(load_records(tmp_path / "out")) == before
