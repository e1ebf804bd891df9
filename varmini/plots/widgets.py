"""Widgets for the notebooks: sliders on the plain functions of `views`. Needs ipywidgets.

A widget's state of the moment is also a PNG, so a page on which no widget can run shows that.
"""

from __future__ import annotations

import base64
import html
import os
from collections.abc import Callable, Sequence
from functools import partial
from io import BytesIO
from typing import TYPE_CHECKING

import ipywidgets
import torch
import traitlets
from torch import Tensor

from . import views

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..model.tokenizer import MultiScaleVQVAE
    from ..model.transformer import VAR

STATIC = "VARMINI_WIDGETS"
"""Set to "off" in the environment, panels show their picture alone: for pages that cannot run."""


class Panel(ipywidgets.VBox):
    """Controls above the picture that they steer; a ValueError appears as a line of text.

    Args:
        draw: called with the controls' values by name; returns a Figure.
        controls: name to a widget with a `value`.
        button: when given, the picture waits for a click on a button of this name.
        page: called like `draw`; returns HTML that stands in place of the picture while it is live.
    """

    def __init__(
        self,
        draw: Callable[..., Figure],
        controls: dict[str, ipywidgets.Widget],
        button: str = "",
        page: Callable[..., str] | None = None,
    ) -> None:
        self.draw, self.controls, self.page = draw, controls, page
        self.picture = ipywidgets.Image(format="png", layout={"max_width": "100%"})
        self.message, self.live = ipywidgets.HTML(), ipywidgets.HTML()
        row = list(controls.values())
        if button:
            self.button = ipywidgets.Button(description=button, button_style="primary")
            self.button.on_click(self.redraw)
            row.append(self.button)
        else:
            for control in row:
                control.observe(self.redraw, "value")
        bar = ipywidgets.HBox(row, layout={"flex_flow": "row wrap", "align_items": "center"})
        super().__init__([bar, self.message, self.live if page else self.picture])
        self.redraw()

    @property
    def values(self) -> dict:
        """The controls' values by name."""
        return {name: control.value for name, control in self.controls.items()}

    def redraw(self, _: object = None) -> None:
        """Draws anew from the controls."""
        import matplotlib.pyplot as plt

        try:
            figure = self.draw(**self.values)
            self.live.value = self.page(**self.values) if self.page else ""
        except ValueError as error:
            self.message.value = f"<b>{html.escape(str(error))}</b>"
            return
        content = BytesIO()
        figure.savefig(content, format="png")
        plt.close(figure)  # or the notebook would show it a second time
        self.picture.value, self.message.value = content.getvalue(), ""

    def _repr_mimebundle_(self, **kwargs: object) -> dict:
        bundle = {"text/plain": "a widget: run the notebook to use it"}
        if self.picture.value:
            bundle["image/png"] = base64.b64encode(self.picture.value).decode()
        live = os.environ.get(STATIC) != "off"
        shown = super()._repr_mimebundle_(**kwargs) if live else {}
        return (shown or {}) | bundle


