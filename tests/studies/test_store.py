import contextlib
import sqlite3

import pytest

from mixwell import InputError
from mixwell.errors import Note
from mixwell.studies import Store, Study, run_study
from mixwell.training import RunConfig

TINY = RunConfig(train_size=100, epochs=1, threads=1)
RESULT = {"metrics": {"accuracy": 0.5}, "classes": ["a"], "config": {}, "history": []}


@pytest.fixture
def filled(tmp_path):
    """A study of two runs that have ended; returns its cells."""
    cells = Study(TINY, ["erm", "mixup"], [0]).plan(tmp_path)
    store = Store(tmp_path, create=True)
    store.add(cells)
    for cell in cells:
        store.finish(cell.name, RESULT)
    return cells


def change(folder, statement, *values):
    with contextlib.closing(sqlite3.connect(folder / Store.FILE)) as database, database:
        # What a constraint forbids a damaged file can hold.
        database.execute("pragma writable_schema = on")
        database.execute(
            "update sqlite_master set sql = replace(sql, ' NOT NULL', '') where name = 'cells'"
        )
    with contextlib.closing(sqlite3.connect(folder / Store.FILE)) as database, database:
        database.execute(statement, values)


DAMAGES = {
    "result is no JSON": ("update cells set result = '{\"metr' where name = 'erm-seed0'",),
    "result is a list": ("update cells set result = '[]' where name = 'erm-seed0'",),
    "result is empty": ("update cells set result = null where name = 'erm-seed0'",),
    "result is no text": ("update cells set result = x'ff00ff' where name = 'erm-seed0'",),
    "a digit": (
        "update cells set result = replace(result, '0.5', '0.7') where name = 'erm-seed0'",
    ),
    "no UTF-8": ("update cells set result = cast(x'7b22ff227d' as text) where name = 'erm-seed0'",),
    "config": ("update cells set config = '7' where name = 'erm-seed0'",),
    "config is empty": ("update cells set config = null where name = 'erm-seed0'",),
    "vary": ("update cells set vary = '[' where name = 'erm-seed0'",),
    "label": ("update cells set label = null where name = 'erm-seed0'",),
    "status": ("update cells set status = 'dnoe' where name = 'erm-seed0'",),
    "no status": ("update cells set status = null where name = 'erm-seed0'",),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_row_is_named_and_made_again_and_no_other_suffers(damage, filled, tmp_path):
    change(tmp_path, *damage)
    store = Store(tmp_path)
    with pytest.warns(Note, match=r"study.db: the row 'erm-seed0'.*damaged.*left out") as told:
        assert [record.label for record in store.records()] == ["mixup"]
    assert len(told) == 1
    store.add(filled)
    with pytest.warns(Note, match="the row 'erm-seed0'"):
        store.mend(filled)
    assert store.status() == {"erm-seed0": "waiting", "mixup-seed0": "done"}
    assert store.claim([cell.name for cell in filled]) == "erm-seed0"
    store.finish("erm-seed0", RESULT)
    assert [record.label for record in store.records()] == ["erm", "mixup"]


@pytest.mark.parametrize("owner", ["nonsense", "", "a:b:c:d", "host:1:0.5", "host:x", None])
def test_a_foreign_owner_is_waited_for_and_then_replaced(owner, filled, tmp_path):
    change(tmp_path, "update cells set status = 'running', owner = ?, heard = 5", owner)
    assert Store(tmp_path).claim(["erm-seed0"]) == "erm-seed0"


def test_a_missing_table_is_named_and_the_study_makes_it_again(tmp_path):
    study = Study(TINY, ["erm"], [0])
    wanted = run_study(study, tmp_path)[0].metrics
    change(tmp_path, "drop table cells")
    with pytest.raises(InputError, match="lacks the table cells"):
        Store(tmp_path)
    before = (tmp_path / "erm-seed0" / "result.json").stat().st_mtime_ns
    assert run_study(study, tmp_path)[0].metrics == wanted
    assert (tmp_path / "erm-seed0" / "result.json").stat().st_mtime_ns == before


def test_a_database_that_is_not_whole_is_named_when_it_is_opened(filled, tmp_path):
    path = tmp_path / Store.FILE
    content = bytearray(path.read_bytes())
    content[4096:8192] = bytes(4096)
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"study.db is (damaged|no study's database)"):
        Store(tmp_path, create=True)


def test_a_name_with_marks_of_its_own_is_a_path_and_no_address(tmp_path):
    folder = tmp_path / "a?b#c %41 '\"é日"
    folder.mkdir()
    Store(folder, create=True).describe(command="x'; drop table cells; --")
    assert Store(folder).described("command") == "x'; drop table cells; --"
    assert (folder / Store.FILE).is_file()
