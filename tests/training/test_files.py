import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from mixwell import InputError
from mixwell.errors import Note
from mixwell.studies import RunRecord, load_records
from mixwell.training import RunConfig, read_result, train
from mixwell.training.checkpoints import read, whole, write
from mixwell.training.files import Damaged, checked, read_json, write_atomically, write_json

TINY = RunConfig(data="diabetes", method="mixup", train_size=60, epochs=2, threads=1)
CONTENT = {"a": [1, 2.5, math.nan, None], "b": {"1": "ü", "c": True}, "d": 1e-320}


def same(ours, theirs):
    return json.dumps(ours) == json.dumps(theirs)


def flipped(data, place):
    return data[:place] + bytes([data[place] ^ 1 << place % 7]) + data[place + 1 :]


def test_json_with_any_bit_flipped_is_as_it_was_or_named(tmp_path):
    path = tmp_path / "file.json"
    write_json(path, CONTENT)
    assert same(read_json(path), CONTENT)
    whole = path.read_bytes()
    named = 0
    for place in range(len(whole)):
        path.write_bytes(flipped(whole, place))
        try:
            found = read_json(path)
        except Damaged:
            named += 1
        else:  # in white space, or in the digest's own key: nothing is hurt
            assert same({key: found[key] for key in CONTENT}, CONTENT)
    assert named > 0.8 * len(whole)
    for size in range(len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(Damaged):
            read_json(path)


@pytest.mark.parametrize("text", ["[1, 2]", "7", "null", "", "[" * 100_000, "\udcff"])
def test_what_is_no_object_is_named(text, tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(Damaged, match=r"config.json is damaged"):
        read_json(path)


def test_an_older_file_without_a_digest_passes(tmp_path):
    (tmp_path / "old.json").write_text('{"a": 1}')
    assert read_json(tmp_path / "old.json") == {"a": 1}
    (tmp_path / "old.bin").write_bytes(b"anything")
    assert checked(tmp_path / "old.bin").read_bytes() == b"anything"


def test_a_sealed_file_with_a_bit_flipped_is_named_and_others_read_it(tmp_path):
    path = tmp_path / "arrays.npz"
    write_atomically(path, lambda file: np.savez(file, x=np.arange(5)), seal=True)
    whole = path.read_bytes()
    assert np.load(path)["x"].tolist() == list(range(5))
    trailer = 16 + 64 + 1
    for place in range(len(whole) - trailer):
        path.write_bytes(flipped(whole, place))
        with pytest.raises(Damaged, match="digest"):
            checked(path)
    write_atomically(tmp_path / "w.pt", lambda f: torch.save({"w": torch.ones(2)}, f), seal=True)
    assert torch.load(tmp_path / "w.pt", weights_only=True)["w"].tolist() == [1, 1]


# ------------------------------------------------------------------------------------ checkpoints


class Runs:
    def __reduce__(self):
        return print, ("code was run",)


def test_a_checkpoint_runs_no_code(tmp_path, capsys):
    torch.save({"progress": {}, "model": Runs()}, tmp_path / "checkpoint.pt")
    with pytest.warns(Note, match=r"objects that run code.*kept as checkpoint.pt.damaged.*start"):
        assert whole(tmp_path) is None
    assert (tmp_path / "checkpoint.pt.damaged").is_file()
    assert capsys.readouterr().out == ""


def test_two_checkpoints_are_kept_and_the_one_before_stands_in(tmp_path):
    for epoch in range(3):
        write(tmp_path, {"progress": {"epoch": epoch}})
    last, before = tmp_path / "checkpoint.pt", tmp_path / "checkpoint.before.pt"
    assert [read(p, "cpu")["progress"]["epoch"] for p in (last, before)] == [2, 1]
    assert whole(tmp_path) == last
    last.write_bytes(flipped(last.read_bytes(), 700))
    with pytest.warns(Note, match="from the checkpoint before it") as told:
        assert whole(tmp_path) == before
    assert len(told) == 1
    before.write_bytes(before.read_bytes()[:500])
    with pytest.warns(Note, match="from its start"):
        assert whole(tmp_path) is None
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "checkpoint.before.pt.damaged", "checkpoint.pt.damaged",
    ]  # fmt: skip


def test_numbers_of_numpy_are_kept_as_plain_ones_and_objects_are_refused(tmp_path):
    state = torch.nn.BatchNorm1d(2).state_dict()
    method = {"a": np.float64(0.5), "b": [np.arange(3)], "c": (1, {2})}
    write(tmp_path, {"progress": {}, "model": state, "method": method})
    found = read(tmp_path / "checkpoint.pt", "cpu")
    assert found["method"]["a"] == 0.5
    assert found["method"]["b"][0].tolist() == [0, 1, 2]
    assert found["model"]._metadata == state._metadata  # the versions of its modules
    with pytest.raises(InputError, match=r"checkpoint\['method'\]\['x'\] is a Runs"):
        write(tmp_path, {"progress": {}, "method": {"x": Runs()}})


class Stop(Exception):
    pass


def _stopped(folder, after=5):
    def stop(event):
        if event["kind"] == "step" and event["done"] == after:
            raise Stop

    with pytest.raises(Stop):
        train(TINY, folder, report=stop)


def test_a_run_with_a_damaged_checkpoint_ends_like_an_undisturbed_one(tmp_path):
    wanted = train(TINY, tmp_path / "whole")["metrics"]
    for damaged in (["checkpoint.pt"], ["checkpoint.pt", "checkpoint.before.pt"]):
        folder = tmp_path / str(len(damaged))
        _stopped(folder)
        (folder / "checkpoint.before.pt").write_bytes((folder / "checkpoint.pt").read_bytes())
        for name in damaged:
            (folder / name).write_bytes(b"half a file")
        with pytest.warns(Note, match="damaged"):
            assert train(TINY, folder)["metrics"] == wanted


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    _stopped(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.warns(Note, match="config.json.damaged"), pytest.raises(InputError, match="anothe"):
        train(RunConfig(**{**TINY.to_dict(), "seed": 1}), tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: text.replace('"metrics"', '"metrisc"'),
        lambda text: "[]",
        lambda text: json.dumps({"format": 1, "config": {}, "history": []}),
        lambda text: text.replace("mixup", "mixup\x00"),
    ],
)
def test_a_damaged_result_is_set_aside_and_made_again(damage, tmp_path):
    wanted = train(TINY, tmp_path)["metrics"]
    path = tmp_path / "result.json"
    path.write_text(damage(path.read_text()))
    with pytest.raises(InputError, match=r"result.json is (damaged|no result)"):
        load_records(tmp_path)
    with pytest.warns(Note, match="kept as result.json.damaged"):
        assert train(TINY, tmp_path)["metrics"] == wanted
    assert read_result(tmp_path)["metrics"] == wanted
    assert len(load_records(tmp_path)) == 1


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and no more", b"\x93NUMPY"])
def test_damaged_predictions_are_set_aside(content, tmp_path):
    record = RunRecord.of(tmp_path, None, {"method": "erm"}, "it broke")
    assert record.predictions() == {}
    (tmp_path / "predictions.npz").write_bytes(content)
    with pytest.warns(Note, match="predictions.npz.damaged"):
        assert record.predictions() == {}
    assert record.predictions() == {}


def test_predictions_hold_no_objects(tmp_path):
    np.savez(tmp_path / "predictions.npz", x=np.array([Runs()], dtype=object), allow_pickle=True)
    record = RunRecord.of(tmp_path, None, {"method": "erm"}, "it broke")
    with pytest.warns(Note, match="predictions.npz.damaged"):
        assert record.predictions() == {}


@pytest.mark.skipif(os.name == "nt", reason="Windows flushes no folders")
def test_the_file_and_then_its_folder_are_flushed(tmp_path, monkeypatch):
    flushed = []

    def fsync(descriptor):
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        flushed.append((path, (tmp_path / "a.json").exists()))

    if not Path("/proc/self/fd").is_dir():
        pytest.skip("no /proc to tell which file a descriptor is of")
    monkeypatch.setattr(os, "fsync", fsync)
    write_atomically(tmp_path / "a.json", b"{}")
    (file, before), (folder, after) = flushed
    assert file.parent == tmp_path
    assert folder == tmp_path
    assert (before, after) == (False, True)
