"""Pictures with settings: what the widgets turn, as plain functions that return a Figure.

`widgets` puts sliders on them; a notebook calls them as they are, and a page without widgets shows
what they return. Scales, rows, columns, blocks and heads are numbered from 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from .. import inpaint, sample
from ..model.tokenizer import MultiScaleVQVAE
from ..model.transformer import VAR
from .charts import ACCENT, BLUE, INK, MUTED, NO_GRID, STYLE
from .images import decoded, enlarge, growing, map_cells, map_codes, map_names, pixels_of, sheet_of

Law = tuple[float, float]
"""(a, b) of a power law L = (a x)^b."""


def one_image(image: Tensor) -> Tensor:
    """An image (C, H, W), or a batch of one, as a batch of one."""
    image = image[None] if image.ndim == 3 else image
    if image.ndim != 4 or len(image) != 1:
        raise ValueError(f"image has shape {tuple(image.shape)}, expected (C, H, W)")
    return image


# ------------------------------------------------------------------------------------ one scale


@torch.no_grad()
def scale_steps(tok: MultiScaleVQVAE, image: Tensor, scales: int) -> tuple[Tensor, Tensor]:
    """The picture from the first `scales` maps, and what the last of these maps changed.

    Args:
        image: (C, H, W) in [-1, 1].
        scales: from 1 to K; another number is a ValueError.

    Returns:
        Two tensors (1, C, H, W): the picture in [-1, 1], and its difference to the picture without
        map `scales` (for the first map: to what the decoder draws from zeros).
    """
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
    last = tok.encode(one_image(image))[scales - 1 : scales]
    height, width = (max(1, 96 // n) * n for n in after.shape[2:])
    cells = map_cells(last, tok.quantizer.codebook.weight, height, width)[0]
    for picture in (change.clamp(-1, 1), after, one_image(image)):
        cells.append(enlarge(pixels_of(picture)[0], height, width))
    headings = [f"map {map_names(last)[0]}", "it adds", "so far", "original"]
    return sheet_of([cells], headings=headings, codes=map_codes(last))


# -------------------------------------------------------------------------------------- drawing


def draw_growing(
    var: VAR, tok: MultiScaleVQVAE, label: int, *, smooth: bool = False, **settings
) -> Figure:
    """Draws one picture and shows it grow: above the maps, below the picture after each.

    Arguments as in `sample`. A smoothed picture is no sum of codes, so it stands in a line of its
    own, below the growth of the tokens that were drawn beside it.
    """
    images, tokens = sample(var, tok, [label], smooth=smooth, return_tokens=True, **settings)
    if not smooth:
        return growing(tok, tokens)
    stages = [stage[0] for stage in (*decoded(tok, tokens), pixels_of(images))]
    return sheet_of([stages], headings=[*map_names(tokens, added=True), "smoothed"])


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
    hole[mask.cpu().numpy()] = list(bytes.fromhex(ACCENT[1:]))
    names = ["picture", "red: to be drawn", *(f"draw {i + 1}" for i in range(draws))]
    return sheet_of([[original, hole, *pixels_of(filled)]], headings=names)


# -------------------------------------------------------------------------------------- one token


@torch.no_grad()
def attention(var: VAR, labels: Tensor, teacher_inputs: Tensor, block: int) -> Tensor:
    """Who looks at whom in one block, under teacher forcing: (B, heads, L, L), rows sum to 1.

    Arguments and errors as in `VAR.forward`; block: which one.
    """
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
        scale: which map (h, w); its tokens come row by row.
    """
    codes = tok.quantizer.embed(tokens[scale])  # (1, C, h, w)
    h, w = codes.shape[2:]
    others = ~torch.eye(h * w, dtype=torch.bool, device=codes.device).view(h * w, 1, h, w)
    f_hat, contribution = tok.quantizer.decode(tokens), tok.quantizer.contribution
    without = f_hat - contribution(scale, codes) + contribution(scale, codes * others)
    return tok.decode_features(f_hat).clamp(-1, 1) - tok.decode_features(without).clamp(-1, 1)


def look_at_tokens(
    var: VAR,
    tok: MultiScaleVQVAE,
    image: Tensor,
    label: int,
    *,
    scale: int,
    block: int = 0,
    head: int | None = None,
) -> tuple[list[Tensor], Tensor, np.ndarray]:
    """A picture's tokens, the attention (h w, L) of those of one map, and what each of them paints.

    The last are pictures (h w, H, W, 3), grey where a token paints nothing, each as strong as can
    be shown. Arguments as in `one_token`.
    """
    tokens = tok.encode(image)
    inputs = tok.quantizer.teacher_inputs(tokens)
    weights = attention(var, torch.tensor([label]), inputs, block)[0].cpu()  # (heads, L, L)
    weights = weights.mean(0) if head is None else weights[head]
    paints = token_paints(tok, tokens, scale)
    strongest = paints.abs().amax((1, 2, 3), keepdim=True).clamp(min=1e-6)
    return tokens, weights[tok.schedule.slices[scale]], pixels_of(paints / strongest)


