"""Drawing the many samples of an evaluation: by several processes, in shards, resumable.

Image i of a draw has class i mod C and its own random numbers, a function of (seed, i), so that no
two batches repeat, any 5,000 images in a row hold all classes alike, and shards and processes may
be as many as one likes. A finished shard is a file; what a stopped draw has finished stays.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from .. import sample
from ..data import to_uint8
from ..model.checks import check_filter
from ..model.tokenizer import MultiScaleVQVAE
from ..model.transformer import VAR
from ..runtime import distributed
from ..runtime.distributed import progress
from ..runtime.files import read_json, write_atomic
from ..runtime.machine import autocast, provenance
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
    precision: str = ""
    """Type of the matrix products."""

    def __post_init__(self) -> None:
        check_filter(self.top_k, self.top_p)
        lowest = {"num_classes": 1, "per_class": 1, "cfg": 0, "seed": 0}
        for name, low in lowest.items():
            if not getattr(self, name) >= low:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least {low}")

    @property
    def count(self) -> int:
        """Images in all."""
        return self.num_classes * self.per_class

    @property
    def labels(self) -> Tensor:
        """(count,): class of image i is i mod num_classes."""
        return torch.arange(self.count) % self.num_classes

    @property
    def folder(self) -> str:
        """A folder's name, another one for other values."""
        values = json.dumps(dataclasses.asdict(self), sort_keys=True)
        checksum = hashlib.sha256(values.encode()).hexdigest()[:8]
        return f"cfg{self.cfg:g}-seed{self.seed}-{checksum}"


def weights_checksum(model: nn.Module) -> str:
    """Checksum of a model's weights and their names."""
    total = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(tensor.cpu().contiguous().numpy().data)
    return total.hexdigest()


def _file(folder: Path, part: range) -> Path:
    return folder / f"part-{part.start:06}-{part.stop:06}.npy"


def _load(folder: Path, part: range) -> np.ndarray:
    return np.load(_file(folder, part), mmap_mode="r", allow_pickle=False)


def _finished(folder: Path, part: range) -> bool:
    """Whether a shard is there and whole; its header is read, and the file's length compared."""
    try:
        found = _load(folder, part)
    except (OSError, ValueError, EOFError):
        return False
    return found.dtype == np.uint8 and found.ndim == 4 and found.shape[0] == len(part)


def draw_part(
    var: VAR, tok: MultiScaleVQVAE, draw: Draw, part: range, batch_size: int
) -> np.ndarray:
    """The images `part` of a draw as bytes (n, H, W, 3), so many drawn together; grey ones have
    three equal channels.
    """
    labels = draw.labels[part.start : part.stop]
    options = {name: getattr(draw, name) for name in ("cfg", "top_k", "top_p", "seed")}
    with autocast():
        images = sample(var, tok, labels, batch_size=batch_size, first=part.start, **options)
    images = images.float().cpu().clamp(-1, 1)
    return to_uint8(images).expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()


def draw_samples(
    var: VAR, tok: MultiScaleVQVAE, draw: Draw, out: Path, *, batch_size: int = 250
) -> Path:
    """Draws what is missing, each process its share; leaves `samples.npz` in a folder below `out`.

    Args:
        out: holds a folder for each draw; several draws never meet in one.
        batch_size: images drawn together.

    Returns:
        The file samples.npz, as the ADM evaluator reads it; on process 0 it is complete.

    Raises ValueError when the folder was made by another draw, or cannot be written.
    """
    folder = Path(out) / draw.folder
    with distributed.together():
        if distributed.is_main():
            _claim(folder, json.loads(json.dumps(dataclasses.asdict(draw))))
    distributed.wait()
    whole, starts = folder / "samples.npz", range(0, draw.count, SHARD)
    parts = [range(start, min(start + SHARD, draw.count)) for start in starts]
    if whole.is_file():
        return whole
    mine = parts[distributed.rank() :: distributed.world()]
    left = [part for part in mine if not _finished(folder, part)]
    for part in progress(left, f"samples, cfg {draw.cfg:g}", len(mine) - len(left)):
        images = io.BytesIO()
        np.save(images, draw_part(var, tok, draw, part, batch_size))
        write_atomic(_file(folder, part), images.getvalue())
    distributed.wait()
    if distributed.is_main():
        pieces = [_load(folder, part) for part in parts]
        shape = (draw.count, *pieces[0].shape[1:])
        npz.write_images(whole, shape, pieces, draw.labels.numpy())
        for part in parts:  # the whole file is on disk by now
            _file(folder, part).unlink()
    return whole


def _claim(folder: Path, values: dict) -> None:
    """Makes the folder of a draw, or checks that it is this draw's."""
    folder.mkdir(parents=True, exist_ok=True)
    note = folder / "draw.json"
    if not note.is_file():
        content = {"draw": values, "session": provenance()}
        write_atomic(note, json.dumps(content, indent=1).encode())
    elif read_json(note).get("draw") != values:
        raise ValueError(f"{folder} holds another draw: choose another --samples")
