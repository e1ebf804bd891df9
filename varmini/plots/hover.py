"""A token map that answers the pointer: what a token's code paints, and where the token looks.

`token_page` returns HTML and holds all answers at once. Style sheets alone do the rest, so nothing
waits for a kernel, and it works wherever a page is shown, by a tap as well.
"""

from __future__ import annotations

import base64
from io import BytesIO

import matplotlib.pyplot as plt
import numpy as np
from torch import Tensor

from ..model.tokenizer import MultiScaleVQVAE
from ..model.transformer import VAR
from .charts import ACCENT, MUTED
from .images import code_colours, pixels_of
from .views import look_at_tokens, maps_seen, one_image

SIDE, GAP, TOP = 150, 14, 26  # of a panel, between panels, above them: units of the drawing

STYLE = """<style>
.varmini-token .answer { visibility: hidden; pointer-events: none }
.varmini-token:hover .answer { visibility: visible }
.varmini-tokens:not(:hover) .varmini-token.first .answer { visibility: visible }
.varmini-tokens image { image-rendering: pixelated }
.varmini-tokens text { font: 13px sans-serif }
</style>"""


def token_page(
    var: VAR, tok: MultiScaleVQVAE, image: Tensor, label: int, *, scale: int, **where
) -> str:
    """Map `scale` of a picture as HTML: the pointer on a token shows what `views.one_token` draws.

    From the left: the map, in the colours of its codes, which the pointer moves over; where the
    token is in the picture; what its code paints (grey: nothing); the maps it looks at, with the
    share of its attention. Before the pointer comes, the token in the middle is shown.

    Arguments and errors as in `views.one_token`; where: block and head.
    """
    image = one_image(image)
    tokens, shares, paints = look_at_tokens(var, tok, image, label, scale=scale, **where)
    colours = code_colours(tok.quantizer.codebook.weight)
    h, w = tok.schedule.grids[scale]
    size = SIDE / max(h, w)
    titles = ("point at a token", "where it is", "what its code paints")
    parts = [_panel(1, pixels_of(image)[0]), *(_title(i, words) for i, words in enumerate(titles))]
    for i, (row, column) in enumerate(np.ndindex(h, w)):
        code, cell = int(tokens[scale][0, row, column]), (row, column, SIDE / h, SIDE / w)
        answer = [_ring(0, row, column, size, size), _ring(1, *cell), _panel(2, paints[i])]
        maps, names, top = maps_seen(tok, shares[i], scale)
        for at, (part, name) in enumerate(zip(maps, names), 3):
            look = {"cmap": "YlGnBu", "vmin": 0, "vmax": top}
            answer += [_panel(at, part, **look), _title(at, name)]
        answer.append(_ring(3 + scale, *cell))
        first = " first" if (row, column) == (h // 2, w // 2) else ""
        fill = f'fill="#{bytes(colours[code].tolist()).hex()}" stroke="white"'
        parts.append(
            f'<g class="varmini-token{first}"><rect {_box(0, row, column, size, size)} {fill}>'
            f"<title>row {row}, column {column}: code {code}</title></rect>"
            f'<g class="answer">{"".join(answer)}</g></g>'
        )
    width = (4 + scale) * (SIDE + GAP)
    return (
        f'{STYLE}<svg class="varmini-tokens" xmlns="http://www.w3.org/2000/svg" '
        f'viewBox="-2 0 {width} {TOP + SIDE + 4}" style="max-width: {width}px; width: 100%">'
        f"{''.join(parts)}</svg>"
    )


def _panel(at: int, pixels: np.ndarray, **look) -> str:
    """Pixels (H, W, 3), or numbers (H, W) and their colours, as the picture of one panel."""
    content = BytesIO()
    plt.imsave(content, pixels, format="png", **look)
    data = base64.b64encode(content.getvalue()).decode()
    box = _box(at, 0, 0, SIDE, SIDE)
    return f'<image {box} preserveAspectRatio="none" href="data:image/png;base64,{data}"/>'


def _title(at: int, words: str) -> str:
    return f'<text x="{at * (SIDE + GAP)}" y="{TOP - 9}" fill="{MUTED}">{words}</text>'


def _box(at: int, row: int, column: int, height: float, width: float) -> str:
    """Where a cell lies in a panel of cells of that size."""
    x, y = at * (SIDE + GAP) + column * width, TOP + row * height
    return f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'


def _ring(*cell: float) -> str:
    return f'<rect {_box(*cell)} fill="none" stroke="{ACCENT}" stroke-width="3"/>'
