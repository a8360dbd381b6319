from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from mixwell import InputError, data
from mixwell.data.folders import image_files
from mixwell.errors import Note

CLASSES = ("ant", "cat")


def write(root: Path, classes=CLASSES, count: int = 10) -> None:
    for shade, name in enumerate(classes):
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            Image.new("RGB", (9, 9), (60 * shade, i, 0)).save(root / name / f"{i}.png")


def read(root: Path) -> data.Dataset:
    return data.load(f"folder:{root}", image_size=8, workers=0)


def of(split: data.Split) -> set[str]:
    return {path.parts[-3] for path in split.paths}


@pytest.mark.parametrize("train", ["train", "Train", "Training", "TRAIN"])
@pytest.mark.parametrize("test", ["test", "Testing", "TEST"])
@pytest.mark.parametrize("val", [None, "val", "valid", "Validation"])
def test_splits_go_by_their_usual_names(tmp_path, train, test, val):
    write(tmp_path / train)
    write(tmp_path / test, count=4)
    if val:
        write(tmp_path / val, count=3)
    found = read(tmp_path)
    assert found.classes == CLASSES
    assert (of(found.train), of(found.test)) == ({train}, {test})
    assert of(found.val) == {val or train}
    assert len(found.train) == (20 if val else 18)


@pytest.mark.parametrize("val", ["val", "valid", "validation"])
def test_validation_without_a_test_is_the_test_and_that_is_said(tmp_path, val):
    write(tmp_path / "train")
    write(tmp_path / val, count=4)
    with pytest.warns(Note, match=f"{val} is the test split"):
        found = read(tmp_path)
    assert (of(found.val), of(found.test)) == ({"train"}, {val})


JUNK = [
    ".git/x.png", "ant/.ipynb_checkpoints/0-checkpoint.png", "__MACOSX/ant/._0.png", "ant/._0.png",
    "ant/Thumbs.db",
]  # fmt: skip


@pytest.mark.parametrize("junk", JUNK)
def test_hidden_files_and_what_programs_leave_are_no_images(tmp_path, junk, recwarn):
    write(tmp_path)
    clean = image_files(tmp_path)
    (tmp_path / junk).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / junk).write_bytes((tmp_path / "ant" / "0.png").read_bytes())
    found = read(tmp_path)
    assert found.classes == CLASSES
    assert sum(map(len, (found.train, found.val, found.test))) == 20
    assert image_files(tmp_path) == clean
    assert not [w for w in recwarn if w.category is Note]


def test_files_of_other_endings_are_counted(tmp_path):
    write(tmp_path)
    for name in ("a.TIF", "b.tif", "c.heic"):
        (tmp_path / "cat" / name).write_bytes(b"")
    for look in (read, image_files):
        with pytest.warns(Note, match=r"3 files are left out by the ending \(2 \.tif, 1 \.heic\)"):
            look(tmp_path)
    for path in (tmp_path / "ant").iterdir():
        path.rename(path.with_suffix(".jfif"))
    with pytest.raises(InputError, match=r"ant holds no images .*10 \.jfif"):
        read(tmp_path)


def test_links_and_folders_named_as_images(tmp_path):
    write(tmp_path)
    (tmp_path / "cat" / "more.png").mkdir()
    (tmp_path / "cat" / "0.png").rename(tmp_path / "cat" / "more.png" / "0.png")
    (tmp_path / "ant" / "up").symlink_to(tmp_path)
    write(tmp_path.parent / "elsewhere", ("x",), 3)
    (tmp_path / "cat" / "linked").symlink_to(tmp_path.parent / "elsewhere" / "x")
    assert len(image_files(tmp_path / "cat")) == 13
    assert all(path.is_file() for path in image_files(tmp_path))
    (tmp_path / "cat" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    for look in (read, image_files):
        with pytest.raises(InputError, match=r"gone\.png is a link to what is not there"):
            look(tmp_path)


def test_a_class_may_be_called_train(tmp_path):
    write(tmp_path, ("bus", "car", "train"), 20)
    assert read(tmp_path).classes == ("bus", "car", "train")


def test_what_may_be_both_is_asked_about(tmp_path):
    write(tmp_path / "both" / "train")
    write(tmp_path / "both", ("bus",))
    with pytest.raises(InputError, match=r"train beside bus.*split to train on or a class"):
        read(tmp_path / "both")
    write(tmp_path / "both" / "test")
    with pytest.warns(Note, match="bus is no split"):
        assert read(tmp_path / "both").classes == CLASSES
    for name in ("val", "valid"):
        write(tmp_path / "both" / name)
    with pytest.raises(InputError, match="val and valid, which both"):
        read(tmp_path / "both")


def test_splits_of_other_names_are_no_classes(tmp_path):
    for name in ("first", "second"):
        write(tmp_path / name)
    with pytest.raises(InputError, match=r"first, second hold the same sub-folders \(ant, cat\)"):
        read(tmp_path)


def test_one_sub_folder_in_each_class_is_no_split(tmp_path):
    for name in CLASSES:
        write(tmp_path / name, ("images",))
    assert read(tmp_path).classes == CLASSES


@pytest.mark.skipif(os.name == "nt" or os.getuid() == 0, reason="the superuser reads all")
def test_a_folder_that_can_not_be_read_is_named(tmp_path):
    write(tmp_path)
    (tmp_path / "cat").chmod(0)
    with pytest.raises(InputError, match="cat can't be read"):
        read(tmp_path)
