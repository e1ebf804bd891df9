"""Folders and parquet files: layouts, workers, broken pictures, fingerprints, headers that lie."""

import io
import itertools
import logging
import multiprocessing
import os
import re
import signal
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
import torch
from PIL import Image
from small_pictures import encode, message, noise, write_parquet
from tiny import make_tokenizer

from varmini.data import batches, class_names, in_order, load_images, sources
from varmini.data.pictures import decode
from varmini.training.token_sets import token_set

ROOT = Path(__file__).resolve().parents[2]
SYNSETS = ("n01440764", "n01443537", "n01484850")


def files(dataset) -> list[str]:
    return [cell["path"] for cell in dataset.cells[:]["image"]]


def shard(folder, part: str, number: int, of: int, count: int = 6, label=None, names=SYNSETS):
    """A parquet file in the hub's layout: count pictures, labels 0, 1, 2, 0, ... or all `label`."""
    cells = [encode(noise(1000 * number + i, 11, 13, 3)) for i in range(count)]
    labels = [i % 3 if label is None else label for i in range(count)]
    return write_parquet(folder / f"{part}-{number:05}-of-{of:05}.parquet", cells, labels, names)


@pytest.fixture
def hub_copy(tmp_path, monkeypatch):
    """$VARMINI_DATA with imagenet-1k as the hub keeps it; its test part carries no labels."""
    folder = tmp_path / "all/imagenet-1k/data"
    shard(folder, "train", 0, 2), shard(folder, "train", 1, 2)
    shard(folder, "validation", 0, 1)
    shard(folder, "test", 0, 1, label=-1)
    monkeypatch.setenv("VARMINI_DATA", str(tmp_path / "all"))
    return folder.parent


@pytest.fixture
def pictures(tmp_path):
    """Three classes of RGB pictures of odd sizes."""
    for c, name in enumerate(("cat", "dog", "train")):
        folder = tmp_path / "pets" / name / ("deep" if name == "dog" else "")
        folder.mkdir(parents=True)
        for i in range(12):
            array = noise(100 * c + i, 9 + 3 * i, 40 - i, 3)
            Image.fromarray(array).save(folder / f"{i:02}.{'JPG' if i % 2 else 'png'}")
        (folder / "notes.txt").write_text("no picture")
    return tmp_path / "pets"


def test_folder(pictures):
    (pictures / "cat" / "loop").symlink_to(pictures)  # linked folders in a class are left out
    train, test = (load_images(pictures, s, size=16) for s in ("train", "test"))
    assert train.classes == test.classes == ("cat", "dog", "train")
    assert (len(train), len(test), train.size, train.channels) == (33, 3, 16, 3)
    assert train.name == "pets" and not set(files(train)) & set(files(test))
    assert files(test) == files(load_images(pictures, "test", size=16))
    for index in range(len(train)):
        image, label = train[index]
        assert image.shape == (3, 16, 16) and -1 <= image.min() < image.max() <= 1
        assert train.classes[label] in files(train)[index]
    assert torch.equal(test[0][0], test[0][0])  # centre crop
    assert set(load_images(pictures, limit=3, size=8).labels) == {0, 1, 2}
    assert load_images(pictures, size=8, channels=1)[0][0].shape == (1, 8, 8)


def test_folder_with_split_folders(tmp_path):
    root, tmp_path = tmp_path, tmp_path / "imagenet"
    for part, name, i in itertools.product(("train", "val"), ("a", "b"), range(3)):
        folder = tmp_path / part / name
        folder.mkdir(parents=True, exist_ok=True)
        if part == "train" or i:
            Image.fromarray(noise(i, 11, 13)).save(folder / f"{i}.png")
    train, test = load_images(tmp_path, "train"), load_images(tmp_path, "test")
    assert (len(train), len(test), train.classes) == (6, 4, ("a", "b")) == (6, 4, test.classes)
    assert (train.size, train.channels) == (11, 1)  # the first picture's shorter side; grey
    assert train[0][0].shape == (1, 11, 11)
    local = load_images("imagenet", "test", root=root, size=24)
    assert files(local) == files(test) and local[0][0].shape == (3, 24, 24)
    (folder.parent / "b").rename(folder.parent / "c")
    assert "class label c" in message(load_images, tmp_path, "test")


def test_the_hubs_layout(hub_copy, monkeypatch):
    monkeypatch.setattr(sources, "read_hub", None)  # what is here is not asked for
    test = load_images("imagenet", "test", size=8)
    assert len(test) == 6 and test.classes == SYNSETS and test[4][1] == 1
    train = load_images("imagenet", size=8)
    assert len(train) == 12 and train[0][0].shape == (3, 8, 8)
    assert class_names("imagenet") == class_names(hub_copy)
    assert "row 0 has label -1" in message(load_images, hub_copy, "test", size=8)
    (hub_copy / "data/train-00001-of-00002.parquet").unlink()
    assert "1 of 2 train files" in message(load_images, "imagenet", size=8)
    monkeypatch.delenv("VARMINI_DATA")
    assert class_names("imagenet") == () == class_names(hub_copy / "gone")


