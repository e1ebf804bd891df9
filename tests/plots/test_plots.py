"""The arrays and lines behind the figures (nobody's eye is tested here)."""

from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from varmini import plots
from varmini.evaluation.metrics import codebook_usage
from varmini.model.scales import ScaleSchedule
from varmini.plots import charts
from varmini.plots.system import whole_system
from varmini.runtime.tables import write_rows


class FakeTokenizer:
    """Codes 0..9 are grey levels; from k maps it draws the k-th, enlarged."""

    def __init__(self):
        codes = torch.linspace(-1, 1, 10)[:, None] * torch.tensor([1.0, 0.5, 0.2, 0.1])
        self.quantizer = SimpleNamespace(codebook=torch.nn.Embedding.from_pretrained(codes))

    def encode(self, images: Tensor) -> list[Tensor]:
        grey = (images.mean(1, keepdim=True) + 1) / 2 * 9
        pooled = [torch.nn.functional.adaptive_avg_pool2d(grey, n) for n in (1, 2, 4)]
        return [p[:, 0].round().long() for p in pooled]

    def decode(self, tokens: list[Tensor], num_scales: int | None = None) -> Tensor:
        level = tokens[(num_scales or len(tokens)) - 1].float() / 9 * 2 - 1
        return torch.nn.functional.interpolate(level[:, None], size=8, mode="nearest")


def pictures(figure) -> np.ndarray:
    """The sheet of pictures, uint8 (H, W, 3), checked to be drawn without blur, pixel for pixel."""
    (axes,) = figure.axes
    (image,) = axes.images
    assert image.get_interpolation() == "nearest"
    sheet = np.asarray(image.get_array())
    box = axes.get_position().bounds * np.tile(figure.get_size_inches() * figure.dpi, 2)
    assert box[2:] == pytest.approx([sheet.shape[1], sheet.shape[0]], abs=0.01)
    assert figure.dpi >= 150
    return sheet


def texts(figure) -> list[str]:
    return [t.get_text() for t in figure.axes[0].texts]


