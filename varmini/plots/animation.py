"""Moving pictures as animated PNG files, which browsers, notebooks and sites show as any picture.

A program that knows no animation shows the file's default image, which is the last frame. Each
function returns an `Animation`; the frames are figures like those of `images` and `charts`.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from io import BytesIO
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image
from torch import Tensor

from ..model.scales import ScaleSchedule
from ..model.tokenizer import MultiScaleVQVAE
from ..runtime.files import write_atomic
from .charts import ACCENT, BLUE, INK, MUTED, NO_GRID
from .images import code_colours, decoded, map_names, pixels_of, png_of, sheet_of


class Animation:
    """An animated PNG with its alternative text; shown by a notebook, written by `save`.

    Args:
        frames: figures of one size, at least two; they are closed.
        seconds: how long each stays, one number or one for each; the last stays for 2 s more.
        alt: what it shows, in words.
    """

    def __init__(self, frames: Iterable[Figure], seconds: float | Sequence[float], alt: str):
        images = [Image.open(BytesIO(png_of(frame))).convert("RGB") for frame in frames]
        if len(images) < 2 or len({image.size for image in images}) > 1:
            raise ValueError(f"{len(images)} frames, expected two or more of one size")
        times = np.broadcast_to(1000 * np.asarray(seconds), len(images)).round().astype(int)
        times = [*times[:-1].tolist(), int(times[-1]) + 2000]
        content = BytesIO()
        images[-1].save(content, format="png", save_all=True, append_images=images,
                        default_image=True, duration=times, loop=0, optimize=True)  # fmt: skip
        self.png, self.alt, self.frames = content.getvalue(), alt, len(images)

    def save(self, path: Path) -> None:
        """Writes the PNG file, whole or not at all."""
        write_atomic(Path(path), self.png)

    def __repr__(self) -> str:
        return f"<animated PNG of {self.frames} frames: {self.alt}>"

    def _repr_mimebundle_(self, **_: object) -> tuple[dict, dict]:
        data = {"image/png": base64.b64encode(self.png).decode(), "text/plain": repr(self)}
        return data, {"image/png": {"alt": self.alt}}


# ------------------------------------------------------------------------------------ Algorithm 1

MOVES = (
    "① shrink the residual to {n}",
    "② nearest code: {t}",
    "③ enlarge, ④ φ: add it to f_hat",
    "subtract the same from the residual",
)


@torch.no_grad()
def algorithm_1(tok: MultiScaleVQVAE, image: Tensor, seconds: float = 0.9) -> Animation:
    """Algorithm 1 of the paper takes one picture apart, four frames a scale.

    image: (1, C, H, W) in [-1, 1]. From the left: the residual and its mean over the cells of the
    scale (the length of the vector at each position, one colour scale), the token map in the
    colours of its codes, and the picture decoded from f_hat.
    """
    quantizer, tokens = tok.quantizer, tok.encode(image)
    residual = tok.features(image)
    f_hat, limit = torch.zeros_like(residual), float(residual.norm(dim=1).max())
    colours = code_colours(quantizer.codebook.weight)
    picture, original = np.full((*image.shape[2:], 3), 255, np.uint8), pixels_of(image)[0]
    frames = []
    for k, (h, w) in enumerate(tok.schedule.grids):
        small = torch.nn.functional.interpolate(residual, (h, w), mode="area")
        added = quantizer.contribution(k, quantizer.embed(tokens[k]))
        codes, nothing = colours[tokens[k][0].cpu().numpy()], None
        after, f_hat = residual - added, f_hat + added
        later = pixels_of(tok.decode_features(f_hat).clamp(-1, 1))[0]
        say = {"n": f"{h}×{w}", "t": "1 token" if h * w == 1 else f"{h * w} tokens"}
        stages = ((residual, small, nothing, picture), (residual, small, codes, picture),
                  (residual, small, codes, later), (after, small, codes, later))  # fmt: skip
        for lit, (move, (left, mean, shown, so_far)) in enumerate(zip(MOVES, stages)):
            title = f"scale {k + 1} of {len(tokens)}, {h}×{w}:  {move.format(**say)}"
            lengths = (x.norm(dim=1)[0].cpu().numpy() for x in (left, mean))
            panels = (*lengths, shown, so_far, original)
            frames.append(_moves(panels, (h, w), limit, (lit + 1) % 4, title))
        residual, picture = after, later
    alt = (
        f"Algorithm 1 on one picture, scale by scale from 1×1 to {h}×{w}: the residual is shrunk, "
        "its nearest codes become the token map, their contribution is added to f_hat, whose "
        "decoded picture grows sharper, and is subtracted from the residual, which fades."
    )
    return Animation(frames, seconds, alt)


@plt.rc_context(NO_GRID | {"axes.titlesize": 10, "axes.titlelocation": "center", "figure.dpi": 100,
                           "savefig.dpi": 100})  # fmt: skip
def _moves(panels: Sequence, grid: tuple[int, int], limit: float, lit: int, title: str) -> Figure:
    figure, axes = plt.subplots(1, 5, figsize=(9.6, 2.5))
    figure.subplots_adjust(0.01, 0.02, 0.99, 0.74, wspace=0.07)
    figure.suptitle(title, x=0.01, y=0.97, ha="left", fontsize=13, color=INK)
    names = ("residual", "shrunk", "token map", "f_hat, decoded", "the picture")
    for i, (ax, panel, name) in enumerate(zip(axes, panels, names)):
        box = (0, grid[1], grid[0], 0)
        if i < 2:
            ax.imshow(panel, cmap="YlGnBu", vmin=0, vmax=limit, extent=box)
        elif panel is not None:
            ax.imshow(panel, extent=box, interpolation="nearest")
        ax.set(title=name, xticks=[], yticks=[], xlim=box[:2], ylim=box[2:], aspect="equal")
        ax.spines[:].set(visible=True, color=ACCENT if i == lit else "#d9dce1",
                         linewidth=3 if i == lit else 1)  # fmt: skip
    return figure


# ----------------------------------------------------------------------------- pictures that grow


def growing_grid(
    tok: MultiScaleVQVAE,
    tokens: Sequence[Tensor],
    columns: int,
    names: Sequence[str] = (),
    seconds: float = 1.0,
) -> Animation:
    """Drawn pictures after 1, 2, .. K scales, all at once: a frame a scale.

    tokens: a pyramid of (B, h_k, w_k); columns: pictures a row; names: what stands above them.
    """
    stages, sizes, frames = decoded(tok, tokens), map_names(tokens), []
    for k, pictures in enumerate(stages):
        total = sum(t[0].numel() for t in tokens[: k + 1])
        title = f"after step {k + 1}, map {sizes[k]}: {total} token{'s' * (total > 1)} a picture"
        cells = [list(pictures[i : i + columns]) for i in range(0, len(pictures), columns)]
        with plt.rc_context({"savefig.dpi": 100}):
            frames.append(sheet_of(cells, headings=names, title=title))
    alt = (f"{len(stages[0])} pictures grow at once, from one token each to {total}: colour and "
           "light first, then shapes, then edges.")  # fmt: skip
    return Animation(frames, seconds, alt)


# ------------------------------------------------------------------------------------- the cache


def cache_filling(schedule: ScaleSchedule, seconds: float = 1.5) -> Animation:
    """Drawing with a key-value cache: the mask, and beside it what is computed, kept and read."""
    frames = [_cache(schedule, step) for step in range(len(schedule))]
    total, again = schedule.num_tokens, sum(part.stop for part in schedule.slices)
    alt = (
        f"The block-causal mask of {total} tokens. Step by step the rows of one scale are computed "
        "(red); the keys and values of all coarser scales lie in the cache (blue) and are read. "
        f"{total} tokens pass through the network; without a cache it would be {again}."
    )
    return Animation(frames, seconds, alt)


PALE = "#eceef1"


@plt.rc_context(NO_GRID | {"axes.titlesize": 10, "figure.dpi": 100, "savefig.dpi": 100})
def _cache(schedule: ScaleSchedule, step: int) -> Figure:
    figure, (mask, memory) = plt.subplots(1, 2, figsize=(9.6, 4.1), width_ratios=(1, 1.35))
    figure.subplots_adjust(0.01, 0.03, 0.99, 0.82, wspace=0.06)
    now, (h, w), total = schedule.slices[step], schedule.grids[step], schedule.num_tokens
    said = f"step {step + 1}, map {h}×{w}: {h * w} queries, {now.stop} keys and values"
    figure.suptitle(said, x=0.01, y=0.97, ha="left", fontsize=13, color=INK)
    for ax in (mask, memory):
        ax.set(xticks=[], yticks=[], xlim=(0, total), ylim=(total, 0))
        ax.spines[:].set_visible(False)
    mask.set(aspect="equal", title="the mask: a row attends to its coloured columns")
    levels = schedule.level_ids().cpu().numpy()
    allowed = np.where(levels[:, None] >= levels[None], 1, 0)  # 1: pale, 2: read, 3: computed
    allowed[now, : now.start], allowed[now, now] = 2, 3
    mask.pcolormesh(allowed, cmap=ListedColormap(["white", PALE, BLUE, ACCENT]), vmin=0, vmax=3,
                    edgecolors="white", linewidth=0.5)  # fmt: skip
    _memory(memory, schedule, step)
    return figure


def _memory(ax: Axes, schedule: ScaleSchedule, step: int) -> None:
    """Two strips of keys and values, a cell a token, and the count of tokens computed so far."""
    total, now = schedule.num_tokens, schedule.slices[step]
    unit = total / 30  # heights, so that any schedule looks the same
    left, width = 4.2 * unit, (total - 4.4 * unit) / total
    for top, name in ((4 * unit, "keys"), (9 * unit, "values")):
        ax.text(left - 0.5 * unit, top + 1.5 * unit, name, ha="right", va="center", color=MUTED)
        for j in range(total):
            shade = PALE if j >= now.stop else ACCENT if j >= now.start else BLUE
            ax.add_patch(Rectangle((left + (j + 0.08) * width, top), 0.84 * width, 3 * unit,
                                   color=shade, linewidth=0))  # fmt: skip
    for part, (h, w) in zip(schedule.slices, schedule.grids):
        middle = left + width * (part.start + part.stop) / 2
        if part.stop - part.start > 2:
            ax.text(middle, 13.4 * unit, f"{h}×{w}", ha="center", color=MUTED, fontsize=9)
    again = sum(part.stop for part in schedule.slices[: step + 1])
    lines = (("red: computed now, put into the cache", ACCENT), ("blue: read from the cache", BLUE),
             (f"tokens through the network so far: {now.stop}", INK),
             (f"without a cache it would be: {again}", MUTED))  # fmt: skip
    for i, (line, colour) in enumerate(lines):
        ax.text(left, (18 + 3 * i) * unit, line, color=colour, fontsize=12, va="center")
