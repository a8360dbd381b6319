"""The command line: thin over the library, with one clear message where something can't work."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from mixwell.errors import InputError, suggest

if TYPE_CHECKING:
    from mixwell.studies import Cell, Engine, Study
    from mixwell.training import RunConfig

__all__ = ["main"]

_ABOUT = "Mixup for PyTorch: every method, one interface, any composition."
_TRAIN = """\
Train one model and measure it. The run's folder holds its measures (result.json), its predictions
(predictions.npz) and its weights (model.pt). Killed at any moment, the same command goes on where
it was; finished, it shows its result again.

What an option leaves open is filled in by what the data set is usually trained with."""
_TRAIN_EXAMPLES = """\
examples:
  mixwell train --data digits --method mixup
  mixwell train --data fashion-mnist --data-dir DIR --method sk_mixup --set tau_std=0.5
  mixwell train --data cifar10 --data-dir DIR --download --method cutmix+decoupled --ema 0.999
  mixwell train --data folder:DIR --model timm:vit_small_patch16_224 --precision bf16-mixed
"""
_COMPARE = """\
Train several methods with several seeds each, on one data set, and show the comparison: a table
here, and in the output folder report.html (the page to look at), results.csv and results.json.

Finished runs are kept: add methods or seeds and only these are trained. A run that fails is shown
as failed and doesn't stop the others."""
_COMPARE_EXAMPLES = """\
examples:
  mixwell compare --data digits --methods erm,mixup,sk_mixup --seeds 5
  mixwell compare --data fashion-mnist --data-dir DIR --train-size 6000 \\
      --methods erm,mixup,cutmix+infinite_class,am_mixup --seeds 3 --workers 2 --threads 1
  mixwell compare --data airfoil --data-dir DIR --methods erm,mixup,c_mixup --seeds 0,1,7
  mixwell compare --methods mixup,sk_mixup --set alpha=0.5 sk_mixup:tau_std=0.5
"""
_STUDY = """\
Run one of the papers' protocols, or a study that a YAML file declares: methods x seeds x whatever
varies, with statistics and a report. An option that is given a list varies (--imbalance 10,100).

Results go into DIR/study.db as each run ends. Killed at any moment, the same command goes on
where it was; with more methods, seeds or values it adds what is missing. Several processes, on
machines that share the folder, may work on one study at a time.

protocols:
"""
_STUDY_EXAMPLES = """\
examples:
  mixwell study long-tailed
  mixwell study coarse-to-fine --data fashion-mnist --data-dir DIR --train-size 6000 --seeds 3
  mixwell study long-tailed --data fashion-mnist --data-dir DIR --imbalance 10,100 \\
      --largest-class 3000 --methods "erm,mixup,infinite_class,am_mixup(k=3)"
  mixwell study regression --preset paper --data-dir DIR
  mixwell study balanced --data digits --ood fashion-mnist --data-dir DIR --shift
  mixwell study my_study.yaml --engine ray
"""
_TUNE = """\
Search a method's settings on validation data, with Optuna, in the ranges that its parts declare
('mixwell describe' lists them). The test split is not looked at. The best settings are written to
DIR/tuned.yaml, which a study takes: mixwell study ... --settings DIR/tuned.yaml

Trials that were finished are kept: the same command goes on, and with more --trials adds some."""
_TUNE_EXAMPLES = """\
examples:
  mixwell tune --data digits --method sk_mixup --trials 20
  mixwell tune --data fashion-mnist --data-dir DIR --train-size 2000 --method mixup+decoupled \\
      --measure accuracy --seeds 2 --search alpha eta
"""
_PREVIEW = """\
Draw mixed samples with their labels, and the histogram of λ, as a PNG.

Methods that look at features (sk_mixup) do so with an untrained network unless --weights names
a trained one."""
_PREVIEW_EXAMPLES = """\
examples:
  mixwell preview --data digits --method cutmix --out cutmix.png
  mixwell preview --data fashion-mnist --data-dir DIR --method sk_mixup --out sk.png
"""
_BENCH = """\
Measure how long mixwell takes, beside the plainest thing that could be done, what one would write
by hand, and the other libraries that are installed: 'speed', in the sections mixing, losses,
lambda (of the similarity kernel), step (of training), epoch (of mixwell train) and compile.

All contenders are timed in turn, in a new order each time, so that a busy machine slows all alike.
speed.json, speed.md, speed.svg and speed.png are written as each section ends."""
_BENCH_EXAMPLES = """\
examples:
  mixwell bench speed --quick
  mixwell bench speed --threads 2 --out DIR
  mixwell bench speed --only mixing,losses --device cuda --repeats 30
  mixwell bench speed --only epoch --data fashion-mnist,digits --data-dir DIR --methods erm,mixup
"""