def maps_seen(tok: MultiScaleVQVAE, query: Tensor, scale: int) -> tuple[list, list[str], float]:
    """Attention (L,) of a token of map `scale`: cube roots (small ones show), titles, largest."""
    schedule = tok.schedule
    seen = [query[part] for part in schedule.slices[: scale + 1]]
    shares = zip(schedule.grids, (100 * float(part.sum()) for part in seen))
    titles = [f"looks at {h}×{w}: {share:.0f} %" for (h, w), share in shares]
    parts = [np.cbrt(part.view(grid).numpy()) for part, grid in zip(seen, schedule.grids)]
    return parts, titles, max(float(part.max()) for part in parts)


@plt.rc_context(NO_GRID | {"axes.titlesize": 10, "axes.titlelocation": "center"})
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
        image: (C, H, W) in [-1, 1]; label: its class.
        scale, row, column: which token.
        block: whose attention.
        head: which head; None for the mean of all.

    Raises IndexError when there is no such token, block or head.
    """
    image, (h, w) = one_image(image), tok.schedule.grids[scale]
    where = {"scale": scale, "block": block, "head": head}
    _, shares, paints = look_at_tokens(var, tok, image, label, **where)
    at = int(np.ravel_multi_index((row, column), (h, w)))
    parts, titles, top = maps_seen(tok, shares[at], scale)
    figure, axes = plt.subplots(1, 2 + len(parts), figsize=(1.9 * (2 + len(parts)), 2.5))
    figure.subplots_adjust(0.01, 0.02, 0.99, 0.86, wspace=0.08)
    for ax, panel in zip(axes, (pixels_of(image)[0], paints[at])):
        ax.imshow(panel, extent=(0, w, h, 0), interpolation="nearest")
        _ring(ax, row, column)
    for ax, part in zip(axes[2:], parts):
        ax.imshow(part, cmap="YlGnBu", vmin=0, vmax=top, extent=(0, *part.shape[::-1], 0))
    _ring(axes[-1], row, column)
    for ax, title in zip(axes, ("where the token is", "what its code paints", *titles)):
        ax.set(title=title, xticks=[], yticks=[])
        ax.spines[:].set_visible(True)
    return figure


def _ring(ax: Axes, row: int, column: int) -> None:
    box = Rectangle((column, row), 1, 1, fill=False, color=ACCENT, linewidth=2, clip_on=False)
    ax.add_patch(box)


# ---------------------------------------------------------------------------------------- the laws


def law_loss(size_law: Law, compute_law: Law, size: float, compute: float) -> tuple[float, float]:
    """What two falling laws L = (a x)^b say: the loss that `size` allows, and that of `compute`.

    A model that is both this small and this shortly trained is held by the larger of the two.
    """
    (a, b), (c, d) = size_law, compute_law
    return float((a * size) ** b), float((c * compute) ** d)


@plt.rc_context(STYLE)
def on_the_law(
    size_law: Law,
    compute_law: Law,
    *,
    size: float,
    compute: float,
    sizes: tuple[float, float],
    computes: tuple[float, float],
) -> Figure:
    """Two fitted laws L = (a x)^b as lines, with one model's size and compute marked on them.

    Args:
        size_law, compute_law: (a, b) of the loss against parameters (billions), and of the best
            loss against training compute (PFlops).
        size, compute: the model to mark.
        sizes, computes: the range of the axes.
    """
    losses, names = law_loss(size_law, compute_law, size, compute), ("size", "compute")
    units = "parameters (billions)", "training compute (PFlops)"
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained", sharey=True)
    rows = zip(axes, (size_law, compute_law), (size, compute), (sizes, computes), units)
    for (ax, (a, b), x, ends, unit), loss, name in zip(rows, losses, names):
        line = np.geomspace(*ends, 50)
        ax.plot(line, (a * line) ** b, color=BLUE)
        ax.plot([x], [loss], "o", color=ACCENT, markersize=9)
        ax.axhline(loss, color=ACCENT, linewidth=0.8, linestyle="--")
        ax.annotate(f"{loss:.3g}", (x, loss), (6, 6), textcoords="offset points", color=ACCENT)
        ax.set(xscale="log", yscale="log", xlabel=unit)
        unit = 10.0 ** round(np.log10(line[25]))  # (a x)^b as the loss at a round x, times a power
        ax.set_title(f"what {name} allows: {(a * unit) ** b:.2f} · (x / {unit:g})$^{{{b:.3f}}}$")
        ax.tick_params(axis="y", which="both", labelcolor=MUTED)
        ax.minorticks_off()
    low, high = axes[0].get_ylim()
    ticks = [tick for tick in MaxNLocator(6).tick_values(low, high) if low <= tick <= high]
    axes[0].set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    held = f"held back by its {names[losses[1] > losses[0]]}: loss at least {max(losses):.3g}"
    figure.suptitle(held, x=0.01, ha="left", color=INK, fontsize=13)
    return figure
