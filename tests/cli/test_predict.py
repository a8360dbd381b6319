import csv

import numpy as np
import pytest
from helpers import needs_gpu
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


@needs_gpu
def test_a_gpu_answers_as_the_processor_does(run, images, tmp_path):
    found = {}
    for device in ("cpu", "cuda"):
        out = tmp_path / f"{device}.csv"
        assert main(["predict", str(run), str(images), "--out", str(out), "--device", device]) == 0
        with out.open(encoding="utf-8") as file:
            found[device] = list(csv.DictReader(file))
    assert len(found["cuda"]) == len(found["cpu"]) == 2
    for there, here in zip(found["cuda"], found["cpu"], strict=True):
        for name in "0123456789":
            assert float(there[name]) == pytest.approx(float(here[name]), abs=1e-3)


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


# ------------------------------------------------------------------ what is read stays as it is


def contents(*folders):
    return {p: p.read_bytes() for f in folders for p in sorted(f.rglob("*")) if p.is_file()}


@pytest.fixture
def on_a_table(tmp_path):
    generator = np.random.default_rng(0)
    path = tmp_path / "t.csv"
    np.savetxt(path, generator.normal(size=(60, 3)), delimiter=",", header="a,b,y", comments="")
    train(RunConfig(data=f"csv:{path}", epochs=1, threads=1), tmp_path / "run")
    return path, tmp_path / "run"


@pytest.mark.parametrize("way", ["itself", "another way", "symbolic", "hard", "link to a link"])
def test_predictions_never_take_the_place_of_what_they_are_of(way, on_a_table, tmp_path, capsys):
    path, folder = on_a_table
    out = tmp_path / "out.csv"
    if way == "itself":
        out = path
    elif way == "another way":
        out = tmp_path / "run" / ".." / path.name
    elif way == "hard":
        out.hardlink_to(path)
    else:
        out.symlink_to(path)
    if way == "link to a link":
        (tmp_path / "again.csv").symlink_to(out)
        out = tmp_path / "again.csv"
    before = contents(tmp_path)
    assert main(["predict", str(folder), str(path), "--out", str(out)]) == 2
    message = capsys.readouterr().err
    assert "is a file that is read" in message
    assert "out=" in message
    assert contents(tmp_path) == before
    # And the other way round: what is predicted is a link to what is written.
    assert main(["predict", str(folder), str(out), "--out", str(path)]) == 2
    assert contents(tmp_path) == before


def test_nor_of_an_image_in_a_folder(run, images, capsys):
    before = contents(images)
    assert main(["predict", str(run), str(images), "--out", str(images / "b" / "two.png")]) == 2
    assert "is a file that is read" in capsys.readouterr().err
    assert contents(images) == before
    assert main(["predict", str(run), str(images), "--out", str(images / "p.csv")]) == 0


@pytest.mark.parametrize("name", ["result.json", "config.json", "model.pt", "predictions.npz"])
@pytest.mark.parametrize("linked", [False, True])
def test_nor_of_a_file_of_the_run(name, linked, run, images, tmp_path, capsys):
    out = run / name
    if linked:
        out = tmp_path / "link.csv"
        out.symlink_to(run / name)
    before = contents(run)
    assert main(["predict", str(run), str(images), "--out", str(out)]) == 2
    assert "is a file of the run in" in capsys.readouterr().err
    assert contents(run) == before


def test_a_file_of_another_name_may_lie_in_the_run(run, images):
    assert main(["predict", str(run), str(images), "--out", str(run / "new.csv")]) == 0
    (run / "new.csv").unlink()


def test_an_export_takes_no_file_of_the_run_through_a_link(run, tmp_path, capsys):
    (tmp_path / "net.pt2").symlink_to(run / "model.pt")
    before = contents(run)
    assert main(["export", str(run), "--to", str(tmp_path / "net.pt2")]) == 2
    assert "to=" in capsys.readouterr().err
    assert contents(run) == before
    assert (tmp_path / "net.pt2").is_symlink()


def test_a_preview_takes_no_image_of_its_data(tmp_path, capsys):
    for name in ("x", "y"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(12):
            image = Image.new("RGB", (16, 16), (20 * number, 90, 0))
            image.save(tmp_path / "photos" / name / f"{number}.png")
    before = contents(tmp_path)
    arguments = ["preview", "--data", f"folder:{tmp_path / 'photos'}", "--image-size", "16"]
    arguments += ["--method", "mixup", "--model", "cnn", "--loader-workers", "0", "--count", "2"]
    assert main([*arguments, "--out", str(tmp_path / "photos" / "x" / "3.png")]) == 2
    assert "is a file that is read" in capsys.readouterr().err
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", ["results.csv", "link.csv"])
def test_a_studys_report_takes_no_file_that_it_reads(name, tmp_path, capsys):
    generator = np.random.default_rng(0)
    out = tmp_path / "out"
    out.mkdir()
    data = out / "results.csv"
    np.savetxt(data, generator.normal(size=(60, 3)), delimiter=",", header="a,b,y", comments="")
    if name != "results.csv":
        (tmp_path / name).symlink_to(data)
    given = data if name == "results.csv" else tmp_path / name
    before = data.read_bytes()
    arguments = ["compare", "--methods", "erm", "--seeds", "1", "--epochs", "1"]
    assert main([*arguments, "--data", f"csv:{given}", "--out", str(out)]) == 2
    assert "is a file that is read" in capsys.readouterr().err
    assert data.read_bytes() == before
    data.unlink()
    assert main([*arguments, "--train-size", "100", "--out", str(out), "--results", str(data)]) == 2
    assert "is the table that the report writes" in capsys.readouterr().err
