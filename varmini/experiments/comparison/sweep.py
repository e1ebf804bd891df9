"""The sweep: every tokenizer, every generator, every table; stopped or killed, it goes on again.

What is finished is found in the runs' folders, what is measured in the tables' rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property, partial
from pathlib import Path

import torch

from ...runtime.distributed import progress
from ...runtime.tables import Row, append_row, origin, read_rows
from . import measure
from .bed import Codes
from .methods import COMPARED, GUIDANCE, LONG, METHODS, tokenizer_of
from .tokenizers import BARE, FAMILY

TOKENIZER_SEEDS = 3
"""Seeds of the tokenizers."""


class Sweep:
    """All runs of the bed, in `codes.out`, and their tables, in the folder `tables`.

    Args:
        per_class: samples a class; distances are comparable only between equal numbers.
        methods: names of `METHODS`, to do only these, and no tables of tokenizers; () for all.
    """

    def __init__(
        self, codes: Codes, tables: Path, per_class: int = 100, methods: tuple[str, ...] = ()
    ) -> None:
        self.codes, self.tables, self.per_class = codes, tables, per_class
        self.methods, self.all = methods or tuple(METHODS), not methods

    def rows(self, table: str) -> list[Row]:
        """The rows of a table so far."""
        path = self.tables / f"{table}.csv"
        return read_rows(path) if path.exists() else []

    def once(self, table: str, key: Row, make: Callable[[], Row]) -> Row:
        """The row of a table with this key, made if it is not there yet."""
        for row in self.rows(table):
            if all(row.get(k, "") == v for k, v in key.items()):
                return row
        row = key | make() | origin()
        append_row(self.tables / f"{table}.csv", row)
        return row

    def run(self) -> None:
        """Everything, what is needed most first."""
        kinds = dict.fromkeys(tokenizer_of(name) for name in self.methods)
        for kind in kinds:
            self.codes.train(kind)
        for name in self.methods:
            self.scale(name)
        jobs = [(name, seed) for seed in range(5) for name in self.methods
                if seed < METHODS[name].seeds]  # fmt: skip
        for name, seed in progress(jobs, "generators"):
            self.train(name, seed)
            self.quality(name, seed)
        if self.all:
            self.tokenizers(TOKENIZER_SEEDS)

    def tokenizers(self, seeds: int) -> None:
        """Trains and measures every tokenizer, with and without its remedy against collapse."""
        for seed in range(seeds):
            for name in (*FAMILY, *BARE):
                self.codes.train(name, seed)
                self.tokenizer(name, seed)

    def scale(self, name: str) -> float:
        """The best learning rate of a method in units of `LR`, by short runs; table "grid"."""
        found = [row for row in self.rows("grid") if row["method"] == name]
        if not found:
            found = measure.search(self.codes, name)
            for row in found:
                append_row(self.tables / "grid.csv", row | origin())
        return min(found, key=lambda row: row["val_loss"])["scale"]

    def train(self, name: str, seed: int) -> None:
        """A full run; table "training"."""
        training = measure.recipe(self.codes, self.scale(name), seed, self.codes.bed.images)
        log = measure.train_method(self.codes, name, self.codes.out / f"{name}-s{seed}", training)
        last = {k: log[-1][k] for k in ("images", "seconds", "loss", "val_loss")}
        self.once("training", {"method": name, "seed": seed}, lambda: {"lr": training.lr} | last)

    def guidance(self, name: str, drawing: str) -> float:
        """The guidance of a drawing whose pictures are nearest to training images; "guidance".

        Chosen on seed 0, with other samples and other images than quality is measured with. DiT's
        long drawing takes the one of its short one.
        """
        if (name, drawing) == LONG:
            drawing = next(iter(METHODS[name].drawings))
        tried: dict[float, float] = {}
        todo = list(GUIDANCE)
        while todo:
            for s in todo:
                key = {"method": name, "drawing": drawing, "guidance": s}
                row = self.once("guidance", key, partial(self.drawn, key, 0, 777, "train"))
                tried[s] = row["frechet"]
            best = min(tried, key=tried.get)
            todo = [1.5 * best] if best == max(tried) and best < 20 else []
        return best

    def quality(self, name: str, seed: int) -> None:
        """Draws from a full run in every way that is compared; table "quality"."""
        for drawing, guidance in self.settings(name):
            key = {"method": name, "drawing": drawing, "guidance": guidance, "seed": seed}
            self.once("quality", key, partial(self.drawn, key, seed, seed, "test"))

    def settings(self, name: str) -> Iterator[tuple[str, float]]:
        """Drawings and guidance strengths of a method that quality is measured at."""
        like = name if name in COMPARED else "var"  # the ablation is guided as VAR is
        for drawing in METHODS[name].drawings:
            if drawing == "no filter":
                yield drawing, 1.0
            elif drawing != "no cache":  # the same tokens, only slower
                yield drawing, self.guidance(like, drawing)
        if name == "var-adaln":
            yield "", 1.0

    def drawn(self, key: Row, seed: int, sample_seed: int, split: str) -> Row:
        """Measures of pictures of a run, drawn as `key` says, against a split's images."""
        labels = torch.arange(self.codes.num_classes)
        labels = labels.repeat(self.per_class if split == "test" else self.per_class // 2)
        model = measure.finished_model(self.codes, key["method"], seed)
        options = METHODS[key["method"]].drawings[key["drawing"]]
        images = measure.draw_many(self.codes, key["method"], model, labels, sample_seed,
                                   guidance=key["guidance"], **options)  # fmt: skip
        return self.against[split](images, labels)

    @cached_property
    def against(self) -> dict[str, measure.Measure]:
        """What measures against the images of a split."""
        return {split: measure.measure_against(self.codes.evaluator, data)
                for split, data in self.codes.images.items()}  # fmt: skip

    def tokenizer(self, name: str, seed: int) -> None:
        """Reconstructions of test images by a finished tokenizer; table "tokenizers"."""
        count = min(10 * self.per_class, len(self.codes.images["test"]))
        self.once("tokenizers", {"tokenizer": name, "seed": seed}, lambda: measure.tokenizer_row(
            self.codes, name, seed, self.against["test"], count))  # fmt: skip
