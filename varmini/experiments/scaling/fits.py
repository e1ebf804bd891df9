"""Power laws fitted to measurements: L = (a x)^b on log values, with what a reader needs to doubt.

A law is a straight line through (log x, log L). Two points always lie on one, so every fit here
comes with Pearson's correlation, residuals, bootstrap intervals, a curvature, and the miss of a law
fitted without the largest size. Source: VAR, section 5.2, equations 9 and 10 (of Kaplan et al.
2020).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from ...runtime.tables import Row
from ..comparison.training import Training

Numbers = Sequence[float] | np.ndarray
BILLION, PFLOP = 1e9, 1e15
"""The paper's units of N and C."""
PAPER = {
    "n": {"loss_last": (2.0, -0.23), "loss": (2.5, -0.20),
          "error_last": (490.0, -0.016), "error": (650.0, -0.010)},
    "c": {"loss_last": (2.2e-5, -0.13), "loss": (1.5e-5, -0.16),
          "error_last": (0.081, -0.0067), "error": (0.044, -0.011)},
}  # fmt: skip
"""a and b of the published laws over N and over C, of the losses and the shares of wrong tokens.

VAR, section 5.2, figures 5 and 6: twelve sizes from 18M to 2B on ImageNet at 256 pixels.
"""
MEASURES = tuple(PAPER["n"])


@dataclass(frozen=True)
class PowerLaw:
    """L = (a x)^b, that is log L = intercept + b log x with intercept = b log a."""

    b: float
    """The exponent, negative where L falls."""
    intercept: float
    """log L at x = 1."""
    pearson: float
    """Correlation of log x and log L, in [-1, 1]; nan where L does not vary."""
    residuals: tuple[float, ...]
    """log L - log of the law, a point; 0.01 is about 1 %."""

    @property
    def a(self) -> float:
        """The scale of x, in 1 / (unit of x); astronomic, or infinite, where b is almost 0."""
        with np.errstate(over="ignore"):
            return float(np.exp(self.intercept / self.b)) if self.b else float("nan")

    def __call__(self, x: Numbers | float) -> np.ndarray:
        """The law's L at x."""
        return np.exp(self.intercept + self.b * np.log(np.asarray(x, dtype=float)))


def _logs(x: Numbers, y: Numbers, least: int = 2) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    fits = x.ndim == 1 and x.shape == y.shape and len(np.unique(x)) >= least
    if not (fits and (x > 0).all() and (y > 0).all()):
        raise ValueError(f"x is {x.tolist()} and y {y.tolist()}, expected as many positive numbers "
                         f"each, and at least {least} different x")  # fmt: skip
    return np.log(x), np.log(y)


def fit_power_law(x: Numbers, y: Numbers) -> PowerLaw:
    """Least squares of log y on log x; every point counts alike.

    x, y: (n,) positive: parameters or compute, and loss or error. ValueError on unequal lengths,
    values that have no logarithm, or fewer than two sizes; so do all functions here.
    """
    u, v = _logs(x, y)
    du, dv = u - u.mean(), v - v.mean()
    b = float(du @ dv / (du @ du))
    intercept = float(v.mean() - b * u.mean())
    spread = np.sqrt((du @ du) * (dv @ dv))
    pearson = float(du @ dv / spread) if spread > 0 else float("nan")
    return PowerLaw(b, intercept, pearson, tuple((v - intercept - b * u).tolist()))


def curvature(x: Numbers, y: Numbers) -> float:
    """How far the points bend away from a line: c of log y = ... + b log x + c (log x)^2.

    0 for a true power law, positive where the gain of larger x flattens out. Takes three sizes.
    """
    u, v = _logs(x, y, least=3)
    return float(np.polyfit(u - u.mean(), v, 2)[0])


def bend(x: Numbers, y: Numbers) -> float:
    """The share of the squared residuals of the law that its `curvature` explains, in [0, 1].

    Near 0: the points scatter about a line. Near 1: they lie on a curve. Chance alone gives about
    1 / (n - 2) for n points. Takes three sizes.
    """
    u, v = _logs(x, y, least=3)
    line, curve = (np.polyval(np.polyfit(u - u.mean(), v, k), u - u.mean()) for k in (1, 2))
    left = ((v - line) ** 2).sum()
    return float(1 - ((v - curve) ** 2).sum() / left) if left > 0 else 0.0


def resample(x: Numbers, *, draws: int, seed: int, least: int = 2) -> np.ndarray:
    """How often each point counts in resampled sweeps: (n,) sizes -> (draws, n) whole numbers.

    Points of equal x are runs of one size. A draw takes as many sizes as there are, with
    replacement, and from each as many of its runs, with replacement (a cluster bootstrap); draws
    that show fewer than `least` sizes are drawn again.
    """
    sizes, group = np.unique(x, return_inverse=True)
    random, found = np.random.default_rng(seed), np.empty((0, len(group)))
    while len(found) < draws:
        chosen = random.integers(len(sizes), size=(draws, len(sizes)))
        weights = np.zeros((draws, len(group)))
        for g in range(len(sizes)):
            rows = np.flatnonzero(group == g)
            picks = (chosen == g).sum(1) * len(rows)
            weights[:, rows] = random.multinomial(picks, np.full(len(rows), 1 / len(rows)))
        shown = 1 + (np.diff(np.sort(chosen, 1), axis=1) > 0).sum(1)
        found = np.concatenate([found, weights[shown >= least]])
    return found[:draws]


