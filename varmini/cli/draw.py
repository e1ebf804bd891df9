"""`varmini sample`, `reconstruct` and `inpaint`: what leaves a picture."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro
from PIL import Image, ImageOps
from torch import Tensor

from .. import inpaint, sample
from ..data.pictures import decode, to_float, to_tensor
from ..evaluation.metrics import psnr
from ..model.sampler import Rule
from ..model.tokenizer import MultiScaleVQVAE
from ..plots.images import image_grid, scale_by_scale
from ..runtime.machine import autocast, device
from .models import Flat, Pair, caption, class_label, output_file, save_picture


def read_images(paths: Sequence[Path], tok: MultiScaleVQVAE) -> Tensor:
    """Pictures (B, C, H, W) in [-1, 1] as `tok` wants them: resized and cropped around the centre.

    Raises:
        ValueError: when there is none, or one is missing or broken.
    """
    if not paths:
        raise ValueError("no picture given, expected at least one image file")
    height, width = tok.image_size
    pictures = []
    for path in paths:
        if not Path(path).is_file():
            raise ValueError(f"{path}: No such file, expected a picture")
        picture = decode(str(path), str(path), tok.config.image_channels)
        picture = ImageOps.fit(picture, (width, height), Image.Resampling.LANCZOS)
        pictures.append(to_float(to_tensor(picture)))
    return torch.stack(pictures)


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn."""

    cfg: float = 1.5  # Guidance at the last scale, rising from 0 at the first; 0 turns it off.
    top_k: int = 900  # Draw from the so many likeliest tokens; 0: all.
    top_p: float = 0.96
    """Draw from the likeliest tokens that hold this share of the probability; 0 or 1: all."""
    seed: int = 0  # The same seed gives the same pictures.
    smooth: bool = False  # Mix codes softly: prettier, but no longer true samples.
    batch_size: int | None = None  # Images drawn together; None: what a cache of 1 GiB holds.


@dataclass(frozen=True)
class Sample:
    """Draws images of the given classes, one row a class, into a PNG file."""

    sampling: Annotated[Sampling, Flat] = Sampling()
    models: Annotated[Pair, Flat] = Pair()
    labels: tuple[str, ...] = ()
    """Class names or numbers, or "none" for no class; nothing: the first ten classes."""
    n: int = 8  # Images a class.
    out: Path = Path("out/samples.png")  # PNG file to write.
    overwrite: bool = False  # Replace that file.

    def __call__(self) -> None:
        _check(self.out, self.overwrite, self.n)
        var, tok, names = self.models.load()
        classes = var.config.num_classes
        labels = [class_label(word, names, classes) for word in self.labels]
        labels = labels or range(min(10, classes))
        each = [label for label in labels for _ in range(self.n)]
        with autocast():
            images = sample(var, tok, each, **dataclasses.asdict(self.sampling))
        s = self.sampling
        title = f"{self.models.var}, guidance {s.cfg:g}, top-k {s.top_k}, seed {s.seed}"
        rows = [caption(label, names) for label in labels]
        save_picture(image_grid(images, self.n, title=title, rows=rows), self.out)


@dataclass(frozen=True)
class Reconstruct:
    """Encodes and decodes pictures, from their first 1, 2, ... K token maps, into a PNG file."""

    images: tyro.conf.Positional[tuple[Path, ...]]
    """Pictures of any size; resized to the tokenizer's and cropped around the centre."""
    tokenizer: str = "cifar10"  # Tokenizer: a shipped name, a folder, or a hub id.
    out: Path = Path("out/reconstruction.png")  # PNG file to write.
    overwrite: bool = False  # Replace that file.

    def __call__(self) -> None:
        _check(self.out, self.overwrite)
        tok = MultiScaleVQVAE.from_pretrained(self.tokenizer)
        images = read_images(self.images, tok)
        for path, value in zip(self.images, psnr(tok.decode(tok.encode(images)), images)):
            print(f"{path}: PSNR {value:.2f} dB from {tok.schedule.num_tokens} tokens")
        title = f"{self.tokenizer}: from 1, 2, ... token maps"
        save_picture(scale_by_scale(tok, images, title), self.out)


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
    outside: bool = False  # Keep the box and redraw all around it (out-painting).
    mask: Path | None = None  # Picture instead of the box: white is redrawn.
    rule: Rule = "painted"
    """Which tokens the part draws: "painted", all of the last map that it touches and the coarser
    ones it covers by half; "touched", all; "paper", as the official demonstration."""
    n: int = 4  # Versions of each picture.
    out: Path = Path("out/inpainting.png")  # PNG file to write.
    overwrite: bool = False  # Replace that file.

    def __call__(self) -> None:
        _check(self.out, self.overwrite, self.n)
        var, tok, names = self.models.load()
        images, mask = read_images(self.images, tok), self._mask(tok)
        label = class_label(self.label, names, var.config.num_classes)
        repeated = images.repeat_interleave(self.n, 0).to(device())
        labels, options = [label] * len(repeated), dataclasses.asdict(self.sampling)
        with autocast():
            drawn = inpaint(var, tok, repeated, mask, labels, rule=self.rule, **options).cpu()
        rows = [
            torch.cat([x[None], x.where(~mask, torch.zeros(()))[None], versions])
            for x, versions in zip(images, drawn.split(self.n))
        ]
        headings = ["original", "kept", *(f"drawn {i + 1}" for i in range(self.n))]
        title = f"{self.models.var}: {caption(label, names)}, guidance {self.sampling.cfg:g}"
        save_picture(image_grid(torch.cat(rows), self.n + 2, headings, title), self.out)

    def _mask(self, tok: MultiScaleVQVAE) -> Tensor:
        """(H, W) bool, True where a picture is to be drawn."""
        if self.mask is not None:
            return self._turned(read_images([self.mask], tok)[0].mean(0) > 0)
        height, width = tok.image_size
        top, left, bottom, right = self.box
        if not (0 <= top < bottom <= 1 and 0 <= left < right <= 1):
            raise ValueError(
                f"--box is {' '.join(f'{x:g}' for x in self.box)}, expected top, left, bottom, "
                "right as shares of the side: 0 <= top < bottom <= 1, 0 <= left < right <= 1"
            )
        mask = torch.zeros(height, width, dtype=torch.bool)
        rows = slice(round(top * height), round(bottom * height))
        mask[rows, round(left * width) : round(right * width)] = True
        return self._turned(mask)

    def _turned(self, mask: Tensor) -> Tensor:
        mask = ~mask if self.outside else mask
        if not mask.any():
            raise ValueError(
                "nothing is to be redrawn: enlarge --box, leave out --outside, or whiten a part of "
                "--mask"
            )
        return mask


def _check(out: Path, overwrite: bool, n: int = 1) -> None:
    output_file(out, ".png", overwrite)
    if n < 1:
        raise ValueError(f"--n is {n}, expected at least 1")
