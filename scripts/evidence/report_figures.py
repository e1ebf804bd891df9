"""Figures of results/README.md that no notebook shows: frontier, residuals, comparison, cost.

Each takes rows as `varmini.runtime.tables.read_rows` gives them and returns a matplotlib figure.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from varmini.experiments.bench.cost import METHODS
from varmini.experiments.figures import (
    NAMES,
    five_panels,
    log_axes,
    round_numbers,
    styled,
    titled,
)
from varmini.experiments.scaling.fits import (
    BILLION,
    MEASURES,
    PFLOP,
    bend,
    ends_of,
    fit_power_law,
    frontier,
)
from varmini.plots.charts import ACCENT, BLUE, INK, MUTED, shades
from varmini.runtime.tables import Row


def second_half(rows: Sequence[Row]) -> dict[int, float]:
    """{n: the share of the loss of all scales that the second half of a run takes off}.

    A run that has learned what its size allows gains nothing; the mean over seeds.
    """
    half, last = sorted({row["images"] for row in rows})[-2:]

    def loss(n: int, images: int) -> float:
        return float(np.mean([r["loss"] for r in rows if (r["n"], r["images"]) == (n, images)]))

    return {n: 1 - loss(n, last) / loss(n, half) for n in sorted({row["n"] for row in rows})}


def exponents(rows: Sequence[Row], axis: str, largest: int = 3) -> list[Row]:
    """How cost grows along an axis: b of cost = a x^b, fitted on log values, a row a method.

    rows: of `cost_rows`; axis: "side", "depth" or "batch". The fit takes the so many `largest` x
    that the method was run at, because a call has a price of its own that hides the growth at small
    x. Returns method, from, to, and b of steps, pairs and seconds; 0 for what stays the same.
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


@styled
def compute_frontier(rows: Sequence[Row]) -> Figure:
    """Four measures over compute: every size on its way, the frontier, its law; and the paper's."""
    depths, seeds = (sorted({row[name] for row in rows}) for name in ("depth", "seed"))
    figure, grid = five_panels("c")
    for measure in MEASURES:
        axes = grid[measure]
        for depth, seed in product(depths, seeds):
            colour = shades(len(depths))[depths.index(depth)]
            run = [r for r in rows if (r["depth"], r["seed"]) == (depth, seed)]
            run.sort(key=lambda r: r["flops"])
            axes.plot([r["flops"] / PFLOP for r in run], [r[measure] for r in run], "o-",
                      color=colour, markersize=3, linewidth=1,
                      label=f"d = {depth}" if seed == 0 else None)  # fmt: skip
        c, y = frontier(rows, measure)
        axes.set_title(NAMES[measure])
        log_axes(axes)
        if len(c) > 2:
            law = fit_power_law(c, y)
            axes.plot(c, law(c), "--", color=ACCENT, label="law of the frontier")
            titled(axes, measure, "C", law)
    grid[MEASURES[0]].legend(frameon=False, fontsize=8, ncols=2, loc="lower left")
    return figure


@styled
def law_residuals(rows: Sequence[Row]) -> Figure:
    """Where the toy bends: how far each run lies off its law over N, and the parabola through that.

    A last panel shows how much the second half of training brings, which is nothing where a run
    has learned what its size allows.
    """
    end = ends_of(rows)
    x = np.array([row["n"] / BILLION for row in end])
    u, grid_x = np.log(x), np.geomspace(x.min(), x.max(), 50)
    figure, grid = plt.subplots(1, 5, figsize=(12.5, 2.9), layout="constrained")
    for axes, measure in zip(grid, MEASURES):
        y = [row[measure] for row in end]
        off = 100 * np.expm1(fit_power_law(x, y).residuals)
        axes.axhline(0, color=ACCENT, linewidth=1)
        axes.plot(x, off, "o", color=BLUE, markersize=4)
        curve = np.polyfit(u - u.mean(), off, 2)
        axes.plot(grid_x, np.polyval(curve, np.log(grid_x) - u.mean()), color=MUTED)
        axes.set_xlabel(f"N, billions (bend {bend(x, y):.2f})")
        axes.set_xscale("log")
        axes.set_title(NAMES[measure], fontsize=11)
    grid[0].set_ylabel("off the law, %")
    gain = second_half(rows)
    grid[4].plot([n / BILLION for n in gain], [100 * g for g in gain.values()], "o-", color=BLUE)
    grid[4].set_xscale("log")
    grid[4].set_ylim(0, None)
    grid[4].set_title("second half's gain, %", fontsize=11)
    grid[4].set_xlabel("N, billions")
    return figure


