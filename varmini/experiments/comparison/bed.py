"""The bed of the family: one data set, one budget, and the tokens of every tokenizer."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ... import quicken
from ...data import fitted, in_order
from ...evaluation.evaluators import Evaluator, classifier_evaluator
from ...runtime.files import file_checksum, read_json, write_atomic
from ...runtime.machine import autocast, device
from ...training.run_folder import make_folder
from .tokenizers import BUILDERS, train_tokenizer

HELD_OUT = 500
"""Test images on which losses are measured."""


@dataclass(frozen=True)
class Bed:
    """What all systems share. Shapes are in `tokenizers.py` and `methods.py`."""

    data: str = "fashion-subset"
    """Data set, grey: a bed's name or a folder. Images are shown at 32 x 32."""
    tokenizer_images: int = 31_200
    """Training images of every tokenizer, counting repeats."""
    images: int = 12_000
    """Training images of every generator, counting repeats."""
    batch_size: int = 16
    """Images a step of every generator."""
    evaluator: str = "fashion"
    """Network that measures; it takes part in no training."""

    def __post_init__(self) -> None:
        if not 1 <= self.batch_size <= min(self.images, self.tokenizer_images):
            raise ValueError(f"batch_size is {self.batch_size}, expected at least 1 and at most "
                             f"the images: {self.images} and {self.tokenizer_images}")  # fmt: skip


class Codes:
    """The tokenizers of the bed, in folders of `out`, and what they make of the images.

    untrained: those that are not finished have random weights; milliseconds do not hang on them.
    """

    def __init__(self, bed: Bed, out: str | Path, untrained: bool = False) -> None:
        self.bed, self.out, self.untrained = bed, Path(out), untrained
        self._encoded: dict[tuple[str, str], tuple[Tensor, Tensor]] = {}
        self._tokenizers: dict[tuple[str, int], nn.Module] = {}

    @cached_property
    def images(self) -> dict[str, Any]:
        """The data set by split; ValueError on pictures that are not grey."""
        sets = {split: fitted(self.bed.data, split, (32, 32), 1) for split in ("train", "test")}
        if (channels := sets["train"][0][0].shape[0]) != 1:
            raise ValueError(f"{self.bed.data} has pictures of {channels} channels, expected 1: "
                             f"the family's bed is grey, as fashion-subset is")  # fmt: skip
        return sets

    @property
    def num_classes(self) -> int:
        """Classes of the data set."""
        return len(self.images["train"].classes)

    @cached_property
    def evaluator(self) -> Evaluator:
        """What measures."""
        return classifier_evaluator(self.bed.evaluator, kind="evaluator")

    def folder(self, name: str, seed: int = 0) -> Path:
        """The run of a tokenizer."""
        return self.out / f"tokenizer-{name}-s{seed}"

    def train(self, name: str, seed: int = 0) -> None:
        """Trains a tokenizer, goes on with it, or finds it finished."""
        if name and not (self.folder(name, seed) / "model.safetensors").exists():
            proxy = None
            if name == "titok":  # its decoder's targets are the tokens of a finished VQ-VAE
                self.train("titok-proxy", seed)
                proxy = self.tokenizer("titok-proxy", seed)
            train_tokenizer(name, self.bed, self.folder(name, seed), seed, proxy)

    def tokenizer(self, name: str, seed: int = 0) -> nn.Module | None:
        """The finished one, in evaluation mode; None for "", no tokenizer."""
        if not name:
            return None
        if (name, seed) not in self._tokenizers:
            folder, builder = self.folder(name, seed), BUILDERS[name]
            finished = (folder / "model.safetensors").exists()
            if not finished and not self.untrained:
                raise ValueError(f"{folder} holds no model: run `varmini compare --sweep` first")
            cls = builder.cls
            model = cls.from_pretrained(folder) if finished else cls(builder.config)
            self._tokenizers[name, seed] = quicken(model.to(device()).eval())
        return self._tokenizers[name, seed]

    def load(self, name: str, encode: Any, split: str) -> tuple[Tensor, Tensor]:
        """Codes and labels (N,) of a split, encoded once a process; mirrored ones too, to train.

        name, encode: of what makes the codes: (B, 1, 32, 32) -> tokens or latents. A pyramid of
        token maps becomes flat, (B, L).
        """
        if (name, split) not in self._encoded:
            dataset, training = self.images[split], split == "train"
            rows = range(len(dataset) if training else min(HELD_OUT, len(dataset)))
            parts = []
            for images, labels in in_order(dataset, 250, rows=rows):
                for shown in (images, images.flip(3)) if training else (images,):
                    with torch.no_grad(), autocast():
                        codes = encode(shown.to(device()))
                    if isinstance(codes, list | tuple):
                        codes = torch.cat([m.flatten(1) for m in codes], dim=1)
                    parts.append((codes.cpu(), labels))
            self._encoded[name, split] = tuple(map(torch.cat, zip(*parts)))
        return self._encoded[name, split]

    def about(self, name: str) -> str:
        """What a generator's run learns from: the data, the tokenizer's name and checksum."""
        if not name:
            return self.bed.data
        file = self.folder(name) / "model.safetensors"
        checksum = "untrained" if self.untrained and not file.exists() else file_checksum(file)
        return f"{self.bed.data}, {name} {checksum}"


def claim(out: Path, bed: Bed) -> None:
    """Notes the bed in `out`/bed.json; ValueError where what is there was made on another one."""
    path, own = Path(out) / "bed.json", json.loads(json.dumps(dataclasses.asdict(bed)))
    if not path.exists():
        make_folder(path.parent, clear=False)
        write_atomic(path, (json.dumps(own, indent=1) + "\n").encode())
    for key, value in read_json(path).items():
        if own.get(key) != value:
            raise ValueError(f"{out} holds a comparison with {key}={value}, not {own.get(key)}: "
                             f"give the same, or choose another --out")  # fmt: skip
