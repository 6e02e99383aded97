"""`python -m evaluation.pocket [make]` trains the pocket models; `... measure` prints their figures; `... inflate`
writes the pair with a target of any size and the same text."""

import argparse
from pathlib import Path

from evaluation.pocket.inflate import inflate
from evaluation.pocket.measure import measure
from evaluation.pocket.recipe import Minutes, make

DEFAULT_FOLDER = Path("deployments/models/pocket")


def main(arguments: list[str] | None = None) -> None:
    options = _parse(arguments)
    if options.action == "inflate":
        num_parameters = inflate(
            options.source,
            options.out,
            intermediate_size=options.intermediate_size,
            num_extra_layers=options.extra_layers,
            device=options.device,
        )
        print(f"{options.out}: a target of {num_parameters / 1e6:.1f} million parameters")
        return
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


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m evaluation.pocket", description=__doc__)
    parser.add_argument("action", nargs="?", choices=("make", "measure", "inflate"), default="make")
    parser.add_argument("--out", type=Path, default=DEFAULT_FOLDER, help="the folder of the three model folders")
    parser.add_argument("--seed", type=int, default=0)
    defaults = Minutes()
    parser.add_argument("--target-minutes", type=float, default=defaults.target)
    parser.add_argument("--own-text-minutes", type=float, default=defaults.own_text)
    parser.add_argument("--assistant-minutes", type=float, default=defaults.assistant)
    parser.add_argument("--draft-model-minutes", type=float, default=defaults.draft_model)
    parser.add_argument("--source", type=Path, default=DEFAULT_FOLDER, help="inflate: the pair to start from")
    parser.add_argument("--intermediate-size", type=int, help="inflate: the MLPs' width; 32000 makes 150 million")
    parser.add_argument("--extra-layers", type=int, default=0, help="inflate: layers to insert")
    parser.add_argument("--device", default="cpu", help="inflate: where the larger target is made, such as cuda")
    options = parser.parse_args(arguments)
    if options.action == "inflate" and options.out.resolve() == options.source.resolve():
        parser.error("inflate writes a new pair: give --out another folder than --source")
    return options


if __name__ == "__main__":
    main()
