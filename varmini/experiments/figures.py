"""Figures of the committed results: scaling laws, the comparison, error repair.

Each takes rows as `varmini.runtime.tables.read_rows` gives them and returns a matplotlib figure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..plots.charts import ACCENT, BLUE, INK, MUTED, STYLE, shades
from .scaling.fits import BILLION, PAPER, PFLOP, bend, fit_power_law
from .scaling.laws import MEASURES, frontier, second_half

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
COLOURS = {
    "VAR": ACCENT,
    "raster AR, cache": BLUE,
    "raster AR, no cache": "#8fb8d6",
    "MaskGIT, 8 rounds": "#3a9188",
    "DiT, DDIM 25": "#8d6bb1",
    "DiT, DDIM 250": "#c3aee0",
}
"""Of the ways to draw that are compared."""


def _log_axes(axes: Axes) -> None:
    """Logarithmic on both, with round numbers where the y axis spans no power of ten."""
    from matplotlib.ticker import MaxNLocator, NullFormatter, ScalarFormatter

    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(ScalarFormatter(useOffset=False))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.minorticks_off()
    low, high = axes.get_ylim()
    if high / low < 10:
        axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))


def _five_panels(over: str) -> tuple[Figure, dict[str, Axes]]:
    """A panel for each measure, and one of the published laws in the same units."""
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(12.5, 6.2), layout="constrained")
    grid = figure.subplot_mosaic([[*MEASURES[:2], "paper"], [*MEASURES[2:], "paper"]])
    grid["loss_last"].set_ylabel("nats a token")
    grid["error_last"].set_ylabel("share of tokens")
    x = np.geomspace(*(PAPER_N if over == "n" else PAPER_C), 50)
    colours = dict(zip(MEASURES, shades(4)))
    for law in (p for p in PAPER if p.over == over):
        name = f"{NAMES[law.measure]}:\n$({_plain(law.a)}\\,{over.upper()})^{{{law.b:g}}}$"
        grid["paper"].plot(x, (law.a * x) ** law.b, color=colours[law.measure], label=name)
    _log_axes(grid["paper"])
    grid["paper"].set_title("the paper's laws\n(ImageNet, 256 px)")
    grid["paper"].legend(frameon=False, fontsize=9)
    unit = "N, billions of parameters" if over == "n" else "C, PFlops of training"
    for axes in grid.values():
        axes.set_xlabel(unit)
    return figure, grid


def _plain(value: float) -> str:
    """2.2e-05 as it is written in a formula."""
    digits, _, power = f"{value:g}".partition("e")
    return rf"{digits}\cdot 10^{{{int(power)}}}" if power else digits


def _titled(axes: Axes, measure: str, over: str, law: Any) -> None:
    _log_axes(axes)
    axes.set_title(rf"{NAMES[measure]}" "\n" rf"$\propto {over}^{{{law.b:.4f}}}$, "
                   f"r = {law.pearson:.3f}")  # fmt: skip


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
        figure, grid = _five_panels("n")
        for measure in MEASURES:
            axes, y = grid[measure], np.array([row[measure] for row in end])
            law, rest = fit_power_law(x, y), x < x.max()
            axes.plot(grid_x, law(grid_x), color=ACCENT, label="law of all sizes")
            if len(set(x[rest])) > 1:
                part = fit_power_law(x[rest], y[rest])
                axes.plot(grid_x, part(grid_x), "--", color=MUTED, linewidth=1.2,
                          label="without the largest")  # fmt: skip
            axes.plot(x, y, "o", color=BLUE, markersize=4, alpha=0.8, label="runs")
            _titled(axes, measure, "N", law)
        grid[MEASURES[0]].legend(frameon=False, fontsize=9)
    return figure


def compute_frontier(rows: Sequence[Row]) -> Figure:
    """Four measures over compute: every size on its way, the frontier, its law; and the paper's."""
    import matplotlib.pyplot as plt

    depths = sorted({row["depth"] for row in rows})
    with plt.rc_context(STYLE):
        figure, grid = _five_panels("c")
        for measure in MEASURES:
            axes = grid[measure]
            for depth, colour in zip(depths, shades(len(depths))):
                for seed in sorted({row["seed"] for row in rows}):
                    run = [r for r in rows if r["depth"] == depth and r["seed"] == seed]
                    run.sort(key=lambda r: r["flops"])
                    c = [r["flops"] / PFLOP for r in run]
                    axes.plot(c, [r[measure] for r in run], "o-", color=colour, markersize=3,
                              linewidth=1, label=f"d = {depth}" if seed == 0 else None)  # fmt: skip
            c, y = frontier(rows, measure)
            axes.set_title(NAMES[measure])
            _log_axes(axes)
            if len(c) > 2:
                law = fit_power_law(c, y)
                axes.plot(c, law(c), "--", color=ACCENT, label="law of the frontier")
                _titled(axes, measure, "C", law)
        grid[MEASURES[0]].legend(frameon=False, fontsize=8, ncols=2, loc="lower left")
    return figure


