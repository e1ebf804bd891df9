"""A 1,000-class set as ImageNet comes, in both layouts, through the ImageNet preset's commands:
stage 1, token maps, stage 2 and evaluation, with nothing but sizes changed."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from small_pictures import write_parquet

from varmini import VAR, MultiScaleVQVAE
from varmini.cli import main as cli
from varmini.data import load_images
from varmini.runtime.tables import read_cells

CLASSES = 1000
GREY, CMYK, BROKEN = 7, 11, 13  # one picture in so many
SMALL = ["--model.sizes", 1, 2, 4, "--model.vocab-size", 16, "--model.code-channels", 8,
         "--model.width", 32, "--model.multipliers", 1, 1, 2,
         "--model.num-res-blocks", 1]  # fmt: skip


def encoded(i: int) -> bytes:
    """Picture i: 10 to 21 pixels a side, some grey, some CMYK, every 97th torn."""
    rng = np.random.default_rng(i)
    mode = "L" if i % GREY == 0 else "CMYK" if i % CMYK == 0 else "RGB"
    shape = (*rng.integers(10, 22, 2), len(mode))
    pixels = rng.integers(0, 256, shape[:2] if mode == "L" else shape, dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels, mode).save(buffer, "JPEG" if i % 2 else "TIFF")
    return buffer.getvalue()[: 30 if i % 97 == BROKEN else None]


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> dict[str, Path]:
    """The same pictures as class folders and as parquet files, one a class in either split."""
    base, names = tmp_path_factory.mktemp("imagenet"), [f"n{i:08}" for i in range(CLASSES)]
    for part, folder, first in (("train", "train", 0), ("validation", "val", CLASSES)):
        cells = [encoded(first + i) for i in range(CLASSES)]
        for i, name in enumerate(names):
            at = base / "folders" / folder / name
            at.mkdir(parents=True)
            (at / f"{i}.{'JPEG' if i % 2 else 'tif'}").write_bytes(cells[i])
        for number, some in enumerate(np.array_split(np.arange(CLASSES), 3)):
            file = base / f"parquet/data/{part}-{number:05}-of-00003.parquet"
            write_parquet(file, [cells[i] for i in some], some, names)
    return {"parquet": base / "parquet", "folders": base / "folders"}


@pytest.fixture(scope="module")
def run(sets, tmp_path_factory) -> Path:
    """Stage 1 on the folders, stage 2 on the parquet files."""
    out = tmp_path_factory.mktemp("run")
    common = ["--preset", "imagenet256-d16", "--batch-size", 16, "--images", 48, "--workers", 0,
              "--log-every", 2, "--held-out", 32]  # fmt: skip
    command("train", "tokenizer", *common, *SMALL, "--data", sets["folders"],
            "--perceptual-network", "cifar10", "--out", out / "tokenizer")  # fmt: skip
    command("train", "var", *common, "--data", sets["parquet"], "--tokenizer", out / "tokenizer",
            "--model.depth", 2, "--model.width", 64, "--model.heads", 2, "--no-compile",
            "--out", out / "var")  # fmt: skip
    return out


def command(*args: object) -> None:
    assert cli.main([str(a) for a in args]) == 0


def test_both_layouts_hold_the_same(sets):
    for split in ("train", "test"):
        folders, parquet = (
            load_images(sets[kind], split, size=16, channels=3) for kind in ("folders", "parquet")
        )
        assert len(folders) == len(parquet) == CLASSES and folders.classes == parquet.classes
        assert np.array_equal(folders.labels, parquet.labels)
        for i in (0, 1, GREY, CMYK, BROKEN, 80, 2 * CMYK, 500, 999):  # 80 is torn in test
            a, b = folders[i], parquet[i]
            assert torch.equal(a[0], b[0]) and a[1] == b[1] and a[0].shape == (3, 16, 16)
    assert folders.broken and parquet.broken


def test_both_stages_train_on_a_thousand_classes(run):
    tok, var = MultiScaleVQVAE.from_pretrained(run / "tokenizer"), VAR.from_pretrained(run / "var")
    assert var.config.num_classes == CLASSES and tok.image_size == (16, 16)
    assert var.schedule == tok.schedule
    config = json.loads((run / "tokenizer/run.json").read_text())["config"]
    # The preset's recipe is untouched.
    assert config["adversarial"] == 0.5 and config["discriminator_layers"] == 3
    for stage in ("tokenizer", "var"):
        log = read_cells(run / stage / "log.csv")
        assert log[-1]["step"] == "3" and all(np.isfinite(float(row["loss"])) for row in log)


def test_token_maps_of_every_class_are_kept(run):
    for split in ("train", "test"):
        with safe_open(next((run / "var/tokens").glob(f"{split}-*")), "pt") as file:
            tokens, labels = file.get_tensor("tokens"), file.get_tensor("labels")
        assert tokens.shape == (1, CLASSES, 1 + 4 + 16)  # VAR is not shown mirror images
        assert 0 <= tokens.min() and tokens.max() < 16
        # A torn picture's place is taken by the next one, label and all.
        wrong = (labels != torch.arange(CLASSES)).nonzero()[:, 0]
        first = 0 if split == "train" else CLASSES
        assert [int(i) for i in wrong] == [
            i for i in range(CLASSES) if (first + i) % 97 == BROKEN
        ] and torch.equal(labels[wrong], wrong + 1)


def test_samples_of_every_class_are_measured(run, sets, tmp_path):
    command("evaluate", "samples", "--var", run / "var", "--data", sets["parquet"], "--per-class",
            1, "--samples", tmp_path / "samples", "--out", tmp_path / "samples.csv")  # fmt: skip
    (row,) = read_cells(tmp_path / "samples.csv")
    assert (row["n"], row["n_real"], row["n_precision"]) == ("1000", "1000", "1000")
    assert row["reference"].startswith("1000 test images of parquet, ")
    # Not FID, and not called so; the evaluator knows other classes, so nothing is said of them.
    assert float(row["frechet_cifar10_evaluator"]) > 0
    assert "fid" not in row and not any(name.startswith("accuracy") for name in row)
    with np.load(next((tmp_path / "samples").rglob("samples.npz"))) as file:
        assert file["arr_0"].shape == (CLASSES, 16, 16, 3) and file["arr_0"].dtype == np.uint8
        assert np.array_equal(file["arr_1"], np.arange(CLASSES))
