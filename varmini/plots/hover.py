"""A token map that answers the pointer: what a token's code paints, and where the token looks.

`token_page` returns HTML and holds all answers at once. Style sheets alone do the rest, so nothing
waits for a kernel, and it works wherever a page is shown, by a tap as well. Needs matplotlib.
"""

from __future__ import annotations

import base64
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from .charts import ACCENT, MUTED
from .images import code_colours
from .sheets import pixels_of
from .views import look_at_token, one_image

if TYPE_CHECKING:
    from ..model.tokenizer import MultiScaleVQVAE
    from ..model.transformer import VAR

SIDE, GAP, TOP = 150, 14, 26  # of a panel, between panels, above them: units of the drawing

STYLE = """<style>
.varmini-token .answer { visibility: hidden; pointer-events: none }
.varmini-token:hover .answer { visibility: visible }
.varmini-tokens:not(:hover) .varmini-token.first .answer { visibility: visible }
.varmini-tokens image { image-rendering: pixelated }
.varmini-tokens text { font: 13px sans-serif }
</style>"""


def token_page(
    var: VAR,
    tok: MultiScaleVQVAE,
    image: Tensor,
    label: int,
    *,
    scale: int,
    block: int = 0,
    head: int | None = None,
) -> str:
    """Map `scale` of a picture as HTML: the pointer on a token shows what `views.one_token` draws.

    From the left: the map, in the colours of its codes, which the pointer moves over; where the
    token is in the picture; what its code paints (grey: nothing); the maps it looks at, with the
    share of its attention. Before the pointer comes, the token in the middle is shown.

    Args:
        image: (C, H, W) in [-1, 1].
        label: its class.
        scale: which map, from 0.
        block: whose attention, from 0.
        head: which head, from 0; None for the mean of all.

    Raises:
        ValueError: when there is no such map, block or head.
    """
    image, schedule = one_image(image), tok.schedule
    tokens, shares, paints = look_at_token(var, tok, image, label, scale, block, head)
    strongest = paints.abs().amax((1, 2, 3), keepdim=True).clamp(min=1e-6)
    colours, painted = code_colours(tok.quantizer.codebook.weight), pixels_of(paints / strongest)
    h, w = schedule.grids[scale]
    size = SIDE / max(h, w)
    titles = ("point at a token", "where it is", "what its code paints")
    parts = [_panel(1, pixels_of(image)[0]), *(_title(i, words) for i, words in enumerate(titles))]
    for i, (row, column) in enumerate(np.ndindex(h, w)):
        code = int(tokens[scale][0, row, column])
        box = f'x="{column * size:.1f}" width="{size:.1f}" height="{size:.1f}"'
        answer = [
            _ring(0, size, row, column),
            _ring(1, SIDE / h, row, column, SIDE / w),
            _panel(2, painted[i]),
            *_looks(schedule, shares[schedule.slices[scale].start + i], scale),
            _ring(3 + scale, SIDE / h, row, column, SIDE / w),
        ]
        first = " first" if (row, column) == (h // 2, w // 2) else ""
        parts.append(
            f'<g class="varmini-token{first}"><rect {box} y="{TOP + row * size:.1f}" '
            f'fill="#{bytes(colours[code].tolist()).hex()}" stroke="white">'
            f"<title>row {row}, column {column}: code {code}</title></rect>"
            f'<g class="answer">{"".join(answer)}</g></g>'
        )
    width = (4 + scale) * (SIDE + GAP)
    return (
        f'{STYLE}<svg class="varmini-tokens" xmlns="http://www.w3.org/2000/svg" '
        f'viewBox="-2 0 {width} {TOP + SIDE + 4}" style="max-width: {width}px; width: 100%">'
        f"{''.join(parts)}</svg>"
    )


def _looks(schedule, shares: Tensor, scale: int) -> list[str]:
    """The maps 0 to `scale` with the attention (L,) of one token, on one colour scale."""
    maps = [shares[part].view(grid) for part, grid in zip(schedule.slices, schedule.grids)]
    top, found = max(float(part.max()) for part in maps[: scale + 1]), []
    for at, part in enumerate(maps[: scale + 1], 3):
        rows, columns = part.shape
        name = f"looks at {rows}×{columns}: {100 * float(part.sum()):.0f} %"
        found += [_panel(at, part.numpy(), cmap="YlGnBu", vmin=0, vmax=top), _title(at, name)]
    return found


def _panel(at: int, pixels: np.ndarray, **look) -> str:
    """Pixels (H, W, 3), or numbers (H, W) and their colours, as the picture of one panel."""
    import matplotlib.pyplot as plt

    content = BytesIO()
    plt.imsave(content, pixels, format="png", **look)
    data = base64.b64encode(content.getvalue()).decode()
    place = f'x="{at * (SIDE + GAP)}" y="{TOP}" width="{SIDE}" height="{SIDE}"'
    return f'<image {place} preserveAspectRatio="none" href="data:image/png;base64,{data}"/>'


def _title(at: int, words: str) -> str:
    return f'<text x="{at * (SIDE + GAP)}" y="{TOP - 9}" fill="{MUTED}">{words}</text>'


def _ring(at: int, height: float, row: int, column: int, width: float = 0.0) -> str:
    width = width or height
    x, y = at * (SIDE + GAP) + column * width, TOP + row * height
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="none" '
        f'stroke="{ACCENT}" stroke-width="3"/>'
    )
