"""Widgets for the notebooks: sliders on the plain functions of `views`. Needs ipywidgets.

A widget's state of the moment is also a PNG, so a page on which no widget can run shows that.
"""

from __future__ import annotations

import base64
import html
import math
import os
from collections.abc import Callable, Sequence
from functools import partial

import ipywidgets
import torch
import traitlets
from matplotlib.figure import Figure
from torch import Tensor

from ..model.tokenizer import MultiScaleVQVAE
from ..model.transformer import VAR
from . import views
from .hover import token_page
from .images import pixels_of, png_of

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
        try:
            self.picture.value = png_of(self.draw(**self.values))
            self.live.value = self.page(**self.values) if self.page else ""
            self.message.value = ""
        except ValueError as error:
            self.message.value = f"<b>{html.escape(str(error))}</b>"

    def _repr_mimebundle_(self, **kwargs: object) -> dict:
        bundle = {"text/plain": "a widget: run the notebook to use it"}
        if self.picture.value:
            bundle["image/png"] = base64.b64encode(self.picture.value).decode()
        live = os.environ.get(STATIC) != "off"
        return (live and super()._repr_mimebundle_(**kwargs) or {}) | bundle


class Cells(ipywidgets.GridBox):
    """A grid of cells to click on or off; `value` is a tuple of rows of bools."""

    value = traitlets.Tuple()

    def __init__(self, on: Sequence[Sequence[bool]]) -> None:
        look = {"width": "22px", "height": "22px", "margin": "0", "padding": "0", "border": "none"}
        self.cells = [[ipywidgets.Button(layout=look) for _ in line] for line in on]
        self.colours = [["#dddddd"] * len(line) for line in on]
        for r, line in enumerate(self.cells):
            for c, cell in enumerate(line):
                cell.on_click(partial(self._turn, r, c))
                cell.tooltip = f"row {r}, column {c}"
        columns = f"repeat({len(on[0])}, 22px)"
        layout = {"grid_template_columns": columns, "grid_gap": "1px"}
        super().__init__([cell for line in self.cells for cell in line], layout=layout)
        self.observe(self._paint, "value")
        self.value = tuple(map(tuple, on))

    def _turn(self, row: int, column: int, _: object) -> None:
        rows = [list(line) for line in self.value]
        rows[row][column] = not rows[row][column]
        self.value = tuple(map(tuple, rows))

    def show(self, image: Tensor) -> None:
        """Colours the cells like an image (C, H, W) in [-1, 1], as a mosaic."""
        size = (len(self.cells), len(self.cells[0]))
        mosaic = pixels_of(torch.nn.functional.adaptive_avg_pool2d(image[None].float(), size))[0]
        self.colours = [["#" + bytes(rgb).hex() for rgb in line] for line in mosaic.tolist()]
        self._paint()

    def _paint(self, _: object = None) -> None:
        for line, colours, ons in zip(self.cells, self.colours, self.value):
            for cell, colour, on in zip(line, colours, ons):
                cell.style.button_color = views.ACCENT if on else colour


# ------------------------------------------------------------------------------------ the controls


def _number(name: str, value: int, high: int, low: int = 0) -> ipywidgets.IntSlider:
    return ipywidgets.IntSlider(value, low, high, description=name, continuous_update=False)


def _share(name: str, value: float, high: float, step: float) -> ipywidgets.FloatSlider:
    given = {"value": value, "min": 0, "max": high, "step": step}
    return ipywidgets.FloatSlider(**given, description=name, continuous_update=False)


def _choice(name: str, options: Sequence[tuple], index: int = 0) -> ipywidgets.Dropdown:
    # By its index: a menu with value=None stays blank, although an option has that value.
    return ipywidgets.Dropdown(options=options, index=index, description=name)


def _drawing(vocab_size: int, cfg: float) -> dict[str, ipywidgets.Widget]:
    counts = [n for n in (1, 2, 5, 10, 20, 50, 100, 200, 500, 900) if n < vocab_size]
    options = [*((str(n), n) for n in counts), ("all", 0)]
    return {
        "cfg": _share("guidance", cfg, 8, 0.25),
        "top_k": ipywidgets.SelectionSlider(
            options=options, value=0, description="top-k", continuous_update=False
        ),
        "top_p": _share("top-p", 0.96, 1, 0.01),
        "smooth": ipywidgets.Checkbox(False, description="smoothing"),
        "seed": _number("seed", 0, 99),
    }