# ---------------------------------------------------------------------------------------- parsing


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one message, and don't repeat the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def _settings(argument: str, pairs: Sequence[str]) -> dict[str, Any]:
    from mixwell.studies.study import value_of

    settings = {}
    for pair in pairs:
        key, separator, text = pair.partition("=")
        if not separator or not key:
            raise InputError(f"{argument} takes key=value (alpha=0.2), got {pair!r}")
        settings[key] = value_of(text)
    return settings


def _seeds(text: str) -> list[int]:
    """Return the seeds that "3" (0, 1 and 2), "0,5,7" or "5," stand for."""
    parts = text.removesuffix(",").split(",")
    if not all(part.strip().isdigit() for part in parts):
        raise InputError(f"seeds must be a count (3) or a list (0,5,7 or 5,), got {text!r}")
    numbers = [int(part) for part in parts]
    if len(numbers) == 1 and "," not in text:
        if numbers[0] < 1:
            raise InputError(f"seeds must be 1 at least, got {text!r}")
        return list(range(numbers[0]))
    return numbers


def _listed(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    """Return a parser of one value, or of several that are separated by commas."""

    def parse(text: str) -> Any:
        values = [kind(part.strip()) for part in text.split(",")]
        return values if len(values) > 1 else values[0]

    parse.__name__ = kind.__name__  # what argparse calls it in its messages
    return parse


def _add_run_options(
    parser: argparse.ArgumentParser, without: tuple[str, ...] = (), lists: bool = False
) -> None:
    """Add an option for each field of a run's configuration, in its groups.

    Args:
        parser: that gets them.
        without: the fields that get none.
        lists: whether several values may be given, and how the options are then parsed.
    """
    from dataclasses import fields

    from mixwell.data import available
    from mixwell.training import RunConfig

    groups: dict[str, Any] = {}
    for spec in fields(RunConfig):
        name = spec.metadata["group"]
        group = groups.setdefault(name, None) or parser.add_argument_group(name)
        groups[name] = group
        kind = {"int": int, "float": float, "str": str, "bool": bool}.get(str(spec.type).split()[0])
        if spec.name in without or kind is None:
            continue
        text = spec.metadata["help"].replace("%", "%%")
        if spec.name == "data":
            text = f"{', '.join(available())} (folder:PATH, csv:PATH, series:PATH)"
            text += "" if lists else f"; default: {spec.default}"
        elif spec.default is not None and kind is not bool:
            text += f" (default: {spec.default})"
        flag = "--" + spec.name.replace("_", "-")
        if kind is bool:
            group.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=text)
        else:
            choices = spec.metadata["choices"] or None
            shown = None if choices else {int: "N", float: "X", str: "NAME"}[kind]
            parse = _listed(kind) if lists and not choices else kind
            group.add_argument(
                flag, type=parse, choices=choices, metavar=shown, default=None, help=text
            )
    groups["method"].add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE",
        help="settings of the method, as 'mixwell describe' lists them: alpha=0.2",
    )  # fmt: skip
    groups["network"].add_argument(
        "--model-set", nargs="+", action="extend", default=[], metavar="KEY=VALUE",
        help="settings of the network: width=64 dropout=0.3",
    )  # fmt: skip