@styled
def family(rows: Sequence[Row]) -> Figure:
    """Frechet distance (down is better) and own class over milliseconds an image, one by one.

    rows: of results/comparison/table.csv, those with quality. Bars are two standard errors.
    """
    figure, grid = plt.subplots(1, 2, figsize=(12.5, 5), layout="constrained", sharex=True)
    rows = [r for r in rows if r.get("drawing") != "no cache"]  # the same pictures, later
    colours = plt.get_cmap("tab20")(np.linspace(0, 1, len(rows)))
    for axes, key, scale, label in ((grid[0], "frechet", 1, "Frechet distance (down is better)"),
                                    (grid[1], "accuracy", 100, "own class, %")):  # fmt: skip
        for i, (row, colour) in enumerate(zip(rows, colours)):
            axes.errorbar(row["ms_1"], scale * row[key], yerr=2 * scale * row[f"{key}_se"],
                          fmt="os^Dv"[i % 5], capsize=3, label=row["name"],
                          color=ACCENT if row["method"] == "var" else colour)  # fmt: skip
        axes.set_xscale("log")
        round_numbers(axes.xaxis)
        axes.margins(x=0.1)
        axes.set(xlabel="ms an image, batch 1", title=label)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center", frameon=False)
    return figure


@styled
def cost_growth(rows: Sequence[Row]) -> Figure:
    """How pairs, seconds and memory of drawing grow with image size, depth and batch.

    rows: of `bench.cost.cost_rows`.
    """
    colours = {"VAR": ACCENT, "raster AR, cache": BLUE, "raster AR, no cache": MUTED}
    memory = ("peak_mib", "peak memory, MiB (dots: cache)")
    panels = (("side", "pairs", "query-key pairs of attention"), ("side", "seconds", "seconds"),
              ("side", *memory), ("depth", "seconds", "seconds"),
              ("batch", "seconds", "seconds a batch"), ("batch", *memory))  # fmt: skip
    names = {"side": "side n of an n x n map", "depth": "blocks", "batch": "images at once"}
    figure, grid = plt.subplots(2, 3, figsize=(12.5, 6.6), layout="constrained")
    for axes, (axis, value, what) in zip(grid.flat, panels):
        along = sorted((r for r in rows if r["axis"] == axis), key=lambda r: r[axis])
        for method, colour in colours.items():
            of = [r for r in along if r["method"] == method]
            for name, line in ((value, "o-"), ("cache_mib", ":"))[: 1 + (value == "peak_mib")]:
                if points := [(r[axis], r[name]) for r in of if r.get(name)]:
                    axes.plot(*zip(*points), line, color=colour, markersize=4,
                              label=method if line == "o-" else None)  # fmt: skip
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        if value == "pairs":
            for power, start, x in ((4, 2.0, (4.0, 32.0)), (6, 0.35, (4.0, 16.0))):
                y = [start * n**power for n in x]
                axes.plot(x, y, ":", color=INK, linewidth=1)
                axes.annotate(f"n$^{power}$", (x[1], y[1]), (4, 0), textcoords="offset points")
        else:
            round_numbers(axes.yaxis)
        ticks = sorted({r[axis] for r in along})
        axes.set_xticks(ticks, [str(t) for t in ticks])
        axes.set_xticks([], minor=True)
        axes.set_xlabel(names[axis])
        axes.set_title(what)
    handles = grid[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=3, frameon=False)
    return figure