def bootstrap(
    x: Numbers, y: Numbers, *, draws: int = 2000, level: float = 0.95, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """Intervals of a, b and Pearson's correlation, from sizes and seeds resampled by `resample`.

    draws: resampled fits; level: share of them inside the interval (percentiles). Returns
    {"a": (low, high), "b": (low, high), "pearson": (low, high)}.
    """
    u, v = _logs(x, y)
    centre = u.mean()
    u = u - centre
    weights = resample(x, draws=draws, seed=seed)
    # The same least squares as in `fit_power_law`, with a weight a point, for all draws at once
    w = weights / weights.sum(1, keepdims=True)
    mean_u, mean_v = w @ u, w @ v
    uu, vv, uv = w @ u**2 - mean_u**2, w @ v**2 - mean_v**2, w @ (u * v) - mean_u * mean_v
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        b = uv / uu
        a = np.exp((mean_v - b * (mean_u + centre)) / b)
        pearson = np.clip(uv / np.sqrt(uu * np.maximum(vv, 0)), -1, 1)
    tail = 100 * (1 - level) / 2
    found = np.stack([a, b, pearson], axis=1)
    bounds = np.nanpercentile(found, [tail, 100 - tail], axis=0).T.tolist()
    return {name: tuple(pair) for name, pair in zip(("a", "b", "pearson"), bounds)}


def predict_largest(x: Numbers, y: Numbers) -> dict[str, float]:
    """A law fitted to all but the largest x, asked for the largest.

    Returns predicted; measured, the geometric mean of its runs; miss = predicted / measured - 1.
    """
    _logs(x, y)
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    largest = x == x.max()
    predicted = float(fit_power_law(x[~largest], y[~largest])(x.max()))
    measured = float(np.exp(np.log(y[largest]).mean()))
    return {"predicted": predicted, "measured": measured, "miss": predicted / measured - 1}


def envelope(compute: Numbers, loss: Numbers) -> np.ndarray:
    """The compute-optimal frontier: indices of points that no cheaper or equal point beats.

    compute, loss: (n,) positive, of all sizes and all moments of their training. Returns (m,)
    indices in the order of rising compute, with strictly falling loss.
    """
    u, v = _logs(compute, loss)
    order = np.lexsort((v, u))
    best = np.minimum.accumulate(v[order])
    first = np.concatenate([[True], best[1:] < best[:-1]])
    return order[first]


# --------------------------------------------------------------------------------- rows of a sweep


def ends_of(rows: Sequence[Row]) -> list[Row]:
    """The last row of every run of a sweep."""
    last = max(row["images"] for row in rows)
    return [row for row in rows if row["images"] == last]


def frontier(rows: Sequence[Row], measure: str) -> tuple[np.ndarray, np.ndarray]:
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
    x, y = np.array([row["flops"] for row in rows]) / PFLOP, np.array([r[measure] for r in rows])
    keep = envelope(x, y)
    return x[keep], y[keep]


def laws(rows: list[Row], *, draws: int = 2000) -> list[Row]:
    """The fits of a sweep: every measure over N at the end, and over compute on the frontier.

    One row a law, none where the frontier has fewer than three points: a (in the paper's units: N
    in billions, C in PFlops), b, their intervals, Pearson's correlation, curvature, largest
    residual, `bend`, what the law fitted without the largest size says about it, the value at the
    next largest (the prediction of one who knows no law), how many times flatter the law is than
    the paper's, and how many of its points are ends of runs. ValueError on fewer than three sizes.
    """
    end, found = ends_of(rows), []
    for over, measure in product(PAPER, MEASURES):
        if over == "n":
            ends = x = np.array([row["n"] / BILLION for row in end])
            y = np.array([row[measure] for row in end])
        else:
            ends = [row["flops"] / PFLOP for row in end]
            x, y = frontier(rows, measure)
            if len(x) < 3:  # more compute did not help: there is no frontier to fit
                continue
        law, asked = fit_power_law(x, y), predict_largest(x, y)
        row = {"measure": measure, "over": over, "points": len(x),
               "ends": int(np.isin(x, ends).sum()), "images": end[0]["images"]}  # fmt: skip
        for name, (low, high) in bootstrap(x, y, draws=draws).items():
            row |= {name: getattr(law, name), f"{name}_low": low, f"{name}_high": high}
        row |= {"curvature": curvature(x, y), "bend": bend(x, y),
                "largest_residual": max(map(abs, law.residuals)), **asked}  # fmt: skip
        nearest = float(np.exp(np.log(y[x == np.unique(x)[-2]]).mean()))
        a, b = PAPER[over][measure]
        row |= {"next_largest": nearest, "next_miss": nearest / asked["measured"] - 1,
                "flatter": b / law.b, "paper_a": a, "paper_b": b}  # fmt: skip
        found.append(row)
    return found
