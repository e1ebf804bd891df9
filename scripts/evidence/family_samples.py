"""Samples of the family, from the runs of `varmini compare --sweep`.

    python scripts/evidence/family_samples.py --runs runs/comparison

writes results/comparison/samples.png: a row a generator whose run is finished, two garments of each
class, drawn at the guidance that the sweep chose (guidance.csv); and samples.csv beside it, with
what was drawn and from where. Nothing is trained or measured here. With --keep, generators that
have no run there keep their rows.
"""

from __future__ import annotations

import argparse
import json
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image

from varmini.experiments.comparison.bed import Bed, Codes
from varmini.experiments.comparison.measure import draw_many, finished_model
from varmini.experiments.comparison.methods import COMPARED, METHODS
from varmini.plots import image_grid, save
from varmini.plots.images import png_of
from varmini.runtime.files import write_atomic
from varmini.runtime.tables import RESULTS, Row, origin, read_cells, rows_of, write_rows

EACH = 2
"""Pictures of a class."""


def best_guidance(tables: Path, name: str, drawing: str) -> float:
    """The guidance nearest to training images; the method's usual one where none was tried."""
    tried = [r for r in rows_of(tables / "guidance.csv")
             if (r["method"], r.get("drawing", "")) == (name, drawing)]  # fmt: skip
    if not tried:
        return METHODS[name].guidance
    return min(tried, key=lambda r: r["frechet"])["guidance"]


def samples(
    codes: Codes, tables: Path, seed: int = 0, before: tuple[Row, ...] = ()
) -> tuple[Figure, list[Row]]:
    """The picture, and a row for each of its rows; of a method's first way to draw.

    before: rows that stay where no run is; the picture is white there.

    Raises:
        ValueError: when no run of this seed is finished.
    """
    classes = codes.images["test"].classes
    labels = torch.arange(len(classes)).repeat_interleave(EACH)
    parts, rows = [], []
    for name in COMPARED:
        if not (codes.out / f"{name}-s{seed}" / "model.safetensors").exists():
            rows += (kept := [row for row in before if row["method"] == name])
            parts += [torch.ones(len(labels), 1, 32, 32) for _ in kept]
            continue
        drawing, options = next(iter(METHODS[name].drawings.items()))
        guidance = best_guidance(tables, name, drawing)
        model = finished_model(codes, name, seed)
        parts.append(draw_many(codes, name, model, labels, seed, guidance=guidance, **options))
        rows.append({"method": name, "drawing": drawing, "guidance": guidance, "seed": seed}
                    | origin())  # fmt: skip
    if all(row in before for row in rows):
        raise ValueError(f"{codes.out} holds no finished generator of seed {seed}: "
                         "run `varmini compare --sweep` first")  # fmt: skip
    heads = [name if i == 0 else "" for name in classes for i in range(EACH)]
    names = [METHODS[row["method"]].title for row in rows]
    return image_grid(torch.cat(parts), len(labels), heads, rows=names), rows


def pasted(before: Path, figure: Figure, rows: list[int], count: int) -> Image.Image:
    """The picture before, of `count` rows, with these rows of a figure of its size."""
    place, new = figure.axes[0].get_window_extent(), np.array(Image.open(BytesIO(png_of(figure))))
    picture = np.array(Image.open(before))
    edges = np.linspace(len(new) - place.y1, len(new) - place.y0, count + 1).round().astype(int)
    for i in rows:
        picture[edges[i] : edges[i + 1]] = new[edges[i] : edges[i + 1]]
    return Image.fromarray(picture)


def main(arguments: list[str] | None = None) -> None:
    """Writes the picture and its table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/comparison"), help="the sweep's")
    parser.add_argument("--tables", type=Path, default=RESULTS / "comparison",
                        help="folder of the sweep's guidance.csv")  # fmt: skip
    parser.add_argument("--out", type=Path, default=RESULTS / "comparison")
    parser.add_argument("--keep", action="store_true", help="the rows of what has no run here")
    given = parser.parse_args(arguments)
    bed = given.runs / "bed.json"
    if not bed.exists():
        sys.exit(f"{bed} is not there: give the folder of `varmini compare --sweep` as --runs")
    codes, path = Codes(Bed(**json.loads(bed.read_text())), given.runs), given.out / "samples.png"
    before = tuple(read_cells(given.out / "samples.csv")) if given.keep else ()
    figure, rows = samples(codes, given.tables, before=before)
    if before:
        new = [i for i, row in enumerate(rows) if row not in before]
        content = BytesIO()
        pasted(path, figure, new, len(rows)).save(content, "png")
        write_atomic(path, content.getvalue())
    else:
        save(figure, path)
    write_rows(given.out / "samples.csv", rows)
    print(f"{path}: {len(rows)} methods")


if __name__ == "__main__":
    main()
