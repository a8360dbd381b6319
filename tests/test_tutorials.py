"""The tutorials, each run from top to bottom, as they are written, on small data."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "docs" / "tutorials"
FENCE = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.S | re.M)

# What is added to commands so that they end soon; where an option is given twice the last counts.
TINY = {"train", "compare", "study", "tune", "recommend"}
SMALL = {
    "photographs": "--epochs 1 --image-size 32 --batch-size 8 --loader-workers 0 --threads 1",
    "new_method": "--epochs 1 --train-size 200 --threads 1",
    "choosing": "--epochs 1 --threads 1",
}
LEFT = {
    "photographs": [
        "preview.png",
        "runs/first/model.pt",
        "runs/second/model.pt",
        "runs/photos/report.html",
        "predictions.csv",
        "photos.pt2",
    ],
    "new_method": ["corners.png", "runs/corners/report.html"],
    "choosing": ["runs/choosing/report.html", "runs/recommended/report.html"],
}


def test_every_tutorial_is_run():
    assert {page.stem for page in FOLDER.glob("*.md")} == set(SMALL)


@pytest.fixture
def photos(tmp_path):
    generator = torch.Generator().manual_seed(0)
    for label, name in enumerate(("cats", "dogs", "foxes")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(16):
            pixels = torch.randint(0, 80, (40, 48, 3), generator=generator)
            pixels[..., label] += 120
            image = Image.fromarray(pixels.byte().numpy())
            image.save(tmp_path / "photos" / name / f"{number:03}.jpg")


def command(line, small):
    words = shlex.split(line)
    if words[1:4] == ["preview", "--data", "folder:photos"]:
        words += ["--image-size", "32", "--loader-workers", "0"]
    assert words[0] == "mixwell", f"not a command of ours: {line}"
    if words[1] == "compare":
        words += ["--seeds", "2"]  # what tells methods apart is shown by two as by three
    return [sys.executable, "-m", *words, *(shlex.split(small) if words[1] in TINY else ())]


def run(arguments, folder):
    path = os.pathsep.join([str(ROOT / "src"), str(folder)])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
    ended = subprocess.run(
        arguments, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, f"{arguments}\n{ended.stdout}\n{ended.stderr}"
    return ended.stdout


@pytest.mark.release
@pytest.mark.timeout(1200)  # one asks for recommendations, with budgets of minutes
@pytest.mark.usefixtures("photos")
@pytest.mark.parametrize("name", sorted(SMALL))
def test_the_tutorial_runs_from_top_to_bottom(name, tmp_path):
    text = (FOLDER / f"{name}.md").read_text(encoding="utf-8")
    blocks = FENCE.findall(text)
    assert text.count("\n```") == 2 * len(blocks)
    seen = ""
    for language, title, body in blocks:
        if title:
            (tmp_path / title).write_text(body, encoding="utf-8")
        elif language == "sh":
            for line in body.splitlines():
                seen += run(command(line, SMALL[name]), tmp_path)
        elif language == "python":
            seen += run([sys.executable, "-c", body], tmp_path)
        else:
            assert language == "text", f"what is to be done with a block of {language}?"
    assert all((tmp_path / path).is_file() for path in LEFT[name])
    expected = {"new_method": "how much taller than wide", "choosing": "against erm"}
    assert expected.get(name, "") in seen
