"""What the rows of a sweep say: the frontier over compute, and the laws that fit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..comparison.training import Training
from .fits import (
    BILLION,
    PAPER,
    PFLOP,
    bend,
    bootstrap,
    curvature,
    envelope,
    fit_power_law,
    predict_largest,
)

MEASURES = ("loss_last", "loss", "error_last", "error")


def frontier(rows: Sequence[dict[str, Any]], measure: str) -> tuple[np.ndarray, np.ndarray]:
    """Compute in PFlops and the best value of `measure` that was reached with it: (m,), (m,).

    Of all sizes at all moments, without the start of each run: its warm-up, and as long as a tenth
    of the first weights is left in the average (decay^step > 0.1). Such a point is no run that
    ended there, and the cheapest of them would always lie on the frontier.
    """
    training = Training()
    begin = max(training.warmup * max(row["step"] for row in rows),
                math.log(0.1) / math.log(training.ema))  # fmt: skip
    rows = [row for row in rows if row["step"] >= begin]
    if len({row["flops"] for row in rows}) < 2:
        return np.empty(0), np.empty(0)
    x, y = (np.array([row[name] for row in rows]) for name in ("flops", measure))
    keep = envelope(x / PFLOP, y)
    return x[keep] / PFLOP, y[keep]


def second_half(rows: Sequence[dict[str, Any]]) -> dict[int, float]:
    """{n: the share of the loss of all scales that the second half of a run takes off}.

    A run that has learned what its size allows gains nothing; the mean over seeds.
    """
    last = max(row["images"] for row in rows)
    half = max(row["images"] for row in rows if row["images"] < last)

    def loss(n: int, images: int) -> float:
        return float(np.mean([r["loss"] for r in rows if (r["n"], r["images"]) == (n, images)]))

    return {n: 1 - loss(n, last) / loss(n, half) for n in sorted({row["n"] for row in rows})}


def laws(rows: list[dict[str, Any]], *, draws: int = 2000) -> list[dict[str, Any]]:
    """The fits of a sweep: every measure over N at the end, and over compute on the frontier.

    Returns:
        One row a law, none where the frontier has fewer than three points: a (in the paper's
        units: N in billions, C in PFlops), b, their intervals, Pearson's correlation, curvature,
        largest residual, `bend`, what the law fitted without the largest size says about it, the
        value at the next largest (the prediction of one who knows no law), how many times flatter
        the law is than the paper's, and how many of its points are ends of runs.

    Raises:
        ValueError: when the rows hold fewer than three sizes.
    """
    last = max(row["images"] for row in rows)
    end = [row for row in rows if row["images"] == last]
    found = []
    for over in ("n", "c"):
        for measure in MEASURES:
            if over == "n":
                x, y = [r["n"] / BILLION for r in end], [r[measure] for r in end]
            else:
                x, y = frontier(rows, measure)
                if len(x) < 3:  # more compute did not help: there is no frontier to fit
                    continue
            x, y = np.asarray(x), np.asarray(y)
            law, interval = fit_power_law(x, y), bootstrap(x, y, draws=draws)
            ask, second = predict_largest(x, y), x == np.unique(x)[-2]
            ends = {row["n"] / BILLION if over == "n" else row["flops"] / PFLOP for row in end}
            paper = next(p for p in PAPER if (p.measure, p.over) == (measure, over))
            lazy = float(np.exp(np.log(y[second]).mean()))
            bounds: dict[str, float] = {}
            for name, (low, high) in interval.items():
                bounds |= {name: getattr(law, name), f"{name}_low": low, f"{name}_high": high}
            found.append(
                {
                    "measure": measure,
                    "over": over,
                    "points": len(x),
                    "ends": sum(value in ends for value in x.tolist()),
                    "images": last,
                }
                | bounds
                | {
                    "curvature": curvature(x, y),
                    "bend": bend(x, y),
                    "largest_residual": max(abs(r) for r in law.residuals),
                    "predicted": ask["predicted"],
                    "measured": ask["measured"],
                    "miss": ask["miss"],
                    "next_largest": lazy,
                    "next_miss": lazy / ask["measured"] - 1,
                    "flatter": paper.b / law.b,
                    "paper_a": paper.a,
                    "paper_b": paper.b,
                }
            )
    return found
