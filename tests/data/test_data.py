"""Data: what the embedded files hold, the pixel convention, batches, folders, bad input."""

import hashlib
import importlib.util
import io
import itertools
import json
import logging
import multiprocessing
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny import make_tokenizer

from varmini.data import sets as data
from varmini.data.sets import ImageSet, ParquetImages, batches, load_images, to_float, to_uint8
from varmini.data.sources import decode, resize_and_crop
from varmini.training.token_sets import token_set

REPO = Path(__file__).resolve().parents[2]
COUNTS = {
    ("fashion-subset", "train"): 1000,
    ("fashion-subset", "test"): 200,
    ("cifar10-subset", "train"): 100,
    ("cifar10-subset", "test"): 100,
}


@pytest.fixture(scope="module")
def subsets():
    return {key: load_images(*key) for key in COUNTS}


@pytest.fixture(autouse=True)
def nothing_from_outside(monkeypatch, tmp_path):
    """No $VARMINI_DATA, no network, no shared cache."""
    import datasets
    import huggingface_hub.constants as constants

    monkeypatch.delenv("VARMINI_DATA", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def random_set(total: int, channels: int = 1, size: int = 4, name: str = "random") -> ImageSet:
    rng = np.random.default_rng(total)
    images = rng.integers(0, 256, (total, channels, size, size), dtype=np.uint8)
    return ImageSet(
        torch.from_numpy(images), torch.arange(total), tuple(map(str, range(total))), name
    )


def png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def write_parquet(file: Path, cells: list, labels: list, names=None, image="img", label="label"):
    file.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({image: [{"bytes": c, "path": None} for c in cells], label: labels})
    if names:
        features = {image: {"_type": "Image"}, label: {"names": names, "_type": "ClassLabel"}}
        info = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": info})
    pq.write_table(table, file)
    return file


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def message(call, *args, **options) -> str:
    with pytest.raises(ValueError) as caught:
        call(*args, **options)
    text = str(caught.value)
    assert "\n" not in text
    return text


# ---------------------------------------------------------------- the embedded subsets


def test_checksums_and_card():
    card = (REPO / "data/README.md").read_text()
    lines = (REPO / "data/SHA256SUMS").read_text().splitlines()
    assert len(lines) == 4
    for digest, file in (line.split("  ") for line in lines):
        assert hashlib.sha256((REPO / "data" / file).read_bytes()).hexdigest() == digest, file
        assert digest in card and file in card


@pytest.mark.parametrize(("name", "split"), COUNTS)
def test_counts_classes_and_shape(subsets, name, split):
    subset = subsets[name, split]
    channels = 1 if "fashion" in name else 3
    assert torch.bincount(subset.labels).tolist() == [COUNTS[name, split]] * 10
    assert subset.images.shape == (10 * COUNTS[name, split], channels, 32, 32)
    assert (subset.channels, subset.size, subset.name) == (channels, 32, name)
    assert len(subset) == len(subset.labels) and len(subset.classes) == 10
    assert subset.classes[9] == ("Ankle boot" if channels == 1 else "truck")
    image, label = subset[7]
    assert image.dtype == torch.float32 and -1 <= image.min() < image.max() <= 1
    assert label == subset.labels[7] and isinstance(label, int)
    assert len(set(subset.labels[:100].tolist())) == 10  # the classes are mixed


@pytest.mark.parametrize("name", ["fashion-subset", "cifar10-subset"])
def test_no_picture_twice(subsets, name):
    pixels = [i.numpy().tobytes() for s in COUNTS if s[0] == name for i in subsets[s].images]
    assert len(set(pixels)) == len(pixels)


def test_fashion_is_padded_with_background(subsets):
    images = subsets["fashion-subset", "test"].images
    inside = images[:, :, 2:30, 2:30]
    assert images.sum() == inside.sum() and inside.sum() > 0
    table = pq.read_table(REPO / "data/fashion_mnist_subset/test.parquet")
    original = decode(table["image"][5].as_py()["bytes"], "row 5")
    assert torch.equal(inside[5, 0], torch.from_numpy(np.array(original)))


def test_datasets_reads_the_schema():
    import datasets

    for folder, image in (("fashion_mnist_subset", "image"), ("cifar10_subset", "img")):
        schema = pq.read_schema(REPO / "data" / folder / "test.parquet")
        features = datasets.Features.from_arrow_schema(schema)
        assert isinstance(features[image], datasets.Image)
        assert len(features["label"].names) == 10


def test_options(subsets):
    whole = subsets["cifar10-subset", "test"]
    few = load_images("cifar10-subset", "test", limit=30)
    assert len(few) == 30
    assert torch.equal(few.images[1], whole.images[1000 // 30])
    assert len(load_images("cifar10-subset", "test", limit=5000)) == 1000
    grey = load_images("cifar10-subset", "test", limit=3, channels=1, size=48)
    assert grey.images.shape == (3, 1, 48, 48)
    three = load_images("fashion-subset", "test", limit=3, channels=3)
    assert torch.equal(three.images[:, 0], three.images[:, 2])


# ---------------------------------------------------------------- pixels


def test_every_byte_survives():
    every = torch.arange(256, dtype=torch.uint8)
    floats = to_float(every)
    assert floats.min() == -1 and floats.max() == 1
    assert torch.equal(to_uint8(floats), every)
    assert to_uint8(torch.tensor([-7.0, 0.0, 9.0])).tolist() == [0, 128, 255]
    assert "float32" in message(to_float, torch.zeros(3))
    assert "int64" in message(to_uint8, torch.zeros(3, dtype=torch.int64))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 40), st.booleans())
def test_crop_equals_resize_then_crop(width, height, size, at_random):
    # middle greys: where Lanczos overshoots, the order of its two passes shows by clipping
    array = noise(width * height, height, width) // 2 + 64
    rng = np.random.default_rng(3) if at_random else None
    got = np.asarray(resize_and_crop(Image.fromarray(array), size, rng), int)
    middle, short = round(1.125 * size), min(width, height)
    scaled = int(middle * width / short), int(middle * height / short)
    room = scaled[0] - size, scaled[1] - size
    again = np.random.default_rng(3)
    left, top = (int(again.integers(r + 1)) if at_random else round(r / 2) for r in room)
    whole = Image.fromarray(array).resize(scaled, Image.Resampling.LANCZOS)
    expected = np.asarray(whole.crop((left, top, left + size, top + size)), int)
    assert got.shape == (size, size)
    assert np.abs(got - expected).max() <= 2


# ---------------------------------------------------------------- batches


@settings(max_examples=40, deadline=None)
@given(
    total=st.integers(1, 23),
    batch=st.integers(1, 23),
    start=st.integers(0, 40),
    seed=st.integers(0, 2**40),
    flip=st.booleans(),
)
def test_batches_resume(total, batch, start, seed, flip):
    dataset = random_set(total)
    if batch > total:
        assert f"batch_size {batch}" in message(batches, dataset, batch, seed=seed)
        return
    whole = list(itertools.islice(batches(dataset, batch, seed=seed, flip=flip), start + 5))
    later = batches(dataset, batch, seed=seed, flip=flip, start_step=start)
    for (images, labels), (images2, labels2) in zip(whole[start:], later, strict=False):
        assert images.shape == (batch, 1, 4, 4) and images.dtype == torch.float32
        assert torch.equal(images, images2) and torch.equal(labels, labels2)
    steps = total // batch
    epoch = torch.cat([labels for _, labels in whole[:steps]])
    assert len(epoch.unique()) == len(epoch) or len(whole) < steps


def test_orders_differ_by_seed_and_epoch():
    dataset = random_set(64)
    orders = [
        next(batches(dataset, 64, seed=seed, start_step=epoch))[1].tolist()
        for seed in (0, 1) for epoch in (0, 1)
    ]  # fmt: skip
    assert len(set(map(tuple, orders))) == 4
    assert all(sorted(order) == list(range(64)) for order in orders)


def test_flip_mirrors_half_of_the_images():
    dataset = random_set(400, channels=3)
    images, labels = next(batches(dataset, 400, seed=5, flip=True))
    plain = to_float(dataset.images[labels])
    mirrored = (images == plain.flip(-1)).flatten(1).all(1)
    untouched = (images == plain).flatten(1).all(1)
    assert (mirrored ^ untouched).all()
    assert 150 < mirrored.sum() < 250
    assert torch.equal(next(batches(dataset, 400, seed=5))[0], plain)


def test_batches_refuse_nonsense():
    dataset = random_set(4, name="four")
    assert message(batches, dataset, 5, seed=0) == (
        "batch_size 5: expected 1 to 4, the images in the set"
    )
    assert "batch_size 0" in message(batches, dataset, 0, seed=0)
    assert "seed -1" in message(batches, dataset, 2, seed=-1)
    assert "start_step -2" in message(batches, dataset, 2, seed=0, start_step=-2)


# ---------------------------------------------------------------- folders of pictures


@pytest.fixture
def pictures(tmp_path):
    """Three classes of RGB pictures of odd sizes; one file is broken, some are no pictures."""
    for c, name in enumerate(("cat", "dog", "train")):
        folder = tmp_path / "pets" / name / ("deep" if name == "dog" else "")
        folder.mkdir(parents=True)
        for i in range(12):
            array = noise(100 * c + i, 9 + 3 * i, 40 - i, 3)
            Image.fromarray(array).save(folder / f"{i:02}.{'JPG' if i % 2 else 'png'}")
        (folder / "notes.txt").write_text("no picture")
    (tmp_path / "pets/.hidden").mkdir()
    (tmp_path / "pets/empty").mkdir()
    return tmp_path / "pets"


def test_folder(pictures):
    train, test = (load_images(pictures, s, size=16) for s in ("train", "test"))
    assert train.classes == test.classes == ("cat", "dog", "train")
    assert (len(train), len(test), train.size, train.channels) == (33, 3, 16, 3)
    assert train.name == "pets"
    assert not set(train.files) & set(test.files)
    assert test.files == load_images(pictures, "test", size=16).files
    for index in range(len(train)):
        image, label = train[index]
        assert image.shape == (3, 16, 16) and -1 <= image.min() < image.max() <= 1
        assert train.classes[label] in train.files[index]
    assert torch.equal(test[0][0], test[0][0])  # centre crop
    assert len(load_images(pictures, limit=7, size=8)) == 7
    assert set(load_images(pictures, limit=3, size=8).labels) == {0, 1, 2}
    assert load_images(pictures, size=8, channels=1)[0][0].shape == (1, 8, 8)


def test_folder_batches_resume_with_workers(pictures):
    dataset = load_images(pictures, size=8)
    state = torch.get_rng_state()
    whole = list(itertools.islice(batches(dataset, 7, seed=2, flip=True), 9))
    for workers in (0, 1):
        later = batches(dataset, 7, seed=2, flip=True, start_step=6, workers=workers)
        for (images, labels), (images2, labels2) in zip(whole[6:], later, strict=False):
            assert torch.equal(images, images2) and torch.equal(labels, labels2)
    assert torch.equal(state, torch.get_rng_state())


def test_training_crops_differ_between_epochs(pictures):
    dataset = load_images(pictures, size=8)
    epochs = itertools.islice(batches(dataset, 33, seed=0), 2)
    assert len({image.numpy().tobytes() for images, _ in epochs for image in images}) > 40


def test_folder_with_split_folders(tmp_path):
    for part, count in (("train", 3), ("val", 2)):
        for name in ("a", "b"):
            folder = tmp_path / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(noise(i, 11, 13)).save(folder / f"{i}.png")
    train, test = load_images(tmp_path, "train"), load_images(tmp_path, "test")
    assert (len(train), len(test), train.classes) == (6, 4, ("a", "b"))
    assert (train.size, train.channels) == (11, 1)  # the first picture's shorter side; grey
    assert train[0][0].shape == (1, 11, 11)
    local = load_images("imagenet", "test", root=tmp_path, size=24)
    assert local.files == test.files and local[0][0].shape == (3, 24, 24)
    (tmp_path / "val/b").rename(tmp_path / "val/c")
    assert "class 'c' is not in" in message(load_images, tmp_path, "test")


def test_broken_pictures_are_skipped_and_counted(pictures, caplog):
    broken = pictures / "cat/04.png"
    broken.write_bytes(broken.read_bytes()[:60])
    (pictures / "cat/06.png").write_bytes(b"")
    whole = load_images(pictures, size=8)
    count = sum(Path(f).name in ("04.png", "06.png") and "cat" in f for f in whole.files)
    assert count >= 1
    for workers in (0, 1):
        dataset = load_images(pictures, size=8)
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="varmini"):
            for images, _ in itertools.islice(batches(dataset, 33, seed=0, workers=workers), 2):
                assert images.shape == (33, 3, 8, 8)
        said = [record.getMessage() for record in caplog.records]
        assert said.pop() == f"pets: {count} of 33 pictures cannot be read"  # the epoch's sum
        assert len(dataset.broken) == count == len(said)
        assert str(broken) in dataset.broken or count == 1
        assert all(any(name in line for line in said) for name in dataset.broken)
    for file in pictures.rglob("*.*"):
        if file.is_file():
            file.write_bytes(b"broken")
    assert "none of its first 33 pictures can be read" in message(load_images, pictures)
    assert "pictures in a row cannot be read" in message(
        next, batches(load_images(pictures, size=8, channels=3), 4, seed=0)
    )


