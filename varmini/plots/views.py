"""Pictures with settings: what the widgets turn, as plain functions that return a Figure.

`widgets` puts sliders on them; a notebook calls them as they are, and a page without widgets shows
what they return.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import inpaint, sample
from .charts import ACCENT, STYLE
from .images import growing, map_cells, plus
from .laws import Law, law_loss, on_the_law
from .sheets import enlarge, pixels_of, sheet_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..model.tokenizer import MultiScaleVQVAE
    from ..model.transformer import VAR

__all__ = [
    "Law", "attention", "draw_growing", "law_loss", "look_at_token", "on_the_law", "one_image",
    "one_scale", "one_token", "redraw", "scale_steps", "token_paints",
]  # fmt: skip


def one_image(image: Tensor) -> Tensor:
    """An image (C, H, W), or a batch of one, as a batch of one."""
    image = image[None] if image.ndim == 3 else image
    if image.ndim != 4 or len(image) != 1:
        raise ValueError(f"image has shape {tuple(image.shape)}, expected (C, H, W)")
    return image


# ------------------------------------------------------------------------------------ one scale


def scale_steps(tok: MultiScaleVQVAE, image: Tensor, scales: int) -> tuple[Tensor, Tensor]:
    """The picture from the first `scales` maps, and what the last of these maps changed.

    Args:
        image: (C, H, W) in [-1, 1].
        scales: from 1 to K.

    Returns:
        Two tensors (1, C, H, W): the picture in [-1, 1], and its difference to the picture without
        map `scales` (for the first map: to what the decoder draws from zeros).

    Raises:
        ValueError: when scales is outside [1, K], or the image does not fit.
    """
    with torch.no_grad():
        tokens = tok.encode(one_image(image))
        after = tok.decode(tokens, num_scales=scales)
        if scales > 1:
            return after, after - tok.decode(tokens, num_scales=scales - 1)
        nothing = after.new_zeros(1, tok.config.code_channels, *tok.schedule.grids[-1])
        return after, after - tok.decode_features(nothing).clamp(-1, 1)


def one_scale(tok: MultiScaleVQVAE, image: Tensor, scales: int) -> Figure:
    """One stop on the walk through the scales: its map, what it adds, the picture so far.

    Arguments and errors as in `scale_steps`.
    """
    after, change = scale_steps(tok, image, scales)
    tokens = tok.encode(one_image(image))
    height, width = (max(1, 96 // n) * n for n in after.shape[2:])
    maps = map_cells(tokens, tok.quantizer.codebook.weight, height, width)[0]
    pictures = [pixels_of(p)[0] for p in (change.clamp(-1, 1), after, one_image(image))]
    cells = [maps[scales - 1], *(enlarge(p, height, width) for p in pictures)]
    h, w = tok.schedule.grids[scales - 1]
    codes = {(0, 0): tokens[scales - 1][0].cpu().numpy()} if max(h, w) <= 4 else None
    names = [f"map {h}×{w}", "it adds", "so far", "original"]
    return sheet_of([cells], headings=names, codes=codes)


# -------------------------------------------------------------------------------------- drawing


def draw_growing(
    var: VAR,
    tok: MultiScaleVQVAE,
    label: int,
    *,
    cfg: float = 1.5,
    top_k: int = 0,
    top_p: float = 0.0,
    smooth: bool = False,
    seed: int = 0,
) -> Figure:
    """Draws one picture and shows it grow: above the maps, below the picture after each.

    Arguments as in `sample`. A smoothed picture is no sum of codes, so it stands in a line of its
    own, below the growth of the tokens that were drawn beside it.
    """
    settings = {"cfg": cfg, "top_k": top_k, "top_p": top_p, "seed": seed}
    images, tokens = sample(var, tok, [label], smooth=smooth, return_tokens=True, **settings)
    if not smooth:
        return growing(tok, tokens)
    with torch.no_grad():
        stages = [pixels_of(tok.decode(tokens, num_scales=k + 1))[0] for k in range(len(tokens))]
    names = plus([f"{h}×{w}" for h, w in tok.schedule.grids])
    return sheet_of([[*stages, pixels_of(images)[0]]], headings=[*names, "smoothed"])


def redraw(
    var: VAR,
    tok: MultiScaleVQVAE,
    image: Tensor,
    mask: Tensor,
    label: int | None = None,
    *,
    draws: int = 4,
    **settings,
) -> Figure:
    """In-painting: the picture, the hole in it, and several ways of filling it.

    Args:
        image: (C, H, W) in [-1, 1].
        mask: (H, W) bool, True where it is to be drawn.
        label: class for the hole; None for the null class.
        draws: how many fillings.
        settings: cfg, top_k, top_p, seed and smooth, as in `inpaint`.
    """
    image = one_image(image)
    labels = None if label is None else [label] * draws
    filled = inpaint(var, tok, image.expand(draws, -1, -1, -1), mask, labels, **settings)
    original = pixels_of(image)[0]
    hole = original.copy()
    hole[mask.cpu().numpy()] = [round(255 * int(ACCENT[i : i + 2], 16) / 255) for i in (1, 3, 5)]
    names = ["picture", "red: to be drawn", *(f"draw {i + 1}" for i in range(draws))]
    return sheet_of([[original, hole, *pixels_of(filled)]], headings=names)


# -------------------------------------------------------------------------------------- one token


@torch.no_grad()
def attention(var: VAR, labels: Tensor, teacher_inputs: Tensor, block: int) -> Tensor:
    """Who looks at whom in one block, under teacher forcing: (B, heads, L, L), rows sum to 1.

    Args:
        labels, teacher_inputs: as in `VAR.forward`.
        block: which one, from 0.

    Raises:
        ValueError: when there is no such block, and as `VAR.forward` does.
    """
    if not 0 <= block < len(var.blocks):
        raise ValueError(f"block is {block}, expected 0 to {len(var.blocks) - 1}")
    layer, given = var.blocks[block].attention, {}
    hook = layer.register_forward_hook(lambda layer, args, out: given.update(x=args[0]))
    try:
        var(labels, teacher_inputs)
    finally:
        hook.remove()
    # softmax(s_h <q/|q|, k/|k|>): the layer itself never forms these weights by name.
    width = var.config.width
    qk = F.linear(given["x"].float(), layer.qkv.weight[: 2 * width].float())
    q, k = qk.unflatten(2, (2, layer.heads, -1)).permute(2, 0, 3, 1, 4)  # (B, heads, L, d)
    q = q + layer.q_bias.view(layer.heads, 1, -1)
    if layer.qk_norm:
        scale = layer.log_scale.clamp(max=layer.LARGEST).exp()
        q, k = scale * F.normalize(q, dim=-1), F.normalize(k, dim=-1)
    else:
        q = q * 0.25 / math.sqrt(q.shape[-1])
    return (q @ k.mT).masked_fill(~var.mask, -math.inf).softmax(-1)


@torch.no_grad()
def token_paints(tok: MultiScaleVQVAE, tokens: Sequence[Tensor], scale: int) -> Tensor:
    """What each token of a map adds to a picture: with it minus without it, (h w, C, H, W).

    Args:
        tokens: the pyramid of one picture.
        scale: which map (h, w), from 0; its tokens come row by row.
    """
    codes = tok.quantizer.embed(tokens[scale])  # (1, C, h, w)
    h, w = codes.shape[2:]
    others = ~torch.eye(h * w, dtype=torch.bool, device=codes.device).view(h * w, 1, h, w)
    f_hat, contribution = tok.quantizer.decode(tokens), tok.quantizer.contribution
    without = f_hat - contribution(scale, codes) + contribution(scale, codes * others)
    return tok.decode_features(f_hat).clamp(-1, 1) - tok.decode_features(without).clamp(-1, 1)


def look_at_token(
    var: VAR,
    tok: MultiScaleVQVAE,
    image: Tensor,
    label: int,
    scale: int,
    block: int,
    head: int | None,
    row: int = 0,
    column: int = 0,
) -> tuple[list[Tensor], Tensor, Tensor]:
    """What `one_token` shows of a map: tokens, attention (L, L), and what each token paints.

    Arguments and errors as there.
    """
    if not 0 <= scale < len(var.schedule):
        raise ValueError(f"scale is {scale}, expected 0 to {len(var.schedule) - 1}")
    h, w = var.schedule.grids[scale]
    if not (0 <= row < h and 0 <= column < w):
        raise ValueError(f"row {row}, column {column} is outside the {h}x{w} map")
    if head is not None and not 0 <= head < var.config.heads:
        raise ValueError(f"head is {head}, expected 0 to {var.config.heads - 1}, or None")
    tokens = tok.encode(image)
    inputs = tok.quantizer.teacher_inputs(tokens)
    weights = attention(var, torch.tensor([label]), inputs, block)[0].cpu()  # (heads, L, L)
    weights = weights.mean(0) if head is None else weights[head]
    return tokens, weights, token_paints(tok, tokens, scale)


def one_token(
    var: VAR,
    tok: MultiScaleVQVAE,
    image: Tensor,
    label: int,
    *,
    scale: int,
    row: int = 0,
    column: int = 0,
    block: int = 0,
    head: int | None = None,
) -> Figure:
    """A token under the lens: where it stands, what its code paints, and where it looks.

    Args:
        image: (C, H, W) in [-1, 1].
        label: its class.
        scale, row, column: which token, all from 0.
        block: whose attention, from 0.
        head: which head, from 0; None for the mean of all.

    Raises:
        ValueError: when there is no such token, block or head.
    """
    import matplotlib.pyplot as plt

    image, schedule = one_image(image), tok.schedule
    _, weights, paints = look_at_token(var, tok, image, label, scale, block, head, row, column)
    h, w = schedule.grids[scale]
    query = weights[schedule.slices[scale].start + row * w + column]
    paints = paints[row * w + column][None]
    seen = scale + 1
    with plt.rc_context(STYLE | {"axes.grid": False, "axes.titlesize": 10}):
        figure, axes = plt.subplots(1, 2 + seen, figsize=(1.9 * (2 + seen), 2.5))
        figure.subplots_adjust(0.01, 0.02, 0.99, 0.86, wspace=0.08)
        panels = [pixels_of(image)[0], pixels_of(paints / paints.abs().max().clamp(min=1e-6))[0]]
        for ax, panel, name in zip(axes, panels, ("where the token is", "what its code paints")):
            ax.imshow(panel, extent=(0, w, h, 0), interpolation="nearest")
            ax.set_title(name, loc="center")
            _ring(ax, row, column)
        parts = [query[part].view(grid) for part, grid in zip(schedule.slices, schedule.grids)]
        top = max(float(part.max()) for part in parts[:seen])
        for ax, part in zip(axes[2:], parts):
            (rows, columns), share = part.shape, 100 * float(part.sum())
            ax.imshow(part.numpy(), cmap="YlGnBu", vmin=0, vmax=top, extent=(0, columns, rows, 0))
            ax.set_title(f"looks at {rows}×{columns}: {share:.0f} %", loc="center")
        _ring(axes[1 + seen], row, column)
        for ax in axes:
            ax.set_xticks([]), ax.set_yticks([])
            ax.spines[:].set_visible(True)
    return figure


def _ring(ax: Axes, row: int, column: int) -> None:
    from matplotlib.patches import Rectangle

    box = Rectangle((column, row), 1, 1, fill=False, color=ACCENT, linewidth=2, clip_on=False)
    ax.add_patch(box)
