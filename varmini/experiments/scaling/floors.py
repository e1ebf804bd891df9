"""Laws with a floor, L = E + (a x)^b: what is left at any size, and a power law down to it.

A loss in nats has a floor: the entropy of the tokens. Near it a pure power law comes out flat and
bent. Source: Hoffmann et al. 2022, arXiv:2203.15556 (E is the entropy of the data); the law without
it is VAR's, section 5.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...runtime.tables import Row, write_rows
from .fits import (
    BILLION,
    MEASURES,
    PAPER,
    Numbers,
    ends_of,
    fit_power_law,
    laws,
    predict_largest,
    resample,
)

STEEPEST, FLATTEST = 3.0, 0.005
"""-b is looked for between them; a fit that stops at one of them has not found its exponent."""
GRID = -np.geomspace(FLATTEST, STEEPEST, 400)


@dataclass(frozen=True)
class FloorLaw:
    """L = floor + scale x^b, with scale = a^b."""

    floor: float
    scale: float
    b: float
    pearson: float
    """Correlation of log x and log(L - floor), in [-1, 1]; nan where a point is not above it."""

    def __call__(self, x: Numbers | float) -> np.ndarray:
        """The law's L at x."""
        return self.floor + self.scale * np.asarray(x, dtype=float) ** self.b

    @property
    def edge(self) -> bool:
        """Whether the exponent lies at an edge of what was searched: it is not determined."""
        return not -STEEPEST * 0.99 < self.b < -FLATTEST * 1.01


def _solve(t: np.ndarray, y: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, ...]:
    """For each exponent the floor E >= 0 and scale A >= 0 that fit best: linear least squares.

    t: (n, g), x^b of g exponents. y: (n,). w: (d, n) weights that sum to 1, for d fits at once.
    Returns E, A and the mean square left, (d, g) each.
    """
    y0 = y.mean()  # differences of near-equal numbers: centre first
    mean_t, mean_y, tt = w @ t, (w @ (y - y0))[:, None], w @ t**2
    ty, yy = w @ (t * (y - y0)[:, None]), (w @ (y - y0) ** 2)[:, None]
    spread = np.maximum(tt - mean_t**2, 1e-300)
    scale = np.maximum((ty - mean_t * mean_y) / spread, 0)
    floor = mean_y + y0 - scale * mean_t
    below = floor < 0  # a floor below zero means nothing: the best with E = 0
    scale = np.where(below, (ty + y0 * mean_t) / tt, scale)
    floor = np.where(below, 0.0, floor)
    c = floor - y0
    left = yy + c**2 + scale**2 * tt + 2 * scale * c * mean_t - 2 * c * mean_y - 2 * scale * ty
    return floor, scale, left


def fit_floor(x: Numbers, y: Numbers) -> FloorLaw:
    """Nonlinear least squares of y = E + A x^b with E, A >= 0 and b in [-3, -0.005].

    For a given b the law is linear in E and A (variable projection, Golub and Pereyra 1973), so b
    alone is searched: a grid, then ever finer ones around its best.

    x, y: (n,) positive, at least three different x, else a ValueError.
    """
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    fits = x.ndim == 1 and x.shape == y.shape and len(np.unique(x)) >= 3
    if not (fits and (x > 0).all() and (y > 0).all()):
        raise ValueError(f"x is {x.tolist()} and y {y.tolist()}, expected as many positive numbers "
                         "each, and at least 3 different x")  # fmt: skip
    centre = np.exp(np.log(x).mean())  # in this unit x^b is near 1 for every b
    w, grid = np.full((1, len(x)), 1 / len(x)), GRID
    for _ in range(5):
        floor, scale, left = _solve((x / centre)[:, None] ** grid, y, w)
        best = int(left[0].argmin())
        b, low, high = grid[best], grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
        e, a = float(floor[0, best]), float(scale[0, best])
        grid = -np.geomspace(-low, -high, 41)
    above = y - e
    pearson = float(np.corrcoef(np.log(x), np.log(above))[0, 1]) if (above > 0).all() else np.nan
    return FloorLaw(e, a * float(centre) ** -b, float(b), pearson)