def test_a_decoding_process_that_dies_is_one_line(pictures):
    stream = batches(load_images(str(pictures), "train", size=8), 2, seed=0, workers=1)
    next(stream)
    for child in multiprocessing.active_children():
        child.kill()
    with pytest.raises(ValueError, match="1 processes that decode pictures died.*--workers") as e:
        for _ in range(50):  # what was decoded ahead still comes
            next(stream)
    assert "\n" not in str(e.value)


def test_a_signal_to_all_processes_does_not_end_those_that_decode(pictures):
    stream = batches(load_images(pictures, size=8), 7, seed=2, workers=1)
    whole = list(itertools.islice(batches(load_images(pictures, size=8), 7, seed=2), 9))
    for i, (images, _) in enumerate(itertools.islice(stream, 9)):
        assert torch.equal(images, whole[i][0])
        for child in multiprocessing.active_children():
            for number in (signal.SIGTERM, signal.SIGINT):
                os.kill(child.pid, number)


def test_token_maps_report_how_many_pictures_are_broken(pictures, tmp_path, caplog):
    for file in sorted((pictures / "cat").iterdir())[:3]:
        file.write_bytes(b"broken")
    dataset = load_images(pictures, size=16, channels=1)
    with caplog.at_level(logging.WARNING, logger="varmini"):
        tok = make_tokenizer()
        token_set(tok, "sum", dataset, tmp_path / "tokens", "train", flip=False, shard=12)
    said = [record.getMessage() for record in caplog.records]
    assert 2 <= len(dataset.broken) == len(said) - 1  # at most one of each class is held out
    assert said[-1] == f"pets: {len(dataset.broken)} of 33 pictures cannot be read"


