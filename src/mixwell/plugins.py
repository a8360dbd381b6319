"""What comes from outside: files and modules that register methods, and packages' entry points."""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import inspect
import linecache
import re
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from mixwell.errors import InputError, suggest

__all__ = [
    "adopt",
    "changed",
    "entries",
    "find",
    "installed",
    "load",
    "load_installed",
    "measures",
    "recognise",
    "revive",
    "summary",
    "taken",
]

Record = dict[str, Any]
"""What was imported: ``name`` and ``module``; ``version`` of an installed package, else ``text``.

Paths are no part of it: the same file elsewhere is the same."""

_LOADED: dict[str, Record] = {}  # by their modules' names
_PATHS: dict[Path, str] = {}  # resolved, to modules' names
_MEASURES: set[str] = set()
_VERSIONS: dict[str, str] = {}  # of packages whose entry points were loaded
_REGISTERS = (
    ("mixwell.methods.spec", "_SPECS"),
    ("mixwell.tasks.base", "_TASKS"),
    ("mixwell.metrics.measure", "_MEASURES"),
    ("mixwell.report.sections", "_SECTIONS"),
    ("mixwell.view.view", "_LOOKS"),
)


# ---------------------------------------------------------------------------- files and modules


def load(name: str, argument: str = "import") -> Record:
    """Import a file or a module, once a process, and return what a run keeps of it.

    Modules are looked for in the current folder, too. A file's folder is where it finds its
    neighbours.

    Args:
        name: ``methods/bands.py``, or ``package.module``.
        argument: that is named in errors.

    Raises:
        InputError: there is none, it raises, or it registers a name that is taken; what it had
            registered until then is taken back.
    """
    if not isinstance(name, str) or not name:
        raise InputError(f"{argument} must be a file (bands.py) or a module, got {name!r}")
    if name.endswith(".py"):
        return _load_file(Path(name).expanduser(), f"{argument}={name!r}")
    if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*", name):
        raise InputError(f"{argument}={name!r} is neither a file (bands.py) nor a module (bands)")
    return _load_module(name, f"{argument}={name!r}")


def adopt(records: Iterable[Mapping[str, Any]]) -> None:
    """Import in this process what another process or run imported, where it isn't there yet.

    Raises:
        InputError: it can't be imported here, or is not what it was.
    """
    for record in records:
        name, module = record["name"], record["module"]
        if module not in _LOADED:
            if name.endswith(".py"):  # of its text: the file may be elsewhere, or edited meanwhile
                _execute(dict(record), name, f"import={name!r}")
            else:
                _load_module(name, f"import={name!r}", record.get("text"))
        difference = changed([record], [_LOADED[module]])
        if difference:
            raise InputError(f"import={name!r}: {difference} since it was imported at first")


def revive(records: Iterable[Mapping[str, Any]]) -> None:
    """Import what a finished run imported, of the text that it kept: it is trusted.

    A module of the user's that is here and has changed since is left alone, as long as it isn't
    imported in this process, too.

    Raises:
        InputError: it can't be imported, or this process has imported another text of it.
    """
    for record in records:
        module, text = record["module"], record.get("text")
        if module in _LOADED or text is None or record["name"].endswith(".py"):
            adopt([record])
            continue
        if not _found_imported(record):
            _reach(Path.cwd())
            _execute(dict(record), f"<{record['name']} of a run>", f"import={record['name']!r}")


def _found_imported(record: Mapping[str, Any]) -> bool:
    """Whether this process imported a record's module by other means; it is known from then on.

    Raises:
        InputError: it did, of another text.
    """
    there = sys.modules.get(record["module"])
    path = None if there is None else _path_of(there)
    if path is None or not path.is_file():
        return False
    if path.read_text(encoding="utf-8") != record["text"]:
        raise InputError(
            f"import={record['name']!r} has changed since the run, and is imported in this "
            "process already: load the run in a process of its own"
        )
    _keep(dict(record), path)
    return True


def recognise(
    records: Iterable[Mapping[str, Any]], needed: Iterable[str], whose: str, remedy: str
) -> None:
    """Make sure that modules which somebody's record asks for are imported; import nothing.

    A record says of itself what it is: a module that is merely installed, or lies in the current
    folder, was never asked for by this process's user and is no more trusted than a kept text.

    Args:
        records: what was imported then.
        needed: the modules without which it can't go on.
        whose: records they are, for errors.
        remedy: what lets it be executed, for errors.

    Raises:
        InputError: one is not imported, or is another than it was.
    """
    known = {record["module"]: record for record in records}
    lacking = []
    for module in needed:
        record = known.get(module, {"name": module})
        if module in _LOADED:
            here = _LOADED[module]
            if any(here.get(key) != record[key] for key in ("text", "version") if key in record):
                raise InputError(
                    f"{whose} was made with another {module} than is imported here: import it as "
                    "it was"
                )
        elif record.get("text") is None or not _found_imported(record):
            lacking.append((module, "text" in record))
    if not lacking:
        return
    kept = [module for module, has_text in lacking if has_text]
    others = [module for module, has_text in lacking if not has_text]
    words = [f"source that it keeps of {', '.join(kept)}"] if kept else []
    words += [f"the module {', '.join(others)}"] if others else []
    raise InputError(
        f"{whose} needs code that is not executed unasked: {' and '.join(words)}. Import your own "
        f"(--import {lacking[0][0]}), or {remedy}"
    )


