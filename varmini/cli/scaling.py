"""`varmini scaling`: the sweep over sizes, and the laws that fit it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

from ..experiments.scaling.floors import write_laws
from ..experiments.scaling.pictures import measure_pictures
from ..experiments.scaling.sweep import LIVE, Sweep, run_sweep
from ..runtime.files import check_writable
from ..runtime.tables import read_rows
from ..training.classifier import Classifier
from .models import Flat


@dataclass(frozen=True)
class Scaling:
    """Trains one recipe at many sizes and fits power laws. Stopped or killed, it goes on again.

    With --data fashion-subset sizes and lengths are those of a sweep of under 20 minutes.
    """

    sweep: Annotated[Sweep, Flat] = Sweep()
    out: Path = Path("runs/scaling")  # Folder of the runs, one folder each.
    csv: Path = Path("results/scaling/sweep.csv")
    """Table of all measurements; the fits go beside it, to laws.csv and floors.csv."""
    pictures: int = 0
    """Pictures a class to draw from every run when all are trained, measured in pictures.csv
    beside the table; 0: none."""
    classifier: str | None = None
    """Evaluator of the pictures: a shipped classifier's name or a folder; None: the shipped network
    that takes part in no training."""

    @classmethod
    def start(cls, args: Sequence[str]) -> Self:
        """The live bed has defaults of its own: its name is read ahead of the parser."""
        words = " ".join(args).replace("=", " ").split()
        if ("--data", LIVE.data) not in zip(words, words[1:]):
            return cls()
        out = Path("runs/scaling-fashion")
        return cls(LIVE, out, out / "sweep.csv")

    def __call__(self) -> None:
        check_writable(self.csv)
        if self.pictures < 0:
            raise ValueError(f"pictures is {self.pictures}, expected a number a class, or 0: none")
        if self.pictures and self.classifier:
            Classifier.from_pretrained(self.classifier)  # fails here, not after hours of training
        rows = read_rows(run_sweep(self.sweep, self.out, self.csv))
        print(*write_laws(rows, self.csv), sep="\n")
        if self.pictures:
            given = (self.csv.with_name("pictures.csv"), self.pictures, self.classifier)
            print(f"wrote {measure_pictures(self.sweep, self.out, *given)}")