def _parser(arguments: Sequence[str]) -> _Parser:
    """Return the parser; of the command that is asked for, with all its options.

    They are read off the configuration, which needs torch: ``mixwell --help`` doesn't wait for it.
    """
    parser = _Parser(prog="mixwell", description=_ABOUT)
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)
    asked = next((word for word in arguments if not word.startswith("-")), None)

    def command(name: str, text: str, about: str, examples: str = "") -> Any:
        return commands.add_parser(
            name,
            help=text,
            description=about,
            epilog=examples,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    train = command("train", "train one model", _TRAIN, _TRAIN_EXAMPLES)
    train.add_argument(
        "--out", metavar="DIR", help="the run's folder (default: runs/DATA-METHOD-seedS)"
    )
    compare = command("compare", "compare methods over seeds", _COMPARE, _COMPARE_EXAMPLES)
    compare.add_argument(
        "--methods", required=True, metavar="A,B,C",
        help="methods, compositions with '+', either with settings: 'erm,mixup(alpha=0.2)'",
    )  # fmt: skip
    compare.add_argument(
        "--seeds", default="3", metavar="N", help="how many, or which: 0,5,7 (default: 3)"
    )
    about = _STUDY + (_protocols() if asked == "study" else "")
    study = command("study", "run a protocol of the papers", about, _STUDY_EXAMPLES)
    study.add_argument("protocol", metavar="PROTOCOL", help="a protocol, or a study's YAML file")
    study.add_argument("--preset", metavar="NAME", help="paper: the published settings")
    study.add_argument("--methods", metavar="A,B,C", help="as of compare (default: the protocol's)")
    study.add_argument("--seeds", metavar="N", help="how many, or which: 0,5,7")
    study.add_argument(
        "--settings", metavar="FILE", help="settings of methods: what 'mixwell tune' wrote"
    )
    for parser_ in (compare, study):
        parser_.add_argument(
            "--baseline", metavar="M", help="what the others are tested against (default: erm)"
        )
        parser_.add_argument(
            "--workers", type=int, metavar="N",
            help="runs at a time, each with its share of the processor (default: one a core, or "
            "one in all where there is a GPU)",
        )  # fmt: skip
        parser_.add_argument(
            "--engine", choices=("local", "ray"), default="local",
            help="where they run: this machine, or a Ray cluster (default: local)",
        )  # fmt: skip
        parser_.add_argument(
            "--ray-address", metavar="HOST:PORT", help="of a running cluster (default: RAY_ADDRESS)"
        )
        parser_.add_argument(
            "--gpus-per-run", type=float, default=0.0, metavar="X",
            help="with ray: GPUs, or the share of one, that each run takes (default: 0)",
        )  # fmt: skip
    compare.add_argument(
        "--out", metavar="DIR", help="the comparison's folder (default: runs/DATA)"
    )
    study.add_argument(
        "--out", metavar="DIR", help="the study's folder (default: runs/PROTOCOL-DATA)"
    )
    tune = command("tune", "search a method's settings on validation data", _TUNE, _TUNE_EXAMPLES)
    tune.add_argument(
        "--trials", type=int, default=20, metavar="N", help="how many in all (default: 20)"
    )
    tune.add_argument(
        "--measure", metavar="NAME",
        help="of validation: nll, accuracy, ece; rmse in regression (default: nll, or rmse)",
    )  # fmt: skip
    tune.add_argument(
        "--search", nargs="+", metavar="SETTING", help="search these alone (default: all it has)"
    )
    tune.add_argument(
        "--seeds", default="1", metavar="N", help="runs of each trial, averaged (default: 1)"
    )
    tune.add_argument("--workers", type=int, metavar="N", help="runs at a time, as of compare")
    tune.add_argument("--out", metavar="DIR", help="folder (default: runs/tune-DATA-METHOD)")
    preview = command(
        "preview", "draw mixed samples and the histogram of λ", _PREVIEW, _PREVIEW_EXAMPLES
    )
    preview.add_argument("--out", required=True, metavar="FILE.png", help="the picture")
    preview.add_argument(
        "--count", type=int, default=12, metavar="N", help="samples to draw (default: 12)"
    )
    preview.add_argument(
        "--weights", metavar="FILE", help="model.pt of a run, where the method looks at features"
    )
    if asked in ("train", "preview"):
        _add_run_options(train if asked == "train" else preview)
    elif asked == "tune":
        _add_run_options(tune, without=("seed",))
    elif asked in ("compare", "study"):
        chosen = compare if asked == "compare" else study
        _add_run_options(chosen, without=("method", "seed"), lists=True)

    command("methods", "list the methods", "List the methods, each with a line on what it does.")
    describe = command(
        "describe", "explain a method", "Explain a method: paper, equation, parts and settings."
    )
    describe.add_argument("name", help="a method, or a composition: sk_mixup+decoupled")
    report = command(
        "report", "write a study's report again", "Write the report of finished runs again."
    )
    report.add_argument("folder", help="what 'mixwell study' or 'mixwell compare' wrote")
    report.add_argument("--baseline", metavar="M", help="what the others are tested against")
    bench = command("bench", "measure mixwell's speed", _BENCH, _BENCH_EXAMPLES)
    bench.add_argument("name", metavar="NAME", help="what to measure: speed")
    bench.add_argument(
        "--quick", action="store_true", help="smaller and fewer: a look in about a minute"
    )
    bench.add_argument(
        "--only", metavar="A,B", help="sections: mixing, losses, lambda, step, epoch, compile"
    )
    bench.add_argument("--threads", type=int, metavar="N", help="of torch (default: its own)")
    bench.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="(default: cpu)")
    bench.add_argument(
        "--repeats", type=int, metavar="R",
        help="samples of each contender (default: 15, 9 of training steps; quick: 5 and 3)",
    )  # fmt: skip
    bench.add_argument(
        "--batch-size", type=int, metavar="N", help="of the training steps, compiled ones too"
    )
    bench.add_argument(
        "--methods", metavar="A,B",
        help="whose training steps and epochs are measured (default: nine)",
    )  # fmt: skip
    bench.add_argument(
        "--data", metavar="A,B", help="data sets whose epochs are measured (default: digits)"
    )
    bench.add_argument("--data-dir", metavar="DIR", help="where they are")
    bench.add_argument("--out", metavar="DIR", help="folder (default: runs/bench-speed)")
    return parser


