"""How time and memory grow with image size, depth and batch, beside raster AR.

The paper counts O(n^4) for VAR and O(n^6) for raster AR on an n x n map (its appendix on time
complexity): the pairs of attention in all steps, each step computed anew. With a key-value cache
raster AR has O(n^4) pairs as well, but n^2 steps one after the other, where VAR has as many as it
has scales.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from ...fast.drawing import quick_generate
from ...model.sampler import Noise
from ...model.scales import ScaleSchedule
from ...model.tokenizer import MultiScaleVQVAE, TokenizerConfig
from ...model.transformer import VAR, VARConfig
from ...runtime.machine import autocast, device, precision
from ...runtime.tables import Row
from ...training import flops as scaling
from ...zoo.generators.raster_ar import RasterAR, RasterARConfig
from ..scaling.fits import fit_power_law
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


@dataclass(frozen=True)
class Case:
    """One point of the plot."""

    method: str
    side: int
    depth: int
    batch: int

    def steps(self) -> int:
        """Sequential passes through the network."""
        return len(sizes_for(self.side)) if self.method == "VAR" else self.side**2

    def pairs(self) -> int:
        """Query-key pairs of one image in one head of one block, over all steps."""
        n = self.side**2
        if self.method == "VAR":
            return scaling.visible_pairs(ScaleSchedule(sizes_for(self.side)))
        # Step i attends from one token to i, or anew from i tokens to i.
        return sum(i if self.method == METHODS[1] else i * i for i in range(1, n + 1))

    def tokens(self) -> int:
        """Tokens that pass through the network for one image, over all steps."""
        n = self.side**2
        if self.method == "VAR":
            return ScaleSchedule(sizes_for(self.side)).num_tokens
        return n if self.method == METHODS[1] else n * (n + 1) // 2

    def cache_bytes(self) -> int:
        """Keys and values of all tokens of both guidance halves."""
        if self.method == METHODS[2]:
            return 0
        # Raster AR keeps its cache in float32.
        size = precision(device().type).itemsize if self.method == "VAR" else 4
        return 2 * 2 * self.batch * self.depth * WIDTH * size * self.tokens()

    def run(self) -> Run:
        """Draws the tokens of a batch, guided; models have random weights."""
        torch.manual_seed(0)
        where = device()
        labels = torch.arange(self.batch, device=where) % CLASSES
        heads = WIDTH // 32
        if self.method == "VAR":
            common = {"sizes": sizes_for(self.side), "vocab_size": CODES}
            config = VARConfig(self.depth, WIDTH, heads, **common, num_classes=CLASSES)
            var = VAR(config).eval().to(where)
            tok = MultiScaleVQVAE(TokenizerConfig(**common, width=32)).eval().to(where)

            def draw() -> None:
                noise = Noise(0, 0, self.batch, where)
                with torch.no_grad(), autocast():
                    for _ in quick_generate(var, tok, labels, noise, cfg=1.5, top_k=0, top_p=0.96):
                        pass

            return draw
        raster = RasterAR(RasterARConfig(self.depth, WIDTH, heads, self.side, CODES, CLASSES))
        raster, cached = raster.eval().to(where), self.method == METHODS[1]

        def draw_raster() -> None:
            with torch.no_grad(), autocast():
                raster.generate(labels, guidance=2.5, top_p=0.96, cached=cached)

        return draw_raster


def cases(
    sides: Sequence[int] = SIDES, depths: Sequence[int] = DEPTHS, batches: Sequence[int] = BATCHES
) -> Iterator[tuple[str, list[Case]]]:
    """What is measured: along which axis, and the methods that run in turn."""
    for side in sides:
        methods = METHODS[: 3 if side <= LARGEST_UNCACHED else 2]
        yield "side", [Case(m, side, DEPTH, 1) for m in methods]
    for depth in depths:
        yield "depth", [Case(m, SIDE, depth, 1) for m in METHODS[:2]]
    for batch in batches:
        yield "batch", [Case(m, SIDE, DEPTH, batch) for m in METHODS[:2]]


def cost_rows(rounds: int, limit: float = 20, **axes: Sequence[int]) -> Iterator[Row]:
    """Seconds and memory of every case.

    Args:
        rounds, limit: as in `measure.in_turn`.
        axes: as `cases` takes them.
    """
    for axis, together in cases(**axes):
        runs = {case.method: case.run() for case in together}
        memory = {name: peak_memory(run) for name, run in runs.items()}
        seconds = in_turn(runs, rounds, limit)
        for case in together:
            measured = seconds[case.method]
            yield {
                "axis": axis,
                "method": case.method,
                "side": case.side,
                "depth": case.depth,
                "batch": case.batch,
                "steps": case.steps(),
                "tokens": case.tokens(),
                "pairs": case.pairs(),
                "seconds": short(statistics.median(measured)),
                "seconds_low": short(min(measured)),
                "seconds_high": short(max(measured)),
                "rounds": len(measured),
                "peak_mib": short(memory[case.method]),
                "cache_mib": short(case.cache_bytes() / 2**20),
            }


def exponents(rows: Sequence[Row], axis: str, largest: int = 3) -> list[Row]:
    """How cost grows along an axis: b of cost = a x^b, fitted on log values, a row a method.

    Args:
        rows: of `cost_rows`.
        axis: "side", "depth" or "batch".
        largest: the fit takes the so many largest x that the method was run at, because a call has
            a price of its own that hides the growth at small x.

    Returns:
        Rows with method, from, to, and b of steps, pairs and seconds; 0 for what stays the same.
    """
    found = []
    for method in METHODS:
        of = sorted((r for r in rows if (r["axis"], r["method"]) == (axis, method)),
                    key=lambda r: r[axis])[-largest:]  # fmt: skip
        if len(of) > 1:
            x = [r[axis] for r in of]
            fits = {
                c: fit_power_law(x, [r[c] for r in of]).b for c in ("steps", "pairs", "seconds")
            }
            found.append({"method": method, "from": x[0], "to": x[-1]} | fits)
    return found
