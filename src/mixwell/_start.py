"""Ctrl-C while the command line is still being loaded: a line and a status, no traceback.

Imported before torch, which takes a second or more. Nothing has been begun by then.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType

__all__ = ["guard"]


def guard() -> None:
    """Leave at once on Ctrl-C, if this process is mixwell's command line; it takes over later."""
    words = sys.orig_argv
    module = "-m" in words and words[words.index("-m") + 1 :][:1] == ["mixwell"]
    script = os.path.splitext(os.path.basename(sys.argv[0] if sys.argv else ""))[0] == "mixwell"
    free = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if (module or script) and free and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, _leave)


def _leave(number: int, frame: FrameType | None) -> None:
    os.write(2, b"Interrupted before anything was begun.\n")
    os._exit(130)


guard()
