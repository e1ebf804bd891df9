"""Sets in memory and out of it: embedded pictures, pixels, batches, parquet, `datasets` objects."""

import hashlib
import importlib.util
import itertools
import re
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
from small_pictures import encode, message, noise, write_parquet

from varmini.data import (
    ImageSet,
    LazyImages,
    batches,
    class_names,
    load_images,
    to_float,
    to_uint8,
)
from varmini.data.pictures import decode, resize_and_crop
from varmini.data.sources import count_rows

REPO = Path(__file__).resolve().parents[2]
COUNTS = {"fashion-subset": {"train": (1000, "8cb4f69e"), "test": (200, "17c83668")},
          "cifar10-subset": {"train": (100, "3972f760"), "test": (100, "5eee0eb8")}}  # fmt: skip
NAMES = [f"class {i}" for i in range(10)]


def random_set(total: int, channels: int = 1) -> ImageSet:
    images = torch.from_numpy(noise(total, total, channels, 4, 4))
    return ImageSet(images, torch.arange(total), tuple(map(str, range(total))), "random")


def test_checksums_and_card():
    card = (REPO / "data/README.md").read_text()
    lines = (REPO / "data/SHA256SUMS").read_text().splitlines()
    assert len(lines) == 4
    for digest, file in (line.split("  ") for line in lines):
        assert hashlib.sha256((REPO / "data" / file).read_bytes()).hexdigest() == digest, file
        assert digest in card and file in card


def test_embedded_subsets():
    for name in ("fashion-subset", "cifar10-subset"):
        pixels, channels = [], 1 if "fashion" in name else 3
        for split in ("train", "test"):
            subset, (count, fingerprint) = load_images(name, split), COUNTS[name][split]
            assert subset.fingerprint.startswith(fingerprint)  # as the shipped models saw it
            assert torch.bincount(subset.labels).tolist() == [count] * 10
            assert subset.images.shape == (10 * count, channels, 32, 32)
            assert (subset.channels, subset.size, subset.name) == (channels, 32, name)
            assert subset.classes == class_names(name) == class_names(name.removesuffix("-subset"))
            assert subset.classes[8] == ("Bag", "ship")[channels == 3]
            image, label = subset[7]
            assert image.dtype == torch.float32 and -1 <= image.min() < image.max() <= 1
            assert label == subset.labels[7] and isinstance(label, int)
            assert len(set(subset.labels[:100].tolist())) == 10  # the classes are mixed
            pixels += [i.numpy().tobytes() for i in subset.images]
        assert len(set(pixels)) == len(pixels)  # no picture twice


def test_fashion_is_padded_with_background():
    images = load_images("fashion-subset", "test").images
    inside = images[:, :, 2:30, 2:30]
    assert images.sum() == inside.sum() and inside.sum() > 0
    table = pq.read_table(REPO / "data/fashion_mnist_subset/test.parquet")
    original = decode(table["image"][5].as_py()["bytes"], "row 5")
    assert torch.equal(inside[5, 0], torch.from_numpy(np.array(original)))


