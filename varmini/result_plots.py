"""Figures of the committed results: scaling laws, the comparison, error repair.

Each takes rows as `varmini.results.read_rows` gives them and returns a matplotlib figure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .charts import ACCENT, BLUE, INK, MUTED, STYLE, _shades
from .fits import BILLION, PAPER, PFLOP, fit_power_law
from .sweep import MEASURES, frontier

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = dict[str, Any]
NAMES = {
    "loss_last": "loss, last scale",
    "loss": "loss, all scales",
    "error_last": "token error, last scale",
    "error": "token error, all scales",
}
PAPER_N, PAPER_C = (0.0185, 2.0), (1e3, 1e6)
"""The paper's range of N, in billions; and a range of C, in PFlops, to draw its laws over."""


def _log_axes(axes: Axes) -> None:
    from matplotlib.ticker import NullFormatter, ScalarFormatter

    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.yaxis.set_minor_formatter(NullFormatter())
    low, high = axes.get_ylim()
    if high / low < 10:  # no power of ten inside: label round numbers instead
        axes.set_yticks([float(f"{t:.3g}") for t in np.geomspace(low, high, 5)[1:-1]])


def _paper_panel(axes: Axes, over: str) -> None:
    """The published laws over the published sizes, in the same units."""
    x = np.geomspace(*(PAPER_N if over == "n" else PAPER_C), 50)
    colours = dict(zip(MEASURES, _shades(4)))
    for law in (p for p in PAPER if p.over == over):
        axes.plot(x, (law.a * x) ** law.b, color=colours[law.measure], label=NAMES[law.measure])
    axes.set_title("the paper's laws\n(ImageNet, 256 px)")


def scaling_laws(rows: Sequence[Row]) -> Figure:
    """Four measures over parameters: runs, law, and the law that has not seen the largest size.

    rows: of the sweep; the last moment of every run is drawn. The paper's laws stand in a last
    panel of the same units.
    """
    import matplotlib.pyplot as plt

    last = max(row["images"] for row in rows)
    end = [row for row in rows if row["images"] == last]
    x = np.array([row["n"] / BILLION for row in end])
    grid_x = np.geomspace(x.min(), x.max(), 50)
    with plt.rc_context(STYLE):
        figure = plt.figure(figsize=(12.5, 6.2), layout="constrained")
        grid = figure.subplot_mosaic([[*MEASURES[:2], "paper"], [*MEASURES[2:], "paper"]])
        for measure in MEASURES:
            axes, y = grid[measure], np.array([row[measure] for row in end])
            law, rest = fit_power_law(x, y), x < x.max()
            axes.plot(grid_x, law(grid_x), color=ACCENT, label="law of all sizes")
            if len(set(x[rest])) > 1:
                part = fit_power_law(x[rest], y[rest])
                axes.plot(grid_x, part(grid_x), "--", color=MUTED, linewidth=1.2,
                          label="without the largest")  # fmt: skip
            axes.plot(x, y, "o", color=BLUE, markersize=4, alpha=0.8, label="runs")
            axes.set_title(f"{NAMES[measure]}\n∝ N^{law.b:.4f}, r = {law.pearson:.3f}")
            _log_axes(axes)
        grid[MEASURES[0]].legend(frameon=False, fontsize=9)
        _paper_panel(grid["paper"], "n")
        _log_axes(grid["paper"])
        grid["paper"].legend(frameon=False, fontsize=9)
        for axes in grid.values():
            axes.set_xlabel("N, billions of parameters")
    return figure


def compute_frontier(rows: Sequence[Row]) -> Figure:
    """Loss over training compute: every size on its way, the frontier, its law; and the paper's."""
    import matplotlib.pyplot as plt

    depths = sorted({row["depth"] for row in rows})
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(1, 3, figsize=(12.5, 3.8), layout="constrained")
        for axes, measure in zip(grid, ("loss_last", "loss")):
            for depth, colour in zip(depths, _shades(len(depths))):
                for seed in sorted({row["seed"] for row in rows}):
                    run = [r for r in rows if r["depth"] == depth and r["seed"] == seed]
                    run.sort(key=lambda r: r["flops"])
                    c = [r["flops"] / PFLOP for r in run]
                    axes.plot(c, [r[measure] for r in run], "o-", color=colour, markersize=3,
                              linewidth=1, label=f"d = {depth}" if seed == 0 else None)  # fmt: skip
            c, y = frontier(rows, measure)
            axes.set_title(NAMES[measure])
            if len(c) > 2:
                law = fit_power_law(c, y)
                axes.plot(c, law(c), "--", color=ACCENT, label="law of the frontier")
                axes.set_title(f"{NAMES[measure]}\n∝ C^{law.b:.4f}, r = {law.pearson:.3f}")
            _log_axes(axes)
        grid[0].legend(frameon=False, fontsize=8)
        _paper_panel(grid[2], "c")
        _log_axes(grid[2])
        grid[2].legend(frameon=False, fontsize=8)
        for axes in grid:
            axes.set_xlabel("C, PFlops of training")
    return figure


