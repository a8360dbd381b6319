"""Ctrl-C while the command line is being loaded or ends: a line and a status, no traceback.

Imported before torch, which takes a second or more. Nothing has been begun by then.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from types import FrameType

__all__ = ["farewell", "guard"]

# What is said before it ends; the command line's own words once a command has run.
farewell = "Interrupted before anything was begun."


def guard() -> None:
    """Leave at once on Ctrl-C, if this process is mixwell's command line; it takes over later."""
    words = sys.orig_argv
    module = "-m" in words and words[words.index("-m") + 1 :][:1] == ["mixwell"]
    script = os.path.splitext(os.path.basename(sys.argv[0] if sys.argv else ""))[0] == "mixwell"
    free = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if (module or script) and free and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, _leave)
        # Called after all that is registered later. What Python takes down from then on was
        # done with, and the status is known: Ctrl-C would kill without a word.
        atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)


def _leave(number: int, frame: FrameType | None) -> None:
    os.write(2, f"{farewell}\n".encode())
    os._exit(130)


guard()
