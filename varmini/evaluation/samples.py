"""Drawing the many samples of an evaluation: by several processes, in shards, resumable.

Image i of a draw has class i mod C and its own random numbers, a function of (seed, i), so that no
two batches repeat, any 5,000 images in a row hold all classes alike, and shards and processes may
be as many as one likes. A finished shard is a file; what a stopped draw has finished stays.
"""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..data import to_uint8
from ..data.sets import checksum
from ..model.sampler import check_drawing, sample
from ..model.tokenizer import MultiScaleVQVAE
from ..model.transformer import VAR
from ..runtime import distributed
from ..runtime.distributed import progress
from ..runtime.files import read_json, write_atomic
from ..runtime.machine import provenance
from ..runtime.precision import autocast
from . import npz

SHARD = 250
"""Images in a file of a draw under way."""


@dataclass(frozen=True)
class Draw:
    """What is drawn; the same values give the same images (on the same machine)."""

    var: str
    """Checksum of the transformer's weights."""
    tokenizer: str
    """Checksum of the tokenizer's weights."""
    num_classes: int
    per_class: int
    """Images a class."""
    cfg: float = 1.5
    top_k: int = 900
    top_p: float = 0.96
    seed: int = 0
    candidates: int = 1
    """Images drawn for each one kept, the one that the rejector is surest of; 1: no rejection."""
    rejector: str = ""
    """Which network rejects."""
    precision: str = ""
    """Type of the matrix products."""

    def __post_init__(self) -> None:
        for name in ("per_class", "candidates", "num_classes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least 1")
        check_drawing(self.cfg, self.top_k, self.top_p, self.seed)
        if (self.candidates > 1) != bool(self.rejector):
            raise ValueError(
                f"candidates is {self.candidates} with the rejector {self.rejector!r}: rejection "
                f"needs a classifier and at least 2 candidates for each image kept"
            )

    @property
    def count(self) -> int:
        """Images that are kept."""
        return self.num_classes * self.per_class

    @property
    def labels(self) -> Tensor:
        """(count,): class of image i is i mod num_classes."""
        return torch.arange(self.count) % self.num_classes

    @property
    def folder(self) -> str:
        """A folder's name, another one for other values."""
        mark = checksum(json.dumps(dataclasses.asdict(self), sort_keys=True))[:8]
        rejected = f"-best{self.candidates}" if self.candidates > 1 else ""
        return f"cfg{self.cfg:g}-seed{self.seed}{rejected}-{mark}"


def weights_mark(model: nn.Module) -> str:
    """Checksum of a model's weights and their names."""
    parts = ((name, tensor.cpu().numpy()) for name, tensor in model.state_dict().items())
    return checksum(*(value for part in parts for value in part))


def shards(draw: Draw) -> list[range]:
    """The images of each shard."""
    return [range(i, min(i + SHARD, draw.count)) for i in range(0, draw.count, SHARD)]


def _file(folder: Path, part: range) -> Path:
    return folder / f"part-{part.start:06}-{part.stop:06}.npy"


def _finished(folder: Path, part: range) -> bool:
    """Whether a shard is there and whole; its header is read, and the file's length compared."""
    try:
        found = np.load(_file(folder, part), mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return False
    return found.dtype == np.uint8 and found.ndim == 4 and found.shape[0] == len(part)


def _read(folder: Path, part: range) -> np.ndarray:
    return np.load(_file(folder, part), allow_pickle=False)


def draw_part(
    var: VAR,
    tok: MultiScaleVQVAE,
    draw: Draw,
    part: range,
    *,
    batch_size: int = 250,
    reject: Callable[[Tensor], Tensor] | None = None,
) -> np.ndarray:
    """The images `part` of a draw as bytes (n, H, W, 3); grey ones have three equal channels.

    Args:
        batch_size: images drawn together, the candidates counted.
        reject: class probabilities (n, num_classes) of images (n, C, H, W) in [-1, 1].
    """
    kept, m = [], draw.candidates
    slots = max(1, batch_size // m)
    for start in range(part.start, part.stop, slots):
        labels = draw.labels[start : min(start + slots, part.stop)]
        options = {k: getattr(draw, k) for k in ("cfg", "top_k", "top_p", "seed")}
        with autocast():
            images = sample(
                var,
                tok,
                labels.repeat_interleave(m),
                batch_size=batch_size,
                first=start * m,
                **options,
            )
        images = images.float().cpu().clamp(-1, 1)
        if reject is not None:
            # arg max over a slot's candidates of p(its class | image)
            sure = reject(images).gather(1, labels.repeat_interleave(m)[:, None]).view(-1, m)
            images = images.unflatten(0, (-1, m))[torch.arange(len(labels)), sure.argmax(1)]
        kept.append(to_uint8(images).expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy())
    return np.concatenate(kept)


def draw_samples(
    var: VAR,
    tok: MultiScaleVQVAE,
    draw: Draw,
    out: Path,
    *,
    batch_size: int = 250,
    reject: Callable[[Tensor], Tensor] | None = None,
    png: bool = False,
) -> Path:
    """Draws what is missing, each process its share; leaves `samples.npz` in a folder below `out`.

    Args:
        out: holds a folder for each draw; several draws never meet in one.
        batch_size, reject: see `draw_part`.
        png: also write every image to png/<number>-<class>.png.

    Returns:
        The file samples.npz, as the ADM evaluator reads it; on process 0 it is complete.

    Raises:
        ValueError: when the folder was made by another draw, or cannot be written.
    """
    folder = Path(out) / draw.folder
    values = json.loads(json.dumps(dataclasses.asdict(draw)))
    with distributed.together():
        if distributed.is_main():
            _claim(folder, values)
    distributed.wait()
    whole, parts = folder / "samples.npz", shards(draw)
    if not whole.is_file():
        mine = parts[distributed.rank() :: distributed.world()]
        left = [part for part in mine if not _finished(folder, part)]
        done = len(mine) - len(left)
        for part in progress(left, f"samples, cfg {draw.cfg:g}", done):
            images = draw_part(var, tok, draw, part, batch_size=batch_size, reject=reject)
            write_atomic(_file(folder, part), _npy(images))
        distributed.wait()
        if distributed.is_main():
            shape = (draw.count, *_read(folder, parts[0]).shape[1:])
            npz.write_images(
                whole, shape, (_read(folder, part) for part in parts), draw.labels.numpy()
            )
            for part in parts:  # the whole file is on disk by now
                _file(folder, part).unlink()
    if png and distributed.is_main():
        write_pngs(whole, draw.labels.tolist())
    return whole


def _claim(folder: Path, values: dict) -> None:
    """Makes the folder of a draw, or checks that it is this draw's."""
    folder.mkdir(parents=True, exist_ok=True)
    note = folder / "draw.json"
    if note.is_file():
        if read_json(note).get("draw") != values:
            raise ValueError(f"{folder} holds another draw: choose another --samples")
        return
    content = {"draw": values, "session": provenance()}
    write_atomic(note, json.dumps(content, indent=1).encode())


def _npy(images: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, images)
    return buffer.getvalue()


def write_pngs(whole: Path, labels: list[int]) -> Path:
    """Writes the images that are still missing in png/ beside samples.npz; returns that folder."""
    from PIL import Image

    folder = whole.parent / "png"
    folder.mkdir(exist_ok=True)
    images = chain.from_iterable(npz.read_images(whole, SHARD))
    for i, (pixels, label) in enumerate(zip(images, labels)):
        path = folder / f"{i:06}-{label:04}.png"
        if not path.is_file():
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "PNG")
            write_atomic(path, buffer.getvalue())
    return folder
