"""How time and memory grow with image size, depth and batch, beside raster AR.

The paper counts O(n^4) for VAR and O(n^6) for raster AR on an n x n map (its appendix on time
complexity): the pairs of attention in all steps, each step computed anew. With a key-value cache
raster AR has O(n^4) pairs as well, but n^2 steps one after the other, where VAR has as many as it
has scales.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence

import torch

from ...fast.drawing import quick_generate
from ...model.sampler import Noise
from ...model.scales import ScaleSchedule
from ...model.tokenizer import MultiScaleVQVAE, TokenizerConfig
from ...model.transformer import VAR, VARConfig
from ...runtime.machine import autocast, device, precision
from ...runtime.tables import Row
from ...training.flops import visible_pairs
from ...zoo.generators.raster_ar import RasterAR, RasterARConfig
from .measure import Run, in_turn, peak_memory, short
from .shapes import PAPER

METHODS = ("VAR", "raster AR, cache", "raster AR, no cache")
WIDTH, CODES, CLASSES = 128, 512, 10
SIDES, DEPTHS, BATCHES = (4, 6, 8, 12, 16, 24, 32), (2, 4, 8, 16), (1, 4, 16, 64)
DEPTH, SIDE = 4, 8
"""What stays as it is while another number grows; the batch is then 1."""
LARGEST_UNCACHED = 16
"""Side up to which raster AR is also run without a cache."""


def sizes_for(side: int) -> tuple[int, ...]:
    """The paper's ten sizes in proportion: (1, ..., side)."""
    return tuple(sorted({1, *(max(1, round(side * s / PAPER[-1])) for s in PAPER)}))


def counts(method: str, side: int) -> dict[str, int]:
    """Of one image: sequential steps, tokens that pass through the network in all of them, and
    query-key pairs in one head of one block."""
    if method == "VAR":
        schedule = ScaleSchedule(sizes_for(side))
        return {"steps": len(schedule), "tokens": schedule.num_tokens,
                "pairs": visible_pairs(schedule)}  # fmt: skip
    n, cached = side**2, method == METHODS[1]
    # Step i attends from one token to i, or anew from i tokens to i.
    return {"steps": n, "tokens": n if cached else n * (n + 1) // 2,
            "pairs": sum(i if cached else i * i for i in range(1, n + 1))}  # fmt: skip


def cache_bytes(method: str, side: int, depth: int, batch: int) -> int:
    """Keys and values of all tokens of both guidance halves."""
    if method == METHODS[2]:
        return 0
    # Raster AR keeps its cache in float32.
    size = precision(device().type).itemsize if method == "VAR" else 4
    return 2 * 2 * batch * depth * WIDTH * size * counts(method, side)["tokens"]


def drawing(method: str, side: int, depth: int, batch: int) -> Run:
    """Draws the tokens of a batch, guided; models have random weights."""
    torch.manual_seed(0)
    where, shape = device(), (depth, WIDTH, WIDTH // 32)
    labels = torch.arange(batch, device=where) % CLASSES
    common = {"sizes": sizes_for(side), "vocab_size": CODES}
    if method == "VAR":
        var = VAR(VARConfig(*shape, **common, num_classes=CLASSES)).eval().to(where)
        tok = MultiScaleVQVAE(TokenizerConfig(**common, width=32)).eval().to(where)
    else:
        raster = RasterAR(RasterARConfig(*shape, side, CODES, CLASSES)).eval().to(where)

    @torch.no_grad()
    def draw() -> None:
        with autocast():
            if method == "VAR":
                noise = Noise(0, 0, batch, where)
                for _ in quick_generate(var, tok, labels, noise, cfg=1.5, top_k=0, top_p=0.96):
                    pass
            else:
                raster.generate(labels, guidance=2.5, top_p=0.96, cached=method == METHODS[1])

    return draw


def cost_rows(
    rounds: int,
    limit: float = 20,
    sides: Sequence[int] = SIDES,
    depths: Sequence[int] = DEPTHS,
    batches: Sequence[int] = BATCHES,
) -> Iterator[Row]:
    """Seconds and memory along the three axes, the methods in turn.

    rounds, limit: as in `measure.in_turn`.
    """
    points = [("side", side, DEPTH, 1) for side in sides]
    points += [("depth", SIDE, depth, 1) for depth in depths]
    points += [("batch", SIDE, DEPTH, batch) for batch in batches]
    for axis, *point in points:
        many = 3 if axis == "side" and point[0] <= LARGEST_UNCACHED else 2
        runs = {method: drawing(method, *point) for method in METHODS[:many]}
        memory = {method: peak_memory(run) for method, run in runs.items()}
        for method, measured in in_turn(runs, rounds, limit).items():
            yield {
                "axis": axis,
                "method": method,
                **dict(zip(("side", "depth", "batch"), point)),
                **counts(method, point[0]),
                "seconds": short(statistics.median(measured)),
                "seconds_low": short(min(measured)),
                "seconds_high": short(max(measured)),
                "rounds": len(measured),
                "peak_mib": short(memory[method]),
                "cache_mib": short(cache_bytes(method, *point) / 2**20),
            }
