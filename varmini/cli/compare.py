"""`varmini compare ...`: VAR beside raster AR, MaskGIT and DiT on one bed, and the ablation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch

from ..experiments.comparison.bed import KINDS, Bed, Codes, claim
from ..experiments.comparison.methods import GRID
from ..runtime.distributed import progress
from ..runtime.files import check_writable
from ..runtime.tables import origin, write_rows
from .main import parse
from .models import Flat, save_picture


@dataclass(frozen=True)
class Compare:
    """What the three commands share."""

    bed: Annotated[Bed, Flat]
    out: Path = Path("runs/comparison")
    """Folder of all runs."""
    csv: Path = Path("results/comparison")
    """Folder that gets the tables."""


@dataclass(frozen=True)
class CompareTrain(Compare):
    """Trains three autoencoders, then every method: a grid of learning rates, then full runs.

    Stopped or killed, the same command goes on. Writes grid.csv and training.csv.
    """

    seeds: tuple[int, ...] = (0, 1)
    """One full run a method and seed."""
    grid: tuple[float, ...] = GRID
    """Learning rates that are tried for every method."""
    grid_images: int = 2000
    """Length of the runs that try them."""


@dataclass(frozen=True)
class CompareMeasure(Compare):
    """Draws from every finished run and measures: quality.csv, autoencoders.csv, cost.csv.

    samples.png shows two pictures a class of each method, at the strongest guidance.
    """

    seeds: tuple[int, ...] = (0, 1)
    """Runs to measure."""
    per_class: int = 60
    """Samples a class; distances are comparable only between equal numbers."""
    guidance: tuple[float, ...] = (1.0, 1.5, 2.5)
    """Standard guidance s, 1 for none; VAR ramps up to it over its scales."""
    classifier: str = "cifar10"
    """Evaluator: a shipped name or folder."""


@dataclass(frozen=True)
class CompareSpeed(Compare):
    """Times all methods in turn, in one process: speed.csv, milliseconds an image."""

    rounds: int = 7
    """Timed rounds, after one to warm up."""
    batches: tuple[int, ...] = (1, 16)
    """Images drawn together."""


def _write(folder: Path, name: str, rows: list[dict]) -> None:
    about = origin()
    print(f"wrote {write_rows(folder / name, [row | about for row in rows])}")


def compare_train(args: Sequence[str], prog: str) -> None:
    """`varmini compare train`."""
    o = parse(CompareTrain, args, prog, CompareTrain(bed=Bed()))
    from ..experiments.comparison.measure import train_all

    check_writable(o.csv / "training.csv")
    claim(o.out, o.bed)
    codes = Codes(o.bed, o.out)
    for kind in KINDS:
        codes.train_autoencoder(kind)
    tried, rows = train_all(codes, o.seeds, o.grid_images, o.grid)
    _write(o.csv, "grid.csv", tried)
    _write(o.csv, "training.csv", rows)


def compare_measure(args: Sequence[str], prog: str) -> None:
    """`varmini compare measure`."""
    o = parse(CompareMeasure, args, prog, CompareMeasure(bed=Bed()))
    from ..evaluation.evaluators import classifier_evaluator
    from ..experiments.comparison.measure import (
        autoencoder_rows,
        cost_rows,
        measure_against,
        quality_row,
    )
    from ..experiments.comparison.methods import settings

    check_writable(o.csv / "quality.csv")
    claim(o.out, o.bed)
    codes = Codes(o.bed, o.out)
    _write(o.csv, "cost.csv", cost_rows(codes))
    measure = measure_against(classifier_evaluator(o.classifier), codes.images["test"])
    _write(o.csv, "autoencoders.csv", autoencoder_rows(codes, measure, 10 * o.per_class))
    _show(o, codes)
    pairs = [(setting, seed) for setting in settings(o.guidance) for seed in o.seeds]
    rows, about = [], {"classifier": o.classifier} | origin()
    for setting, seed in progress(pairs, "quality"):
        rows.append(quality_row(codes, measure, setting, seed, o.per_class) | about)
        write_rows(o.csv / "quality.csv", rows)
    print(f"wrote {o.csv / 'quality.csv'}")


def _show(o: CompareMeasure, codes: Codes) -> None:
    from ..experiments.comparison.measure import drawn_by
    from ..experiments.comparison.methods import COMPARED, DRAWINGS, Setting
    from ..plots.images import image_grid

    names, rows = codes.images["train"].classes, []
    labels = torch.arange(len(names)).repeat_interleave(2)
    for method in COMPARED:
        rows.append(drawn_by(codes, Setting(method, max(o.guidance)), o.seeds[0], labels))
    title = f"Two pictures a class, guidance {max(o.guidance):g}"
    headings = [name for name in names for _ in range(2)]
    called = [next(d.name for d in DRAWINGS if d.method == method) for method in COMPARED]
    figure = image_grid(torch.cat(rows), len(labels), headings, title, rows=called)
    save_picture(figure, o.csv / "samples.png")


def compare_speed(args: Sequence[str], prog: str) -> None:
    """`varmini compare speed`."""
    o = parse(CompareSpeed, args, prog, CompareSpeed(bed=Bed()))
    from ..experiments.comparison.measure import speed_rows

    check_writable(o.csv / "speed.csv")
    claim(o.out, o.bed)
    _write(o.csv, "speed.csv", speed_rows(Codes(o.bed, o.out), o.rounds, o.batches))
