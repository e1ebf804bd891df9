"""Figures of the committed results that the course shows: scaling laws, quality, error repair.

Each takes rows as `varmini.runtime.tables.read_rows` gives them and returns a matplotlib figure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, ScalarFormatter

from ..plots.charts import ACCENT, BLUE, INK, MUTED, STYLE, shades
from ..runtime.tables import Row
from .scaling.fits import BILLION, MEASURES, PAPER, ends_of, fit_power_law

NAMES = {
    "loss_last": "loss, last scale",
    "loss": "loss, all scales",
    "error_last": "token error, last scale",
    "error": "token error, all scales",
}
RANGES = {"n": (0.0185, 2.0), "c": (1e3, 1e6)}
"""The paper's range of N, in billions; and a range of C, in PFlops, to draw its laws over."""
styled = plt.rc_context(STYLE)


def log_axes(axes: Axes) -> None:
    """Logarithmic on both, with round numbers where the y axis spans no power of ten."""
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(ScalarFormatter(useOffset=False))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.minorticks_off()
    low, high = axes.get_ylim()
    if high / low < 10:
        axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))


def five_panels(over: str) -> tuple[Figure, dict[str, Axes]]:
    """A panel for each measure, and one of the published laws in the same units."""
    figure = plt.figure(figsize=(12.5, 6.2), layout="constrained")
    grid = figure.subplot_mosaic([[*MEASURES[:2], "paper"], [*MEASURES[2:], "paper"]])
    grid["loss_last"].set_ylabel("nats a token")
    grid["error_last"].set_ylabel("share of tokens")
    x = np.geomspace(*RANGES[over], 50)
    for (measure, (a, b)), colour in zip(PAPER[over].items(), shades(4)):
        name = f"{NAMES[measure]}:\n$({_plain(a)}\\,{over.upper()})^{{{b:g}}}$"
        grid["paper"].plot(x, (a * x) ** b, color=colour, label=name)
    log_axes(grid["paper"])
    grid["paper"].set_title("the paper's laws\n(ImageNet, 256 px)")
    grid["paper"].legend(frameon=False, fontsize=9)
    for axes in grid.values():
        axes.set_xlabel("N, billions of parameters" if over == "n" else "C, PFlops of training")
    return figure, grid


def _plain(value: float) -> str:
    """2.2e-05 as it is written in a formula."""
    digits, _, power = f"{value:g}".partition("e")
    return rf"{digits}\cdot 10^{{{int(power)}}}" if power else digits


def titled(axes: Axes, measure: str, over: str, law: Any) -> None:
    """Names a panel by its measure and its law, and makes both axes logarithmic."""
    name = rf"{NAMES[measure]}" "\n" rf"$\propto {over}^{{{law.b:.4f}}}$"
    axes.set_title(f"{name}, r = {law.pearson:.3f}")
    log_axes(axes)


@styled
def scaling_laws(rows: Sequence[Row]) -> Figure:
    """Four measures over parameters: runs, law, and the law that has not seen the largest size.

    rows: of the sweep; the last moment of every run is drawn. The paper's laws stand in a last
    panel of the same units.
    """
    end = ends_of(rows)
    x = np.array([row["n"] / BILLION for row in end])
    grid_x, smaller = np.geomspace(x.min(), x.max(), 50), x < x.max()
    figure, grid = five_panels("n")
    for measure in MEASURES:
        axes, y = grid[measure], np.array([row[measure] for row in end])
        law = fit_power_law(x, y)
        axes.plot(grid_x, law(grid_x), color=ACCENT, label="law of all sizes")
        if len(set(x[smaller])) > 1:
            part = fit_power_law(x[smaller], y[smaller])
            axes.plot(grid_x, part(grid_x), "--", color=MUTED, linewidth=1.2,
                      label="without the largest")  # fmt: skip
        axes.plot(x, y, "o", color=BLUE, markersize=4, alpha=0.8, label="runs")
        titled(axes, measure, "N", law)
    grid[MEASURES[0]].legend(frameon=False, fontsize=9)
    return figure


def round_numbers(axis: Any) -> None:
    """1, 3, 10, 30, ... on a logarithmic axis."""
    axis.set_major_locator(LogLocator(subs=(1, 3)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


@styled
def repair_bars(rows: Sequence[Row]) -> Figure:
    """Error repair in features: what the tokenizer mends, and what the model gains by seeing it."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 3.4), layout="constrained")
    at = np.arange(len(rows))
    share = [100 * row["repair_oracle_features"] for row in rows]
    left.bar(at, share, 0.6, color=BLUE)
    left.set(title="the tokenizer, which knows the picture", ylabel="damage mended, %")
    gain, low, high = (
        np.array([100 * row[f"gain_features{end}"] / row["features_unseen"] for row in rows])
        for end in ("", "_low", "_high")
    )
    right.bar(at - 0.2, gain, 0.38, yerr=(gain - low, high - gain), color=ACCENT,
              label="against maps drawn without seeing it")  # fmt: skip
    unfair = [100 * (1 - row["features_corrected"] / row["features_ignored"]) for row in rows]
    right.bar(at + 0.2, unfair, 0.38, color=MUTED, label="against maps drawn after the true map")
    right.set(title="the model, which sees the error", ylabel="error saved, %")
    right.legend(frameon=False, fontsize=9)
    for axes in (left, right):
        axes.axhline(0, color=INK, linewidth=1)
        axes.set_xticks(at, [f"map {r['scale']}\n{100 * r['changed']:.0f} %" for r in rows])
        axes.set_xlabel("which map is corrupted, and how much of it")
    return figure
