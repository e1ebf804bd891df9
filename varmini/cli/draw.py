"""`varmini sample`, `reconstruct` and `inpaint`: what leaves a picture."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro
from torch import Tensor

from .. import inpaint as redraw
from .. import sample as draw
from ..model.tokenizer import MultiScaleVQVAE
from ..runtime.machine import autocast, check_memory, device
from .main import parse
from .models import Flat, Pair, caption, class_label, output_file, save_picture


def read_images(paths: Sequence[Path], tok: MultiScaleVQVAE) -> Tensor:
    """Pictures (B, C, H, W) in [-1, 1] as `tok` wants them: resized and cropped around the centre.

    Raises:
        ValueError: when there is none, or one is missing or broken.
    """
    from PIL import Image, ImageOps

    from ..data.pictures import decode, to_float, to_tensor

    check_files(paths)
    height, width = tok.image_size
    pictures = []
    for path in paths:
        picture = decode(str(path), str(path), tok.config.image_channels)
        picture = ImageOps.fit(picture, (width, height), Image.Resampling.LANCZOS)
        pictures.append(to_float(to_tensor(picture)))
    return torch.stack(pictures)


def check_files(paths: Sequence[Path]) -> None:
    """ValueError unless there is at least one path and each is a file."""
    if not paths:
        raise ValueError("no picture given, expected at least one image file")
    for path in paths:
        if not path.is_file():
            raise ValueError(f"{path}: no such file, expected a picture")


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn."""

    cfg: float = 1.5
    """Guidance at the last scale, rising from 0 at the first; 0 turns it off."""
    top_k: int = 900
    """Draw from the so many likeliest tokens; 0: all."""
    top_p: float = 0.96
    """Draw from the likeliest tokens that hold this share of the probability; 0 or 1: all."""
    seed: int = 0
    """The same seed gives the same pictures."""
    smooth: bool = False
    """Mix codes softly: prettier, but no longer true samples."""
    batch_size: int | None = None
    """Images drawn together; None: what a cache of 1 GiB holds."""


@dataclass(frozen=True)
class Sample:
    """Draws images of the given classes, one row a class, into a PNG file."""

    sampling: Annotated[Sampling, Flat] = Sampling()
    models: Annotated[Pair, Flat] = Pair()
    labels: tuple[str, ...] = ()
    """Class names or numbers, or "none" for no class; nothing: the first ten classes."""
    n: int = 8
    """Images a class."""
    out: Path = Path("out/samples.png")
    """PNG file to write."""
    overwrite: bool = False
    """Replace that file."""


def sample(args: Sequence[str], prog: str) -> None:
    """`varmini sample`."""
    o = parse(Sample, args, prog)
    output_file(o.out, ".png", o.overwrite)
    _check_count(o.n, "image a class")
    var, tok, names = o.models.load()
    classes = var.config.num_classes
    labels = [class_label(word, names, classes) for word in o.labels] or range(min(10, classes))
    check_memory("images a class", "--n", o.n, len(labels) * _image_bytes(tok))
    each = [label for label in labels for _ in range(o.n)]
    with autocast():
        images = draw(var, tok, each, **dataclasses.asdict(o.sampling))
    from ..plots.images import image_grid

    title = f"{o.models.var}, guidance {o.sampling.cfg:g}, seed {o.sampling.seed}"
    rows = [caption(label, names) for label in labels]
    save_picture(image_grid(images, o.n, title=title, rows=rows), o.out)
    print(f"wrote {o.out}")


@dataclass(frozen=True)
class Reconstruct:
    """Encodes and decodes pictures, from their first 1, 2, ... K token maps, into a PNG file."""

    images: tyro.conf.Positional[tuple[Path, ...]]
    """Pictures of any size; resized to the tokenizer's and cropped around the centre."""
    tokenizer: str = "cifar10"
    """Tokenizer: a shipped name, a folder, or a hub id."""
    out: Path = Path("out/reconstruction.png")
    """PNG file to write."""
    overwrite: bool = False
    """Replace that file."""


