"""Pictures, folders and objects of `datasets` as users bring them; see user_inputs.py."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
import torch
from PIL import Image

from varmini.data import in_order, load_images, to_uint8

RED = (200, 0, 0)


def loaded(source: Any) -> str:
    """What `load_images` makes of `source`."""
    found = load_images(source)
    images = to_uint8(next(in_order(found, len(found)))[0])
    first = tuple(images[0, :, 0, 0].tolist())
    color = "white" if set(first) == {255} else str(first)

    def count(number: int, name: str, more: str = "s") -> str:
        return f"{number} {name}{more if number != 1 else ''}"

    broken = f", {len(found.broken)} broken and replaced" if found.broken else ""
    return (
        f"{count(len(found), 'image')} of {found.size}x{found.size}, "
        f"{count(len(found.classes), 'class', 'es')}{broken}, {count(found.channels, 'channel')}, "
        f"{color}"
    )


class Case(NamedTuple):
    name: str
    make: Callable[[Path], Any]
    expected: str
    tell: Callable[[Any], str] = loaded


def solid(mode: str = "RGB", color: Any = RED, size: tuple[int, int] = (16, 16)) -> Image.Image:
    return Image.new(mode, size, color)


def one(name: str, image: Image.Image | bytes, **options: Any) -> Callable[[Path], Path]:
    """A folder of one class that holds one picture, beside which a hidden file lies."""

    def make(folder: Path) -> Path:
        path = folder / "class" / name
        path.parent.mkdir()
        (path.parent / "._hidden.png").write_bytes(b"no picture")
        if isinstance(image, bytes):
            path.write_bytes(image)
        else:
            image.save(path, **options)
        return folder

    return make


def files(*names: str, link: bool = False) -> Callable[[Path], Path]:
    """A folder with a red picture under each of these names; with `link`, linked from outside."""

    def make(folder: Path) -> Path:
        for i, name in enumerate(names):
            path = folder / "set" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if link:
                solid().save(folder / f"{i}.png")
                path.symlink_to(folder / f"{i}.png")
            else:
                solid().save(path)
        return folder / "set"

    return make


def encoded(kind: str, part: float = 1.0) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()[: int(part * len(buffer.getvalue()))]


def png(bits: int, side: int, pixels: bytes) -> bytes:
    """A colour PNG written by hand: Pillow writes no 16 bit colour, and no size that is a lie."""
    head = struct.pack(">IIBBBBB", side, side, bits, 2, 0, 0, 0)
    chunks = (b"IHDR", head), (b"IDAT", zlib.compress(pixels)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def beside(content: bytes) -> Callable[[Path], Path]:
    """A bad file beside a good picture, neither of them held out."""

    def make(folder: Path) -> Path:
        for part in ("train", "test"):
            (folder / part / "class").mkdir(parents=True)
        (folder / "train/class/0.png").write_bytes(content)
        solid().save(folder / "train/class/1.png")
        return folder

    return make


def dangling(folder: Path) -> Path:
    beside(b"")(folder)
    (folder / "train/class/0.png").unlink()
    (folder / "train/class/0.png").symlink_to(folder / "gone.png")
    return folder


def linked_class(folder: Path) -> Path:
    files("a/0.png", "a/1.png")(folder)
    (folder / "other").mkdir()
    (folder / "other/b").symlink_to(folder / "set/a")
    return folder / "other"


def messy(folder: Path) -> Path:
    """Files that systems and people leave behind, and a class without pictures."""
    files("a/1.png", "b/1.png")(folder)
    for name in ("a/Thumbs.db", "a/.DS_Store", "notes.txt", "b/b.zip"):
        (folder / "set" / name).write_bytes(b"?")
    (folder / "set/empty").mkdir()
    return folder / "set"


def mixed(folder: Path) -> Path:
    """Pictures of other sizes and modes in one class."""
    (folder / "a").mkdir()
    solid().save(folder / "a/1.png")
    solid("L", 99, (48, 24)).save(folder / "a/2.png")
    solid("RGBA", (*RED, 255), (20, 30)).save(folder / "a/3.png")
    return folder


def rotated() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    return exif


def two_halves() -> Image.Image:
    """16 wide, 8 high, red below; turned as `rotated` says: 8 wide, 16 high, red on the left."""
    image = solid(color=(0, 0, 200), size=(16, 8))
    image.paste(RED, (0, 4, 16, 8))
    return image


def rows(**columns: Any) -> Callable[[Path], datasets.Dataset]:
    return lambda folder: datasets.Dataset.from_dict(
        {"image": [solid(), solid(color=(0, 200, 0))]} | columns,
        datasets.Features(
            {"image": datasets.Image()}
            | {name: datasets.Value("string" if isinstance(values[0], str) else "int32")
               for name, values in columns.items() if name != "image"}
        ),
    )  # fmt: skip


FRAMES = [solid(color=(0, 0, 200)) for _ in range(3)]
SQUARE = "1 image of 16x16, 1 class"
CASES = [
    # Pictures, each alone in a folder of one class.
    Case("PNG, alpha: fully transparent", one("a.png", solid("RGBA", (0, 0, 0, 0))), "white"),
    Case("PNG, alpha: opaque", one("a.png", solid("RGBA", (*RED, 255))), "(200, 0, 0)"),
    Case("PNG, grey with alpha", one("a.png", solid("LA", (7, 0))), "1 channel, white"),
    Case("PNG, palette", one("a.png", solid().quantize(4)), "(200, 0, 0)"),
    Case("PNG, palette with a transparent colour",
         one("a.png", solid().quantize(4), transparency=0), "white"),
    Case("PNG, 16 bit grey", one("a.png", solid("I;16", 40000)), "1 channel, (156,)"),
    Case("PNG, 16 bit colour",
         one("a.png", png(16, 8, 8 * (b"\0" + 8 * struct.pack(">3H", 200 * 257, 0, 0)))),
         "1 image of 8x8, 1 class, 3 channels, (200, 0, 0)"),
    Case("PNG, animated: first frame",
         one("a.png", solid(), save_all=True, append_images=FRAMES), "(200, 0, 0)"),
    Case("PNG that claims 60,000 x 60,000 pixels", one("a.png", png(8, 60000, b"")),
         "60000"),
    Case("PNG, 1 bit", one("a.png", solid("1", 1)), "1 channel, white"),
    Case("PNG, grey", one("a.png", solid("L", 99)), "1 channel, (99,)"),
    Case("JPEG, CMYK", one("a.jpg", solid().convert("CMYK")), "3 channels, (2"),
    Case("JPEG, turned by EXIF", one("a.jpg", two_halves(), exif=rotated(), quality=100),
         "1 image of 8x8, 1 class, 3 channels, (199, 0, 1)"),
    Case("JPEG, damaged EXIF", one("a.jpg", solid(), exif=b"Exif\0\0II*\0\xff\xff\xff"), SQUARE),
    Case("JPEG, progressive", one("a.jpeg", solid(), progressive=True), SQUARE),
    Case("JPEG named .png", one("a.png", encoded("JPEG")), "1 image of 32x32"),
    Case("JPEG with an upper-case ending", one("A.JPG", solid()), SQUARE),
    Case("WEBP", one("a.webp", solid(), lossless=True), "(200, 0, 0)"),
    Case("TIFF, compressed", one("a.tiff", solid(), compression="tiff_lzw"), "(200, 0, 0)"),
    Case("TIFF, CMYK", one("a.tif", solid().convert("CMYK")), "(200, 0, 0)"),
    Case("TIFF, two pages: the first", one("a.tif", solid(), save_all=True, append_images=FRAMES),
         "(200, 0, 0)"),
    Case("TIFF, floating point", one("a.tif", solid("F", 0.5)), "floating-point pixels"),
    Case("BMP", one("a.bmp", solid()), "(200, 0, 0)"),
    Case("PPM", one("a.ppm", solid()), "(200, 0, 0)"),
    Case("GIF, animated: first frame",
         one("a.gif", solid(), save_all=True, append_images=FRAMES), "(200, 0, 0)"),
    Case("WEBP, animated: first frame", one("a.webp", solid(), save_all=True, lossless=True,
                                            append_images=FRAMES), "(200, 0, 0)"),
    Case("one pixel", one("a.png", solid(size=(1, 1))), "1 image of 1x1"),
    Case("panorama, 4000 x 8", one("a.png", solid(size=(4000, 8))), "1 image of 8x8"),
    Case("tower, 1 x 3000", one("a.png", solid(size=(1, 3000))), "1 image of 1x1"),
    Case("SVG", one("a.svg", b"<svg/>"), "expected one sub-folder per class, each with pictures"),
    # Broken ones, beside a good one.
    Case("truncated PNG", beside(encoded("PNG", 0.5)), "2 images of 16x16, 1 class, 1 broken"),
    Case("truncated JPEG", beside(encoded("JPEG", 0.5)), "2 images of 16x16, 1 class, 1 broken"),
    Case("empty file", beside(b""), "2 images of 16x16, 1 class, 1 broken"),
    Case("text named .png", beside(b"hello"), "2 images of 16x16, 1 class, 1 broken"),
    Case("dangling link", dangling, "2 images of 16x16, 1 class, 1 broken"),
    Case("nothing but a broken picture", one("a.png", b"no"), "cannot be read"),
    # Names and folders.
    Case("odd names", files("x y/é 1.png", "x y/'\"$;&.png", "x y/" + "n" * 200 + ".png"),
         "2 images of 16x16, 1 class"),
    Case("a name that is no UTF-8", files(os.fsdecode(b"a/\xff.png")), "utf-8"),
    Case("a class name that is no UTF-8", files(os.fsdecode(b"\xff/a.png")), "utf-8"),
    Case("a class name with a line break", files("a\nb/a.png"), "rename it"),
    Case("hidden files and folders", files("a/1.png", "a/.2.png", "a/.git/3.png", ".b/4.png"),
         SQUARE),
    Case("links to pictures", files("a/1.png", link=True), SQUARE),
    Case("a link to a class folder", linked_class, SQUARE),
    Case("other files and an empty class beside the pictures", messy, "2 images of 16x16"),
    Case("pictures of other sizes and modes", mixed, "1 class"),
    Case("a path as text, with a slash", lambda folder: f"{files('a/1.png')(folder)}/", SQUARE),
    Case("one class", files("a/1.png", "a/2.png", "a/3.png"), "2 images of 16x16, 1 class"),
    Case("200 classes", files(*(f"{i:03}/{j}.png" for i in range(200) for j in range(2))),
         "200 images of 16x16, 200 classes"),
    Case("one picture a class", files("a/1.png", "b/1.png"), "2 images of 16x16, 2 classes"),
    Case("nested folders", files("a/x/y/1.png", "a/2.png", "b/z/1.png"), "2 classes"),
    Case("train/ and test/", files("train/a/1.png", "train/b/1.png", "test/a/2.png"),
         "2 images of 16x16, 2 classes"),
    Case("train/ and valid/ (no split of ours)", files("train/a/1.png", "valid/a/1.png"), SQUARE),
    Case("test/ alone", files("test/a/1.png"), "no labelled pictures for split"),
    Case("pictures without class folders", files("1.png", "2.png"), "no labelled pictures for"),
    Case("an empty folder", lambda folder: folder, "no labelled pictures for split 'train'"),
    Case("a file for a folder", lambda folder: one("a.png", solid())(folder) / "class/a.png",
         "expected one of"),
    # Objects of `datasets`.
    Case("datasets: labels that are texts", rows(label=["dog", "cat"]), "2 classes"),
    Case("datasets: int32 labels", rows(label=[0, 1]), "2 classes"),
    Case("datasets: pictures in a column `photo`", lambda folder: rows(label=[0, 1])(0)
         .rename_column("image", "photo"), "call that of the pictures 'image'"),
    Case("datasets: named classes", lambda folder: rows(label=["dog", "cat"])(0)
         .class_encode_column("label"), "2 classes"),
    Case("datasets: shuffled and formatted", lambda folder: rows(label=[0, 1])(0).shuffle(0)
         .with_format("torch"), "2 images of 16x16, 2 classes"),
    Case("datasets: a row without a label", lambda folder: rows(label=["dog", None])(0),
         "1 rows without a label"),
    Case("datasets: a row without a picture", lambda folder: rows(
        image=[solid(), None], label=[0, 1])(0), "broken"),
    Case("datasets: pictures as arrays", lambda folder: datasets.Dataset.from_dict(
        {"image": np.zeros((2, 8, 8, 3), np.uint8), "label": [0, 1]}), "2 images of 8x8"),
    Case("datasets: two label columns", rows(coarse=[0, 1], fine=[0, 1]), "rename_column"),
    Case("datasets: no labels", rows(), "of the labels 'label'"),
    Case("datasets: negative labels", rows(label=[-1, 1]), "row 0 has label -1"),
    Case("datasets: empty", lambda folder: rows(label=[0, 1])(folder).select([]), "no images"),
    Case("datasets: DatasetDict", lambda folder: datasets.DatasetDict(train=rows(label=[0, 1])(0)),
         "2 images of 16x16, 2 classes"),
    Case("datasets: a stream", lambda folder: rows(label=[0, 1])(0).to_iterable_dataset(),
         "IterableDataset: expected"),
    Case("a list of pictures", lambda folder: [solid()], "an object of `datasets`"),
    Case("a torch tensor", lambda folder: torch.zeros(2, 3, 8, 8), "Tensor: expected"),
]  # fmt: skip
