"""``mixwell predict``: what a finished run says of files."""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixwell.cli.command import Command
from mixwell.cli.importing import add_trust
from mixwell.cli.terminal import tell
from mixwell.errors import InputError

if TYPE_CHECKING:
    from mixwell.trained import TrainedRun
    from mixwell.trained.inputs import Samples

__all__ = ["COMMAND"]

_ABOUT = """\
Predict with a finished run: the classes of images with calibrated probabilities (temperature
fitted on validation data), those of a table's rows, or in regression the values of a table's or
series' rows in the target's unit, with their calibrated standard deviation where the network has
dropout.

PATH is an image file or a folder of them (sub-folders too), or the table of a run on one, as CSV or
Parquet. With --out all of it goes into a CSV: path, predicted class, its probability, and a column
a class (path, row, value and std in regression); without, the likeliest classes are shown here."""
_EXAMPLES = """\
examples:
  mixwell predict runs/photos new_photos/ --out predictions.csv
  mixwell predict runs/photos cat.jpg dog.jpg --top 5
  mixwell predict runs/houses new_houses.csv --out values.csv
"""


def _add(parser: argparse.ArgumentParser, asked: bool) -> None:
    parser.add_argument("run", metavar="RUN", help="the folder of a finished run")
    parser.add_argument("paths", metavar="PATH", nargs="+", help="files, or folders of images")
    parser.add_argument("--out", metavar="FILE.csv", help="write all of it there")
    parser.add_argument(
        "--top", type=int, metavar="K", help="classes shown here of each file (default: 3)"
    )
    parser.add_argument(
        "--batch-size", type=int, default=512, metavar="N", help="samples at a time (default: 512)"
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda, mps (default: cpu)")
    add_trust(parser)


def _predict(options: argparse.Namespace) -> int:
    from mixwell.trained import load_run
    from mixwell.trained.inputs import samples_of
    from mixwell.training.files import check_output, make_folder, write_atomically

    for name in ("top", "batch_size"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            raise InputError(f"{name} must be 1 at least, got {getattr(options, name)}")
    if options.top is not None and options.out is not None:
        raise InputError("--top is of what is shown here, and --out FILE.csv has all; give one")
    run = load_run(options.run, device=options.device, trust=options.trust)
    if options.top is not None and not run.classes:
        raise InputError("--top is of classes, and this run is a regression; leave it out")
    samples = samples_of(run.transform, options.paths)
    out = None if options.out is None else Path(options.out)
    if out is not None:
        if out.is_dir():
            raise InputError(f"out={options.out!r} is a folder; name a file (predictions.csv)")
        check_output("out", out, (*options.paths, *samples.files), run.folder)
        make_folder("out", out.absolute().parent)
    found = run.predict_split(samples.split, batch_size=options.batch_size)
    if out is None:
        _show(run, samples, found, options.top or 3)
        return 0
    text = _text(run, samples, found)
    write_atomically(out, text.encode("utf-8", "surrogateescape"))  # paths as they are
    print(f"Written to {out}: {len(samples.split)} predictions")
    return 0


def _show(run: TrainedRun, samples: Samples, found: Any, top: int) -> None:
    """Print a line a sample."""
    names = [f"{f}:{r}" if r else f for f, r in zip(samples.files, samples.rows, strict=True)]
    width = max(map(len, names))
    for place, name in enumerate(names):
        if run.classes:
            best = found[place].topk(min(top, len(run.classes)))
            pairs = zip(best.values.tolist(), best.indices.tolist(), strict=True)
            said = "  ".join(f"{run.classes[i]} {100 * p:.1f} %" for p, i in pairs)
        else:
            stds = None if found.std is None else found.std[place].tolist()
            said = "  ".join(
                f"{value:.6g}" + ("" if stds is None else f" ± {stds[i]:.3g}")
                for i, value in enumerate(found.mean[place].tolist())
            )
        tell(f"{name:<{width}}  {said}")


def _text(run: TrainedRun, samples: Samples, found: Any) -> str:
    """Return the predictions as CSV."""
    from mixwell.training.files import for_spreadsheet

    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    by_row = any(samples.rows)
    start = ["path", "row"] if by_row else ["path"]
    if run.classes:
        fixed = (*start, "predicted", "probability")
        classes = [f"p({name})" if name in fixed else name for name in run.classes]
        writer.writerow([*fixed, *map(for_spreadsheet, classes)])
    else:
        writer.writerow([*start, *_value_names(run, found)])
    for place, (file, row) in enumerate(zip(samples.files, samples.rows, strict=True)):
        words: list[Any] = [for_spreadsheet(file), *([row] if by_row else [])]
        writer.writerow([*words, *_cells(run, found, place)])
    return buffer.getvalue()


def _value_names(run: TrainedRun, found: Any) -> list[str]:
    """Return what a regression's columns are called: by their targets where there are several."""
    count = found.mean.shape[1]
    names = [column.name for column in run.transform.columns]
    if len(names) != count:
        names = [str(i) for i in range(count)]
    ends = [""] if count == 1 else [f"_{name}" for name in names]
    kinds = ("value",) if found.std is None else ("value", "std")
    return [f"{kind}{end}" for kind in kinds for end in ends]


def _cells(run: TrainedRun, found: Any, place: int) -> Sequence[str]:
    from mixwell.training.files import for_spreadsheet

    if run.classes:
        probabilities = found[place].tolist()
        best = max(range(len(probabilities)), key=probabilities.__getitem__)
        numbers = [probabilities[best], *probabilities]
        return [for_spreadsheet(run.classes[best]), *(f"{value:.6g}" for value in numbers)]
    parts = [found.mean[place]] if found.std is None else [found.mean[place], found.std[place]]
    return [f"{value:.9g}" for part in parts for value in part.tolist()]


COMMAND = Command(
    "predict", "predict with a finished run", _ABOUT, _add, _predict, _EXAMPLES
)  # fmt: skip
