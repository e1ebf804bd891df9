"""Token maps of whole data sets: written once, in shards, and read without being loaded."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..data import ImageSet, LazyImages, batch_order, in_order
from ..model.tokenizer import MultiScaleVQVAE
from ..runtime import distributed
from ..runtime.files import write_atomic
from ..runtime.machine import autocast, batch_for, precision, to_device
from ..runtime.pretrained import whole_tensors

SHARD = 32_768
"""Images a file. Fixed, so that any number of processes writes and finds the same files."""


@dataclass
class TokenSet:
    """The token maps of a data set, as the transformer reads them."""

    shards: Sequence[Tensor]
    """Each (M, n, L) int32: M = 2 with the mirror images, else 1. All but the last of one n.
    They are mapped from their files: only what is read of them comes into memory."""
    labels: Tensor
    """(N,) int64."""

    def rows(self, rows: Tensor, kind: Tensor | int = 0) -> Tensor:
        """The token maps (B, L) int64 of images `rows` (B,); kind 1 (B,) for the mirror image."""
        kind = torch.as_tensor(kind).expand(len(rows))
        _, size, length = self.shards[0].shape
        found = torch.empty(len(rows), length, dtype=torch.long)
        for shard in (rows // size).unique().tolist():
            here = rows // size == shard
            found[here] = self.shards[shard][kind[here], rows[here] % size].long()
        return found


def token_set(
    tok: MultiScaleVQVAE, checksum: str, dataset: ImageSet | LazyImages, folder: Path, split: str,
    *, flip: bool, workers: int = 0, batch_size: int | None = None, shard: int = SHARD,
) -> TokenSet:  # fmt: skip
    """Encodes a data set once, and again only what is damaged or was made of something else.

    The files are `{split}-00000-of-0000N.safetensors` in `folder`; each holds the tokens and labels
    of `shard` images, a key that tells what they were made of, and a checksum. Under torchrun the
    processes take turns with the files.

    Args:
        checksum: of the tokenizer's weights.
        flip: also encode the mirror images.
        batch_size: images encoded at a time; None takes what suits their size.
    """
    from safetensors.torch import save

    key = {"tokenizer": checksum, "data": dataset.name, "fingerprint": dataset.fingerprint}
    key |= {"flip": str(flip), "precision": str(precision()), "images": str(len(dataset))}
    batch_size = batch_size or batch_for(tok.image_size)
    parts = list(enumerate(torch.arange(len(dataset)).split(shard)))
    paths = [folder / f"{split}-{i:05d}-of-{len(parts):05d}.safetensors" for i, _ in parts]
    folder.mkdir(parents=True, exist_ok=True)
    for i, rows in parts[distributed.rank() :: distributed.world()]:
        if not _intact(paths[i], key, (1 + flip, len(rows), tok.schedule.num_tokens)):
            stream = in_order(dataset, batch_size, workers, range(rows[0], rows[-1] + 1))
            name = f"tokens of {split}" + (f", file {i + 1} of {len(parts)}" if parts[1:] else "")
            bar = distributed.progress(range(0, len(rows), batch_size), name)
            content = _encode(tok, (next(stream) for _ in bar), flip)
            crc = {"crc32": _crc(*content.values())}
            write_atomic(paths[i], save(content, metadata=key | crc))
    distributed.wait()
    if distributed.is_main():
        for old in set(folder.glob(f"{split}-*.safetensors")) - set(paths):
            old.unlink()
    shards, labels = zip(*map(_read, paths))
    return TokenSet(shards, torch.cat(labels))


def _encode(tok: MultiScaleVQVAE, batches: Iterator, flip: bool) -> dict[str, Tensor]:
    """The content of a shard: tokens (M, n, L) and labels (n,)."""
    maps, labels = [], []
    for images, part in batches:
        images = to_device(images)
        kinds = [images, images.flip(3)] if flip else [images]
        with autocast():
            maps.append(torch.stack([tok.schedule.flatten(tok.encode(x)) for x in kinds]).cpu())
        labels.append(part)
    return {"tokens": torch.cat(maps, dim=1).to(torch.int32), "labels": torch.cat(labels)}


def _crc(tokens: Tensor, labels: Tensor) -> str:
    return str(zlib.crc32(labels.numpy(), zlib.crc32(tokens.numpy())))


def _read(path: Path) -> tuple[Tensor, Tensor]:
    with whole_tensors(path) as file:
        return file.get_tensor("tokens"), file.get_tensor("labels")


def _intact(path: Path, key: dict[str, str], shape: tuple[int, int, int]) -> bool:
    """Whether a shard is there, whole, of this shape, and made of what `key` says."""
    try:
        with whole_tensors(path) as file:
            known = file.metadata()
        tokens, labels = _read(path)
        fits = tokens.shape == shape and labels.shape == shape[1:2]  # crc32 knows bytes alone
        return fits and known == key | {"crc32": _crc(tokens, labels)}
    except ValueError:
        return False  # not there yet, or half a file from a full disk


def token_batches(
    data: TokenSet, batch_size: int, seed: int, start_step: int, part: slice = slice(None)
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless (tokens (B, L) int64, labels (B,)), in an order that seed and step alone decide.

    Of each batch only the rows in `part` are read; the order does not depend on it.
    """
    for rows, mirrored, _ in batch_order(len(data.labels), batch_size, seed, start_step):
        kinds = mirrored[part] if len(data.shards[0]) == 2 else 0
        yield data.rows(rows[part], kinds), data.labels[rows[part]]