class Cells(ipywidgets.GridBox):
    """A grid of cells to click on or off; `value` is a tuple of rows of bools."""

    value = traitlets.Tuple()

    def __init__(self, rows: int, columns: int, on: Sequence[Sequence[bool]] | None = None) -> None:
        look = {"width": "22px", "height": "22px", "margin": "0", "padding": "0", "border": "none"}
        self.cells = [[ipywidgets.Button(layout=look) for _ in range(columns)] for _ in range(rows)]
        self.colours = [["#dddddd"] * columns for _ in range(rows)]
        for r, line in enumerate(self.cells):
            for c, cell in enumerate(line):
                cell.on_click(partial(self._turn, r, c))
                cell.tooltip = f"row {r}, column {c}"
        super().__init__(
            [cell for line in self.cells for cell in line],
            layout={"grid_template_columns": f"repeat({columns}, 22px)", "grid_gap": "1px"},
        )
        self.observe(lambda _: self._paint(), "value")
        self.value = tuple(map(tuple, on)) if on else ((False,) * columns,) * rows
        self._paint()

    def _turn(self, row: int, column: int, _: object = None) -> None:
        rows = [list(line) for line in self.value]
        rows[row][column] = not rows[row][column]
        self.value = tuple(map(tuple, rows))

    def show(self, image: Tensor) -> None:
        """Colours the cells like an image (C, H, W) in [-1, 1], as a mosaic."""
        size = (len(self.cells), len(self.cells[0]))
        mean = torch.nn.functional.adaptive_avg_pool2d(image.float().cpu(), size).expand(3, *size)
        pixels = ((mean + 1) * 127.5).round().clamp(0, 255).int().permute(1, 2, 0).tolist()
        self.colours = [["#" + bytes(rgb).hex() for rgb in line] for line in pixels]
        self._paint()

    def _paint(self) -> None:
        for line, colours, ons in zip(self.cells, self.colours, self.value):
            for cell, colour, on in zip(line, colours, ons):
                cell.style.button_color = views.ACCENT if on else colour