def reconstruct(args: Sequence[str], prog: str) -> None:
    """`varmini reconstruct IMAGE...`."""
    o = parse(Reconstruct, args, prog)
    check_files(o.images)
    output_file(o.out, ".png", o.overwrite)
    tok = MultiScaleVQVAE.from_pretrained(o.tokenizer)
    images = read_images(o.images, tok)
    from ..evaluation.metrics import psnr
    from ..plots.images import scale_by_scale

    for path, value in zip(o.images, psnr(tok.decode(tok.encode(images)), images)):
        print(f"{path}: PSNR {value:.2f} dB from {tok.schedule.num_tokens} tokens")
    save_picture(scale_by_scale(tok, images, f"{o.tokenizer}: from 1, 2, ... token maps"), o.out)
    print(f"wrote {o.out}")


@dataclass(frozen=True)
class Inpaint:
    """Redraws a part of pictures: original, masked part, then --n versions, into a PNG file."""

    images: tyro.conf.Positional[tuple[Path, ...]]
    """Pictures of any size; resized to the model's and cropped around the centre."""
    sampling: Annotated[Sampling, Flat] = Sampling()
    models: Annotated[Pair, Flat] = Pair()
    label: str = "none"
    """Class name or number to draw into the part (editing); "none": no class."""
    box: tuple[float, float, float, float] = (0.25, 0.25, 0.75, 0.75)
    """The part to redraw: top, left, bottom, right as shares of the side, 0 to 1."""
    outside: bool = False
    """Keep the box and redraw all around it (out-painting)."""
    mask: Path | None = None
    """Picture instead of the box: white is redrawn."""
    n: int = 4
    """Versions of each picture."""
    out: Path = Path("out/inpainting.png")
    """PNG file to write."""
    overwrite: bool = False
    """Replace that file."""


def inpaint(args: Sequence[str], prog: str) -> None:
    """`varmini inpaint IMAGE...`."""
    o = parse(Inpaint, args, prog)
    check_files(o.images)
    output_file(o.out, ".png", o.overwrite)
    _check_count(o.n, "version a picture")
    var, tok, names = o.models.load()
    images = read_images(o.images, tok)
    mask = _mask(o, tok)
    label = class_label(o.label, names, var.config.num_classes)
    check_memory("versions a picture", "--n", o.n, len(images) * _image_bytes(tok))
    repeated = images.repeat_interleave(o.n, 0).to(device())
    labels = [label] * len(repeated)
    with autocast():
        drawn = redraw(var, tok, repeated, mask, labels, **dataclasses.asdict(o.sampling)).cpu()
    rows = [
        torch.cat([x[None], x.where(~mask, torch.zeros(()))[None], versions])
        for x, versions in zip(images, drawn.split(o.n))
    ]
    from ..plots.images import image_grid

    headings = ["original", "kept", *(f"drawn {i + 1}" for i in range(o.n))]
    title = f"{o.models.var}: {caption(label, names)}, guidance {o.sampling.cfg:g}"
    save_picture(image_grid(torch.cat(rows), o.n + 2, headings, title), o.out)
    print(f"wrote {o.out}")


def _check_count(n: int, what: str) -> None:
    if n < 1:
        raise ValueError(f"--n is {n}, expected at least 1 {what}")


def _image_bytes(tok: MultiScaleVQVAE) -> float:
    """What a picture takes from its drawing to the figure: some eight copies in float32."""
    height, width = tok.image_size
    return 32.0 * 3 * height * width


def _mask(o: Inpaint, tok: MultiScaleVQVAE) -> Tensor:
    """(H, W) bool, True where a picture is to be drawn."""
    if o.mask is not None:
        mask = read_images([o.mask], tok)[0].mean(0) > 0
        return ~mask if o.outside else mask
    height, width = tok.image_size
    top, left, bottom, right = o.box
    if not (0 <= top < bottom <= 1 and 0 <= left < right <= 1):
        raise ValueError(
            f"--box is {' '.join(f'{x:g}' for x in o.box)}, expected top, left, bottom, right as "
            f"shares of the side: 0 <= top < bottom <= 1, 0 <= left < right <= 1"
        )
    mask = torch.zeros(height, width, dtype=torch.bool)
    rows = slice(round(top * height), round(bottom * height))
    mask[rows, round(left * width) : round(right * width)] = True
    return ~mask if o.outside else mask
