"""``python -m mixwell`` is the command line."""

import sys

from mixwell.cli import main

if __name__ == "__main__":
    sys.exit(main())