def changed(before: Iterable[Mapping[str, Any]], now: Iterable[Mapping[str, Any]]) -> str:
    """Return in words how what was imported differs; empty where it doesn't."""
    old = {record["name"]: record for record in before}
    new = {record["name"]: record for record in now}
    words = [f"begun with --import {name}, which is missing now" for name in old if name not in new]
    words += [f"begun without --import {name}" for name in new if name not in old]
    for name in old.keys() & new.keys():
        if old[name].get("version") != new[name].get("version"):
            versions = [record.get("version") for record in (old[name], new[name])]
            words.append(f"{name} was of version {versions[0]}, not {versions[1]}")
        elif old[name] != new[name]:
            words.append(f"the text of {name} has changed")
    return "; ".join(words)


def summary(records: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return each record in a few words: its name with its version, or a hash of its text."""
    return [
        f"{record['name']} ({record.get('version') or _digest(record.get('text', ''))})"
        for record in records
    ]


def measures() -> frozenset[str]:
    """Return the names of the measures that came with what was imported."""
    return frozenset(_MEASURES)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _load_file(path: Path, asked: str) -> Record:
    try:
        resolved = path.resolve()
        if resolved in _PATHS:
            return _LOADED[_PATHS[resolved]]
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{asked} can't be read: {error}") from error
    _reach(Path.cwd())
    _reach(resolved.parent)
    own = path.stem
    there = sys.modules.get(own)
    if there is not None and _path_of(there) == resolved:  # imported by somebody else before
        return _keep({"name": path.name, "module": own, "text": text}, resolved)
    if not own.isidentifier() or not _is_free(own, resolved):
        own = f"mixwell_import_{re.sub(r'[^0-9A-Za-z_]', '_', own)}_{_digest(text)}"
    return _execute({"name": path.name, "module": own, "text": text}, str(resolved), asked)


def _load_module(name: str, asked: str, text: str | None = None) -> Record:
    """Import a module by name; ``text`` is what it is made of where it can't be found."""
    if name in _LOADED:
        return _LOADED[name]
    _reach(Path.cwd())
    importlib.invalidate_caches()
    try:
        with _registering(asked):
            module = importlib.import_module(name)
    except InputError as error:
        cause = error.__cause__
        missing = isinstance(cause, ModuleNotFoundError) and f"{name}.".startswith(f"{cause.name}.")
        if not missing:
            raise
        if text is not None:
            return _execute({"name": name, "module": name, "text": text}, f"{name}.py", asked)
        raise InputError(
            f"{asked}: there is no module {cause.name!r} in the current folder "  # type: ignore[union-attr]
            "or among the installed packages"
        ) from cause
    path = _path_of(module)
    if path is not None and path in _PATHS:
        return _LOADED[_PATHS[path]]
    record: Record = {"name": name, "module": name}
    if path is None or _is_installed(path):
        record["version"] = _version(name)
    else:
        record["text"] = path.read_text(encoding="utf-8")
    return _keep(record, path)


def _execute(record: Record, filename: str, asked: str) -> Record:
    """Make a module of a record's text."""
    name, text = record["module"], record["text"]
    module = ModuleType(name)
    module.__file__ = filename
    path = Path(filename)
    if not path.is_file():  # tracebacks and torch.compile look up its lines
        lines = text.splitlines(keepends=True)
        linecache.cache[filename] = (len(text), None, lines, filename)
    sys.modules[name] = module
    try:
        with _registering(asked):
            code: CodeType = compile(text, filename, "exec", dont_inherit=True)
            exec(code, module.__dict__)
    except InputError:
        sys.modules.pop(name, None)
        raise
    return _keep(record, path.resolve() if path.is_file() else None)


def _keep(record: Record, path: Path | None) -> Record:
    _LOADED[record["module"]] = record
    if path is not None:
        _PATHS[path] = record["module"]
    return record


@contextmanager
def _registering(asked: str) -> Iterator[None]:
    """Take back what is registered where something fails, and say what failed."""
    importlib.import_module("mixwell.metrics.measures")  # mixwell's own come first
    registers = [
        getattr(sys.modules[module], name) for module, name in _REGISTERS if module in sys.modules
    ]
    before = [register.copy() for register in registers]
    known = set(sys.modules["mixwell.metrics.measure"]._MEASURES)
    try:
        yield
    except (Exception, SystemExit) as error:
        for register, content in zip(registers, before, strict=True):
            register.clear()
            (register.extend if isinstance(register, list) else register.update)(content)
        if isinstance(error, InputError):
            raise InputError(f"{asked}: {error}") from error
        raise InputError(
            f"{asked} can't be imported: {type(error).__name__}: {error}{_place(error)}"
        ) from error
    _MEASURES.update(set(sys.modules["mixwell.metrics.measure"]._MEASURES) - known)


def _place(error: BaseException) -> str:
    """Return the line that raised, as far as it isn't in the error's own text."""
    frames = traceback.extract_tb(error.__traceback__)
    inner = [f for f in frames if f.filename != __file__ and "importlib" not in f.filename]
    if isinstance(error, SyntaxError) or not inner:
        return ""
    return f" ({Path(inner[-1].filename).name}, line {inner[-1].lineno})"


def _reach(folder: Path) -> None:
    """Let modules of a folder be found, after all others: none of theirs is hidden."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def _path_of(module: ModuleType) -> Path | None:
    file = getattr(module, "__file__", None)
    return Path(file).resolve() if file else None


def _is_free(name: str, path: Path) -> bool:
    """Whether a module may be called so: none is, other than that of this file."""
    if name in sys.modules:
        return False
    importlib.invalidate_caches()
    found = importlib.util.find_spec(name)
    return found is None or (found.origin is not None and Path(found.origin).resolve() == path)


def _is_installed(path: Path) -> bool:
    homes = {Path(sysconfig.get_path(kind)).resolve() for kind in ("purelib", "platlib", "stdlib")}
    return any(home in path.parents for home in homes)


def _version(name: str) -> str:
    top = name.partition(".")[0]
    packages = metadata.packages_distributions().get(top, [top])
    try:
        return metadata.version(packages[0])
    except metadata.PackageNotFoundError:
        return "unknown"


# --------------------------------------------------------------------------------- MODULE:NAME


def find(argument: str, text: str) -> tuple[Callable[..., Any], Record]:
    """Return the class or function that MODULE:NAME names, and the record of its module.

    Raises:
        InputError: there is no such module or name, or it can't be called.
    """
    module, _, name = text.partition(":")
    asked = f"{argument}={text!r}"
    if module.endswith(".py"):
        raise InputError(f"{asked}: name the module, without .py: {Path(module).stem}:{name}")
    if not name.isidentifier():
        raise InputError(f"{asked} must be MODULE:NAME, a class or function of a module")
    try:
        record = load(module, argument)
    except InputError as error:
        raise InputError(f"{asked}: {error}") from error
    holder = sys.modules[record["module"]]
    if not hasattr(holder, name):
        near = suggest(name, [key for key in vars(holder) if not key.startswith("_")])
        where = getattr(holder, "__file__", None) or module
        raise InputError(f"{asked}: {where} has no {name!r}{near}")
    found = getattr(holder, name)
    if not (inspect.isclass(found) or inspect.isroutine(found) or _is_partial(found)):
        raise InputError(
            f"{asked} must be a class or a function that makes one, got a {type(found).__name__}"
        )
    return found, record


def _is_partial(found: Any) -> bool:
    return isinstance(found, functools.partial)


def taken(function: Callable[..., Any], offered: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """Return what of the offered arguments a function names, and whether it takes any others."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # of some that are written in C
        return {}, True
    kinds = [parameter.kind for parameter in parameters.values()]
    named = {
        name
        for name, parameter in parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    given = {name: value for name, value in offered.items() if name in named}
    return given, inspect.Parameter.VAR_KEYWORD in kinds


# -------------------------------------------------------------------------------- entry points


@functools.cache
def entries(kind: str) -> dict[str, metadata.EntryPoint]:
    """Return the entry points of installed packages: of "methods", "models" or "data"."""
    return {entry.name: entry for entry in metadata.entry_points(group=f"mixwell.{kind}")}


def load_entry(kind: str, name: str) -> Any:
    """Return what an entry point names; its package's version is kept.

    Raises:
        InputError: it can't be imported, or registers a name that is taken.
    """
    entry = entries(kind)[name]
    with _registering(f"entry point {name!r} of mixwell.{kind} ({entry.value})"):
        found = entry.load()
    if entry.dist is not None:
        _VERSIONS[entry.dist.name] = entry.dist.version
    return found


def load_installed() -> None:
    """Import the packages whose entry points are in ``mixwell.methods``, once a process.

    Raises:
        InputError: one can't be imported, or registers a name that is taken.
    """
    for name, entry in entries("methods").items():
        if entry.module not in _LOADED:
            load_entry("methods", name)
            _LOADED[entry.module] = {"name": entry.module, "module": entry.module,
                                     "version": _version(entry.module)}  # fmt: skip


def installed() -> dict[str, str]:
    """Return the packages whose entry points were loaded, and their versions."""
    return dict(_VERSIONS)
