"""Trains and measures what draws moving garments: results/motion/."""

from __future__ import annotations

import argparse
from pathlib import Path

from varmini.experiments.motion import bed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/motion"), help="folder of the runs")
    parser.add_argument("--train", nargs="*", default=[])
    args = parser.parse_args()
    for name in args.train:
        kind, _, which = name.partition("-")
        if kind == "evaluator":
            print(bed.train_evaluator(args.out))
        if kind == "tokenizer":
            print(bed.train_tokenizer(which, args.out))
        if name.rpartition("-s")[0] in bed.METHODS:
            method, _, seed = name.rpartition("-s")
            print(bed.train_model(method, int(seed), args.out))


if __name__ == "__main__":
    main()