def test_options():
    whole = load_images("cifar10-subset", "test")
    few = load_images("cifar10-subset", "test", limit=30)
    assert len(few) == 30 and torch.equal(few.images[1], whole.images[1000 // 30])
    assert len(load_images("cifar10-subset", "test", limit=5000)) == 1000
    grey = load_images("cifar10-subset", "test", limit=3, channels=1, size=48)
    assert grey.images.shape == (3, 1, 48, 48)
    three = load_images("fashion-subset", "test", limit=3, channels=3)
    assert torch.equal(three.images[:, 0], three.images[:, 2])


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
    assert got.shape == (size, size) and np.abs(got - expected).max() <= 2


@settings(max_examples=40, deadline=None)
@given(*map(st.integers, (1, 1, 0, 0), (23, 23, 40, 2**40)), st.booleans())
def test_batches_resume(total, batch, start, seed, flip):
    dataset = random_set(total)
    if batch > total:
        assert f"batch_size {batch}" in message(next, batches(dataset, batch, seed=seed))
        return
    whole = list(itertools.islice(batches(dataset, batch, seed=seed, flip=flip), start + 5))
    later = batches(dataset, batch, seed=seed, flip=flip, start_step=start)
    for (images, labels), (images2, labels2) in zip(whole[start:], later, strict=False):
        assert images.shape == (batch, 1, 4, 4) and images.dtype == torch.float32
        assert torch.equal(images, images2) and torch.equal(labels, labels2)
    steps = total // batch
    epoch = torch.cat([labels for _, labels in whole[:steps]])
    assert len(epoch.unique()) == len(epoch) or len(whole) < steps


def test_orders_differ_by_seed_and_epoch_and_flip_mirrors_half():
    dataset = random_set(400, channels=3)
    orders = [
        next(batches(dataset, 400, seed=seed, start_step=epoch))[1].tolist()
        for seed in (0, 1) for epoch in (0, 1)
    ]  # fmt: skip
    assert len(set(map(tuple, orders))) == 4
    assert all(sorted(order) == list(range(400)) for order in orders)
    images, labels = next(batches(dataset, 400, seed=5, flip=True))
    plain = to_float(dataset.images[labels])
    mirrored = (images == plain.flip(-1)).flatten(1).all(1)
    untouched = (images == plain).flatten(1).all(1)
    assert (mirrored ^ untouched).all() and 150 < mirrored.sum() < 250
    assert torch.equal(next(batches(dataset, 400, seed=5))[0], plain)


@pytest.fixture
def cifar(tmp_path):
    """Twenty CIFAR-like rows in two shards a split, in the hub's layout."""
    for split, part in itertools.product(("train", "test"), (0, 1)):
        cells = [encode(noise(i + 50 * part + len(split), 32, 32, 3)) for i in range(10)]
        file = tmp_path / f"hub/cifar10/plain_text/{split}-0000{part}-of-00002.parquet"
        write_parquet(file, cells, list(range(10)), NAMES, image="img")
    return tmp_path / "hub"


def test_full_set_from_a_folder(cifar, monkeypatch):
    whole = load_images("cifar10", "test", root=cifar)
    assert whole.images.shape == (20, 3, 32, 32) and whole.classes == tuple(NAMES)
    assert np.array_equal(whole.images[13].permute(1, 2, 0), noise(3 + 50 + 4, 32, 32, 3))
    monkeypatch.setenv("VARMINI_DATA", str(cifar))
    assert torch.equal(load_images("cifar10", "test").images, whole.images)
    assert len(load_images("cifar10", "train", limit=5)) == 5


def test_folder_of_parquet_files_is_lazy(cifar):
    lazy = load_images(cifar / "cifar10", "test", size=32)
    assert isinstance(lazy, LazyImages)
    assert (len(lazy), lazy.channels, lazy.classes, lazy.name) == (20, 3, tuple(NAMES), "cifar10")
    picture = Image.fromarray(noise(3 + 50 + 4, 32, 32, 3))
    expected = np.asarray(resize_and_crop(picture, 32, None)).transpose(2, 0, 1)
    assert np.array_equal(to_uint8(lazy[13][0]), expected) and lazy[13][1] == 3
    train = load_images(cifar / "cifar10", "train", limit=10)
    first = list(itertools.islice(batches(train, 4, seed=0), 6))
    again = list(itertools.islice(batches(train, 4, seed=0, start_step=3), 3))
    assert all(torch.equal(a[0], b[0]) for a, b in zip(first[3:], again, strict=True))


def test_a_broken_picture_names_its_row(cifar):
    folder = cifar / "cifar10/plain_text"
    cells = [encode(noise(i, 32, 32, 3)) for i in range(10)]
    cells[4] = cells[4][:100]
    write_parquet(folder / "test-00001-of-00002.parquet", cells, list(range(10)), NAMES, "img")
    text = message(load_images, "cifar10", "test", root=cifar)
    assert text.startswith("cifar10, row 14: broken picture")
    for workers in (0, 1):  # a large set goes on with the next picture, the same on every run
        lazy = load_images(cifar / "cifar10", "test")
        images, labels = next(batches(lazy, 20, seed=0, workers=workers))
        assert lazy.broken == {"cifar10, row 14"}
        assert sorted(labels.tolist()) == sorted([*range(10), *range(4), 5, *range(5, 10)])
        assert (images[labels == 5] == lazy[15][0]).flatten(1).all(1).sum() == 2


def test_damaged_or_foreign_parquet(cifar):
    plain = cifar / "cifar10/plain_text"
    file = plain / "test-00000-of-00002.parquet"
    good = [encode(noise(i, 32, 32, 3)) for i in range(10)]

    def said(expected: str) -> None:
        for call in (
            lambda: load_images("cifar10", "test", root=cifar),
            lambda: load_images(plain, "test"),
        ):
            assert re.search(expected, message(call))

    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    said(r"test-00000-of-00002.parquet: cannot be read .*\); fetch it again")
    assert "parquet: cannot be read" in message(count_rows, [file])
    file.unlink()
    said("1 of 2 test files")
    (plain / "test-00001-of-00002.parquet").unlink()
    assert "no labelled pictures for split 'test'; expected" in message(load_images, plain, "test")
    file = plain / "test.parquet"
    for labels, names, text in (
        ([-1] * 10, NAMES, "label -1, expected 0 to 9"),
        ([0, 3] * 5, NAMES[:3], "row 1 has label 3, expected 0 to 2"),
        (pa.array([None] * 10, pa.int64()), NAMES, "10 rows without a label"),
        ([0.5] * 10, None, "labels are whole numbers or texts"),
        ([2**40] * 10, None, f"label {2**40}, expected 0 to 999999"),
        ([0] * 10, ["a\x1b[31m"], "'a.x1b.31m' is no text"),
    ):
        write_parquet(file, good, labels, names)
        said(text)
    table = pq.read_table(write_parquet(file, good, [0] * 10, NAMES))
    pq.write_table(table.replace_schema_metadata({b"huggingface": b"{"}), file)
    said("cannot be read")
    write_parquet(file, [encode(noise(0, 28, 28))], [0], NAMES)
    told = message(load_images, "cifar10", "test", root=cifar)
    assert "(28, 28, 'L'), expected (32, 32, 'RGB')" in told


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
    table = pq.read_table(tmp_path / "0/cifar10_subset/train.parquet")
    assert sorted(table["label"].to_pylist()) == list(range(10))


def test_any_dataset_object():
    import datasets as hf

    pictures = [Image.fromarray(noise(i, 9, 11, 3)) for i in range(6)]
    columns = {"img": pictures, "labels": ["dog", "cat", "eel"] * 2}
    features = hf.Features(img=hf.Image(), labels=hf.Value("string"))
    rows = hf.Dataset.from_dict(columns, features)
    found = load_images(rows, size=8)
    assert found.classes == ("cat", "dog", "eel") and found.labels.tolist() == [1, 0, 2] * 2
    assert found[1][0].shape == (3, 8, 8) and len(load_images(rows, limit=2)) == 2
    chosen = load_images(rows.select([4, 3]).with_format("torch"), "test", size=8)
    assert torch.equal(chosen[0][0], load_images(rows, "test", size=8)[4][0])
    assert found.fingerprint == load_images(rows, size=8).fingerprint != chosen.fingerprint
    parts = hf.DatasetDict(train=rows, validation=rows.select([0]))
    assert len(load_images(parts, "test", size=8)) == 1
    named = rows.cast_column("labels", hf.ClassLabel(names=["eel", "dog", "cat"]))
    assert load_images(named, size=8).classes == ("eel", "dog", "cat")
    parts = hf.DatasetDict(train=rows)
    assert "split 'test' is not among train" in message(load_images, parts, "test")
    assert "IterableDataset: expected" in message(load_images, rows.to_iterable_dataset())


def test_bad_names_and_options(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    for args, options, text in (
        (["user/mnist"], {}, "user/mnist: not under $VARMINI_DATA (not set), and the hub's"),
        (["cifar10", "valid"], {}, "split 'valid'"),
        (["cifar10-subset"], {"channels": 2}, "channels 2"),
        (["cifar10-subset"], {"size": 0}, "size 0"),
        (["cifar10-subset"], {"limit": 0}, "limit 0"),
        (["imagenet"], {"root": gone}, f"imagenet: no folder imagenet-1k in {gone}"),
        ([{"train": [1]}], {}, "dataset: list, expected a `datasets.Dataset`"),
        (["fashion"], {"root": tmp_path}, "no folder fashion_mnist/fashion_mnist in"),
    ):
        assert text in message(load_images, *args, **options)
    monkeypatch.setenv("VARMINI_DATA", str(tmp_path))
    for name in ("fashion", "cifar10", "imagenet"):
        text = message(load_images, name)
        assert f"not under $VARMINI_DATA ({tmp_path}), and the hub's" in text


def test_an_image_set_has_a_fingerprint_of_its_content():
    images, labels = torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.tensor([0, 1])
    assert "row 1 has label 1, expected 0 to 0" in message(ImageSet, images, labels, ("a",), "s")
    sets = (ImageSet(images + pixel, labels[order], ("a", "b"), "same")
            for pixel in (0, 1) for order in ([0, 1], [1, 0]))  # fmt: skip
    assert len({one.fingerprint for one in sets}) == 4


def test_import_is_light():
    code = "import sys, varmini.data; print({'pyarrow', 'datasets'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr
