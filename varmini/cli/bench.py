"""`varmini bench`: how fast this machine trains, draws, encodes and decodes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..experiments.bench.work import PARTS
from ..runtime.files import check_writable
from ..runtime.tables import Row, origin, read_rows, write_rows
from .main import parse

OTHERS = ("forms", "profile", "cost")
SHOWN = {name: "" for name in "shape form what axis method side depth batch variant kind".split()}
SHOWN |= {
    "per_second": "",
    "unit": "",
    "ms": " ms",
    "seconds": " s",
    "times_as_fast": "x as fast",
    "times_quick": "x the quick form's time",
    "share": " of the time",
    "share_of_products": " of the products' ceiling",
    "peak_mib": " MiB",
}
"""What a line on the screen tells of a row, and in which unit."""


@dataclass(frozen=True)
class Bench:
    """Measures speed and memory: quick form, plain form and peers in turn, medians of all rounds.

    Models have random weights: small has 130 tokens of 6 sizes, width 384; medium 680 tokens, 512.
    """

    only: tuple[str, ...] = (*PARTS, *OTHERS)
    """Parts: train, sample, tokenizer, peers (speed.csv); forms: each quick form beside its plain
    one (forms.csv); profile: where the time goes (profile.csv); cost: growth with image size, depth
    and batch beside raster AR.
    Other parts' rows stay in the tables."""
    shapes: tuple[str, ...] = ("small", "medium")
    """Of tiny, small, medium and d16 (the paper's); profile takes the first."""
    batches: tuple[int, ...] = ()
    """Images drawn, encoded and decoded together; none: 1, 16, 64 (medium: 1, 16; d16: 1, 64)."""
    rounds: int = 5
    """Rounds, at most; in each, every variant runs once."""
    limit: float = 20
    """Seconds after which no further round of a task begins."""
    clock: str = "wall"
    """"wall", or "cpu": the seconds of all threads, for a machine that is shared."""
    threads: int = 0
    """Threads of a CPU; 0 leaves torch's own number."""
    out: Path = Path("results/bench")
    """Folder of the tables; they grow row by row."""
    cost: Path = Path("results/cost.csv")
    """Table of the growth of cost, from which `make results` draws its figure."""


def bench(args: Sequence[str], prog: str) -> None:
    """`varmini bench`."""
    import torch

    o = parse(Bench, args, prog)
    from ..experiments.bench.cost import cost_rows
    from ..experiments.bench.forms import form_rows
    from ..experiments.bench.profiles import profile_rows
    from ..experiments.bench.speed import known, speed_rows

    for part in o.only:
        known(part, (*PARTS, *OTHERS))
    if o.threads < 0 or not o.shapes:
        raise ValueError(
            f"threads is {o.threads} and shapes are {list(o.shapes)}, expected 0 (torch's own) "
            f"or more, and at least one shape"
        )
    for part in o.only:
        check_writable(o.cost if part == "cost" else o.out / "speed.csv")
    if o.threads:
        torch.set_num_threads(o.threads)
    parts = [part for part in PARTS if part in o.only]
    if parts:
        rows = speed_rows(o.shapes, o.batches, parts, o.rounds, o.limit, o.clock)
        _write(o.out / "speed.csv", rows, ("ceiling", *parts))
    if "forms" in o.only:
        _write(o.out / "forms.csv", form_rows(o.rounds, o.limit, o.clock))
    if "profile" in o.only:
        rows = profile_rows(o.shapes[0], o.batches or (1, 64), o.rounds, o.clock)
        _write(o.out / "profile.csv", rows)
    if "cost" in o.only:
        _write(o.cost, cost_rows(o.rounds, o.clock))


def _write(path: Path, found: Iterable[Row], parts: Sequence[str] = ()) -> None:
    """Writes rows, before rows of other parts that stand there, and tells them.

    As they come they go to a file beside it, which takes the table's place at the end: a run that
    is stopped leaves both.
    """
    import torch

    about = origin() | {"torch": torch.__version__}
    kept = read_rows(path) if parts and path.exists() else []
    kept, rows = [r for r in kept if r.get("part") not in parts], []
    unfinished = path.with_name(f"{path.stem}-unfinished.csv")
    for row in found:
        rows.append(row | about)
        write_rows(unfinished, rows + kept)
        told = [f"{row[n]}{unit}" for n, unit in SHOWN.items() if row.get(n, "") != ""]
        print("  ".join(told))
    unfinished.replace(path)
    print(f"wrote {path}")