# ---------------------------------------------------------------------------------------- commands


def _protocols() -> str:
    import textwrap

    from mixwell.studies import PROTOCOLS

    shown = []
    for protocol in PROTOCOLS.values():
        lines = textwrap.wrap(protocol.about, 78)
        presets = f"  [{', '.join(protocol.presets)}]" if protocol.presets else ""
        shown += [f"  {protocol.name}{presets}", *("      " + line for line in lines)]
    return "\n".join(shown)


def _run_options(options: argparse.Namespace) -> dict[str, Any]:
    """Return the fields of a run's configuration that were given."""
    from mixwell.training import RunConfig

    values = {
        name: value
        for name, value in vars(options).items()
        if name in RunConfig.__dataclass_fields__ and value is not None
    }
    if options.model_set:
        values["model_options"] = _settings("--model-set", options.model_set)
    return values


def _config(options: argparse.Namespace, **fixed: Any) -> RunConfig:
    from mixwell.training import RunConfig

    return RunConfig(**{**_run_options(options), **fixed})


def _command_line() -> str:
    return shlex.join(["mixwell", *sys.argv[1:]])


def _slug(text: str) -> str:
    return "".join(c if c.isalnum() or c in "-_+.=" else "-" for c in text).strip("-")


def _train(options: argparse.Namespace) -> int:
    from mixwell.training import is_finished, train

    config = _config(options, method_options=_settings("--set", options.set))
    default = f"{config.data.split('/')[-1]}-{config.method}-seed{config.seed}"
    out = Path(options.out or Path("runs") / _slug(default))
    finished = is_finished(out)
    with _Progress() as show:
        result = train(
            config, out, report=lambda event: show(config.label, event), command=_command_line()
        )
    if finished:
        print(f"{out} was finished before:")
    width = max(map(len, result["metrics"]))
    for name, value in result["metrics"].items():
        print(f"  {name:<{width}}  {value:.4f}")
    print(f"Written to {out}")
    return 0


