"""`python -m evaluation.load.accelerator`: what `outrider bench accelerator` runs, where only the engines are."""

from __future__ import annotations

import argparse
import sys

from evaluation.load.accelerator.command import HELP, add_arguments, run

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m evaluation.load.accelerator", description=HELP)
    add_arguments(parser)
    sys.exit(run(parser.parse_args()))
