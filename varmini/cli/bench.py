"""`varmini bench`: how fast this machine trains, draws, encodes and decodes."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from ..experiments.bench.busy import busy_rows
from ..experiments.bench.cost import cost_rows
from ..experiments.bench.forms import form_rows
from ..experiments.bench.profiles import profile_rows
from ..experiments.bench.shapes import SHAPES
from ..experiments.bench.speed import speed_rows
from ..runtime.files import check_writable
from ..runtime.machine import kind_of_machine
from ..runtime.tables import Row, origin, rows_of, write_rows

PARTS = ("speed", "forms", "profile", "busy", "cost")
NAMES = "shape form what arithmetic waiting busy axis method side depth batch kind"
SHOWN = dict.fromkeys(NAMES.split(), "")
SHOWN |= dict.fromkeys("quick_ms plain_ms ours_ms official_ms ms".split(), " ms")
SHOWN |= {"seconds": " s", "times_as_fast": "x as fast", "times_quiet": "x the quiet time"}
SHOWN |= {"peak_mib": " MiB", "share": " of the time"}
SHOWN |= {"share_of_products": " of the products' ceiling"}
"""What a line on the screen tells of a row, and in which unit."""


@dataclass(frozen=True)
class Bench:
    """Measures speed and memory: models as they are built beside quickened ones, in turn.

    Models have random weights: small has 130 tokens of 6 sizes, width 384; medium 680 tokens, 512.
    """

    only: tuple[str, ...] = PARTS
    """Parts. speed: training and drawing; forms: each quick form beside its plain one; profile:
    where the time goes; busy: training beside busy processes; cost: growth with image size, depth
    and batch beside raster AR."""
    shapes: tuple[str, ...] = ("small", "medium")
    """Of tiny, small, medium and d16 (the paper's); profile takes the first."""
    batches: tuple[int, ...] = ()
    """Images drawn together; none: 1, 16, 64 (medium: 1, 16; d16: 1, 64)."""
    rounds: int = 5  # Rounds, at most; in each, every variant runs once.
    limit: float = 20
    """Seconds after which no further round of a task begins (speed, forms and cost)."""
    out: Path = Path("results/bench")
    """Folder of the tables; rows that a machine of another kind (AVX2, AVX512, ...)
    measured stay in them."""
    cost: Path = Path("results/cost.csv")
    """Table of the growth of cost, from which `make results` draws its figure."""

    def __call__(self) -> None:
        for name, known in [(x, PARTS) for x in self.only] + [(x, SHAPES) for x in self.shapes]:
            if name not in known:
                raise ValueError(f"{name!r} is unknown, expected one of {', '.join(known)}")
        if self.rounds < 1:
            raise ValueError(f"rounds {self.rounds}, expected at least 1")
        if min(self.batches, default=1) < 1:
            raise ValueError(f"batches {list(self.batches)}, expected at least 1 image each")
        if not self.shapes:
            raise ValueError(f"--shapes is empty, expected some of {', '.join(SHAPES)}")
        rows = {
            "speed": lambda: speed_rows(self.shapes, self.batches, self.rounds, self.limit),
            "forms": lambda: form_rows(self.shapes, self.rounds, self.limit),
            "profile": lambda: profile_rows(self.shapes[0], self.batches or (1, 64), self.rounds),
            "busy": lambda: busy_rows(torch.get_num_threads(), self.rounds),
            "cost": lambda: cost_rows(self.rounds, self.limit),
        }
        tables = {x: self.cost if x == "cost" else self.out / f"{x}.csv" for x in self.only}
        for path in tables.values():
            check_writable(path)
        for part, path in tables.items():
            write(path, rows[part](), keep=part in ("speed", "forms", "busy"))


def write(path: Path, found: Iterable[Row], *, keep: bool = True) -> None:
    """Writes rows as they come, and tells them.

    They go to a file beside it, which takes the table's place at the end: a run that is stopped
    leaves both.

    Args:
        keep: leave in the table what a machine of another kind measured.
    """
    about = origin() | {"torch": torch.__version__}
    about["kind"] = own = kind_of_machine()
    kept = [row for row in rows_of(path) if keep and row.get("kind", own) != own]
    rows, unfinished = [], path.with_name(f"{path.stem}-unfinished.csv")
    for row in found:
        rows.append(about | row)
        write_rows(unfinished, rows + kept)
        print("  ".join(f"{row[n]}{unit}" for n, unit in SHOWN.items() if row.get(n, "") != ""))
    unfinished.replace(path)
    print(f"wrote {path}")
