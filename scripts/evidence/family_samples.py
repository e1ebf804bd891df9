"""Samples of the family, from the runs of `varmini compare --sweep`.

    python scripts/evidence/family_samples.py --runs runs/comparison

writes results/comparison/samples.png: a row a generator whose run is finished, two garments of each
class, drawn at the guidance that the sweep chose (guidance.csv); and samples.csv beside it, with
what was drawn and from where. Nothing is trained or measured here.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch
from matplotlib.figure import Figure

from varmini.experiments.comparison.bed import Bed, Codes
from varmini.experiments.comparison.measure import draw_many, finished_model
from varmini.experiments.comparison.methods import COMPARED, METHODS
from varmini.plots import image_grid, save
from varmini.runtime.tables import RESULTS, Row, origin, rows_of, write_rows

EACH = 2
"""Pictures of a class."""


def best_guidance(tables: Path, name: str, drawing: str) -> float:
    """The guidance nearest to training images; the method's usual one where none was tried."""
    tried = [r for r in rows_of(tables / "guidance.csv")
             if (r["method"], r.get("drawing", "")) == (name, drawing)]  # fmt: skip
    if not tried:
        return METHODS[name].guidance
    return min(tried, key=lambda r: r["frechet"])["guidance"]


def samples(codes: Codes, tables: Path, seed: int = 0) -> tuple[Figure, list[Row]]:
    """The picture, and a row for each of its rows; of a method's first way to draw.

    Raises:
        ValueError: when no run of this seed is finished.
    """
    classes = codes.images["test"].classes
    labels = torch.arange(len(classes)).repeat_interleave(EACH)
    parts, rows = [], []
    for name in COMPARED:
        if not (codes.out / f"{name}-s{seed}" / "model.safetensors").exists():
            continue
        drawing, options = next(iter(METHODS[name].drawings.items()))
        guidance = best_guidance(tables, name, drawing)
        model = finished_model(codes, name, seed)
        parts.append(draw_many(codes, name, model, labels, seed, guidance=guidance, **options))
        rows.append({"method": name, "drawing": drawing, "guidance": guidance, "seed": seed})
    if not parts:
        raise ValueError(f"{codes.out} holds no finished generator of seed {seed}: "
                         "run `varmini compare --sweep` first")  # fmt: skip
    heads = [name if i == 0 else "" for name in classes for i in range(EACH)]
    names = [METHODS[row["method"]].title for row in rows]
    return image_grid(torch.cat(parts), len(labels), heads, rows=names), rows


def main(arguments: list[str] | None = None) -> None:
    """Writes the picture and its table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/comparison"), help="the sweep's")
    parser.add_argument("--tables", type=Path, default=RESULTS / "comparison",
                        help="folder of the sweep's guidance.csv")  # fmt: skip
    parser.add_argument("--out", type=Path, default=RESULTS / "comparison")
    given = parser.parse_args(arguments)
    bed = given.runs / "bed.json"
    if not bed.exists():
        sys.exit(f"{bed} is not there: give the folder of `varmini compare --sweep` as --runs")
    codes = Codes(Bed(**json.loads(bed.read_text())), given.runs)
    figure, rows = samples(codes, given.tables)
    width, height = save(figure, given.out / "samples.png")
    write_rows(given.out / "samples.csv", [row | origin() for row in rows])
    print(f"{given.out / 'samples.png'}: {width} x {height} pixels, {len(rows)} methods")


if __name__ == "__main__":
    main()
