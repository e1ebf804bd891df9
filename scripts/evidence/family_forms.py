"""What halves of a batch and causal blocks gain in training: results/comparison/forms.csv.

    python scripts/evidence/family_forms.py --runs runs/comparison       # a minute a kind, quiet

A training step of each system in every form, in turn, round after round. The optimizer's part is
left out: no form changes it. A kind of machine that the table has is left as it is.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch

from varmini import quicken
from varmini.experiments.bench.measure import in_turn
from varmini.experiments.comparison.bed import Bed, Codes
from varmini.experiments.comparison.methods import codes_of, new_model, tokenizer_of, training_loss
from varmini.fast.halves import divide
from varmini.runtime.machine import autocast, kind_of_machine
from varmini.runtime.tables import RESULTS, Row, origin, read_rows, write_rows

NAMES = ("igpt", "fractal-ar", "rq-transformer", "titok-maskgit", "mar")
FORMS = {"plain": (False, False), "blocks": (False, True), "halves": (True, False),
         "halves, blocks": (True, True)}  # fmt: skip
"""Whether the batch is halved, and causal attention goes by blocks."""


def step_of(codes: Codes, name: str, halved: bool, blocks: bool) -> Callable[[], None]:
    """A training step of a method without its optimizer."""
    torch.manual_seed(0)
    model = quicken(new_model(name, codes)).train()
    for part in model.modules():
        if not blocks:
            vars(part).pop("causal", None)
    if halved:
        divide(model)
    x, y = (t[: codes.bed.batch_size] for t in codes_of(name, codes, model, "test"))
    tok = codes.tokenizer(tokenizer_of(name))

    def step() -> None:
        with autocast():
            loss = training_loss(model, x, y, tok)
        loss.backward()

    return step


def rows_of_kind(codes: Codes, rounds: int) -> list[Row]:
    """Milliseconds a step of every system and form, and how many times as quick as the plain."""
    runs = {(name, form): step_of(codes, name, *how) for name in NAMES
            for form, how in FORMS.items()}  # fmt: skip
    in_turn(runs, 2, 0)  # warms up
    seconds = in_turn(runs, rounds, math.inf)
    found = []
    for name, form in runs:
        pairs = zip(seconds[name, "plain"], seconds[name, form])
        found.append({"system": name, "form": form, "ms": 1000 * median(seconds[name, form]),
                      "gain": median(a / b for a, b in pairs), "rounds": rounds,
                      "machine": kind_of_machine()})  # fmt: skip
        print({k: found[-1][k] for k in ("system", "form", "ms", "gain")}, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/comparison"))
    parser.add_argument("--table", type=Path, default=RESULTS / "comparison" / "forms.csv")
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    rows = read_rows(args.table) if args.table.exists() else []
    if kind_of_machine() not in {r["machine"] for r in rows}:
        about = origin()
        new = rows_of_kind(Codes(Bed(), args.runs), args.rounds)
        write_rows(args.table, [*rows, *(row | about for row in new)])


if __name__ == "__main__":
    main()