def law_residuals(rows: Sequence[Row]) -> Figure:
    """Where the toy bends: how far each run lies off its law over N, and the parabola through that.

    A last panel shows how much the second half of training brings, which is nothing where a run
    has learned what its size allows.
    """
    import matplotlib.pyplot as plt

    last = max(row["images"] for row in rows)
    end = [row for row in rows if row["images"] == last]
    x = np.array([row["n"] / BILLION for row in end])
    u, grid_x = np.log(x), np.geomspace(x.min(), x.max(), 50)
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(1, 5, figsize=(12.5, 2.9), layout="constrained")
        for axes, measure in zip(grid, MEASURES):
            y = [row[measure] for row in end]
            off = 100 * np.expm1(fit_power_law(x, y).residuals)
            axes.axhline(0, color=ACCENT, linewidth=1)
            axes.plot(x, off, "o", color=BLUE, markersize=4)
            if len(set(x)) > 2:
                curve = np.polyfit(u - u.mean(), off, 2)
                axes.plot(grid_x, np.polyval(curve, np.log(grid_x) - u.mean()), color=MUTED)
                axes.set_xlabel(f"N, billions (bend {bend(x, y):.2f})")
            axes.set_xscale("log")
            axes.set_title(NAMES[measure], fontsize=11)
        grid[0].set_ylabel("off the law, %")
        gain = second_half(rows)
        sizes, shares = [n / BILLION for n in gain], [100 * g for g in gain.values()]
        grid[4].plot(sizes, shares, "o-", color=BLUE)
        grid[4].set_xscale("log")
        grid[4].set_ylim(0, None)
        grid[4].set_title("second half's gain, %", fontsize=11)
        grid[4].set_xlabel("N, billions")
    return figure


def _ms_axis(axes: Axes, batch: int) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.15)
    axes.set_xlabel(f"ms an image, batch {batch}")


def _point(axes: Axes, row: Row, x: str, y: str = "frechet") -> None:
    """One method with two standard errors each way, as far as the row has them."""
    error = {f"{k}err": 2 * row[f"{name}_se"] for k, name in (("x", x), ("y", y))
             if f"{name}_se" in row}  # fmt: skip
    colour = COLOURS.get(row["name"], MUTED)
    axes.errorbar(row[x], row[y], fmt="o", color=colour, capsize=3, label=row["name"], **error)


def quality_and_time(rows: Sequence[Row]) -> Figure:
    """The comparison: Frechet distance (down is better) over milliseconds an image.

    rows: of the table, with name, ms_1, ms_16, frechet and frechet_se.
    """
    import matplotlib.pyplot as plt

    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(1, 2, figsize=(10.5, 3.8), layout="constrained", sharey=True)
        for axes, batch in zip(grid, (1, 16)):
            for row in rows:
                _point(axes, row, f"ms_{batch}")
            _ms_axis(axes, batch)
        grid[0].set_ylabel("Frechet distance, our classifier")
        figure.legend(*grid[0].get_legend_handles_labels(), loc="outside lower center",
                      ncols=len(rows), frameon=False, fontsize=9)  # fmt: skip
    return figure


