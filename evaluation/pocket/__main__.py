"""`python -m evaluation.pocket --out FOLDER` trains the pocket models; `... measure` prints their figures."""

import argparse
from pathlib import Path

from evaluation.pocket.measure import measure
from evaluation.pocket.recipe import Minutes, make

DEFAULT_FOLDER = Path("deployments/models/pocket")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m evaluation.pocket", description=__doc__)
    parser.add_argument("action", nargs="?", choices=("make", "measure"), default="make")
    parser.add_argument("--out", type=Path, default=DEFAULT_FOLDER, help="the folder of the three model folders")
    parser.add_argument("--seed", type=int, default=0)
    defaults = Minutes()
    parser.add_argument("--target-minutes", type=float, default=defaults.target)
    parser.add_argument("--own-text-minutes", type=float, default=defaults.own_text)
    parser.add_argument("--assistant-minutes", type=float, default=defaults.assistant)
    parser.add_argument("--draft-model-minutes", type=float, default=defaults.draft_model)
    options = parser.parse_args()
    if options.action == "make":
        minutes = Minutes(
            target=options.target_minutes,
            own_text=options.own_text_minutes,
            assistant=options.assistant_minutes,
            draft_model=options.draft_model_minutes,
        )
        make(options.out, minutes, options.seed)
    for line in measure(options.out):
        print(line, flush=True)


if __name__ == "__main__":
    main()
