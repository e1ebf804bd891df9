"""Curves, bars and the attention mask; one style for all pictures of varmini.

Use these through `plots`. One red accent for what matters most; scales run from light (coarse) to
dark (fine).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from ..model.scales import ScaleSchedule
from ..runtime.tables import read_cells

INK, MUTED, ACCENT, BLUE = "#22262b", "#6b7280", "#d1495b", "#2b6c99"
DPI = 160
STYLE = {
    "figure.dpi": DPI,
    "savefig.dpi": DPI,
    "figure.facecolor": "white",
    "font.size": 11,
    "text.color": INK,
    "axes.facecolor": "white",
    "axes.edgecolor": "#d9dce1",
    "axes.labelcolor": MUTED,
    "axes.titlelocation": "left",
    "axes.titlesize": 12,
    "axes.titlepad": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#eceef1",
    "lines.linewidth": 1.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
}
NO_GRID = STYLE | {"axes.grid": False}


def shades(n: int) -> np.ndarray:
    """n colours (n, 4), light for coarse scales to dark for fine ones."""
    return colormaps["YlGnBu"](np.linspace(0.35, 0.95, n))


Log = str | os.PathLike | Iterable[Mapping[str, object]]


def read_log(log: Log) -> dict[str, np.ndarray]:
    """Columns of a training log (a log.csv or its rows) as floats; an empty cell is NaN.

    Raises ValueError when it is no such log, or damaged.
    """
    empty = (None, "")
    try:
        rows = read_cells(log) if isinstance(log, str | os.PathLike) else list(log)
        names = dict.fromkeys(name for row in rows for name in row)
        if not {"step", "loss"} <= names.keys():
            raise ValueError("no rows with step and loss")
        return {
            name: np.array([np.nan if row.get(name) in empty else float(row[name]) for row in rows])
            for name in names
        }
    except (ValueError, TypeError) as error:
        raise ValueError(f"{log!s:.80} is no log ({error}), expected a log.csv") from None


def spread_out(values: Sequence[float], gap: float, low: float, high: float) -> np.ndarray:
    """The values moved apart, in order, to at least gap between neighbours, inside [low, high]."""
    order = np.argsort(values, kind="stable")
    wanted = np.asarray(values, dtype=float)[order]
    ramp = gap * np.arange(len(wanted))
    upper = np.maximum.accumulate(wanted - ramp)
    lower = np.minimum.accumulate((wanted - ramp)[::-1])[::-1]
    placed = (upper + lower) / 2
    placed = np.clip(placed, low, max(low, high - ramp[-1])) + ramp
    result = np.empty_like(placed)
    result[order] = placed
    return result


def _lines(axes: Axes, log: dict, series: Sequence[tuple[str, str, object]], title: str) -> None:
    """Draws (column, name, colour) lines over the steps, named at their right ends."""
    ends = []
    for column, name, colour in series:
        seen = np.isfinite(log.get(column, np.array([np.nan])))
        if seen.any():
            x, y = log["step"][seen], log[column][seen]
            axes.plot(x, y, color=colour, marker="o" if len(x) < 8 else None, markersize=3)
            ends.append((y[-1], name, colour))
    axes.set_title(title)
    axes.set_xlabel("step")
    axes.set_xlim(0, max(1, log["step"].max()))
    if len(ends) > 1:
        low, high = axes.get_ylim()
        places = spread_out([y for y, _, _ in ends], 0.08 * (high - low), low, high)
        for place, (_, name, colour) in zip(places, ends):
            at = {"xy": (1.01, place), "xycoords": ("axes fraction", "data")}
            axes.annotate(name, **at, color=colour, va="center", fontsize=10, annotation_clip=False)


def _each(data: Mapping[str, np.ndarray], prefix: str) -> list[tuple[str, str, np.ndarray]]:
    columns = [c for c in data if c.startswith(prefix) and c.removeprefix(prefix).isdigit()]
    names = [f"scale {c.removeprefix(prefix)}" for c in columns]
    return list(zip(columns, names, shades(len(columns))))


@plt.rc_context(STYLE)
def loss_curves(log: Log, title: str | None = None) -> Figure:
    """The curves of a training run, read from its log.csv (a path) or from rows of it.

    Three panels. Tokenizer: losses, PSNR of held-out images, codebook usage of every scale.
    VAR: cross-entropy of all and of the last scale, cross-entropy of every scale, token accuracy.
    Raises ValueError when the log has no rows or cannot be read.
    """
    data, pale = read_log(log), "#e39aa5"
    if "psnr" in data:
        panels = {
            "Loss": [("loss", "total", ACCENT), ("reconstruction", "pictures", BLUE),
                     ("vq", "codes", "#c58b2a")],
            "PSNR of held-out pictures (dB)": [("psnr", "", BLUE)],
            "Share of codes used": [*_each(data, "usage_"), ("usage_all", "all", ACCENT)],
        }  # fmt: skip
    else:
        panels = {
            "Cross-entropy (nats a token)": [
                ("loss", "all scales", ACCENT), ("val_loss", "all, held out", pale),
                ("loss_last", "last scale", BLUE), ("val_loss_last", "last, held out", "#8fb8d4"),
            ],
            "Each scale, held out": _each(data, "val_loss_") or _each(data, "loss_"),
            "Share of tokens guessed right": [
                ("accuracy", "all scales", ACCENT), ("val_accuracy", "all, held out", pale),
                ("accuracy_last", "last scale", BLUE),
            ],
        }  # fmt: skip
    figure, grid = plt.subplots(1, 3, figsize=(10.6, 3.4), layout="constrained")
    for axes, (name, series) in zip(grid, panels.items()):
        _lines(axes, data, series, name)
    if title:
        figure.suptitle(title, x=0.005, ha="left", fontsize=13)
    return figure


@plt.rc_context(NO_GRID | {"axes.spines.left": False, "axes.spines.bottom": False})
def codebook_usage(usage: Mapping, names: Sequence[str]) -> Figure:
    """Bars: the share of the codes that each scale could show which it does show.

    usage: the result of `metrics.codebook_usage`; names: one for each scale, such as "2×2".
    """
    entries = [*usage["scales"], usage["overall"]]
    shares = [100 * entry["share"] for entry in entries]
    figure, axes = plt.subplots(figsize=(8, 0.9 + 0.42 * len(entries)), layout="constrained")
    axes.barh(range(len(entries)), [100] * len(entries), color="#f0f2f4", height=0.68)
    axes.barh(range(len(entries)), shares, color=[*shades(len(names)), ACCENT], height=0.68)
    for i, (share, entry) in enumerate(zip(shares, entries)):
        axes.text(112, i, f"{share:.0f} %", ha="right", va="center")
        words = f"{entry['used']:,} of {entry['allowed']:,}"
        axes.text(115, i, words, va="center", color=MUTED)
    axes.set_yticks(range(len(entries)), [*names, "all scales"])
    axes.set_xticks([0, 50, 100], ["0", "50", "100 %"])
    axes.set_xlim(0, 138)
    axes.invert_yaxis()
    axes.set_title("Codes used, of those a scale could show")
    return figure


@plt.rc_context(NO_GRID)
def mask_picture(schedule: ScaleSchedule) -> Figure:
    """The block-causal mask: row i is shaded where token i may attend, by the scale it looks at.

    The colour of a column is its scale's; what may not be looked at is grey.
    """
    mask, levels = schedule.mask().cpu().numpy(), schedule.level_ids().cpu().numpy()
    names, total, top = [f"{h}×{w}" for h, w in schedule.grids], len(levels), len(schedule)
    centres = [(part.start + part.stop - 1) / 2 for part in schedule.slices]
    figure, axes = plt.subplots(figsize=(4.6, 4.8), layout="constrained")
    palette = ListedColormap([(0.953, 0.957, 0.965, 1), *shades(top)])
    picture = np.where(mask, levels[None] + 1, 0)
    axes.imshow(picture, cmap=palette, vmin=0, vmax=top, interpolation="nearest")
    for part in schedule.slices[:-1]:
        axes.axhline(part.stop - 0.5, color="white", linewidth=0.8)
        axes.axvline(part.stop - 0.5, color="white", linewidth=0.8)
    axes.set(xticks=[], yticks=[], frame_on=False, title=f"Who may look at whom: {total} tokens",
             xlabel="looks at tokens of this map", ylabel="a token of this map")  # fmt: skip
    axes.xaxis.labelpad = axes.yaxis.labelpad = 72
    thin = sum(n < 0.042 * total for n in schedule.tokens_per_scale)
    if thin > 1:  # the first maps, with no room for a label each
        names[:thin], centres[:thin] = [f"{names[0]} to {names[thin - 1]}"], [centres[thin - 1] / 2]
    for place, name in zip(centres, names):
        axes.text(-0.02 * total, place, name, ha="right", va="center", color=MUTED)
        axes.text(place, 1.02 * total, name, ha="center", va="top", color=MUTED, rotation=90)
    return figure


@plt.rc_context(NO_GRID)
def flow(
    boxes: Mapping[str, tuple[float, float]],
    arrows: Sequence[tuple[str, str] | tuple[str, str, str]],
    accent: Sequence[str] = (),
) -> Figure:
    """Boxes of text at (column, row), row 0 on top, joined by arrows (from, to, what flows).

    accent: boxes that stand out.
    """
    columns, rows = (max(place[i] for place in boxes.values()) + 1 for i in (0, 1))
    wide = 1.85 if any(words for _, _, *words in arrows) else 1.5  # inches a column
    figure, axes = plt.subplots(figsize=(wide * columns, 0.95 * rows))
    figure.subplots_adjust(0.005, 0.01, 0.995, 0.99)
    axes.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5))
    axes.axis("off")
    drawn, middle = {}, {"ha": "center", "va": "center"}
    for name, (x, y) in boxes.items():
        edge = ACCENT if name in accent else "#b8c4d0"
        look = {"boxstyle": "round,pad=0.5", "facecolor": "#f6f8fa", "edgecolor": edge}
        drawn[name] = axes.text(x, y, name, fontsize=13, zorder=2, bbox=look, **middle)
    for start, end, *words in arrows:
        line = {"arrowstyle": "-|>", "color": MUTED, "shrinkA": 0, "shrinkB": 2}
        ends = {"patchA": drawn[start].get_bbox_patch(), "patchB": drawn[end].get_bbox_patch()}
        (x, y), (to_x, to_y) = boxes[start], boxes[end]
        # Drawn after the boxes, whose edges, where arrows end, are known by then.
        axes.annotate("", (to_x, to_y), (x, y), arrowprops=line | ends, zorder=3)
        if words:
            beside = {"ha": "left", "va": "center"} if x == to_x else {"ha": "center"}
            at = ((x + to_x) / 2 + 0.04 * (x == to_x), (y + to_y) / 2 - 0.08 * (y == to_y))
            if x != to_x and y != to_y:  # on a slanted arrow, which the words interrupt
                beside = middle | {"backgroundcolor": "white"}
            axes.text(*at, words[0], color=MUTED, fontsize=11, zorder=4, **beside)
    return figure