def comparison(rows: Sequence[Row], claims: Mapping[str, float]) -> Figure:
    """All of the comparison: distance over time and FLOPs, the other measures, ratios to VAR.

    rows: of results/comparison/table.csv. claims: {name: how many times VAR's time, as published}.
    """
    import matplotlib.pyplot as plt
    from matplotlib.lines import Line2D

    measured = [row for row in rows if "frechet" in row]
    # The two caches of a raster model draw the same pictures.
    unlike = [row for row in measured if row["name"] != "raster AR, no cache"]
    timed = [row for row in rows if "ms_1_ratio" in row and "ms_16_ratio" in row][1:]
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(2, 3, figsize=(12.5, 7.2), layout="constrained")
        for axes, batch in zip(grid[0], (1, 16)):
            for row in (r for r in measured if f"ms_{batch}" in r):
                _point(axes, row, f"ms_{batch}")
            _ms_axis(axes, batch)
        for row in (r for r in measured if "flops" in r):
            _point(grid[0, 2], row | {"gflops": row["flops"] / 1e9}, "gflops")
        _ms_axis(grid[0, 2], 1)
        grid[0, 2].set_xlabel("GFLOPs an image")
        for axes in grid[0, 1:]:
            axes.sharey(grid[0, 0])
        grid[0, 0].set_title("Frechet distance (down is better)")
        for i, row in enumerate(unlike):
            grid[1, 0].barh(i, 100 * row["accuracy"], xerr=200 * row["accuracy_se"],
                            color=COLOURS.get(row["name"], MUTED), ecolor=INK)  # fmt: skip
            _point(grid[1, 1], row, "recall", "precision")
        grid[1, 0].set_yticks(range(len(unlike)), [row["name"] for row in unlike], fontsize=9)
        grid[1, 0].invert_yaxis()
        grid[1, 0].set_title("own class, %")
        grid[1, 1].set_title("precision over recall (upper right is best)")
        grid[1, 1].set_xlabel("recall")
        for i, row in enumerate(timed):
            for batch, mark in ((1, "o"), (16, "s")):
                grid[1, 2].plot(row[f"ms_{batch}_ratio"], i, mark,
                                color=COLOURS.get(row["name"], MUTED))  # fmt: skip
            if row["name"] in claims:
                grid[1, 2].plot(claims[row["name"]], i, "x", color=INK)
        grid[1, 2].axvline(1, color=ACCENT, linewidth=1)
        grid[1, 2].set_xscale("log")
        grid[1, 2].set_xticks([1, 3, 10, 30, 100], ["1", "3", "10", "30", "100"])
        grid[1, 2].minorticks_off()
        grid[1, 2].set_yticks(range(len(timed)), [row["name"] for row in timed], fontsize=9)
        grid[1, 2].invert_yaxis()
        grid[1, 2].set_title("time, as a multiple of VAR's")
        symbols = [
            Line2D([], [], marker=mark, linestyle="", color=MUTED, label=f"{name} (times)")
            for mark, name in (("o", "batch 1"), ("s", "batch 16"), ("x", "paper"))
        ]
        handles = [*grid[0, 0].get_legend_handles_labels()[0], *symbols]
        figure.legend(handles=handles, loc="outside lower center",
                      ncols=-(-len(handles) // 2), frameon=False, fontsize=9)  # fmt: skip
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
            axes.set_xlabel("which map is corrupted, and how much of it")
        grid[0].set_ylabel("share of the damage mended")
        handles = grid[0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside lower center", ncols=2, frameon=False)
    return figure