def cells_to_mask(cells: Sequence[Sequence[bool]], height: int, width: int) -> Tensor:
    """A grid of n x m cells as a mask (height, width) bool; n and m must divide them.

    Raises:
        ValueError: when they do not.
    """
    grid = torch.tensor(cells, dtype=torch.bool)
    if height % grid.shape[0] or width % grid.shape[1]:
        raise ValueError(f"{tuple(grid.shape)} cells do not divide {height}x{width} pixels")
    rows = grid.repeat_interleave(height // grid.shape[0], 0)
    return rows.repeat_interleave(width // grid.shape[1], 1)


# ------------------------------------------------------------------------------------ the controls


def _number(name: str, value: int, low: int, high: int) -> ipywidgets.IntSlider:
    return ipywidgets.IntSlider(value, low, high, description=name, continuous_update=False)


def _share(name: str, value: float, high: float, step: float) -> ipywidgets.FloatSlider:
    return ipywidgets.FloatSlider(
        value=value, min=0, max=high, step=step, description=name, continuous_update=False
    )


def _choice(name: str, options: Sequence[tuple], value: object) -> ipywidgets.Dropdown:
    # By its index: a menu with value=None stays blank, although an option has that value.
    index = [v for _, v in options].index(value)
    return ipywidgets.Dropdown(options=options, index=index, description=name)


def _drawing(vocab_size: int, cfg: float) -> dict[str, ipywidgets.Widget]:
    counts = [n for n in (1, 2, 5, 10, 20, 50, 100, 200, 500, 900) if n < vocab_size]
    top_k = ipywidgets.SelectionSlider(
        options=[*((str(n), n) for n in counts), ("all", 0)],
        value=0,
        description="top-k",
        continuous_update=False,
    )
    return {
        "cfg": _share("guidance", cfg, 8, 0.25),
        "top_k": top_k,
        "top_p": _share("top-p", 0.96, 1, 0.01),
        "smooth": ipywidgets.Checkbox(False, description="smoothing"),
        "seed": _number("seed", 0, 0, 99),
    }


def _pictures(images: Tensor) -> ipywidgets.Widget:
    return _number("picture", 0, 0, len(images) - 1)


def _labels(classes: Sequence[str]) -> list[tuple[str, int]]:
    return [(name, i) for i, name in enumerate(classes)]


# ------------------------------------------------------------------------------------- the widgets


def walk(tok: MultiScaleVQVAE, images: Tensor) -> Panel:
    """Walk through the scales of images (B, C, H, W) with a slider (`views.one_scale`)."""
    count = len(tok.schedule)
    scales = ipywidgets.IntSlider(1, 1, count, description="maps")
    return Panel(
        lambda picture, scales: views.one_scale(tok, images[picture], scales),
        {"picture": _pictures(images), "scales": scales},
    )


def sampler(var: VAR, tok: MultiScaleVQVAE, classes: Sequence[str], *, cfg: float = 1.5) -> Panel:
    """Turn the knobs of sampling and see a picture grow (`views.draw_growing`)."""
    controls = {"label": _choice("class", _labels(classes), 0)}
    draw = partial(views.draw_growing, var, tok)
    return Panel(draw, controls | _drawing(tok.vocab_size, cfg))


def painter(
    var: VAR,
    tok: MultiScaleVQVAE,
    images: Tensor,
    classes: Sequence[str],
    *,
    cfg: float = 1.5,
    draws: int = 4,
) -> Panel:
    """Paint a mask over one of images (B, C, H, W), choose a class, and in-paint (`views.redraw`).

    A cell is a token of the last map. The middle is painted at first.
    """
    rows, columns = tok.schedule.grids[-1]
    middle = [
        [rows // 4 <= r < rows - rows // 4 and columns // 4 <= c < columns - columns // 4
         for c in range(columns)] for r in range(rows)
    ]  # fmt: skip
    cells, picture = Cells(rows, columns, middle), _pictures(images)
    picture.observe(lambda change: cells.show(images[change["new"]]), "value")
    cells.show(images[0])

    def draw(picture: int, cells: Sequence, label: int | None, **settings) -> Figure:
        mask = cells_to_mask(cells, *images.shape[2:])
        return views.redraw(var, tok, images[picture], mask, label, draws=draws, **settings)

    label = _choice("class", [("no class", None), *_labels(classes)], None)
    controls = {"picture": picture, "cells": cells, "label": label}
    return Panel(draw, controls | _drawing(tok.vocab_size, cfg), button="draw")


def tokens(var: VAR, tok: MultiScaleVQVAE, images: Tensor, labels: Tensor) -> Panel:
    """Point at a token of one of images (B, C, H, W) with labels (B,): its patch, where it looks.

    The map that answers the pointer is `hover.token_page`. A page on which it cannot run shows the
    token in the middle of the map (`views.one_token`).
    """
    from .hover import token_page

    names = [f"{h}×{w}" for h, w in tok.schedule.grids]
    heads = [("mean of all", None), *((str(i), i) for i in range(var.config.heads))]
    controls = {
        "picture": _pictures(images),
        "scale": _choice("map", [(name, k) for k, name in enumerate(names)], len(names) - 1),
        "block": _number("block", len(var.blocks) // 2, 0, len(var.blocks) - 1),
        "head": _choice("head", heads, None),
    }

    def draw(picture: int, scale: int, **where) -> Figure:
        h, w = tok.schedule.grids[scale]
        where |= {"scale": scale, "row": h // 2, "column": w // 2}
        return views.one_token(var, tok, images[picture], int(labels[picture]), **where)

    def page(picture: int, **where) -> str:
        return token_page(var, tok, images[picture], int(labels[picture]), **where)

    return Panel(draw, controls, page=page)


def scaling(
    size_law: views.Law = (2.0, -0.23),
    compute_law: views.Law = (2.2e-5, -0.13),
    *,
    sizes: tuple[float, float] = (0.01, 10.0),
    computes: tuple[float, float] = (1e4, 1e10),
    units: tuple[str, str] = ("parameters (billions)", "training compute (PFlops)"),
) -> Panel:
    """Drag model size and compute along fitted laws L = (a x)^b (`views.on_the_law`).

    Arguments as there; the defaults are the paper's laws.
    """
    ends = {"sizes": sizes, "computes": computes, "units": units}

    def dial(name: str, low: float, high: float) -> ipywidgets.FloatLogSlider:
        low, high = (float(torch.tensor(x, dtype=torch.float64).log10()) for x in (low, high))
        return ipywidgets.FloatLogSlider(
            value=10 ** ((low + high) / 2), min=low, max=high, step=0.05, description=name,
            readout_format=".2g", continuous_update=False,
        )  # fmt: skip

    return Panel(
        partial(views.on_the_law, size_law, compute_law, **ends),
        {"size": dial("size", *sizes), "compute": dial("compute", *computes)},
    )