@pytest.mark.parametrize("count, columns", [(1, 1), (6, 3), (10, 10)])
def test_a_saved_grid_shows_every_pixel_in_reading_order(tmp_path, count, columns):
    images = torch.rand(count, 3, 9, 7, generator=torch.Generator().manual_seed(count)) * 2 - 1
    figure = plots.image_grid(images, columns=columns, title="pixels")
    sheet, rows = pictures(figure), count // columns
    zoom = (sheet.shape[0] - 10 * (rows - 1)) // rows // 9
    pixels = ((images + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    for i, expected in enumerate(pixels.repeat(zoom, 1).repeat(zoom, 2)):
        y, x = i // columns * (9 * zoom + 10), i % columns * (7 * zoom + 10)
        assert (sheet[y : y + 9 * zoom, x : x + 7 * zoom] == expected).all()
    size = plots.save(figure, tmp_path / "grid.png")
    with Image.open(tmp_path / "grid.png") as file:
        assert file.size == size
        shown = np.asarray(file.convert("RGB"))[-16 - sheet.shape[0] : -16, 16:-16]
    assert (shown == sheet).all()
    assert not plt.get_fignums()  # saved figures are closed


def test_grid_labels_images_columns_or_rows():
    images = torch.zeros(6, 1, 8, 8)
    for labels in (list("abcdef"), ["left", "right"]):
        assert texts(plots.image_grid(images, 2, labels=labels)) == labels
    figure = plots.image_grid(images, 3, title="t", rows=("first", "second"))
    assert texts(figure) == ["first", "second"]
    figure.canvas.draw()
    (axes,) = figure.axes
    boxes = [t.get_window_extent() for t in axes.texts]
    assert all(0 <= box.x0 and box.x1 < axes.get_window_extent().x0 for box in boxes)
    with pytest.raises(ValueError, match="3 labels for 6 images in 2 columns"):
        plots.image_grid(images, 2, labels=["a", "b", "c"])
    with pytest.raises(ValueError, match="1 names for 2 rows"):
        plots.image_grid(images, 3, rows=("first",))


def test_scale_by_scale_ends_with_the_original():
    images = torch.linspace(-1, 1, 64).view(1, 1, 8, 8).repeat(2, 1, 1, 1)
    figure = plots.scale_by_scale(FakeTokenizer(), images)
    sheet = pictures(figure)
    assert texts(figure) == ["1×1", "+ 2×2", "+ 4×4", "original"]
    assert len(np.unique(sheet[:10, :10])) == 1  # the first column knows one tone only
    zoom = (sheet.shape[1] - 30) // 4 // 8
    original = sheet[: 8 * zoom : zoom, -8 * zoom :: zoom, 0]
    assert (original == ((images[0, 0] + 1) * 127.5).round().numpy()).all()


def test_similar_codes_get_similar_colours():
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(4, 16, generator=generator) * 5
    codebook = centres.repeat_interleave(8, 0) + 0.05 * torch.randn(32, 16, generator=generator)
    colours = plots.code_colours(codebook).astype(float)
    assert colours.shape == (32, 3) and (plots.code_colours(codebook) == colours).all()
    distance = np.abs(colours[:, None] - colours[None]).sum(-1)
    same = np.arange(32)[:, None] // 8 == np.arange(32) // 8
    assert distance[same].max() < distance[~same].min()
    assert plots.code_colours(torch.zeros(5, 2)).shape == (5, 3)


def test_token_maps_show_the_colour_of_every_token():
    tok = FakeTokenizer()
    codebook = tok.quantizer.codebook.weight
    tokens = [torch.tensor([[[7]]]), torch.tensor([[[0, 1], [2, 3]]]), torch.zeros(1, 8, 8).long()]
    figure = plots.token_maps(tokens, codebook, torch.ones(1, 1, 16, 16))
    sheet, colours = pictures(figure), plots.code_colours(codebook)
    assert texts(figure) == ["1×1", "2×2", "8×8", "image", "7", "0", "1", "2", "3"]
    side, step = sheet.shape[0], (sheet.shape[1] + 10) // 4
    assert (sheet[:, :side] == colours[7]).all()
    quarters = sheet[side // 4 :: side // 2, step + side // 4 : step + side : side // 2]
    assert (quarters == colours[[[0, 1], [2, 3]]]).all()
    assert (sheet[:, 2 * step : 2 * step + side] == colours[0]).all()
    assert (sheet[:, 3 * step :] == 255).all()


def test_growing_shows_map_and_picture_of_every_scale():
    tok = FakeTokenizer()
    tokens = tok.encode(torch.stack([torch.full((1, 8, 8), v) for v in (-1.0, 1.0)]))
    sheet = pictures(plots.growing(tok, tokens))
    colours = plots.code_colours(tok.quantizer.codebook.weight)
    assert (sheet[3, 3] == colours[0]).all() and (sheet[-3, -3] == 255).all()
    step = (sheet.shape[1] + 10) // 3
    assert (sheet[step + 3, [3, step + 3, 2 * step + 3]] == 0).all()


def test_loss_curves_of_a_transformer_from_rows_and_from_a_file(tmp_path):
    rows = [
        {"step": s, "loss": 5 - s / 100, "loss_last": 4 - s / 100, "accuracy": s / 1000}
        | {"val_loss": 5.5 if s == 100 else "", "val_loss_last": "", "accuracy_last": ""}
        | {f"loss_{k}": k + s for k in (1, 2, 3)}
        for s in (0, 50, 100)
    ]
    for log in (rows, write_rows(tmp_path / "log.csv", rows)):
        total, scales, accuracy = charts.loss_curves(log).axes
        assert [line.get_xydata().tolist() for line in total.lines] == [
            [[0, 5], [50, 4.5], [100, 4]],
            [[100, 5.5]],  # empty cells are gaps, not zeros
            [[0, 4], [50, 3.5], [100, 3]],
        ]
        heights = [line.get_ydata().tolist() for line in scales.lines]
        assert heights == [[k, k + 50, k + 100] for k in (1, 2, 3)]
        assert len(accuracy.lines) == 1


def test_loss_curves_of_a_tokenizer():
    rows = [
        {"step": s, "loss": 1.0, "reconstruction": 0.5, "vq": 0.2, "psnr": 20 + s, "usage_all": 0.9}
        | {"usage_1": 0.3, "usage_2": 0.6}
        for s in (1, 2)
    ]
    losses, psnr, usage = charts.loss_curves(rows).axes
    assert len(losses.lines) == 3 and len(usage.lines) == 3
    assert psnr.lines[0].get_ydata().tolist() == [21, 22]


@pytest.mark.parametrize("rows", [[], [{"epoch": 1}]])
def test_a_log_without_rows_is_refused(rows):
    with pytest.raises(ValueError, match=r"expected a log\.csv"):
        charts.loss_curves(rows)


def test_labels_are_spread_in_order():
    placed = charts.spread_out([1.0, 0.99, 0.0, 1.0], 0.1, 0.0, 1.0)
    assert np.diff(np.sort(placed)).min() >= 0.1 - 1e-9
    assert placed.min() >= 0 and placed.max() <= 1 + 1e-9
    assert placed[1] < placed[0] and placed[2] == placed.min()
    assert charts.spread_out([0.1, 0.9], 0.1, 0.0, 1.0).tolist() == pytest.approx([0.1, 0.9])


def test_usage_bars_are_the_shares():
    tokens = [torch.tensor([[[1]], [[2]]]), torch.zeros(2, 2, 2).long()]
    figure = charts.codebook_usage(codebook_usage(tokens, 4), ["1×1", "2×2"])
    widths = [bar.get_width() for bar in figure.axes[0].patches]
    assert widths == [100, 100, 100, 100, 25, 75]


def test_the_whole_system_shows_the_shapes_of_the_models(pair):
    var, tok = pair
    said = {text.get_text() for text in whole_system(tok, var).axes[0].texts}
    features = "×".join(map(str, tok.features(torch.zeros(1, 1, *tok.image_size)).shape[1:]))
    logits = f"{tok.schedule.num_tokens}×{tok.vocab_size}"
    assert {features, logits, f"one of {var.config.num_classes}"} <= said
    plt.close("all")


def test_mask_picture_is_the_mask():
    schedule = ScaleSchedule((1, 2, (2, 3)))
    shown = np.asarray(charts.mask_picture(schedule).axes[0].images[0].get_array())
    assert ((shown > 0) == schedule.mask().numpy()).all()
    assert (shown[-1] == schedule.level_ids().numpy() + 1).all()


def test_a_flow_has_its_boxes_arrows_and_words():
    boxes = {"a": (0, 0), "b": (1, 0), "c": (1, 1)}
    figure = plots.flow(boxes, [("a", "b", "x"), ("b", "c")], accent=["c"])
    (axes,) = figure.axes
    placed = {t.get_text(): t for t in axes.texts if t.get_text()}
    assert {name: placed[name].get_position() for name in boxes} == boxes
    red = [name for name in boxes if placed[name].get_bbox_patch().get_edgecolor()[0] > 0.8]
    assert red == ["c"] and "x" in placed
    assert len([t for t in axes.texts if getattr(t, "arrow_patch", None)]) == 2