def test_modes(tmp_path):
    """Transparency becomes white, 16-bit greys keep their upper byte, palettes become RGB."""
    folder = tmp_path / "x"
    folder.mkdir()
    clear = np.zeros((9, 9, 4), np.uint8)
    Image.fromarray(clear).save(folder / "clear.png")
    Image.fromarray(np.full((9, 9), 40000, np.uint16)).save(folder / "deep.png")
    Image.fromarray(noise(0, 9, 9, 3)).quantize(8).save(folder / "palette.gif")
    Image.fromarray(noise(0, 9, 9, 3)).convert("CMYK").save(folder / "print.jpg")
    dataset = data.FolderImages(tmp_path, "train", size=8)
    values = {Path(f).stem: dataset[i][0] for i, f in enumerate(dataset.files)}
    values |= {
        Path(f).stem: image
        for d in [data.FolderImages(tmp_path, "test", size=8, channels=3)]
        for f, (image, _) in zip(d.files, (d[i] for i in range(len(d))), strict=True)
    }
    assert values.keys() == {"clear", "deep", "palette", "print"}
    assert (values["clear"] == 1).all()
    assert to_uint8(values["deep"]).unique().tolist() == [40000 >> 8]
    assert not dataset.broken


# ---------------------------------------------------------------- parquet


