import csv

import numpy as np
import pytest
from PIL import Image

import mixwell
from mixwell.cli import main
from mixwell.training import RunConfig, train


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "digits"
    train(RunConfig(epochs=1, threads=1, train_size=100), folder)
    return folder


@pytest.fixture
def images(tmp_path):
    generator = np.random.default_rng(0)
    for name in ("b/two.png", "a.png"):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (8, 8), dtype=np.uint8)).save(path)
    return tmp_path / "images"


def test_a_folder_goes_into_a_csv(run, images, tmp_path, capsys):
    out = tmp_path / "new" / "p.csv"
    assert main(["predict", str(run), str(images), "--out", str(out), "--batch-size", "1"]) == 0
    assert "2 predictions" in capsys.readouterr().out
    with out.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["path", "predicted", "probability", *"0123456789"]
    assert [row["path"] for row in rows] == [str(images / "a.png"), str(images / "b" / "two.png")]
    wanted = mixwell.load_run(run).predict(images)
    for row, probabilities in zip(rows, wanted, strict=True):
        numbers = [float(row[name]) for name in "0123456789"]
        assert numbers == pytest.approx(probabilities.tolist(), rel=1e-4)
        assert float(row["probability"]) == max(numbers) == numbers[int(row["predicted"])]


def test_the_likeliest_classes_are_shown(run, images, capsys):
    assert main(["predict", str(run), str(images / "a.png"), "--top", "2"]) == 0
    line = capsys.readouterr().out.strip()
    best = mixwell.load_run(run).predict(images / "a.png")[0].topk(2)
    shown = [f"{i} {100 * p:.1f} %" for p, i in zip(*(v.tolist() for v in best), strict=True)]
    assert line == f"{images / 'a.png'}  {'  '.join(shown)}"
    out = images.parent / "p.csv"
    assert main(["predict", str(run), str(images), "--top", "2", "--out", str(out)]) == 2
    assert "--top is of what is shown here" in capsys.readouterr().err
    assert not out.exists()


def test_a_tables_rows_get_values_and_deviations(tmp_path, capsys):
    generator = np.random.default_rng(0)
    table = generator.normal(size=(60, 3))
    path = tmp_path / "t.csv"
    np.savetxt(path, table, delimiter=",", header="a,b,y", comments="")
    config = RunConfig(data=f"csv:{path}", epochs=1, threads=1, model_options={"dropout": 0.1})
    train(config, tmp_path / "run")
    out = tmp_path / "p.csv"
    assert main(["predict", str(tmp_path / "run"), str(path), "--out", str(out)]) == 0
    with out.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["path", "row", "value", "std"]
    assert [row["row"] for row in rows] == [str(i) for i in range(1, 61)]
    estimate = mixwell.load_run(tmp_path / "run").predict(path)
    assert [float(row["value"]) for row in rows] == pytest.approx(estimate.mean[:, 0].tolist())
    assert [float(row["std"]) for row in rows] == pytest.approx(estimate.std[:, 0].tolist())
    assert main(["predict", str(tmp_path / "run"), str(path)]) == 0
    assert "t.csv:60 " in capsys.readouterr().out


def test_what_cannot_be_read_is_named_and_leaves_no_file(run, images, tmp_path, capsys):
    (images / "c.png").write_bytes(b"no image")
    out = tmp_path / "p.csv"
    assert main(["predict", str(run), str(images), "--out", str(out)]) == 2
    assert "c.png is no image that can be decoded" in capsys.readouterr().err
    assert not out.exists()
    assert main(["predict", str(tmp_path), str(images)]) == 2
    assert "holds no finished run" in capsys.readouterr().err
    assert main(["predict", str(run), str(images), "--batch-size", "0"]) == 2
    assert "batch_size must be 1 at least" in capsys.readouterr().err


def test_names_move_no_cursor(run, images, capsys):
    good = (images / "a.png").rename(images / "\x1b[2J\x07\x9b31ma.png")
    assert main(["predict", str(run), str(good)]) == 0
    bad = images / "\x1b]0;title\x07.png"
    bad.write_bytes(b"no picture")
    assert main(["predict", str(run), str(bad)]) == 2
    shown = "".join(capsys.readouterr())
    assert "a.png" in shown
    assert not [c for c in shown if not c.isprintable() and c != "\n"]
