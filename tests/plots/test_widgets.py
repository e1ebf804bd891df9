"""The plain functions under the widgets, and what the widgets add: values, redrawing, errors."""

import base64

import matplotlib.pyplot as plt
import pytest
import torch
import torch.nn.functional as F

from varmini import plots, sample
from varmini.plots import views, widgets

CLASSES = ("ant", "bee", "cat")
LAWS = (2.0, -0.23), (2.2e-5, -0.13)
ENDS = {"sizes": (0.01, 10.0), "computes": (1e4, 1e10)}


def headings(figure) -> list[str]:
    return [t.get_text() for t in figure.axes[0].texts if not t.get_text().isdigit()]


def sheet(figure):
    return torch.tensor(figure.axes[0].images[0].get_array())


# --------------------------------------------------------------------------------- plain functions


def test_the_steps_of_a_walk_add_up(pair, images):
    _, tok = pair
    tokens = tok.encode(images[:1])
    with torch.no_grad():
        total = tok.decode_features(torch.zeros_like(tok.features(images[:1]))).clamp(-1, 1)
        for k in range(1, 4):
            after, change = views.scale_steps(tok, images[0], k)
            total = total + change
            assert torch.equal(after, tok.decode(tokens, num_scales=k))
            assert torch.allclose(total, after, atol=1e-5)


@pytest.mark.parametrize("scales", [1, 3])
def test_one_scale_shows_map_change_picture_and_original(pair, images, scales):
    _, tok = pair
    h, w = tok.schedule.grids[scales - 1]
    figure = views.one_scale(tok, images[0], scales)
    assert headings(figure) == [f"map {h}×{w}", "it adds", "so far", "original"]
    numbers = [int(t.get_text()) for t in figure.axes[0].texts if t.get_text().isdigit()]
    assert numbers == tok.encode(images[:1])[scales - 1].flatten().tolist()


def test_a_drawn_picture_is_that_of_sample(pair):
    var, tok = pair
    _, tokens = sample(var, tok, [1], cfg=2.0, top_k=5, top_p=0.9, seed=4, return_tokens=True)
    figure = views.draw_growing(var, tok, 1, cfg=2.0, top_k=5, top_p=0.9, seed=4)
    assert torch.equal(sheet(figure), sheet(plots.growing(tok, tokens)))
    other = views.draw_growing(var, tok, 1, cfg=2.0, top_k=5, top_p=0.9, seed=5)
    assert not torch.equal(sheet(figure), sheet(other))


@pytest.mark.parametrize("call, message", [
    (lambda v, t, x: views.one_scale(t, x[0], 4), "num_scales is 4"),
    (lambda v, t, x: views.one_scale(t, x, 1), "expected \\(C, H, W\\)"),
    (lambda v, t, x: views.one_token(v, t, x[0], 1, scale=3), "out of range"),
    (lambda v, t, x: views.one_token(v, t, x[0], 1, scale=1, row=2), "invalid entry"),
    (lambda v, t, x: views.one_token(v, t, x[0], 1, scale=1, head=2), "index 2 is out of bounds"),
    (lambda v, t, x: views.one_token(v, t, x[0], 1, scale=1, block=2), "2 is out of range"),
])  # fmt: skip
def test_what_is_not_there_is_refused(pair, images, call, message):
    with pytest.raises((ValueError, IndexError), match=message):
        call(*pair, images)