NAMES = [f"class {i}" for i in range(10)]


@pytest.fixture
def cifar(tmp_path):
    """Twenty CIFAR-like rows in two shards a split, in the hub's layout."""
    for split, part in itertools.product(("train", "test"), (0, 1)):
        cells = [png(noise(i + 50 * part + len(split), 32, 32, 3)) for i in range(10)]
        name = f"cifar10/plain_text/{split}-0000{part}-of-00002.parquet"
        write_parquet(tmp_path / "hub" / name, cells, list(range(10)), NAMES)
    return tmp_path / "hub"


def test_full_set_from_a_folder(cifar, monkeypatch):
    whole = load_images("cifar10", "test", root=cifar)
    assert whole.images.shape == (20, 3, 32, 32) and whole.classes == tuple(NAMES)
    assert np.array_equal(whole.images[13].permute(1, 2, 0), noise(3 + 50 + 4, 32, 32, 3))
    monkeypatch.setenv("VARMINI_DATA", str(cifar))
    assert torch.equal(load_images("cifar10", "test").images, whole.images)
    for own in ("cifar10", "cifar10/plain_text"):
        assert torch.equal(load_images("cifar10", "test", root=cifar / own).images, whole.images)
    assert len(load_images("cifar10", "train", limit=5)) == 5


