"""The command line, one file a command; ``main`` is the entry point."""

from mixwell.cli.main import main

__all__ = ["main"]
