"""Images, token maps and how they grow, as figures; each function shows nothing by itself.

Pixels are enlarged by whole numbers, never blurred, with names and captions around them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ..data import to_uint8
from ..runtime.files import write_atomic
from .charts import DPI, INK, MUTED, STYLE

SHEET_WIDTH = 1280  # pixels a sheet of pictures aims at


def png_of(figure: Figure) -> bytes:
    """A figure as a PNG file; closes it, or a notebook would show it a second time."""
    content = BytesIO()
    figure.savefig(content, format="png")
    plt.close(figure)
    return content.getvalue()


def save(figure: Figure, path: Path) -> tuple[int, int]:
    """Writes a figure as a PNG file (whole or not at all) and closes it; its (width, height)."""
    size = figure.canvas.get_width_height()
    write_atomic(Path(path), png_of(figure))
    return size


# ------------------------------------------------------------------------------ sheets of pictures


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


@plt.rc_context(STYLE)
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
    columns, (height, width) = max(map(len, cells)), cells[0][0].shape[:2]
    fitting = min(round(SHEET_WIDTH / (columns * width)), 192 // height)
    zoom = max(1, math.ceil(72 / height), fitting)
    h, w, gap, edge = height * zoom, width * zoom, 10, 16
    names = [*headings, *(c for row in captions for c in row)]
    point = DPI / 72  # pixels in a typographic point; a letter is about 0.56 of its size wide
    size = max(6.0, min(11.0, w / (0.56 * point * max(map(len, names), default=1))))
    line = round(1.9 * size * point)
    step_y, step_x = h + gap + (line if captions else 0), w + gap
    tops = [i * step_y + (i // group) * 2 * gap * (group > 1) for i in range(len(cells))]
    sheet = np.full((tops[-1] + step_y - gap, columns * step_x - gap, 3), 255, np.uint8)
    for y, row in zip(tops, cells):
        for j, cell in enumerate(row):
            sheet[y : y + h, j * step_x : j * step_x + w] = enlarge(cell, h, w)
    top = edge + (52 if title else 0) + (line if headings else 0)
    left = edge + round(0.6 * 11 * point * max(map(len, row_names), default=0))
    full_h, full_w = sheet.shape[0] + top + edge, sheet.shape[1] + left + edge
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
    for y, row in zip(tops, captions):
        for j, caption in enumerate(row):
            axes.text(j * step_x + w / 2, y + h + 4, caption, va="top", **text)
    for y, name in zip(tops, row_names):
        axes.text(-gap, y + h / 2, name, va="center", **text | {"ha": "right", "fontsize": 11})
    for (i, j), numbers in (codes or {}).items():
        _write_codes(axes, numbers, cells[i][j], j * step_x, tops[i], h, w)
    if title:
        figure.text(edge / full_w, 1 - 12 / full_h, title, va="top", fontsize=13, parse_math=False)
    return figure


def _write_codes(
    axes: Axes, codes: np.ndarray, cell: np.ndarray, x: int, y: int, h: int, w: int
) -> None:
    n, m = codes.shape
    size = max(5, min(11, w / m / 5))
    for (r, c), code in np.ndenumerate(codes):
        colour = cell[int((r + 0.5) * cell.shape[0] / n), int((c + 0.5) * cell.shape[1] / m)]
        ink = "white" if colour @ np.array([0.299, 0.587, 0.114]) < 140 else INK
        at = (x + (c + 0.5) * w / m, y + (r + 0.5) * h / n)
        axes.text(*at, str(code), ha="center", va="center", fontsize=size, color=ink)


def image_grid(
    images: Tensor,
    columns: int | None = None,
    labels: Sequence[str] | None = None,
    title: str | None = None,
    rows: Sequence[str] = (),
) -> Figure:
    """Images in rows.

    images: float (B, C, H, W) in [-1, 1], C 1 or 3. columns: images a row (None: about square).
    labels: one for each image (written below it), or one for each column (written above).
    rows: names of the rows, written before them.
    Raises ValueError on another number of labels or names.
    """
    pixels = pixels_of(images)
    columns = min(columns or math.ceil(math.sqrt(len(pixels))), len(pixels))
    starts = range(0, len(pixels), columns)
    cells = [list(pixels[i : i + columns]) for i in starts]
    if rows and len(rows) != len(cells):
        raise ValueError(f"{len(rows)} names for {len(cells)} rows: give one for each")
    if labels is None or len(labels) == columns:
        return sheet_of(cells, headings=labels or (), title=title, row_names=rows)
    if len(labels) != len(pixels):
        raise ValueError(
            f"{len(labels)} labels for {len(pixels)} images in {columns} columns: "
            "give one for each image or one for each column"
        )
    captions = [labels[i : i + columns] for i in starts]
    return sheet_of(cells, captions=captions, title=title, row_names=rows)


# -------------------------------------------------------------------------------------- token maps


def map_names(tokens: Sequence[Tensor], *, added: bool = False) -> list[str]:
    """The sizes of token maps, "2×2"; `added`: "+ 2×2" from the second on."""
    names = [f"{t.shape[-2]}×{t.shape[-1]}" for t in tokens]
    return [names[0], *(f"+ {name}" for name in names[1:])] if added else names


def decoded(tok: torch.nn.Module, tokens: Sequence[Tensor]) -> list[np.ndarray]:
    """K arrays (B, H, W, 3): the pictures from the first 1, 2, .. K maps."""
    with torch.inference_mode():
        return [pixels_of(tok.decode(tokens, num_scales=k + 1)) for k in range(len(tokens))]


def scale_by_scale(tok: torch.nn.Module, images: Tensor, title: str | None = None) -> Figure:
    """One row an image: decoded from its first 1, 2, .. K token maps; the original stands last.

    tok: a MultiScaleVQVAE; images: float (B, C, H, W) in [-1, 1].
    """
    with torch.inference_mode():
        tokens = tok.encode(images)
    cells = list(zip(*decoded(tok, tokens), pixels_of(images)))
    return sheet_of(cells, headings=[*map_names(tokens, added=True), "original"], title=title)


def code_colours(codebook: Tensor) -> np.ndarray:
    """A colour for every code, uint8 (V, 3): similar vectors get similar colours.

    codebook: (V, C). Its first three principal components become red, green and blue, each
    stretched between the 2nd and the 98th percentile.
    """
    centred = codebook.detach().cpu().double()
    centred = centred - centred.mean(0)
    axes = torch.linalg.svd(centred, full_matrices=False).Vh[:3]
    # An SVD leaves every sign open: make the largest entry positive, so that colours repeat.
    signs = axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()
    parts = centred @ (axes * signs).T
    parts = torch.nn.functional.pad(parts, (0, 3 - parts.shape[1]))
    low, high = parts.quantile(0.02, dim=0), parts.quantile(0.98, dim=0)
    unit = ((parts - low) / (high - low).clamp(min=1e-12)).clamp(0, 1)
    return (30 + 215 * unit).round().byte().numpy()


def map_cells(
    tokens: Sequence[Tensor], codebook: Tensor, height: int, width: int
) -> list[list[np.ndarray]]:
    """[image][scale] -> (height, width, 3): token maps in the colours of their codes."""
    colours = code_colours(codebook)
    maps = [colours[t.cpu().numpy()] for t in tokens]
    return [[enlarge(m[i], height, width) for m in maps] for i in range(len(tokens[0]))]


def map_codes(tokens: Sequence[Tensor], every: int = 1) -> dict[tuple[int, int], np.ndarray]:
    """Code numbers of the maps that are small enough to hold them, for rows 0, every, .."""
    small = [(k, t.cpu().numpy()) for k, t in enumerate(tokens) if max(t.shape[1:]) <= 4]
    return {(i * every, k): t[i] for k, t in small for i in range(len(t))}


def token_maps(
    tokens: Sequence[Tensor],
    codebook: Tensor,
    images: Tensor | None = None,
    title: str | None = None,
) -> Figure:
    """Each scale's token map as a picture, all drawn at one size; one row an image.

    tokens: a pyramid of (B, h_k, w_k); codebook: (V, C), such as
    tok.quantizer.codebook.weight, coloured by `code_colours`; maps of at
    most 4x4 also show the codes' numbers. images: originals (B, C, H, W) for a last column.
    """
    height, width = 96, 96 * tokens[-1].shape[-1] // tokens[-1].shape[-2]
    cells, headings = map_cells(tokens, codebook, height, width), map_names(tokens)
    if images is not None:
        headings.append("image")
        for row, pixels in zip(cells, pixels_of(images)):
            row.append(enlarge(pixels, height, width))
    return sheet_of(cells, headings=headings, codes=map_codes(tokens), title=title)


def growing(tok: torch.nn.Module, tokens: Sequence[Tensor]) -> Figure:
    """A sample after each scale: above the map that was just drawn, below the picture so far.

    tok: a MultiScaleVQVAE; tokens: a pyramid of (B, h_k, w_k), two lines of pictures for each.
    """
    stages = decoded(tok, tokens)
    height, width = (max(1, 96 // n) * n for n in stages[0].shape[1:3])
    cells = []
    for i, maps in enumerate(map_cells(tokens, tok.quantizer.codebook.weight, height, width)):
        cells += [maps, [enlarge(stage[i], height, width) for stage in stages]]
    headings = map_names(tokens, added=True)
    return sheet_of(cells, headings=headings, codes=map_codes(tokens, 2), group=2)