def test_folder_of_parquet_files_is_lazy(cifar):
    lazy = load_images(cifar / "cifar10", "test", size=32)
    assert isinstance(lazy, ParquetImages)
    assert (len(lazy), lazy.channels, lazy.classes, lazy.name) == (20, 3, tuple(NAMES), "cifar10")
    picture = Image.fromarray(noise(3 + 50 + 4, 32, 32, 3))
    expected = np.asarray(resize_and_crop(picture, 32, None)).transpose(2, 0, 1)
    assert np.array_equal(to_uint8(lazy[13][0]), expected) and lazy[13][1] == 3
    train = load_images(cifar / "cifar10", "train", limit=10)
    first = list(itertools.islice(batches(train, 4, seed=0), 6))
    again = list(itertools.islice(batches(train, 4, seed=0, start_step=3), 3))
    assert all(torch.equal(a[0], b[0]) for a, b in zip(first[3:], again, strict=True))


def test_a_broken_picture_names_its_row(cifar, tmp_path):
    file = cifar / "cifar10/plain_text/test-00001-of-00002.parquet"
    cells = [png(noise(i, 32, 32, 3)) for i in range(10)]
    cells[4] = cells[4][:100]
    write_parquet(file, cells, list(range(10)), NAMES)
    text = message(load_images, "cifar10", "test", root=cifar)
    assert text.startswith(f"{file}, row 4: broken picture")
    lazy = load_images(cifar / "cifar10", "test")
    for workers in (0, 1):  # a large set goes on with the next picture, the same on every run
        lazy.broken.clear()
        images, labels = next(batches(lazy, 20, seed=0, workers=workers))
        assert lazy.broken == ["cifar10, row 14"]
        assert sorted(labels.tolist()) == sorted([*range(10), *range(4), 5, *range(5, 10)])
        assert (images[labels == 5] == lazy[15][0]).flatten(1).all(1).sum() == 2
    write_parquet(file, [None] * 10, list(range(10)), NAMES)
    assert f"{file}, row 0: broken picture" in message(load_images, "cifar10", "test", root=cifar)


def test_damaged_or_foreign_parquet(cifar):
    plain = cifar / "cifar10/plain_text"
    file = plain / "test-00000-of-00002.parquet"
    good = [png(noise(i, 32, 32, 3)) for i in range(10)]

    def said(expected: str, split: str = "test") -> None:
        for call in (
            lambda: load_images("cifar10", split, root=cifar),
            lambda: load_images(plain, split),
        ):
            assert re.search(expected, message(call))

    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    said("not a whole parquet file")
    write_parquet(file, good, list(range(10)), image="pixels")
    said("no column image .* among pixels, label")
    write_parquet(file, good, list(range(10)), label="target")
    said("no column label .* among img, target")
    file.unlink()
    said("1 of the 2 test files")
    (plain / "test-00001-of-00002.parquet").unlink()
    assert "none of its parquet files is called test or" in message(load_images, plain, "test")
    for labels, text in (
        ([-1] * 10, "label -1, expected 0 to 9"),
        ([None] * 10, "without a label"),
    ):
        write_parquet(plain / "test.parquet", good, pa.array(labels, pa.int64()), NAMES)
        said(text)
    write_parquet(plain / "test.parquet", [png(noise(0, 28, 28))], [0], NAMES)
    assert "picture (28, 28), mode L" in message(load_images, "cifar10", "test", root=cifar)