def test_redraw_shows_the_hole_in_red(pair, images):
    mask = torch.zeros(16, 16, dtype=torch.bool)
    mask[4:8, 4:12] = True
    figure = views.redraw(*pair, images[0], mask, 2, draws=2, seed=1)
    assert headings(figure) == ["picture", "red: to be drawn", "draw 1", "draw 2"]
    red = (sheet(figure) == torch.tensor([209, 73, 91], dtype=torch.uint8)).all(-1)
    width = sheet(figure).shape[0]  # one row of square pictures
    assert int(red.sum()) == (width // 16) ** 2 * int(mask.sum())


def test_attention_is_what_the_block_mixes_with(pair, images):
    """The weights, times the values, through the projection, are the layer's own output."""
    var, tok = pair
    inputs, labels = tok.quantizer.teacher_inputs(tok.encode(images)), torch.tensor([0, 1, 2])
    for block in range(2):
        layer = var.blocks[block].attention
        seen = {}
        hook = layer.register_forward_hook(
            lambda layer, given, out, seen=seen: seen.update(x=given[0], out=out)
        )
        weights = views.attention(var, labels, inputs, block)
        hook.remove()
        width = var.config.width
        with torch.no_grad():
            v = F.linear(seen["x"], layer.qkv.weight[2 * width :], layer.v_bias)
            v = v.unflatten(2, (var.config.heads, -1)).transpose(1, 2)
            out = layer.proj((weights @ v).transpose(1, 2).flatten(2))
        assert torch.allclose(out, seen["out"], atol=1e-5)
        assert torch.allclose(weights.sum(-1), torch.ones(()), atol=1e-5)
        assert (weights.masked_select(~var.mask) == 0).all()


def test_tokens_paint_where_they_stand_and_together_what_their_map_adds(pair, images, monkeypatch):
    """With a decoder that shows the first feature, so that painting is a sum."""
    _, tok = pair
    monkeypatch.setattr(tok, "decode_features", lambda f: f[:, :1] / 100)
    tokens = tok.encode(images[:1])
    parts = views.token_paints(tok, tokens, 2)  # (16, 1, 4, 4)
    assert parts[0, 0, :2, :2].abs().min() > 0  # phi is a 3x3 convolution
    assert parts[0, 0, 2:].abs().max() < 1e-7 and parts[0, 0, :, 2:].abs().max() < 1e-7
    codes = tok.quantizer.embed(tokens[2])
    with torch.no_grad():
        added = tok.quantizer.contribution(2, codes) - tok.quantizer.contribution(2, 0 * codes)
    assert torch.allclose(parts.sum(0), added[0, :1] / 100, atol=1e-6)


def test_one_token_shows_a_panel_for_every_map_it_sees(pair, images):
    figure = views.one_token(*pair, images[0], 1, scale=1, row=1, column=0, block=1, head=0)
    titles = [ax.get_title() for ax in figure.axes]
    assert titles[:2] == ["where the token is", "what its code paints"] and len(titles) == 4
    shares = [int(title.split(":")[1].removesuffix("%")) for title in titles[2:]]
    assert abs(sum(shares) - 100) <= 1  # it sees its own map and the coarser one, nothing else


def test_the_laws_loss_is_the_papers():
    """Section 5.1: L = (2.0 N)^-0.23 with N in billions, L = (2.2e-5 C)^-0.13 with C in PFlops."""
    assert views.law_loss(*LAWS, 2.0, 1e8) == pytest.approx((0.7270, 0.3677), abs=1e-4)


@pytest.mark.parametrize("size, compute, word", [(0.01, 1e10, "size"), (10, 1e4, "compute")])
def test_a_model_is_held_back_by_the_larger_loss(size, compute, word):
    figure = views.on_the_law(*LAWS, size=size, compute=compute, **ENDS)
    assert figure.get_suptitle().startswith(f"held back by its {word}")
    marks = [ax.lines[1].get_xydata()[0].tolist() for ax in figure.axes]
    assert marks == [list(m) for m in zip((size, compute), views.law_loss(*LAWS, size, compute))]


# ----------------------------------------------------------------------------------------- widgets


def png(panel) -> bytes:
    assert panel.picture.value[:4] == b"\x89PNG"
    return panel.picture.value


def test_a_panel_draws_from_its_controls_and_again_when_they_change(pair, images):
    panel = widgets.walk(pair[1], images)
    first = png(panel)
    panel.controls["scales"].value = 3
    assert panel.values == {"picture": 0, "scales": 3} and png(panel) != first
    assert not plt.get_fignums()  # an open figure would be shown a second time


def test_an_error_becomes_a_line_and_the_picture_stays(pair, images):
    panel = widgets.walk(pair[1], images)
    before = png(panel)
    panel.draw = lambda **values: (_ for _ in ()).throw(ValueError("a < b"))
    panel.redraw()
    assert panel.message.value == "<b>a &lt; b</b>" and png(panel) == before


def test_the_sampler_draws_what_its_function_draws(pair):
    panel = widgets.sampler(*pair, CLASSES)
    assert (panel.controls["label"].label, panel.values["label"]) == ("ant", 0)
    for name, value in {"label": 2, "cfg": 3.0, "top_k": 5, "seed": 7}.items():
        panel.controls[name].value = value
    assert panel.message.value == ""
    settings = {"cfg": 3.0, "top_k": 5, "top_p": 0.96, "smooth": False, "seed": 7}
    assert panel.values == {"label": 2} | settings
    other = widgets.Panel(lambda: views.draw_growing(*pair, 2, **settings), {})
    assert png(panel) == png(other)


def test_the_painter_waits_for_its_button(pair, images):
    panel = widgets.painter(*pair, images, CLASSES, draws=1)
    assert (panel.controls["label"].label, panel.values["label"]) == ("no class", None)
    first, cells = png(panel), panel.controls["cells"]
    colour = cells.cells[0][0].style.button_color
    cells.cells[0][0].click()
    assert cells.value[0][0] and cells.cells[0][0].style.button_color != colour
    assert png(panel) == first
    panel.button.click()
    assert png(panel) != first and panel.message.value == ""
    cells.cells[0][0].click()
    assert not cells.value[0][0] and cells.cells[0][0].style.button_color == colour


def test_cells_show_the_mosaic_of_an_image():
    cells = widgets.Cells([[False] * 2] * 2)
    image = torch.full((3, 4, 4), -1.0)
    image[0, :2, 2:] = 1  # red, top right
    cells.show(image)
    colours = [[cell.style.button_color for cell in line] for line in cells.cells]
    assert colours == [["#000000", "#ff0000"], ["#000000", "#000000"]]


def test_the_scaling_widget_starts_in_the_middle_of_its_laws():
    panel = widgets.scaling(*LAWS, sizes=(0.1, 10), computes=(1e3, 1e5))
    assert list(panel.values.values()) == pytest.approx([1, 1e4])
    first = png(panel)
    panel.controls["size"].value = 5.0
    assert png(panel) != first


def test_a_page_without_widgets_gets_the_picture(pair, images, monkeypatch):
    panel = widgets.walk(pair[1], images)
    bundle = panel._repr_mimebundle_()
    assert bundle["text/plain"] == "a widget: run the notebook to use it"
    assert base64.b64decode(bundle["image/png"]) == png(panel)
    assert "application/vnd.jupyter.widget-view+json" in bundle
    monkeypatch.setenv(widgets.STATIC, "off")
    assert sorted(panel._repr_mimebundle_()) == ["image/png", "text/plain"]
