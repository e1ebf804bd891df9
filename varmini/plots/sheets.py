"""Sheets of pictures: pixels enlarged by whole numbers, never blurred, with names and captions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from ..data import to_uint8
from .charts import DPI, INK, MUTED, STYLE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHEET_WIDTH = 1280  # pixels a sheet of pictures aims at


def pixels_of(images: Tensor) -> np.ndarray:
    """Float images (B, 1 or 3, H, W) in [-1, 1] to uint8 (B, H, W, 3)."""
    if images.ndim != 4 or images.shape[1] not in (1, 3) or not len(images):
        raise ValueError(f"images have shape {tuple(images.shape)}, expected (B, 1 or 3, H, W)")
    pixels = to_uint8(images.detach().cpu()).permute(0, 2, 3, 1).numpy()
    return np.broadcast_to(pixels, (*pixels.shape[:3], 3))


def enlarge(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Nearest neighbour: (h, w, 3) to (height, width, 3)."""
    rows = np.arange(height) * pixels.shape[0] // height
    columns = np.arange(width) * pixels.shape[1] // width
    return pixels[rows][:, columns]


def sheet_of(
    cells: Sequence[Sequence[np.ndarray]],
    *,
    title: str | None = None,
    headings: Sequence[str] = (),
    captions: Sequence[Sequence[str]] = (),
    row_names: Sequence[str] = (),
    codes: Mapping[tuple[int, int], np.ndarray] | None = None,
    group: int = 1,
) -> Figure:
    """Rows of pictures (H, W, 3) of one size; a sheet pixel is a pixel of the figure.

    headings stand above the columns, captions below each picture, row_names before the rows; codes:
    (row, column) -> integers (n, m) to be written into that picture; group: rows that stand close
    together.
    """
    import matplotlib.pyplot as plt

    rows, columns = len(cells), max(len(row) for row in cells)
    height, width = cells[0][0].shape[:2]
    fitting = min(round(SHEET_WIDTH / (columns * width)), 192 // height)
    zoom = max(1, math.ceil(72 / height), fitting)
    h, w, gap, edge = height * zoom, width * zoom, 10, 16
    names = [*headings, *(c for row in captions for c in row)]
    point = DPI / 72  # pixels in a typographic point; a letter is about 0.56 of its size wide
    size = max(6.0, min(11.0, w / (0.56 * point * max(map(len, names), default=1))))
    line = round(1.9 * size * point)
    step_y, step_x = h + gap + (line if captions else 0), w + gap
    tops = [i * step_y + (i // group) * 2 * gap * (group > 1) for i in range(rows)]
    sheet = np.full((tops[-1] + step_y - gap, columns * step_x - gap, 3), 255, np.uint8)
    for y, row in zip(tops, cells, strict=True):
        for j, cell in enumerate(row):
            sheet[y : y + h, j * step_x : j * step_x + w] = enlarge(cell, h, w)
    top = edge + (52 if title else 0) + (line if headings else 0)
    left = edge + round(0.6 * 11 * point * max(map(len, row_names), default=0))
    full_h, full_w = sheet.shape[0] + top + edge, sheet.shape[1] + left + edge
    with plt.rc_context(STYLE):
        # matplotlib cuts sizes down to whole pixels, so stay safely above one.
        figure = plt.figure(figsize=((full_w + 0.01) / DPI, (full_h + 0.01) / DPI))
        place = (left, edge, sheet.shape[1], sheet.shape[0])
        axes = figure.add_axes(tuple(np.array(place) / (full_w, full_h, full_w, full_h)))
        axes.imshow(sheet, interpolation="nearest", aspect="auto")
        axes.axis("off")
        # Names of classes and folders are shown as they are: "$" begins no formula.
        text = {"ha": "center", "fontsize": size, "color": MUTED, "parse_math": False}
        for j, heading in enumerate(headings):
            axes.text(j * step_x + w / 2, -8, heading, va="bottom", **text)
        for i, row in enumerate(captions):
            for j, caption in enumerate(row):
                axes.text(j * step_x + w / 2, tops[i] + h + 4, caption, va="top", **text)
        for y, name in zip(tops, row_names):
            axes.text(-gap, y + h / 2, name, va="center", **text | {"ha": "right", "fontsize": 11})
        for (i, j), numbers in (codes or {}).items():
            _write_codes(axes, numbers, cells[i][j], j * step_x, tops[i], h, w)
        if title:
            at = edge / full_w, 1 - 12 / full_h
            figure.text(*at, title, va="top", fontsize=13, parse_math=False)
    return figure


def _write_codes(
    axes: Axes, codes: np.ndarray, cell: np.ndarray, x: int, y: int, h: int, w: int
) -> None:
    n, m = codes.shape
    for (r, c), code in np.ndenumerate(codes):
        colour = cell[int((r + 0.5) * cell.shape[0] / n), int((c + 0.5) * cell.shape[1] / m)]
        ink = "white" if colour @ np.array([0.299, 0.587, 0.114]) < 140 else INK
        at = (x + (c + 0.5) * w / m, y + (r + 0.5) * h / n)
        size = max(5, min(11, w / m / 5))
        axes.text(*at, str(code), ha="center", va="center", fontsize=size, color=ink)
