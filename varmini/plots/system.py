"""The whole system in one picture: both stages, what flows between the parts, and the losses."""

from __future__ import annotations

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..model.tokenizer import MultiScaleVQVAE
from ..model.transformer import VAR
from .charts import ACCENT, BLUE, INK, MUTED, NO_GRID

LEARNS, TENSOR = "#dbe8f1", "white"
TOP, BOTTOM = 4.95, 1.95  # heights of the rows; half an inch is a unit


@plt.rc_context(NO_GRID)
def whole_system(tok: MultiScaleVQVAE, var: VAR) -> Figure:
    """Tokenizer (stage 1), transformer (stage 2) and drawing, with the shapes of these models."""
    figure, ax = plt.subplots(figsize=(10.8, 3.9))
    figure.subplots_adjust(0, 0, 1, 1)
    ax.set(xlim=(0, 21.6), ylim=(0, 6.9)), ax.axis("off")
    (h, w), (rows, columns) = tok.image_size, tok.schedule.grids[-1]
    picture = f"{tok.config.image_channels}×{h}×{w}"
    features = f"{tok.config.code_channels}×{rows}×{columns}"
    sizes = ", ".join(f"{a}×{b}" for a, b in tok.schedule.grids)
    total, codes = tok.schedule.num_tokens, tok.vocab_size
    first = [
        ("picture", picture, TENSOR), ("encoder", "", LEARNS), ("f", features, TENSOR),
        ("quantizer", "Algorithm 1", LEARNS), ("token maps", f"{total} tokens", TENSOR),
        ("quantizer", "Algorithm 2", LEARNS), ("f_hat", features, TENSOR),
        ("decoder", "", LEARNS), ("copy", picture, TENSOR),
    ]  # fmt: skip
    at = [1.3 + 2.38 * i for i in range(len(first))]
    for x, part in zip(at, first):
        _box(ax, x, TOP, *part)
    for left, right in zip(at, at[1:]):
        _arrow(ax, (left + 0.98, TOP), (right - 0.98, TOP))
    _loss(ax, at[0], at[8], TOP + 0.5, 0.5, "reconstruction loss: copy against picture")
    _loss(ax, at[2], at[6], TOP - 0.5, -0.4, "codebook and commitment loss: f_hat against f")
    y = BOTTOM
    second = {1.9: ("coarser maps", "summed: f_hat", TENSOR),
              7.8: ("transformer", "block-causal", LEARNS),
              13.3: ("logits", f"{total}×{codes}", TENSOR),
              19.6: ("token maps", "of the picture", TENSOR)}  # fmt: skip
    for x, part in second.items():
        _box(ax, x, y, *part, wide=2.6)
    _box(ax, 7.8, y + 1.4, "class", f"one of {var.config.num_classes}", TENSOR)
    _arrow(ax, (7.8, y + 0.98), (7.8, y + 0.44))
    _arrow(ax, (3.24, y), (6.46, y)), _arrow(ax, (9.14, y), (11.96, y))
    _loss(ax, 14.65, 18.25, y, 0, "cross-entropy loss")
    _arrow(ax, (13.3, y - 0.45), (1.9, y - 0.45), bend=-0.1, color=BLUE)
    said = "Drawing: a token map from its logits, its codes into the sum, a map a step; then decode"
    ax.text(7.6, 0.25, said, ha="center", color=BLUE, fontsize=9.5)
    titles = {6.55: f"Stage 1: the tokenizer, with maps of {sizes}",
              y + 1.4: "Stage 2: the tokenizer is frozen"}  # fmt: skip
    for height, title in titles.items():
        ax.text(0.3, height, title, color=INK, fontsize=11, weight="bold", va="center")
    return figure


def _box(
    ax: Axes, x: float, y: float, name: str, below: str, colour: str, wide: float = 1.9
) -> None:
    edge = {"boxstyle": "round,pad=0.02,rounding_size=0.12", "facecolor": colour}
    patch = plt.matplotlib.patches.FancyBboxPatch((x - wide / 2, y - 0.4), wide, 0.8, **edge)
    patch.set(edgecolor=BLUE if colour == LEARNS else "#b8c4d0", linewidth=1.2)
    ax.add_patch(patch)
    ax.text(x, y + 0.14 * bool(below), name, ha="center", va="center", fontsize=10, color=INK)
    ax.text(x, y - 0.2, below, ha="center", va="center", fontsize=8, color=MUTED)


def _arrow(ax: Axes, start: tuple, end: tuple, bend: float = 0, color: str = MUTED) -> None:
    style = {"arrowstyle": "-|>", "color": color, "connectionstyle": f"arc3,rad={bend}",
             "shrinkA": 0, "shrinkB": 0}  # fmt: skip
    ax.annotate("", end, start, arrowprops=style)


def _loss(ax: Axes, left: float, right: float, y: float, drop: float, name: str) -> None:
    """A dashed red line between the two tensors that a loss compares."""
    line = {"color": ACCENT, "linestyle": "--", "linewidth": 1.1}
    ax.plot([left, left, right, right], [y - 0.1 * (drop > 0), y + drop, y + drop, y], **line)
    box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
    ax.text((left + right) / 2, y + drop, name, ha="center", va="center", fontsize=9, color=ACCENT,
            bbox=box)  # fmt: skip
