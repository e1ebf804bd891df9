"""Rows of `varmini bench`: speed, ratio to the plain form, share of the machine's ceiling."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Iterator, Sequence

from ...runtime.machine import device, precision
from ...runtime.tables import Row
from .measure import ceilings, counted_flops, in_turn, name_of, peak_memory
from .shapes import SHAPES, models
from .work import PARTS, Work, works


def speed_rows(
    shapes: Sequence[str], batches: Sequence[int], parts: Sequence[str],
    rounds: int, limit: float, kind: str,
) -> Iterator[Row]:  # fmt: skip
    """Measures all parts of all shapes; yields rows as they are done, the ceilings first.

    Args:
        shapes: names of `SHAPES`.
        batches: images together; none for each shape's own.
        parts: of `PARTS`.
        rounds: at most so many, fewer where they would take longer than `limit` seconds.
        kind: "wall" or "cpu", see `measure.clock`.

    Raises:
        ValueError: on an unknown shape, part or clock, or a number below 1.
    """
    for given, names in ((shapes, SHAPES), (parts, PARTS)):
        for one in given:
            known(one, names)
    if min(batches, default=1) < 1:
        raise ValueError(f"batches are {list(batches)}, expected at least 1 image")
    most = ceilings(kind)
    for what, value in most.items():
        unit = "bytes/s" if what == "bandwidth" else "FLOP/s"
        yield {"part": "ceiling", "what": what, "unit": unit, "per_second": short(value)}
    for name in shapes:
        shape = SHAPES[name]
        var, tok = models(shape)
        for work in works(shape, var, tok, list(parts), list(batches) or list(shape.batches)):
            for row in rows_of(work, most, rounds, limit, kind):
                yield {"part": work.part, "shape": name} | row


def rows_of(
    work: Work, most: dict[str, float], rounds: int, limit: float, kind: str
) -> Iterator[Row]:
    """One row a variant; one that says "not measured" where a peer is missing.

    Args:
        most: from `measure.ceilings`.
    """
    about = {"what": work.what, "batch": work.batch}
    if work.missing:
        yield about | {"variant": work.missing, "per_second": "not measured"}
        return
    memory = {name: peak_memory(run) for name, run in work.runs.items()}  # also warms up
    seconds = in_turn(work.runs, rounds, limit, kind)
    middle = {name: statistics.median(s) for name, s in seconds.items()}
    counted = counted_flops(work.counted) // work.counted_images if work.counted else 0
    for name, measured in seconds.items():
        row = about | {
            "variant": name,
            "unit": f"{work.unit}/s",
            "per_second": short(work.units / middle[name]),
            "ms": short(1e3 * middle[name]),
            "ms_low": short(1e3 * min(measured)),
            "ms_high": short(1e3 * max(measured)),
            "ms_an_image": short(1e3 * middle[name] / work.batch),
            "rounds": len(measured),
            "clock": kind,
            "times_quick": short(middle[name] / middle["quick"]),
            "peak_mib": short(memory[name]),
        }
        if name == "quick" and work.flops:
            dtype = precision(device().type)
            row["flops_formula"] = short(work.flops)
            row["flops_counted"] = short(counted * work.batch)
            row["share_of_products"] = short(work.flops / middle[name] / most[name_of(dtype)])
            if work.weights and work.batch == 1:
                moved = work.weights * dtype.itemsize / middle[name]
                row["share_of_bandwidth"] = short(moved / most["bandwidth"])
        yield row


def known(one: str, names: Collection[str]) -> str:
    """`one`, or a ValueError that tells what there is."""
    if one not in names:
        raise ValueError(f"{one!r} is unknown, expected one of {', '.join(names)}")
    return one


def short(value: float | None) -> str:
    """Four digits; nothing where nothing was measured."""
    return "" if value is None else f"{value:.4g}"
