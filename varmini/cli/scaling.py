"""`varmini scaling`: the sweep over sizes, and the laws that fit it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ..experiments.scaling.floors import floors
from ..experiments.scaling.pictures import measure_pictures
from ..experiments.scaling.sweep import Sweep, laws, run_sweep
from ..runtime.files import check_writable
from ..runtime.tables import Row, read_rows, write_rows
from ..training.classifier import Classifier
from .models import Flat


@dataclass(frozen=True)
class Scaling:
    """Trains one recipe at many sizes and fits power laws. Stopped or killed, it goes on again."""

    sweep: Annotated[Sweep, Flat] = Sweep()
    out: Path = Path("runs/scaling")  # Folder of the runs, one folder each.
    csv: Path = Path("results/scaling/sweep.csv")
    """Table of all measurements; the fits go beside it, to laws.csv and, from four sizes on, to
    floors.csv."""
    pictures: int = 0
    """Pictures a class to draw from every run when all are trained, measured in pictures.csv
    beside the table; 0: none."""
    classifier: str = "cifar10"  # Evaluator of the pictures: a shipped name or folder.

    def __call__(self) -> None:
        check_writable(self.csv)
        if self.pictures < 0:
            raise ValueError(f"pictures is {self.pictures}, expected a number a class, or 0: none")
        if self.pictures:
            Classifier.from_pretrained(self.classifier)  # fails here, not after hours of training
        rows = read_rows(run_sweep(self.sweep, self.out, self.csv))
        if len(self.sweep.depths) < 3:
            print(f"wrote {self.csv}; laws need at least three sizes")
        else:
            self._tell(laws(rows))
        if len(self.sweep.depths) > 3:
            print(f"wrote {write_rows(self.csv.with_name('floors.csv'), floors(rows))}")
        if self.pictures:
            given = (self.csv.with_name("pictures.csv"), self.pictures, self.classifier)
            print(f"wrote {measure_pictures(self.sweep, self.out, *given)}")

    def _tell(self, fits: list[Row]) -> None:
        for law in fits:
            x = {"n": "N", "c": "C"}[law["over"]]
            print(
                f"{law['measure']:<10} = ({law['a']:.3g} {x})^{law['b']:.4f}  "
                f"[{law['b_low']:.4f}, {law['b_high']:.4f}]  r = {law['pearson']:.4f}  "
                f"largest size missed by {100 * law['miss']:+.2f} %"
            )
        print("N in billions of parameters, C in PFlops of training, as in the paper")
        print(f"wrote {self.csv} and {write_rows(self.csv.with_name('laws.csv'), fits)}")
