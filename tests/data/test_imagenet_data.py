"""ImageNet's data: layouts, streams, fingerprints, crops, and headers that promise too much."""

import io
import itertools
import json
import struct
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from varmini.data import sets as data
from varmini.data import sources
from varmini.data.lazy import FolderImages
from varmini.data.sets import batches, class_names, in_order, load_images

SYNSETS = ("n01440764", "n01443537", "n01484850")


def picture(seed: int, width: int = 13, height: int = 11, kind: str = "PNG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def shard(folder, part: str, number: int, of: int, count: int = 6, label=None, names=SYNSETS):
    """A parquet file in the hub's layout: count pictures, labels 0, 1, 2, 0, ... or all `label`."""
    cells = [{"bytes": picture(1000 * number + i), "path": f"{i}.png"} for i in range(count)]
    labels = [i % 3 if label is None else label for i in range(count)]
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel"}}
    if names:
        features["label"]["names"] = list(names)
    info = json.dumps({"info": {"features": features}})
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{part}-{number:05}-of-{of:05}.parquet"
    table = pa.table({"image": cells, "label": pa.array(labels, pa.int64())})
    pq.write_table(table.replace_schema_metadata({"huggingface": info}), path)
    return path


@pytest.fixture(autouse=True)
def nothing_from_outside(monkeypatch, tmp_path):
    import datasets
    import huggingface_hub.constants as constants

    monkeypatch.delenv("VARMINI_DATA", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    # It sleeps after every shuffled pass, which costs nothing but time.
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0, raising=False)


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
def ilsvrc(tmp_path):
    """ILSVRC as it is distributed: class folders for train, a flat val and a table, a flat test."""
    root, place = tmp_path / "ilsvrc", tmp_path / "ilsvrc/ILSVRC/Data/CLS-LOC"
    for part in ("val", "test", *(f"train/{s}" for s in SYNSETS)):
        (place / part).mkdir(parents=True)
        for i in range(3):
            (place / part / f"{part.split('/')[-1]}_{i}.JPEG").write_bytes(picture(i, kind="JPEG"))
    rows = [f"val_{i},{SYNSETS[2 - i]} 1 2 3 4 {SYNSETS[0]} 5 6 7 8" for i in range(3)]
    (root / "LOC_val_solution.csv").write_text("\n".join(["ImageId,PredictionString", *rows]))
    return root


def error(call, *args, **options) -> str:
    with pytest.raises(ValueError) as caught:
        call(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ------------------------------------------------------------------------------------------ layouts


def test_the_hubs_layout(hub_copy):
    for found in (load_images("imagenet", "test", size=8), load_images(hub_copy, "test", size=8)):
        assert len(found) == 6 and found.classes == SYNSETS and found[4][1] == 1
    train = load_images("imagenet", size=8)
    assert len(train) == 12 and train[0][0].shape == (3, 8, 8)
    (hub_copy / "data/validation-00000-of-00001.parquet").unlink()
    assert "row 0 has label -1" in error(load_images, "imagenet", "test", size=8)
    (hub_copy / "data/train-00001-of-00002.parquet").unlink()
    assert "1 of the 2 train files" in error(load_images, "imagenet", size=8)


def test_ilsvrcs_layout(ilsvrc):
    train, test = (load_images("imagenet", s, root=ilsvrc, size=8) for s in ("train", "test"))
    assert train.classes == test.classes == SYNSETS and (len(train), len(test)) == (9, 3)
    assert {f[-10:]: SYNSETS[i] for f, i in zip(test.files, test.labels, strict=True)} == {
        f"val_{i}.JPEG": SYNSETS[2 - i] for i in range(3)
    }
    assert class_names(ilsvrc) == SYNSETS
    (ilsvrc / "LOC_val_solution.csv").write_text("a,b\n1,2\n")
    assert "ImageId and PredictionString" in error(load_images, ilsvrc, "test")
    (ilsvrc / "LOC_val_solution.csv").unlink()
    assert "not labelled" in error(load_images, ilsvrc, "test")


def test_the_hub_is_asked_only_for_pictures(hub_copy, monkeypatch, tmp_path):
    def asked(*args, **options):
        raise AssertionError("the hub was asked")

    monkeypatch.setattr(data, "_from_hub", asked)
    assert class_names("imagenet") == class_names("imagenet-stream") == SYNSETS
    assert class_names(hub_copy) == SYNSETS
    monkeypatch.setenv("VARMINI_DATA", str(tmp_path / "nothing"))
    assert class_names("imagenet") == () == class_names(tmp_path / "gone")
    assert len(class_names("cifar10")) == 10 and class_names("fashion")[9] == "Ankle boot"


# ------------------------------------------------------------------------------------------ streams


def test_a_stream_holds_what_the_copy_holds(hub_copy):
    stream = load_images("imagenet-stream", size=8)
    copy = load_images("imagenet", size=8)
    assert len(stream) == 12 and stream.classes == SYNSETS
    whole = [torch.cat(parts) for parts in zip(*in_order(copy, 5), strict=True)]
    for workers in (0, 1):
        found = [torch.cat(parts) for parts in zip(*in_order(stream, 5, workers), strict=True)]
        assert all(torch.equal(a, b) for a, b in zip(found, whole, strict=True))
    assert all(torch.equal(stream[i][0], whole[0][i]) for i in (0, 1, 2, 7))
    few = load_images("imagenet-stream", size=8, limit=4)
    assert len(list(in_order(few, 3))) == 2 and len(few) == 4


def test_a_streams_order_is_a_function_of_seed_and_epoch(hub_copy):
    stream = load_images("imagenet-stream", "train", size=8)
    stream.train = False  # centre crops: a picture is the same wherever it comes
    known = {stream[i][0].numpy().tobytes(): i for i in range(12)}

    def order(steps, **options):
        for images, _ in itertools.islice(batches(stream, 4, **options), steps):
            yield [known[image.numpy().tobytes()] for image in images]

    whole = list(order(6, seed=0))
    assert sorted(sum(whole[:3], [])) == sorted(sum(whole[3:], [])) == list(range(12))
    assert whole[:3] != whole[3:] and whole != list(order(6, seed=1))
    for start, workers in ((2, 0), (4, 1)):
        assert list(order(2, seed=0, start_step=start, workers=workers)) == whole[start : start + 2]


def test_a_stream_replaces_broken_pictures_and_checks_labels(hub_copy):
    file = hub_copy / "data/validation-00000-of-00001.parquet"
    rows = pq.read_table(file).to_pydict()
    rows["image"][5]["bytes"] = b"broken"
    schema = pq.read_schema(file)
    pq.write_table(pa.table(rows, schema=schema), file)
    stream = load_images("imagenet-stream", "test", size=8)
    images, labels = next(in_order(stream, 6))
    assert torch.equal(images[5], images[0]) and labels.tolist() == [0, 1, 2, 0, 1, 0]
    assert stream.broken == ["imagenet-1k, 5.png"]
    rows["label"][1] = -1
    pq.write_table(pa.table(rows, schema=schema), file)
    text = error(next, in_order(load_images("imagenet-stream", "test", size=8), 6))
    assert "imagenet-1k, 1.png has label -1" in text
    pq.write_table(pa.table(rows), file)  # without the hub's metadata
    assert "must name its classes" in error(load_images, "imagenet-stream", "test", size=8)


# -------------------------------------------------------------------------- crops and fingerprints


def test_a_pass_in_order_repeats_its_crops(ilsvrc):
    train = load_images("imagenet", root=ilsvrc, size=8)
    torch.manual_seed(1)
    first = torch.cat([images for images, _ in in_order(train, 4)])
    torch.manual_seed(2)
    second = torch.cat([images for images, _ in in_order(train, 2, workers=1)])
    assert torch.equal(first, second) and torch.equal(first[7], train[7][0])
    again = load_images("imagenet", root=ilsvrc, size=8)
    assert torch.equal(again[7][0], train[7][0])
    # The three classes hold the same three pictures, each cropped at its own place.
    assert not torch.equal(first[0], first[3]) or not torch.equal(first[1], first[4])


def test_another_content_has_another_fingerprint(ilsvrc, hub_copy):
    def folder(**options) -> str:
        return FolderImages(ilsvrc, **{"size": 8, "channels": 3} | options).fingerprint

    def parquet(name="imagenet") -> str:
        return load_images(name, size=8).fingerprint

    before = folder()
    others = [{"size": 9}, {"limit": 5}, {"split": "test"}, {"channels": 1}]
    assert before == folder() and len({before, *(folder(**other) for other in others)}) == 5
    file = next((ilsvrc / "ILSVRC").rglob("n01440764_1.JPEG"))
    file.write_bytes(picture(77, kind="JPEG"))
    assert folder() != before
    copied, streamed = parquet(), parquet("imagenet-stream")
    assert copied == parquet() and streamed == parquet("imagenet-stream")
    shard(hub_copy / "data", "train", 1, 2, count=7)
    assert copied != parquet() and streamed != parquet("imagenet-stream")
    images = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    marks = {
        data.ImageSet(images + pixel, torch.tensor(labels), ("a", "b"), "same").fingerprint
        for pixel in (0, 1)
        for labels in ([0, 1], [1, 0])
    }
    assert len(marks) == 4


# ------------------------------------------------------------------------ headers that say too much


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content
            + struct.pack(">I", zlib.crc32(kind + content))
        )  # fmt: skip

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("width, height", [(9000, 9000), (60000, 60000), (2**31 - 1, 2)])
def test_a_picture_that_claims_too_many_pixels_is_never_unpacked(width, height, monkeypatch):
    from PIL import ImageFile

    def unpacked(self):
        raise AssertionError("memory was taken")

    monkeypatch.setattr(ImageFile.ImageFile, "load_prepare", unpacked)
    text = error(sources.decode, png_header(width, height), "row 3")
    assert text.startswith("row 3: broken picture")


def test_parquet_that_claims_too_much(tmp_path, monkeypatch):
    file = shard(tmp_path, "train", 0, 1)
    monkeypatch.setattr(sources.Path, "stat", lambda self: type("Stat", (), {"st_size": 5})())
    assert "claims 6 rows" in error(sources.check_parquet, file)


@pytest.mark.parametrize(
    "info, expected",
    [
        (b"{", "metadata is damaged"),
        (b"[1]", "metadata is damaged"),
        (b'{"info": {"features": {"label": {"names": 7}}}}', "no list of names"),
        (b'{"info": {"features": {"label": {"names": ["a"]}}}}', "row 1 has label 1"),
        (b"{}", f"a label is {2**40}"),
    ],
)
def test_labels_and_metadata_that_make_no_sense(tmp_path, info, expected):
    labels = [0, 2**40] if info == b"{}" else [0, 1]
    cells = [{"bytes": picture(i), "path": ""} for i in range(2)]
    table = pa.table({"image": cells, "label": labels})
    pq.write_table(
        table.replace_schema_metadata({b"huggingface": info}), tmp_path / "train.parquet"
    )
    table = pq.read_table(tmp_path / "train.parquet")
    text = error(sources.read_labels, table["label"], table.schema, "label", "train")
    assert expected in text
