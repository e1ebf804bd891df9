"""The figure of `bench.cost`: growth of pairs, time and memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ...plots.charts import ACCENT, BLUE, INK, MUTED, STYLE
from ...runtime.tables import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