def _compare(options: argparse.Namespace) -> int:
    from mixwell.studies.protocols import PROTOCOLS
    from mixwell.studies.study import build, parse_methods

    study: Study = build(
        PROTOCOLS["balanced"],
        _run_options(options),
        methods=parse_methods(options.methods),
        seeds=_seeds(options.seeds),
        settings=_settings("--set", options.set),
    )
    return _run_study(study, options, options.out or Path("runs") / _slug(_data_name(study)))


def _study(options: argparse.Namespace) -> int:
    from mixwell.studies.protocols import PROTOCOLS
    from mixwell.studies.study import build, parse_methods, read_study

    declared: dict[str, Any] = {}
    name = options.protocol
    if Path(name).suffix.lower() in (".yaml", ".yml"):
        declared = read_study(name)
        name = declared.get("protocol", "balanced")
    if name not in PROTOCOLS:
        raise InputError(
            f"protocol {name!r} is unknown{suggest(str(name), PROTOCOLS)}; known: "
            f"{', '.join(PROTOCOLS)}; or give a YAML file"
        )
    methods, seeds = options.methods or declared.get("methods"), declared.get("seeds")
    if isinstance(methods, str):
        methods = parse_methods(methods)
    if options.seeds is not None or not isinstance(seeds, (list, type(None))):
        seeds = _seeds(str(options.seeds or seeds))
    settings = _read_settings(declared.get("settings"))
    settings.update(_read_settings(options.settings))
    settings.update(_settings("--set", options.set))
    given = {k: v for k, v in declared.items() if k in _run_fields()}
    study = build(
        PROTOCOLS[name],
        {**given, **_run_options(options)},
        methods=methods,
        seeds=seeds,
        settings=settings,
        preset=options.preset or declared.get("preset"),
    )
    options.baseline = options.baseline or declared.get("baseline")
    default = Path("runs") / _slug(f"{name}-{_data_name(study)}")
    return _run_study(study, options, options.out or declared.get("out") or default)


def _run_fields() -> list[str]:
    from mixwell.training import RunConfig

    return list(RunConfig.__dataclass_fields__)


