"""How long each system of the family trains: results/comparison/minutes.csv.

    python scripts/evidence/family_minutes.py --runs runs/comparison     # three minutes, quiet

Two short trainings of each, of 10 and of 30 steps, in a folder that is thrown away. Their
difference is the time of 20 steps, without the start, and so of the whole budget. The tokenizers
that generators need must be finished in --runs. TiTok's minutes do not count its proxy's, which is
another VQ-VAE.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from varmini.experiments.comparison.bed import Bed, Codes
from varmini.experiments.comparison.measure import recipe, train_method
from varmini.experiments.comparison.methods import COMPARED
from varmini.experiments.comparison.tokenizers import FAMILY, LIVE, train_tokenizer
from varmini.runtime.machine import kind_of_machine
from varmini.runtime.tables import RESULTS, Row, origin, write_rows

SHORT, LONG = 10, 30


def seconds_a_step(run: Callable[[int], None]) -> float:
    """Of two runs of so many steps each."""
    times = []
    for steps in (SHORT, LONG):
        start = time.perf_counter()
        run(steps)
        times.append(time.perf_counter() - start)
    return (times[1] - times[0]) / (LONG - SHORT)


def row(codes: Codes, name: str, kind: str, folder: Path) -> Row:
    """How long a system trains, by 20 of its steps."""
    bed = codes.bed

    def tokenizer(steps: int) -> None:
        short = dataclasses.replace(bed, tokenizer_images=steps * LIVE.batch_size)
        proxy = codes.tokenizer("titok-proxy") if name == "titok" else None
        train_tokenizer(name, short, folder / f"{name}-{steps}", 0, proxy)

    def generator(steps: int) -> None:
        train_method(codes, name, folder / f"{name}-{steps}",
                     recipe(codes, 1.0, 0, steps * bed.batch_size, points=1))  # fmt: skip

    if kind == "tokenizer":
        steps, each = bed.tokenizer_images // LIVE.batch_size, seconds_a_step(tokenizer)
    else:
        generator(1)  # encodes the images
        steps, each = bed.images // bed.batch_size, seconds_a_step(generator)
    return {"system": name, "kind": kind, "steps": steps, "ms_a_step": 1000 * each,
            "minutes": steps * each / 60, "machine": kind_of_machine()}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/comparison"))
    parser.add_argument("--table", type=Path, default=RESULTS / "comparison" / "minutes.csv")
    parser.add_argument("--only", nargs="*", default=())
    args = parser.parse_args()
    codes, rows = Codes(Bed(), args.runs), []
    for kind, names in (("tokenizer", FAMILY), ("generator", COMPARED)):
        for name in names:
            if not args.only or name in args.only:
                with tempfile.TemporaryDirectory() as folder:
                    rows.append(row(codes, name, kind, Path(folder)) | origin())
                print({k: rows[-1][k] for k in ("system", "kind", "minutes")}, flush=True)
    write_rows(args.table, rows)


if __name__ == "__main__":
    main()
