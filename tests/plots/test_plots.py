"""The arrays and lines behind the figures (nobody's eye is tested here)."""

from __future__ import annotations

import subprocess
import sys
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

plt.switch_backend("agg")


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


class FakeTokenizer:
    """Codes 0..9 are grey levels; from k maps it draws the k-th, enlarged."""

    def __init__(self) -> None:
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


def cells(sheet: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """The middle colour of every picture, (rows, columns, 3); for rows without captions."""
    h, w = sheet.shape[0] / rows, sheet.shape[1] / columns
    ys = ((np.arange(rows) + 0.5) * h).astype(int)
    xs = ((np.arange(columns) + 0.5) * w).astype(int)
    return sheet[ys][:, xs]


def test_grid_places_images_in_reading_order_and_keeps_every_pixel() -> None:
    values = torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0, 0.25])
    images = values[:, None, None, None].expand(6, 1, 8, 8)
    sheet = pictures(plots.image_grid(images, columns=3))
    expected = ((values + 1) * 127.5).round().numpy().reshape(2, 3)
    assert (cells(sheet, 2, 3)[..., 0] == expected).all()
    noise = torch.rand(1, 3, 5, 7, generator=torch.Generator().manual_seed(0)) * 2 - 1
    sheet = pictures(plots.image_grid(noise))
    zoom = sheet.shape[0] // 5
    assert sheet.shape == (5 * zoom, 7 * zoom, 3)
    bytes_ = ((noise[0] + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    assert (sheet == bytes_.repeat(zoom, 0).repeat(zoom, 1)).all()


@pytest.mark.parametrize("count", [1, 3, 5, 10])
def test_the_saved_file_shows_every_pixel_unblurred(tmp_path, count: int) -> None:
    images = torch.rand(count, 3, 9, 9, generator=torch.Generator().manual_seed(count)) * 2 - 1
    figure = plots.image_grid(images, columns=count, labels=["x"] * count, title="pixels")
    sheet = pictures(figure)
    width, height = plots.save(figure, tmp_path / "grid.png")
    with Image.open(tmp_path / "grid.png") as file:
        assert file.size == (width, height)
        shown = np.asarray(file.convert("RGB"))[-16 - sheet.shape[0] : -16, 16:-16]
    assert (shown == sheet).all()
    assert not plt.get_fignums()  # saved figures are closed


def test_grid_labels_images_or_columns() -> None:
    images = torch.zeros(4, 1, 8, 8)
    assert texts(plots.image_grid(images, 2, labels=["a", "b", "c", "d"])) == ["a", "b", "c", "d"]
    assert texts(plots.image_grid(images, 2, labels=["left", "right"])) == ["left", "right"]
    with pytest.raises(ValueError, match="3 labels for 4 images in 2 columns"):
        plots.image_grid(images, 2, labels=["a", "b", "c"])


def test_scale_by_scale_ends_with_the_original() -> None:
    images = torch.linspace(-1, 1, 64).view(1, 1, 8, 8).repeat(2, 1, 1, 1)
    figure = plots.scale_by_scale(FakeTokenizer(), images)
    sheet = pictures(figure)
    assert texts(figure) == ["1×1", "+ 2×2", "+ 4×4", "original"]
    assert len(np.unique(sheet[:10, :10])) == 1  # the first column knows one tone only
    zoom = (sheet.shape[1] - 30) // 4 // 8
    original = sheet[: 8 * zoom : zoom, -8 * zoom :: zoom, 0]
    assert (original == ((images[0, 0] + 1) * 127.5).round().numpy()).all()


def test_similar_codes_get_similar_colours() -> None:
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(4, 16, generator=generator) * 5
    codebook = centres.repeat_interleave(8, 0) + 0.05 * torch.randn(32, 16, generator=generator)
    colours = plots.code_colours(codebook).astype(float)
    assert colours.shape == (32, 3) and (plots.code_colours(codebook) == colours).all()
    distance = np.abs(colours[:, None] - colours[None]).sum(-1)
    same = np.arange(32)[:, None] // 8 == np.arange(32) // 8
    assert distance[same].max() < distance[~same].min()
    assert plots.code_colours(torch.zeros(5, 2)).shape == (5, 3)


def test_token_maps_show_the_colour_of_every_token() -> None:
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
    with pytest.raises(ValueError, match="token 10 in a codebook of 10"):
        plots.token_maps([torch.tensor([[[10]]])], codebook)


def test_growing_shows_map_and_picture_of_every_scale() -> None:
    tok = FakeTokenizer()
    tokens = tok.encode(torch.stack([torch.full((1, 8, 8), v) for v in (-1.0, 1.0)]))
    sheet = pictures(plots.growing(tok, tokens))
    colours = plots.code_colours(tok.quantizer.codebook.weight)
    assert (sheet[3, 3] == colours[0]).all() and (sheet[-3, -3] == 255).all()
    step = (sheet.shape[1] + 10) // 3
    assert (sheet[step + 3, [3, step + 3, 2 * step + 3]] == 0).all()


def log_rows() -> list[dict]:
    scales = range(1, 4)
    return [
        {"step": s, "loss": 5 - s / 100, "loss_last": 4 - s / 100, "accuracy": s / 1000}
        | {"val_loss": 5.5 if s == 100 else "", "val_loss_last": "", "accuracy_last": ""}
        | {f"loss_{k}": k + s for k in scales}
        for s in (0, 50, 100)
    ]


def test_loss_curves_of_a_transformer_from_rows_and_from_a_file(tmp_path) -> None:
    rows = log_rows()
    path = tmp_path / "log.csv"
    lines = [",".join(rows[0])] + [",".join(map(str, row.values())) for row in rows]
    path.write_text("\n".join(lines) + "\n")
    for log in (rows, path):
        total, scales, accuracy = charts.loss_curves(log).axes
        curves = [line.get_xydata().tolist() for line in total.lines]
        assert curves[0] == [[0, 5], [50, 4.5], [100, 4]]
        assert curves[1] == [[100, 5.5]]  # empty cells are gaps, not zeros
        assert curves[2] == [[0, 4], [50, 3.5], [100, 3]] and len(curves) == 3
        assert [line.get_ydata().tolist() for line in scales.lines] == [
            [k, k + 50, k + 100] for k in (1, 2, 3)
        ]
        assert len(accuracy.lines) == 1


def test_loss_curves_of_a_tokenizer() -> None:
    rows = [
        {"step": s, "loss": 1.0, "reconstruction": 0.5, "vq": 0.2, "psnr": 20 + s, "usage_all": 0.9}
        | {"usage_1": 0.3, "usage_2": 0.6}
        for s in (1, 2)
    ]
    losses, psnr, usage = charts.loss_curves(rows).axes
    assert len(losses.lines) == 3 and len(usage.lines) == 3
    assert psnr.lines[0].get_ydata().tolist() == [21, 22]


@pytest.mark.parametrize("rows", [[], [{"epoch": 1}]])
def test_a_log_without_rows_is_refused(rows: list) -> None:
    with pytest.raises(ValueError, match=r"expected a log\.csv"):
        charts.loss_curves(rows)


def test_labels_are_spread_in_order() -> None:
    placed = charts.spread_out([1.0, 0.99, 0.0, 1.0], 0.1, 0.0, 1.0)
    assert np.diff(np.sort(placed)).min() >= 0.1 - 1e-9
    assert placed.min() >= 0 and placed.max() <= 1 + 1e-9
    assert placed[1] < placed[0] and placed[2] == placed.min()
    assert charts.spread_out([0.1, 0.9], 0.1, 0.0, 1.0).tolist() == pytest.approx([0.1, 0.9])


def test_rows_of_pictures_have_names() -> None:
    images = torch.zeros(6, 3, 8, 8)
    figure = plots.image_grid(images, 3, title="t", rows=("first", "second"))
    (axes,) = figure.axes
    names = [t for t in axes.texts if t.get_text() in ("first", "second")]
    assert [t.get_text() for t in names] == ["first", "second"]
    figure.canvas.draw()
    boxes = [t.get_window_extent() for t in names]
    assert all(0 <= box.x0 and box.x1 < axes.get_window_extent().x0 for box in boxes)
    with pytest.raises(ValueError, match="1 names for 2 rows"):
        plots.image_grid(images, 3, rows=("first",))


def test_usage_bars_are_the_shares() -> None:
    tokens = [torch.tensor([[[1]], [[2]]]), torch.zeros(2, 2, 2).long()]
    figure = charts.codebook_usage(codebook_usage(tokens, 4), ["1×1", "2×2"])
    widths = [bar.get_width() for bar in figure.axes[0].patches]
    assert widths == [100, 100, 100, 100, 25, 75]
    with pytest.raises(ValueError, match="1 names for 2 scales"):
        charts.codebook_usage(codebook_usage(tokens, 4), ["1×1"])


def test_mask_picture_is_the_mask() -> None:
    schedule = ScaleSchedule((1, 2, (2, 3)))
    shown = np.asarray(charts.mask_picture(schedule).axes[0].images[0].get_array())
    assert ((shown > 0) == schedule.mask().numpy()).all()
    assert (shown[-1] == schedule.level_ids().numpy() + 1).all()


def test_importing_plots_does_not_load_matplotlib() -> None:
    code = "import sys, varmini.plots; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_flow_has_its_boxes_arrows_and_words():
    boxes = {"a": (0, 0), "b": (1, 0), "c": (1, 1)}
    figure = plots.flow(boxes, [("a", "b", "x"), ("b", "c")], accent=["c"])
    (axes,) = figure.axes
    placed = {t.get_text(): t for t in axes.texts if t.get_text()}
    assert {name: placed[name].get_position() for name in boxes} == boxes
    red = [name for name in boxes if placed[name].get_bbox_patch().get_edgecolor()[0] > 0.8]
    assert red == ["c"] and "x" in placed
    assert len([t for t in axes.texts if getattr(t, "arrow_patch", None)]) == 2
    with pytest.raises(ValueError, match="no box 'd', expected one of: a, b"):
        plots.flow(boxes, [("a", "d")])
