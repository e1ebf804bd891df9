"""How long each network of notebook 16's videos trains: results/motion/minutes.csv.

    python scripts/evidence/motion_minutes.py --out runs/motion     # two minutes, quiet

As `family_minutes.py`: the last 20 of 30 steps of each, in a folder that is thrown away. What they
need of finished networks, and of encoded videos, must be in --out.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from pathlib import Path

from family_minutes import seconds_a_step
from motion import train

from varmini.experiments.motion import bed
from varmini.runtime.machine import kind_of_machine
from varmini.runtime.tables import RESULTS, Row, origin, read_rows, write_rows

TRAININGS = {"evaluator": "evaluator"} | {
    f"{kind}-{name}": kind for name in bed.TOKENIZERS for kind in ("tokenizer", "decoder")
} | {f"{method}-s9": method for method in bed.METHODS}  # fmt: skip
"""By name, as `motion.py --train` has it, the recipe of each; no run has seed 9."""
NEEDED = ("classifier", "tokenizer-*", "codes-*")


def measure(name: str, out: Path) -> Row:
    """Minutes of a whole training, by 20 of its steps."""
    kind = TRAININGS[name]
    recipe = bed.RECIPES[kind]

    def run(steps: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            for path in (path for pattern in NEEDED for path in out.glob(pattern)):
                if path.name != name:
                    (Path(folder) / path.name).symlink_to(path.resolve())
            short = dataclasses.replace(recipe, images=steps * recipe.batch_size, points=1)
            bed.RECIPES[kind] = short
            train(name, Path(folder))

    try:
        run(2)  # what is done once a process is not measured
        each = seconds_a_step(run)
    finally:
        bed.RECIPES[kind] = recipe
    return {"training": name.removesuffix("-s9"), "videos": recipe.images, "steps": recipe.steps,
            "ms_a_step": 1000 * each, "minutes": recipe.steps * each / 60}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/motion"), help="folder of the runs")
    parser.add_argument("--table", type=Path, default=RESULTS / "motion" / "minutes.csv")
    parser.add_argument("--only", nargs="*", choices=TRAININGS, default=list(TRAININGS))
    args = parser.parse_args()
    kept = read_rows(args.table) if args.table.exists() else []
    rows = {row["training"]: row for row in kept}
    for name in args.only:
        row = measure(name, args.out)
        rows[row["training"]] = row | {"machine": kind_of_machine()} | origin()
        write_rows(args.table, list(rows.values()))
        print(f"{row['training']}: {row['minutes']:.2f} minutes", flush=True)


if __name__ == "__main__":
    main()
