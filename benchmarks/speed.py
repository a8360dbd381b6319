"""The speed benchmark, from a checkout: python benchmarks/speed.py --quick."""

import sys

from mixwell.cli import main

if __name__ == "__main__":
    sys.exit(main(["bench", "speed", *sys.argv[1:]]))