def test_folder_batches_resume_with_workers(pictures):
    dataset = load_images(pictures, size=8)
    state = torch.get_rng_state()
    whole = list(itertools.islice(batches(dataset, 7, seed=2, flip=True), 9))
    for workers in (0, 1):
        later = batches(dataset, 7, seed=2, flip=True, start_step=6, workers=workers)
        for (images, labels), (images2, labels2) in zip(whole[6:], later, strict=False):
            assert torch.equal(images, images2) and torch.equal(labels, labels2)
    part = next(batches(dataset, 7, seed=2, flip=True, start_step=6, part=slice(2, 5)))
    assert torch.equal(part[0], whole[6][0][2:5]) and torch.equal(part[1], whole[6][1][2:5])
    assert torch.equal(state, torch.get_rng_state())
    epochs = itertools.islice(batches(dataset, 33, seed=0), 2)  # crops differ between epochs
    assert len({image.numpy().tobytes() for images, _ in epochs for image in images}) > 40


def test_a_pass_in_order_repeats_its_crops(pictures):
    train = load_images(pictures, size=8)
    torch.manual_seed(1)
    first = torch.cat([images for images, _ in in_order(train, 4)])
    torch.manual_seed(2)
    second = torch.cat([images for images, _ in in_order(train, 2, workers=1)])
    assert torch.equal(first, second) and torch.equal(first[7], train[7][0])
    plain = torch.utils.data.DataLoader(train, 4)  # as a user may
    assert torch.equal(torch.cat([images for images, _ in plain]), first)
    assert torch.equal(torch.cat([x for x, _ in in_order(train, 2, rows=range(3, 8))]), first[3:8])


DIES = """
import multiprocessing, sys
from varmini.data import batches, load_images
stream = batches(load_images(sys.argv[1], "train", size=8), 2, seed=0, workers=1)
next(stream)
for child in multiprocessing.active_children():
    child.kill()
for _ in range(50):  # what was decoded ahead still comes
    next(stream)
"""


def test_a_decoding_process_that_dies_is_an_error(pictures):
    """In a process of its own: torch raises from a signal's handler, wherever Python is then, even
    while it prints the error."""
    done = subprocess.run(
        [sys.executable, "-c", DIES, str(pictures)], capture_output=True, text=True, cwd=ROOT
    )
    told = re.search(r"RuntimeError\W+DataLoader worker", done.stderr)
    assert done.returncode == 1 and told, done.stderr


def test_a_signal_to_all_processes_does_not_end_those_that_decode(pictures):
    stream = batches(load_images(pictures, size=8), 7, seed=2, workers=1)
    whole = list(itertools.islice(batches(load_images(pictures, size=8), 7, seed=2), 9))
    for i, (images, _) in enumerate(itertools.islice(stream, 9)):
        assert torch.equal(images, whole[i][0])
        for child in multiprocessing.active_children():
            for number in (signal.SIGTERM, signal.SIGINT):
                os.kill(child.pid, number)


def test_broken_pictures_are_named_and_replaced(pictures, tmp_path, caplog):
    for file in sorted((pictures / "cat").iterdir())[3:6]:
        file.write_bytes(file.read_bytes()[:60])
    whole = load_images(pictures, size=8)
    broken = {f for f in files(whole) if "cat" in f and Path(f).stem in ("03", "04", "05")}
    assert len(broken) >= 2  # at most one of a class is held out
    for workers in (0, 1):
        dataset = load_images(pictures, size=8)
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="varmini"):
            for images, _ in itertools.islice(batches(dataset, 33, seed=0, workers=workers), 2):
                assert images.shape == (33, 3, 8, 8)
        said = [record.getMessage() for record in caplog.records]
        assert dataset.broken == broken and len(said) == len(broken)
        assert all(any(name in line for line in said) for name in broken)
        assert f"({len(broken)} of 33 so far)" in said[-1]
    dataset = load_images(pictures, size=16, channels=1)
    token_set(make_tokenizer(), "sum", dataset, tmp_path / "tokens", "train", flip=False, shard=12)
    assert dataset.broken == broken
    for file in pictures.rglob("*.*"):
        if file.is_file():
            file.write_bytes(b"broken")
    assert "33 pictures in a row cannot be read" in message(load_images, pictures)
    stream = batches(load_images(pictures, size=8, channels=3), 4, seed=0, workers=1)
    assert message(next, stream).startswith("pets: 33 pictures in a row cannot be read; ")


def test_another_content_has_another_fingerprint(pictures, hub_copy):
    def folder(split="train", **options) -> str:
        return load_images(pictures, split, **{"size": 8, "channels": 3} | options).fingerprint

    def parquet() -> str:
        return load_images("imagenet", size=8).fingerprint

    before = folder()
    others = [{"size": 9}, {"limit": 5}, {"split": "test"}, {"channels": 1}]
    assert before == folder() and len({before, *(folder(**other) for other in others)}) == 5
    for file in (pictures / "cat").glob("*.png"):
        file.write_bytes(encode(noise(77, 9, 9, 3)))
    assert folder() != before
    copied = parquet()
    assert copied == parquet()
    shard(hub_copy / "data", "train", 1, 2, count=7)
    assert copied != parquet()


def test_a_picture_that_claims_too_many_pixels_is_never_unpacked(monkeypatch):
    from PIL import ImageFile

    def unpacked(self):
        raise AssertionError("memory was taken")

    monkeypatch.setattr(ImageFile.ImageFile, "load_prepare", unpacked)
    buffer = io.BytesIO()
    Image.new("1", (10_000, 10_000)).save(buffer, "PNG")
    for width in (10_000, 60_000):  # one that is true, and one that is not
        content = bytearray(buffer.getvalue())
        content[16:20] = struct.pack(">I", width)
        content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
        assert message(decode, bytes(content), "row 3").startswith("row 3: broken picture (Image s")
