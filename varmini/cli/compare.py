"""`varmini compare`: every system of the family on one bed, one by one or as a sweep."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro

from ..experiments.comparison import measure
from ..experiments.comparison.bed import Bed, Codes, claim
from ..experiments.comparison.methods import COMPARED, METHODS, tokenizer_of
from ..experiments.comparison.sweep import Sweep
from ..experiments.comparison.tokenizers import BUILDERS, FAMILY
from ..plots import image_grid
from ..runtime.files import check_writable
from ..runtime.tables import origin, write_rows
from .models import Flat, save_picture


@dataclass(frozen=True)
class Compare:
    """Trains and draws one system of the family; --list names them, --sweep does all of them.

    Stopped or killed, the same command goes on. Runs and pictures are left in --out.
    """

    name: Annotated[str, tyro.conf.Positional] = ""  # A tokenizer or generator of --list.
    bed: Annotated[Bed, Flat] = Bed()
    list: bool = False  # Name all systems.
    sweep: bool = False  # All tokenizers and generators, all seeds, all tables (hours).
    speed: int = 0  # Rounds of timing all generators in turn; 0: none.
    methods: tuple[str, ...] = ()  # Only these generators, in --sweep and --speed.
    tokenizers: int = 0  # Only the tokenizers, in a sweep, with so many random seeds.
    out: Path = Path("runs/comparison")  # Folder of all runs.
    csv: Path = Path("results/comparison")  # Folder that gets the tables of --sweep and --speed.

    def __call__(self) -> None:
        if self.list or not (self.name or self.sweep or self.speed):
            return self._list()
        _check((self.name,) if self.name else (), (*METHODS, *BUILDERS), (*COMPARED, *FAMILY))
        _check(self.methods, METHODS, METHODS)
        if min(self.speed, self.tokenizers) < 0:
            raise ValueError(f"speed is {self.speed} and tokenizers is {self.tokenizers}, "
                             f"expected 0 or more")  # fmt: skip
        if self.sweep or self.speed:
            check_writable(self.csv / "quality.csv")
        codes = Codes(self.bed, self.out)
        # What is not there, or does not fit, leaves nothing behind.
        _ = codes.images, codes.evaluator if self.sweep else None
        claim(self.out, self.bed)
        if self.name:
            self._one(codes)
        if self.sweep:
            sweep = Sweep(codes, self.csv, methods=self.methods)
            sweep.tokenizers(self.tokenizers) if self.tokenizers else sweep.run()
        if self.speed:
            codes, about = Codes(self.bed, self.out, untrained=True), origin()
            names = self.methods or COMPARED
            for table, rows in (
                ("cost", measure.cost_rows(codes, names)),
                ("speed", measure.speed_rows(codes, names, self.speed)),
            ):
                rows = [row | about for row in rows]
                print(f"wrote {write_rows(self.csv / f'{table}.csv', rows)}")

    def _list(self) -> None:
        print("tokenizers:", *(f"  {name}" for name in FAMILY), sep="\n")
        print("generators, each over a tokenizer:")
        for name in COMPARED:
            print(f"  {name:15} {METHODS[name].title}, {tokenizer_of(name) or 'pixels'}")

    def _one(self, codes: Codes) -> None:
        """Trains a tokenizer, or a generator with its tokenizer, and leaves a picture."""
        name, picture = self.name, self.out / f"{self.name}.png"
        classes = codes.images["test"].classes
        if name not in METHODS:
            codes.train(name)
            images, _ = measure.some_images(codes, 12)
            tok = codes.tokenizer(name)
            drawn = tok.decode(tok.encode(images)).clamp(-1, 1)
            save_picture(image_grid(torch.cat([images, drawn]), 12, title=name,
                                    rows=["real", "rebuilt"]), picture)  # fmt: skip
            return
        codes.train(tokenizer_of(name))
        method = METHODS[name]
        training = measure.recipe(codes, method.scale, 0, self.bed.images)
        measure.train_method(codes, name, codes.out / f"{name}-s0", training)
        model, labels = measure.finished_model(codes, name, 0), torch.arange(len(classes)).repeat(4)
        options = next(iter(method.drawings.values()))
        drawn = measure.draw_many(codes, name, model, labels, 0, guidance=method.guidance,
                                  **options)  # fmt: skip
        title = f"{method.title}, guidance {method.guidance:g}"
        save_picture(image_grid(drawn, len(classes), classes, title), picture)


def _check(names: Iterable[str], known: Collection[str], told: Iterable[str]) -> None:
    """Raises a ValueError that lists what is told of, when a name is not known."""
    for name in names:
        if name not in known:
            expected = ", ".join(dict.fromkeys(told))
            raise ValueError(f"no system named {name!r}, expected one of: {expected}")
