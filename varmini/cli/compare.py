"""`varmini compare ...`: VAR beside raster AR, MaskGIT and DiT on one bed, and the ablation."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch

from ..evaluation.evaluators import classifier_evaluator
from ..experiments.comparison import measure
from ..experiments.comparison.bed import KINDS, Bed, Codes, claim
from ..experiments.comparison.methods import COMPARED, DRAWINGS, GRID, Setting, settings
from ..plots.images import image_grid
from ..runtime.distributed import progress
from ..runtime.files import check_writable
from ..runtime.tables import Row, origin, write_rows
from .models import Flat, save_picture


@dataclass(frozen=True)
class Compare:
    """What the three commands share."""

    bed: Annotated[Bed, Flat] = Bed()
    out: Path = Path("runs/comparison")  # Folder of all runs.
    csv: Path = Path("results/comparison")  # Folder that gets the tables.

    def codes(self) -> Codes:
        """The bed's token maps; ValueError when a folder cannot be used, before any long work."""
        check_writable(self.csv / "quality.csv")
        claim(self.out, self.bed)
        return Codes(self.bed, self.out)

    def write(self, name: str, rows: list[Row]) -> None:
        about = origin()
        print(f"wrote {write_rows(self.csv / name, [row | about for row in rows])}")


@dataclass(frozen=True)
class CompareTrain(Compare):
    """Trains three autoencoders, then every method: a grid of learning rates, then full runs.

    Stopped or killed, the same command goes on. Writes grid.csv and training.csv.
    """

    seeds: tuple[int, ...] = (0, 1)  # One full run a method and seed.
    grid: tuple[float, ...] = GRID  # Learning rates that are tried for every method.
    grid_images: int = 2000  # Length of the runs that try them.

    def __call__(self) -> None:
        codes = self.codes()
        for kind in KINDS:
            codes.train_autoencoder(kind)
        tried, rows = measure.train_all(codes, self.seeds, self.grid_images, self.grid)
        self.write("grid.csv", tried)
        self.write("training.csv", rows)


@dataclass(frozen=True)
class CompareMeasure(Compare):
    """Draws from every finished run and measures: quality.csv, autoencoders.csv, cost.csv.

    samples.png shows two pictures a class of each method, at the strongest guidance.
    """

    seeds: tuple[int, ...] = (0, 1)  # Runs to measure.
    per_class: int = 60  # Samples a class; distances are comparable only between equal numbers.
    guidance: tuple[float, ...] = (1.0, 1.5, 2.5)
    """Standard guidance s, 1 for none; VAR ramps up to it over its scales."""
    classifier: str = "cifar10"  # Evaluator: a shipped name or folder.

    def __call__(self) -> None:
        codes = self.codes()
        self.write("cost.csv", measure.cost_rows(codes))
        evaluator = classifier_evaluator(self.classifier)
        against = measure.measure_against(evaluator, codes.images["test"])
        rows = measure.autoencoder_rows(codes, against, codes.num_classes * self.per_class)
        self.write("autoencoders.csv", rows)
        self._show(codes)
        pairs = [(setting, seed) for setting in settings(self.guidance) for seed in self.seeds]
        rows, about = [], {"classifier": self.classifier} | origin()
        for pair in progress(pairs, "quality"):
            rows.append(measure.quality_row(codes, against, *pair, self.per_class) | about)
            write_rows(self.csv / "quality.csv", rows)
        print(f"wrote {self.csv / 'quality.csv'}")

    def _show(self, codes: Codes) -> None:
        names, strongest = codes.images["test"].classes, max(self.guidance)
        labels = torch.arange(len(names)).repeat_interleave(2)
        how = [Setting(method, strongest) for method in COMPARED]
        images = torch.cat([measure.drawn_by(codes, x, self.seeds[0], labels) for x in how])
        rows = [next(d.name for d in DRAWINGS if d.method == method) for method in COMPARED]
        title, heads = f"Two pictures a class, guidance {strongest:g}", [names[i] for i in labels]
        figure = image_grid(images, len(labels), heads, title, rows=rows)
        save_picture(figure, self.csv / "samples.png")


@dataclass(frozen=True)
class CompareSpeed(Compare):
    """Times all methods in turn, in one process: speed.csv, milliseconds an image."""

    rounds: int = 7  # Timed rounds, after one to warm up.
    batches: tuple[int, ...] = (1, 16)  # Images drawn together.

    def __call__(self) -> None:
        self.write("speed.csv", measure.speed_rows(self.codes(), self.rounds, self.batches))
