"""What the command line is in: standard streams that may be closed or full, and Ctrl-C."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, TextIO

from mixwell import _start
from mixwell.errors import Note

__all__ = ["Interrupts", "Output", "output", "plain", "plain_warnings", "tell"]


class Output:
    """Standard output that may go away while a run goes on.

    What can't be written any more is dropped: a run of days doesn't end because ``head`` did.

    Attributes:
        lost: why writing failed, unless it was that the reader had gone.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._gone = False
        self.lost: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write a text, or drop it."""
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Let what was written go out, if it can."""
        self._try(self._stream.flush)

    def isatty(self) -> bool:
        """Whether somebody looks at it."""
        return not self._gone and self._stream.isatty()

    def _try(self, work: Callable[[], object]) -> None:
        if self._gone:
            return
        try:
            work()
        except OSError as error:
            self._lose(error)
        except ValueError:  # the stream was closed
            self._gone = True

    def _lose(self, error: OSError) -> None:
        self._gone = True
        self.lost = None if error.errno == errno.EPIPE else error
        with contextlib.suppress(OSError, ValueError):
            # What the stream still holds would fail again as the process ends.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


@contextlib.contextmanager
def output() -> Iterator[Output]:
    """Make standard output patient, and see that all three standard streams are there."""
    for number in range(3):  # a file that got the number of a closed one would get our words
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    before = sys.stdout
    streams: list[Any] = [before, sys.stderr]
    for stream in streams:
        with contextlib.suppress(AttributeError, ValueError, OSError):
            stream.reconfigure(errors="replace")  # ± in ASCII is a ?
    real = before or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    patient = Output(real)
    sys.stdout = patient
    try:
        yield patient
    finally:
        patient.flush()
        sys.stdout = before


class Interrupts:
    """Ctrl-C: the first ends what goes on in good order, the second at once.

    Nothing is half-written either way: files are moved into place when they are whole, and the
    database undoes what was not finished.

    Attributes:
        came: whether there was one.
    """

    def __init__(self, farewell: str) -> None:
        self.came = False
        self._farewell = farewell
        self._before: Any = None

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._press)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            _start.farewell = self._farewell  # in the process that is the command line
            signal.signal(signal.SIGINT, self._before)

    def _press(self, number: int, frame: FrameType | None) -> None:
        if self.came:
            os.write(2, f"{self._farewell}\n".encode())
            os._exit(130)
        self.came = True
        _start.status = 130
        raise KeyboardInterrupt


def plain(text: str) -> str:
    """Return a text without what a terminal would obey: names and messages come from files."""
    return "".join(
        c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text
    )


def tell(*words: object, error: bool = False) -> None:
    """Print what holds names of files, classes, methods or others' errors, as plain text."""
    print(*(plain(str(word)) for word in words), file=sys.stderr if error else None, flush=True)


@contextlib.contextmanager
def plain_warnings(command: str) -> Iterator[None]:
    """Show mixwell's warnings as lines of this command, without the source that led there."""
    before = warnings.showwarning

    def show(
        message: Warning | str, category: type[Warning], filename: str, lineno: int,
        file: TextIO | None = None, line: str | None = None,
    ) -> None:  # fmt: skip
        if file is None and issubclass(category, Note):
            tell(f"mixwell {command}: warning: {message}", error=True)
        else:
            before(message, category, filename, lineno, file, line)

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = before