def _read_settings(source: Any) -> dict[str, Any]:
    """Return methods' settings from a mapping, or from the YAML file that it names."""
    if source is None:
        return {}
    if isinstance(source, str):
        import yaml

        try:
            content = yaml.safe_load(Path(source).read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
            raise InputError(f"settings={source!r} can't be read: {error}") from error
        source = content.get("settings", content) if isinstance(content, dict) else content
    if not isinstance(source, dict):
        raise InputError("settings must map methods to settings: {sk_mixup: {tau_std: 0.5}}")
    found: dict[str, Any] = {}
    for name, value in source.items():
        if isinstance(value, dict):
            found.update({f"{name}:{key}": inner for key, inner in value.items()})
        else:
            found[str(name)] = value
    return found


def _data_name(study: Study) -> str:
    names = study.vary.get("data", [study.base.data])
    return "+".join(str(name).split("/")[-1] for name in names)


def _workers(options: argparse.Namespace) -> int:
    from mixwell.studies.run import default_workers

    if options.workers is not None and options.workers < 1:
        raise InputError(f"workers must be 1 at least, got {options.workers}")
    return options.workers or default_workers()


def _run_study(study: Study, options: argparse.Namespace, out: str | Path) -> int:
    import mixwell.report  # noqa: F401  (what it needs must be there before the runs, not after)
    from mixwell.studies import RayEngine, run_cells

    out = Path(out)
    workers = _workers(options)
    labels = study.labels()
    if options.baseline is not None and options.baseline not in labels:
        raise InputError(
            f"baseline={options.baseline!r} is not among the methods {', '.join(labels)}"
        )
    cells = study.plan(out)
    engine: Engine | None = None
    if options.engine == "ray":
        engine = RayEngine(options.ray_address, study.base.threads or 1, options.gpus_per_run)
    with _Progress(len(cells)) as show:

        def report(cell: Cell, event: dict[str, Any]) -> None:
            show(cell.name, event)

        records = run_cells(
            cells, out, study=study, workers=workers, engine=engine, report=report,
            command=_command_line(),
        )  # fmt: skip
    return _present(records, out, options.baseline, _command_line(), study.protocol)


def _tune(options: argparse.Namespace) -> int:
    from mixwell.studies.tune import tune

    config = _config(options, method_options=_settings("--set", options.set))
    default = Path("runs") / _slug(f"tune-{config.data.split('/')[-1]}-{config.method}")
    out = Path(options.out or default)
    with _Progress() as show:
        found = tune(
            config, out, trials=options.trials, measure=options.measure, search=options.search,
            seeds=_seeds(options.seeds), workers=_workers(options),
            report=lambda name, event: show(name, event), command=_command_line(),
        )  # fmt: skip
    print(found)
    print(f"Written to {out / 'tuned.yaml'}")
    return 0


def _present(
    records: list[Any], out: Path, baseline: str | None, command: str, protocol: str
) -> int:
    """Show the table, write the report, and name what failed."""
    from rich.console import Console

    from mixwell import report

    console = Console()
    width = console.width if console.is_terminal else 120
    console = Console(width=width)
    for table in report.tables(records, baseline=baseline, width=width, protocol=protocol):
        console.print(table)
    paths = report.write(records, out, command=command, baseline=baseline, protocol=protocol)
    failed = [record for record in records if record.status == "failed"]
    for record in failed:
        last = (record.error or "").strip().splitlines()[-1:]
        print(f"failed: {record.path.name}: {''.join(last)}", file=sys.stderr)
    print(f"Report: {paths.html}")
    return 1 if failed else 0


def _report(options: argparse.Namespace) -> int:
    from mixwell.studies import Store, load_records

    folder = Path(options.folder)
    records = load_records(folder)
    command, protocol = "", "balanced"
    if (folder / Store.FILE).is_file():
        store = Store(folder)
        command, protocol = store.described("command"), store.described("protocol", protocol)
    labels = sorted({record.label for record in records})
    if options.baseline is not None and options.baseline not in labels:
        raise InputError(
            f"baseline={options.baseline!r} is not among the methods {', '.join(labels)}"
        )
    return _present(records, folder, options.baseline, command or _command_line(), protocol)


def _preview(options: argparse.Namespace) -> int:
    from mixwell.report import draw_preview

    config = _config(options, method_options=_settings("--set", options.set))
    path = Path(options.out)
    if path.suffix.lower() != ".png":
        raise InputError(f"out={options.out!r} must end in .png")
    if options.count < 1:
        raise InputError(f"count must be 1 at least, got {options.count}")
    draw_preview(config, path, count=options.count, weights=options.weights)
    print(f"Written to {path}")
    return 0


def _methods(options: argparse.Namespace) -> int:
    import mixwell

    names = mixwell.list_methods()
    width = max(map(len, names))
    for name in names:
        print(f"{name:<{width}}  {mixwell.describe(name).doc.strip().splitlines()[0]}")
    print("\nThey compose with '+': sk_mixup+decoupled. 'mixwell describe NAME' explains one.")
    return 0


def _describe(options: argparse.Namespace) -> int:
    import mixwell

    print(mixwell.describe(options.name))
    return 0


def _bench(options: argparse.Namespace) -> int:
    if options.name != "speed":
        raise InputError(f"benchmark {options.name!r} is unknown; known: speed")
    from rich.console import Console

    from mixwell.bench import Plan, output, pick_device, speed

    console = Console()
    console = Console(width=min(console.width, 120) if console.is_terminal else 100)
    device = pick_device(options.device)
    plan = Plan.quick() if options.quick else Plan.full(device)
    only, methods, data = (
        None if names is None else [name.strip() for name in names.split(",")]
        for names in (options.only, options.methods, options.data)
    )
    plan = plan.changed(options.repeats, only, options.batch_size, methods, data, options.data_dir)
    out = Path(options.out or Path("runs") / "bench-speed")
    with console.status("") as status:
        speed(
            plan, out, device=device, threads=options.threads,
            show=lambda rows: console.print(output.table(rows)),
            note=lambda text: status.update(text),
        )  # fmt: skip
    print(f"Written to {out}: speed.json, speed.md, speed.svg, speed.png")
    return 0


# ---------------------------------------------------------------------------------------- progress


_ENDS = {
    "done": "done",
    "kept": "was done before",
    "elsewhere": "was done by another process",
    "failed": "failed",
}


class _Progress:
    """Bars with the time left on a terminal; a line for each epoch or run elsewhere."""

    def __init__(self, runs: int | None = None) -> None:
        self.runs, self.ended = runs, 0
        self.bars: Any = None
        self.tasks: dict[str, Any] = {}

    def __enter__(self) -> Callable[[str, dict[str, Any]], None]:
        if not sys.stdout.isatty():
            return self._line
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[note]}"),
        )
        self.bars.start()
        if self.runs is not None:
            self.tasks[""] = self.bars.add_task("all runs", total=self.runs, note="")
        return self._bar

    def __exit__(self, *_: object) -> None:
        if self.bars is not None:
            self.bars.stop()

    def _bar(self, name: str, event: dict[str, Any]) -> None:
        kind = event["kind"]
        if kind == "start":
            self.tasks[name] = self.bars.add_task(
                name, total=event["steps"], completed=event["done"], note=""
            )
        elif kind == "step":
            self.bars.update(self.tasks[name], completed=event["done"])
        elif kind == "epoch":
            self.bars.update(self.tasks[name], note=_row(event))
        elif kind in _ENDS:
            if name in self.tasks and self.runs is not None:
                self.bars.remove_task(self.tasks.pop(name))
            if self.runs is not None:
                self.bars.advance(self.tasks[""])
            if kind == "failed":
                self.bars.console.print(f"{name} failed: {event['error'].splitlines()[-1]}")

    def _line(self, name: str, event: dict[str, Any]) -> None:
        kind = event["kind"]
        if kind == "start" and event["done"]:
            print(f"{name}: goes on at epoch {event['epoch'] + 1}", flush=True)
        elif kind == "epoch" and self.runs is None:
            print(f"{name}: {_row(event)}", flush=True)
        elif kind in _ENDS and self.runs is not None:
            self.ended += 1
            word = _ENDS[kind]
            cause = f": {event['error'].splitlines()[-1]}" if kind == "failed" else ""
            print(f"[{self.ended}/{self.runs}] {name} {word}{cause}", flush=True)