def _pictures(images: Tensor) -> ipywidgets.Widget:
    return _number("picture", 0, len(images) - 1)


def _numbered(names: Sequence[str]) -> list[tuple[str, int]]:
    return [(name, i) for i, name in enumerate(names)]


# ------------------------------------------------------------------------------------- the widgets


def walk(tok: MultiScaleVQVAE, images: Tensor) -> Panel:
    """Walk through the scales of images (B, C, H, W) with a slider (`views.one_scale`)."""
    last = len(tok.schedule)
    scales = ipywidgets.IntSlider(max(1, last - 1), 1, last, description="maps")  # as a page shows
    return Panel(
        lambda picture, scales: views.one_scale(tok, images[picture], scales),
        {"picture": _pictures(images), "scales": scales},
    )


def sampler(var: VAR, tok: MultiScaleVQVAE, classes: Sequence[str], *, cfg: float = 1.5) -> Panel:
    """Turn the knobs of sampling and see a picture grow (`views.draw_growing`)."""
    controls = {"label": _choice("class", _numbered(classes))} | _drawing(tok.vocab_size, cfg)
    return Panel(partial(views.draw_growing, var, tok), controls)


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
    h, w = tok.schedule.grids[-1]
    middle = torch.zeros(h, w, dtype=torch.bool)
    middle[h // 4 : h - h // 4, w // 4 : w - w // 4] = True
    cells, picture = Cells(middle.tolist()), _pictures(images)
    picture.observe(lambda change: cells.show(images[change["new"]]), "value")
    cells.show(images[0])
    height, width = images.shape[2] // h, images.shape[3] // w  # pixels of a cell

    def draw(picture: int, cells: Sequence, label: int | None, **settings) -> Figure:
        mask = torch.tensor(cells).repeat_interleave(height, 0).repeat_interleave(width, 1)
        return views.redraw(var, tok, images[picture], mask, label, draws=draws, **settings)

    label = _choice("class", [("no class", None), *_numbered(classes)])
    controls = {"picture": picture, "cells": cells, "label": label}
    return Panel(draw, controls | _drawing(tok.vocab_size, cfg), button="draw")


def tokens(var: VAR, tok: MultiScaleVQVAE, images: Tensor, labels: Tensor) -> Panel:
    """Point at a token of one of images (B, C, H, W) with labels (B,): its patch, where it looks.

    The map that answers the pointer is `hover.token_page`. A page on which it cannot run shows the
    token in the middle of the map (`views.one_token`).
    """
    grids, depth = tok.schedule.grids, len(var.blocks)
    heads = [("mean of all", None), *((str(i), i) for i in range(var.config.heads))]
    controls = {
        "picture": _pictures(images),
        "scale": _choice("map", _numbered([f"{h}×{w}" for h, w in grids]), len(grids) - 1),
        "block": _number("block", depth // 2, depth - 1),
        "head": _choice("head", heads),
    }

    def page(picture: int, show: Callable = token_page, **where):
        return show(var, tok, images[picture], int(labels[picture]), **where)

    def draw(scale: int, **where) -> Figure:
        row, column = (side // 2 for side in grids[scale])
        return page(show=views.one_token, scale=scale, row=row, column=column, **where)

    return Panel(draw, controls, page=page)


def scaling(
    size_law: views.Law,
    compute_law: views.Law,
    *,
    sizes: tuple[float, float],
    computes: tuple[float, float],
) -> Panel:
    """Drag model size and compute along fitted laws; arguments as of `views.on_the_law`."""

    def dial(name: str, *ends: float) -> ipywidgets.FloatLogSlider:
        low, high = map(math.log10, ends)
        look = {"step": 0.05, "readout_format": ".2g", "continuous_update": False}
        middle = 10 ** ((low + high) / 2)
        return ipywidgets.FloatLogSlider(value=middle, min=low, max=high, description=name, **look)

    return Panel(
        partial(views.on_the_law, size_law, compute_law, sizes=sizes, computes=computes),
        {"size": dial("size", *sizes), "compute": dial("compute", *computes)},
    )