def law_residuals(rows: Sequence[Row]) -> Figure:
    """Where the toy bends: how far every run lies off its law, in per cent."""
    import matplotlib.pyplot as plt

    last = max(row["images"] for row in rows)
    end = [row for row in rows if row["images"] == last]
    x = [row["n"] / BILLION for row in end]
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(1, 4, figsize=(12.5, 2.8), layout="constrained")
        for axes, measure in zip(grid, MEASURES):
            law = fit_power_law(x, [row[measure] for row in end])
            axes.axhline(0, color=ACCENT, linewidth=1)
            axes.plot(x, 100 * np.expm1(law.residuals), "o", color=BLUE, markersize=4)
            axes.set_xscale("log")
            axes.set_title(NAMES[measure])
            axes.set_xlabel("N, billions")
        grid[0].set_ylabel("off the law, %")
    return figure


def quality_and_time(rows: Sequence[Row]) -> Figure:
    """The comparison: Frechet distance (down is better) over milliseconds an image.

    rows: of the table, with name, ms_1, ms_16, frechet and frechet_se.
    """
    import matplotlib.pyplot as plt

    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(1, 2, figsize=(10.5, 3.8), layout="constrained", sharey=True)
        for axes, batch in zip(grid, (1, 16)):
            for i, row in enumerate(rows):
                colour = ACCENT if row["name"] == "VAR" else INK
                axes.errorbar(row[f"ms_{batch}"], row["frechet"], yerr=2 * row["frechet_se"],
                              fmt="o", color=colour, capsize=3, markersize=5)  # fmt: skip
                axes.annotate(row["name"], (row[f"ms_{batch}"], row["frechet"]),
                              (5, 5 if i % 2 else -12),  # neighbours may be of one height
                              textcoords="offset points", fontsize=9, color=colour)  # fmt: skip
            axes.set_xscale("log")
            axes.margins(x=0.4)
            low, high = axes.get_xlim()
            ticks = [
                d * 10.0**e for e in range(-3, 6) for d in (1, 3) if low <= d * 10.0**e <= high
            ]
            axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
            axes.set_xticks([], minor=True)
            axes.set_xlabel("ms an image")
            axes.set_title(f"batch {batch}")
        grid[0].set_ylabel("Frechet distance, our classifier")
    return figure


def repair_bars(rows: Sequence[Row]) -> Figure:
    """Error repair: the share of the damage that the model, and the tokenizer, remove."""
    import matplotlib.pyplot as plt

    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(1, 2, figsize=(10.5, 3.4), layout="constrained", sharey=True)
        for axes, space in zip(grid, ("features", "pixels")):
            for arm, colour, shift in (("corrected", ACCENT, -0.2), ("oracle", BLUE, 0.2)):
                y = [row[f"repair_{arm}_{space}"] for row in rows]
                error = [2 * row[f"repair_{arm}_{space}_se"] for row in rows]
                name = "drawn by the model" if arm == "corrected" else "coded by the tokenizer"
                at = np.arange(len(rows)) + shift
                axes.bar(at, y, 0.38, yerr=error, color=colour, label=name)
            axes.axhline(0, color=INK, linewidth=1)
            names = [f"map {r['scale']}\n{100 * r['changed']:.0f} %" for r in rows]
            axes.set_xticks(range(len(rows)), names)
            axes.set_title(f"in {space}")
        grid[0].set_ylabel("share of the damage mended")
        handles = grid[0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside lower center", ncols=2, frameon=False)
    return figure


def cost_growth(rows: Sequence[Row]) -> Figure:
    """How pairs, seconds and memory of drawing grow with image size, depth and batch.

    rows: of `bench.cost.cost_rows`.
    """
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, NullFormatter

    colours = {"VAR": ACCENT, "raster AR, cache": BLUE, "raster AR, no cache": MUTED}
    panels = (
        ("side", "pairs", "query-key pairs of attention"),
        ("side", "seconds", "seconds"),
        ("side", "peak_mib", "peak memory, MiB (dots: cache)"),
        ("depth", "seconds", "seconds"),
        ("batch", "seconds", "seconds a batch"),
        ("batch", "peak_mib", "peak memory, MiB (dots: cache)"),
    )
    names = {"side": "side n of an n x n map", "depth": "blocks", "batch": "images at once"}
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(2, 3, figsize=(12.5, 6.6), layout="constrained")
        for axes, (axis, value, what) in zip(grid.flat, panels):
            for method, colour in colours.items():
                points = sorted((r[axis], r[value]) for r in rows if r["axis"] == axis
                                and r["method"] == method and r.get(value))  # fmt: skip
                if points:
                    axes.plot(*zip(*points), "o-", color=colour, markersize=4, label=method)
                if value == "peak_mib":
                    cache = sorted((r[axis], r["cache_mib"]) for r in rows if r["axis"] == axis
                                   and r["method"] == method and r["cache_mib"])  # fmt: skip
                    axes.plot(*zip(*cache), ":", color=colour) if cache else None
            if value == "pairs":
                for power, start in ((4, 2.0), (6, 0.35)):
                    x = np.array([4.0, 32.0 if power == 4 else 16.0])
                    axes.plot(x, start * x**power, ":", color=INK, linewidth=1)
                    axes.annotate(f"n$^{power}$", (x[1], start * x[1] ** power), (4, 0),
                                  textcoords="offset points")  # fmt: skip
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            if value != "pairs":
                axes.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
                axes.yaxis.set_major_formatter("{x:g}")
                axes.yaxis.set_minor_formatter(NullFormatter())
            ticks = sorted({r[axis] for r in rows if r["axis"] == axis})
            axes.set_xticks(ticks, [str(t) for t in ticks])
            axes.set_xticks([], minor=True)
            axes.set_xlabel(names[axis])
            axes.set_title(what)
        handles = grid[0, 0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside lower center", ncols=3, frameon=False)
    return figure