def test_same_subset_from_any_order(cifar, tmp_path):
    """The script's choice depends on the pixels alone, and its bytes are the same each time."""
    spec = importlib.util.spec_from_file_location("cutter", REPO / "scripts/data/make_subsets.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    counts = {"cifar10-subset": {"train": 1, "test": 1}}
    sums = []
    for turn in range(2):
        script.make(cifar, tmp_path / str(turn), 0, counts)
        sums.append((tmp_path / str(turn) / "SHA256SUMS").read_text())
        for file in (cifar / "cifar10/plain_text").iterdir():
            table = pq.read_table(file)
            pq.write_table(table.take(np.arange(len(table))[::-1]), file)
    assert sums[0] == sums[1] and len(sums[0].splitlines()) == 2
    script.make(cifar, tmp_path / "2", 1, counts)
    assert (tmp_path / "2/SHA256SUMS").read_text() != sums[0]
    table = pq.read_table(tmp_path / "0/cifar10_subset/train.parquet")
    assert sorted(table["label"].to_pylist()) == list(range(10))
    too_many = {"cifar10-subset": {"train": 3}}
    assert "fewer than 3 different images" in message(script.make, cifar, tmp_path, 0, too_many)


# ---------------------------------------------------------------- bad input


def test_bad_names_and_options(tmp_path, monkeypatch):
    assert message(load_images, "mnist") == (
        "mnist: neither a folder nor one of "
        "fashion-subset, cifar10-subset, fashion, cifar10, imagenet, imagenet-stream"
    )
    assert "split 'valid'" in message(load_images, "cifar10", "valid")
    assert "channels 2" in message(load_images, "cifar10-subset", channels=2)
    assert "size 0" in message(load_images, "cifar10-subset", size=0)
    assert "limit 0" in message(load_images, "cifar10-subset", limit=0)
    gone = tmp_path / "gone"
    assert message(load_images, "cifar10", root=gone) == f"root {gone}: no such folder"
    assert "no fashion_mnist/fashion_mnist/train-*.parquet" in message(
        load_images, "fashion", root=tmp_path
    )
    monkeypatch.setattr(data, "EMBEDDED", gone)
    assert "run varmini from a checkout" in message(load_images, "fashion-subset")


@pytest.mark.parametrize("name", ["fashion", "cifar10", "imagenet"])
def test_without_files_and_network(name, tmp_path, monkeypatch):
    monkeypatch.setenv("VARMINI_DATA", str(tmp_path))
    text = message(load_images, name)
    assert text.startswith(f"{name}: not under $VARMINI_DATA ({tmp_path}), and the hub's")
    assert "set VARMINI_DATA" in text and ("terms" in text) == (name == "imagenet")


def test_folders_without_labelled_pictures(tmp_path):
    assert "no pictures found" in message(load_images, tmp_path)
    (tmp_path / "class").mkdir()
    (tmp_path / "class/notes.txt").write_text("none")
    assert "no pictures found" in message(load_images, tmp_path)
    Image.fromarray(noise(0, 8, 8)).save(tmp_path / "loose.png")
    assert "not labelled" in message(load_images, tmp_path)
    Image.fromarray(noise(0, 8, 8)).save(tmp_path / "class/one.png")
    assert len(load_images(tmp_path)) == 1
    assert "no pictures for split 'test'" in message(load_images, tmp_path, "test")


def test_image_set_checks_itself():
    images, labels = torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.tensor([0, 1])
    assert "float32" in message(ImageSet, images.float(), labels, ("a", "b"), "s")
    assert "2 images but labels (1,)" in message(ImageSet, images, labels[:1], ("a",), "s")
    assert "row 1 has label 1, expected 0 to 0" in message(ImageSet, images, labels, ("a",), "s")
    assert "holds no images" in message(ImageSet, images[:0], labels[:0], ("a",), "s")


def test_import_is_light():
    code = "import sys, varmini.data; print([m for m in sys.modules if m in "
    code += "('PIL', 'pyarrow', 'datasets', 'huggingface_hub')])"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
