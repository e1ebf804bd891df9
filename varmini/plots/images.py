"""Images, token maps and how they grow, as figures; each function shows nothing by itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..runtime.files import write_atomic
from .sheets import enlarge, pixels_of, sheet_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def save(figure: Figure, path: Path) -> tuple[int, int]:
    """Writes a figure as a PNG file (whole or not at all) and closes it; its (width, height)."""
    import matplotlib.pyplot as plt

    content = BytesIO()
    figure.savefig(content, format="png")
    write_atomic(Path(path), content.getvalue())
    plt.close(figure)
    # A PNG's header holds its size, in the bytes 16 to 23.
    width, height = np.frombuffer(content.getvalue()[16:24], ">u4").tolist()
    return width, height


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


def map_names(tokens: Sequence[Tensor]) -> list[str]:
    return [f"{t.shape[-2]}×{t.shape[-1]}" for t in tokens]


def plus(names: Sequence[str]) -> list[str]:
    return [names[0], *(f"+ {name}" for name in names[1:])]


def _decoded(tok: torch.nn.Module, tokens: Sequence[Tensor]) -> list[np.ndarray]:
    """K arrays (B, H, W, 3): the pictures from the first 1, 2, .. K maps."""
    with torch.inference_mode():
        return [pixels_of(tok.decode(tokens, num_scales=k + 1)) for k in range(len(tokens))]


def scale_by_scale(tok: torch.nn.Module, images: Tensor, title: str | None = None) -> Figure:
    """One row an image: decoded from its first 1, 2, .. K token maps; the original stands last.

    tok: a MultiScaleVQVAE; images: float (B, C, H, W) in [-1, 1].
    """
    with torch.inference_mode():
        tokens = tok.encode(images)
    stages = [*_decoded(tok, tokens), pixels_of(images)]
    cells = [[stage[i] for stage in stages] for i in range(len(images))]
    return sheet_of(cells, headings=[*plus(map_names(tokens)), "original"], title=title)


def code_colours(codebook: Tensor) -> np.ndarray:
    """A colour for every code, uint8 (V, 3): similar vectors get similar colours.

    codebook: (V, C). Its first three principal components become red, green and blue, each
    stretched between the 2nd and the 98th percentile.
    """
    if codebook.ndim != 2:
        raise ValueError(f"codebook has shape {tuple(codebook.shape)}, expected (V, C)")
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
    top = max(int(t.max()) for t in tokens)
    if top >= len(codebook):
        raise ValueError(f"token {top} in a codebook of {len(codebook)}: give that tokenizer's own")
    colours = code_colours(codebook)
    maps = [colours[t.cpu().numpy()] for t in tokens]
    return [[enlarge(m[i], height, width) for m in maps] for i in range(len(tokens[0]))]


def map_codes(tokens: Sequence[Tensor], every: int) -> dict[tuple[int, int], np.ndarray]:
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
    Raises ValueError for a token outside the codebook.
    """
    height, width = 96, 96 * tokens[-1].shape[-1] // tokens[-1].shape[-2]
    cells, headings = map_cells(tokens, codebook, height, width), map_names(tokens)
    if images is not None:
        headings.append("image")
        for row, pixels in zip(cells, pixels_of(images), strict=True):
            row.append(enlarge(pixels, height, width))
    return sheet_of(cells, headings=headings, codes=map_codes(tokens, 1), title=title)


def growing(tok: torch.nn.Module, tokens: Sequence[Tensor]) -> Figure:
    """A sample after each scale: above the map that was just drawn, below the picture so far.

    tok: a MultiScaleVQVAE; tokens: a pyramid of (B, h_k, w_k), two lines of pictures for each.
    """
    stages = _decoded(tok, tokens)
    height, width = (max(1, 96 // n) * n for n in stages[0].shape[1:3])
    cells = []
    for i, maps in enumerate(map_cells(tokens, tok.quantizer.codebook.weight, height, width)):
        cells += [maps, [enlarge(stage[i], height, width) for stage in stages]]
    headings = plus(map_names(tokens))
    return sheet_of(cells, headings=headings, codes=map_codes(tokens, 2), group=2)
