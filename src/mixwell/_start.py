"""Ctrl-C while the command line is being loaded or ends: a line and a status, no traceback.

Imported before torch, which takes a second or more. Nothing has been begun by then.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import threading
from types import FrameType

__all__ = ["farewell", "guard", "status"]

# What is said before it ends; the command line's own words once a command has run.
farewell = "Interrupted before anything was begun."
# What a command to which Ctrl-C came ends with; None where there was no Ctrl-C.
status: int | None = None


def guard() -> None:
    """Leave at once on Ctrl-C, if this process is mixwell's command line; it takes over later."""
    words = sys.orig_argv
    module = "-m" in words and words[words.index("-m") + 1 :][:1] == ["mixwell"]
    script = os.path.splitext(os.path.basename(sys.argv[0] if sys.argv else ""))[0] == "mixwell"
    free = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if (module or script) and free and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, _leave)
        atexit.register(_end)  # called after all that is registered later


def _end() -> None:
    # What Python takes down from now on was done with, and the status is known: Ctrl-C would
    # kill without a word. So would ``python -m`` itself if an earlier Ctrl-C went through an
    # ``exec`` of text, as of every dataclass: whoever caught it, CPython keeps it in mind.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if status is not None:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(AttributeError, OSError, ValueError):
                stream.flush()
        os._exit(status)


def _leave(number: int, frame: FrameType | None) -> None:
    os.write(2, f"{farewell}\n".encode())
    os._exit(130)


guard()