def bootstrap_floor(
    x: Numbers, y: Numbers, *, draws: int = 2000, level: float = 0.95, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """Intervals of b and of the floor, from sizes and seeds resampled as in `fits.bootstrap`.

    A draw needs three sizes. Its b is the best of `GRID`, to 2 %.
    """
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    weights = resample(x, draws=draws, seed=seed, least=3)
    t = (x / np.exp(np.log(x).mean()))[:, None] ** GRID
    floor, _, left = _solve(t, y, weights / weights.sum(1, keepdims=True))
    best = left.argmin(1)
    tail = 100 * (1 - level) / 2
    found = {"b": GRID[best], "floor": floor[np.arange(len(best)), best]}
    return {name: tuple(np.percentile(values, [tail, 100 - tail]).tolist())
            for name, values in found.items()}  # fmt: skip


def floors(rows: list[Row], *, draws: int = 2000) -> list[Row]:
    """The laws with a floor over N at the end of a sweep, one row a measure, beside the pure ones.

    Each has b and the floor with intervals, Pearson's correlation of log(L - floor), the root mean
    square that is left (rms) and the pure law's (rms_pure); and what the law says of the largest
    size when it was fitted to the others (miss), beside the pure law (pure_miss) and the value at
    the next largest (next_miss). ValueError on fewer than four sizes.
    """
    end, found = ends_of(rows), []
    x = np.array([row["n"] / BILLION for row in end])
    for measure in MEASURES:
        y = np.array([row[measure] for row in end])
        law, largest = fit_floor(x, y), x == x.max()
        pure, asked = predict_largest(x, y), fit_floor(x[~largest], y[~largest])

        def rms(curve, y=y) -> float:
            return float(np.sqrt(((curve(x) - y) ** 2).mean()))

        predicted, measured = float(asked(x.max())), pure["measured"]
        row = {"measure": measure, "points": len(x), "images": end[0]["images"],
               "floor": law.floor, "b": law.b, "edge": law.edge}  # fmt: skip
        for name, (low, high) in bootstrap_floor(x, y, draws=draws).items():
            row |= {f"{name}_low": low, f"{name}_high": high}
        nearest = float(np.exp(np.log(y[x == np.unique(x)[-2]]).mean()))
        row |= {"pearson": law.pearson, "rms": rms(law), "rms_pure": rms(fit_power_law(x, y)),
                "predicted": predicted, "measured": measured, "miss": predicted / measured - 1,
                "pure_miss": pure["miss"], "next_miss": nearest / measured - 1,
                "paper_b": PAPER["n"][measure][1]}  # fmt: skip
        found.append(row)
    return found


def sentences(rows: list[Row], fits: list[Row], floored: list[Row]) -> list[str]:
    """What the `laws` and `floors` of a sweep say, and what its runs have seen, a line each."""
    told = [
        f"{law['measure']:<10} = ({law['a']:.3g} {law['over'].upper()})^{law['b']:.4f}  "
        f"[{law['b_low']:.4f}, {law['b_high']:.4f}]  r = {law['pearson']:.4f}  "
        f"largest size missed by {100 * law['miss']:+.2f} %"
        for law in fits
    ] + ["N in billions of parameters, C in PFlops of training, as in the paper"]
    told += [
        f"{law['measure']:<10} = {law['floor']:.2f} + (a N)^{law['b']:.3f}  "
        f"[{law['b_low']:.3f}, {law['b_high']:.3f}]  r = {law['pearson']:.4f}  largest size missed "
        f"by {100 * law['miss']:+.2f} % (without a floor {100 * law['pure_miss']:+.2f} %, by the "
        f"next largest {100 * law['next_miss']:+.2f} %)"
        for law in floored if law["measure"].startswith("loss")
    ]  # fmt: skip
    seen = sorted((row["n"], row["images"] * row["tokens"] / row["n"]) for row in ends_of(rows))
    return [*told, f"tokens a parameter: {seen[0][1]:.0f} at the smallest size, {seen[-1][1]:.1f} "
            "at the largest"]  # fmt: skip


def write_laws(rows: list[Row], csv: Path) -> list[str]:
    """Writes laws.csv and floors.csv beside a sweep's table `csv`; returns what they say.

    Laws need three sizes, floors four.
    """
    sizes = len({row["depth"] for row in rows})
    if sizes < 3:
        return [f"wrote {csv}; laws need at least three sizes"]
    found = {"laws": laws(rows)} | ({"floors": floors(rows)} if sizes > 3 else {})
    told = sentences(rows, found["laws"], found.get("floors", []))
    files = [write_rows(csv.with_name(f"{name}.csv"), fits) for name, fits in found.items()]
    return [*told, f"wrote {csv}, {', '.join(map(str, files))}"]