def _row(event: dict[str, Any]) -> str:
    parts = [f"epoch {event['epoch']}", f"loss {event['loss']:.4f}"]
    if "val_accuracy" in event:
        parts.append(f"validation accuracy {event['val_accuracy']:.2%}")
    if "val_rmse" in event:
        parts.append(f"validation RMSE {event['val_rmse']:.4g}")
    return ", ".join(parts)


# -------------------------------------------------------------------------------------------- main

_COMMANDS = {
    "train": _train,
    "compare": _compare,
    "study": _study,
    "tune": _tune,
    "preview": _preview,
    "methods": _methods,
    "describe": _describe,
    "report": _report,
    "bench": _bench,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status.

    0: all went well. 1: a run failed. 2: the command line, the data or a folder can't work.
    130: interrupted.
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    try:
        parser = _parser(arguments)
    except ImportError as error:
        return _missing("", error)
    options = parser.parse_args(arguments)
    if options.version:
        import mixwell

        print(f"mixwell {mixwell.__version__}")
        return 0
    if options.command is None:
        parser.print_help()
        return 2
    try:
        return _COMMANDS[options.command](options)
    except InputError as error:
        print(f"mixwell {options.command}: error: {error}", file=sys.stderr)
        return 2
    except ImportError as error:
        return _missing(options.command, error)
    except KeyboardInterrupt:
        kept = "The same command goes on from the last checkpoint."
        if options.command == "bench":
            kept = "Of the sections that had ended the results are kept."
        print(f"\nInterrupted. {kept}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # What reads our output has gone (| head); nothing more can be said.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _missing(command: str, error: ImportError) -> int:
    """Say which package is missing."""
    if (error.name or "mixwell").startswith("mixwell"):
        raise error
    print(
        f"mixwell {command}: error: {error.name} is not installed; pip install 'mixwell[all]'",
        file=sys.stderr,
    )
    return 2
