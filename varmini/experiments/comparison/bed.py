"""The bed on which methods are compared: data, three autoencoders of one budget, their codes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ... import quicken
from ...data import batches, fitted, in_order
from ...model.tokenizer import MultiScaleVQVAE, TokenizerConfig
from ...runtime.distributed import progress
from ...runtime.files import read_json, write_atomic
from ...runtime.machine import autocast, device
from ...training.configs import TokenizerTraining
from ...training.run_folder import make_folder
from ...training.train_tokenizer import perceptual_network
from ...training.train_tokenizer import train as train_tokenizer
from ...zoo.tokenizers.kl import KLAutoencoder, KLConfig
from .training import Training, train

KINDS = ("multi", "single", "kl")
"""The autoencoders: VAR's multi-scale tokenizer, the same with one scale, and a KL autoencoder."""
HELD_OUT = 500
"""Test images on which losses are measured."""


@dataclass(frozen=True)
class Bed:
    """What all methods of a comparison share."""

    data: str = "cifar10"
    """Data set: a bed's name or a folder."""
    images: int = 16_000
    """Training images of every generator; each is seen as often as the others' are."""
    autoencoder_images: int = 20_000
    """Training images of every autoencoder."""
    sizes: tuple[int, ...] = (1, 2, 3, 5, 8)
    """Token maps of the multi-scale tokenizer; the last is also the others' side."""
    vocab_size: int = 512
    """Codes of both tokenizers."""
    code_channels: int = 8
    """Length of a code of both tokenizers."""
    latent_channels: int = 4
    """Channels of the KL autoencoder's latent."""
    autoencoder_width: int = 32
    """Channels of the first level of all three."""
    perceptual_network: str = "cifar10"
    """Network of the perceptual loss of all three, as in `varmini train tokenizer`."""
    depth: int = 4
    """Depth of VAR. The others have 6/4 or 5/4 of it, which makes parameters and FLOPs alike."""
    width: int = 96
    """Channels of every generator, a multiple of 4 x heads."""
    heads: int = 3
    """Attention heads of every generator."""
    batch_size: int = 8
    """Images a step of every generator."""

    def __post_init__(self) -> None:
        for name, step in (("images", 1), ("autoencoder_images", 1), ("batch_size", 1),
                           ("heads", 1), ("depth", 4), ("width", 4 * self.heads)):  # fmt: skip
            value = getattr(self, name)
            if value < 1 or value % step:
                least = f"a multiple of {step}" if step > 1 else "at least 1"
                raise ValueError(f"{name} is {value}, expected {least}")

    @property
    def side(self) -> int:
        """Side of the single token map and of the latent."""
        return self.sizes[-1]

    def tokenizer_training(self, sizes: tuple[int, ...]) -> TokenizerTraining:
        """How a tokenizer with these maps is trained; one scale needs no phi."""
        model = TokenizerConfig(
            sizes=sizes, vocab_size=self.vocab_size, code_channels=self.code_channels,
            num_phi=4 if len(sizes) > 1 else 0, width=self.autoencoder_width, norm_groups=8,
            multipliers=(1, 2), patch=2, num_res_blocks=1, attention=False,
        )  # fmt: skip
        return TokenizerTraining(
            data=self.data, images=self.autoencoder_images, batch_size=32, lr=1.5e-3,
            perceptual=0.1, perceptual_network=self.perceptual_network, ema=0.99, held_out=250,
            log_every=max(1, self.autoencoder_images // 32 // 4), model=model,
        )  # fmt: skip


class Autoencoder(NamedTuple):
    """A finished autoencoder, and how it makes codes and images."""

    model: nn.Module
    encode: Callable[[Tensor], Tensor]
    """Images -> flat pyramids (B, L), token maps (B, side, side), or mean latents."""
    decode: Callable[[Tensor], Tensor]
    """Codes -> images in [-1, 1]."""


class Codes:
    """The autoencoders of the bed, in folders of `out`, and what they make of the images."""

    def __init__(self, bed: Bed, out: str | Path) -> None:
        self.bed, self.out = bed, Path(out)
        self._encoded: dict[tuple[str, str], tuple[Tensor, Tensor]] = {}

    @cached_property
    def images(self) -> dict:
        """The data set by split."""
        size = (self.bed.side * 4,) * 2
        return {split: fitted(self.bed.data, split, size, 3) for split in ("train", "test")}

    @property
    def num_classes(self) -> int:
        """Classes of the data set."""
        return len(self.images["train"].classes)

    def folder(self, kind: str) -> Path:
        """The run of an autoencoder."""
        return self.out / f"autoencoder-{kind}"

    def train_autoencoder(self, kind: str) -> None:
        """Trains one of `KINDS`, goes on with it, or finds it finished."""
        out = self.folder(kind)
        if kind == "kl":
            self._train_kl(out)
        elif not (out / "model.safetensors").exists():
            config = self.bed.tokenizer_training(
                self.bed.sizes if kind == "multi" else (self.bed.side,)
            )
            train_tokenizer(config, out, resume=(out / "run.json").exists())

    def _train_kl(self, out: Path) -> None:
        bed, like = self.bed, self.bed.tokenizer_training((self.bed.side,))
        network = perceptual_network(like.perceptual_network)
        shape = ("width", "norm_groups", "multipliers", "num_res_blocks", "attention", "patch")
        config = KLConfig(side=bed.side, latent_channels=bed.latent_channels,
                          **{name: getattr(like.model, name) for name in shape})  # fmt: skip
        same = ("images", "batch_size", "lr", "warmup", "decay", "final", "weight_decay", "clip",
                "ema")  # fmt: skip
        training = Training(points=2, **{name: getattr(like, name) for name in same})
        train(
            lambda: KLAutoencoder(config),
            lambda model, x, _: model.training_loss(x, like.l1, like.l2, like.perceptual, network),
            lambda start: batches(self.images["train"], like.batch_size, seed=0, start_step=start,
                                  flip=True),
            training,
            out,
            data=bed.data,
        )  # fmt: skip

    def autoencoder(self, kind: str) -> Autoencoder:
        """The finished one of `KINDS`, in evaluation mode."""
        build, folder = KLAutoencoder if kind == "kl" else MultiScaleVQVAE, self.folder(kind)
        if not (folder / "model.safetensors").exists():
            raise ValueError(f"{folder} holds no model: run `varmini compare train` first")
        model = quicken(build.from_pretrained(folder).to(device()))
        if kind == "kl":
            return Autoencoder(model, model.encode, model.decode)
        if kind == "single":
            return Autoencoder(model, lambda x: model.encode(x)[0], lambda c: model.decode([c]))
        schedule = model.schedule
        return Autoencoder(model, lambda x: schedule.flatten(model.encode(x)),
                           lambda c: model.decode(schedule.unflatten(c)))  # fmt: skip

    def load(self, kind: str, split: str) -> tuple[Tensor, Tensor]:
        """Codes and labels (N,) of a split, encoded once a process; as many as are used.

        Codes are as of `Autoencoder.encode`: tokens int64, latents float32.
        """
        if (kind, split) not in self._encoded:
            dataset, parts = self.images[split], []
            count = min(self.bed.images if split == "train" else HELD_OUT, len(dataset))
            stream, own = in_order(dataset, 250, rows=range(count)), self.autoencoder(kind)
            for _ in progress(range(0, count, 250), f"codes {kind} {split}"):
                images, labels = next(stream)
                with torch.no_grad(), autocast():
                    parts.append((own.encode(images.to(device())).cpu(), labels))
            codes, labels = map(torch.cat, zip(*parts))
            # Latents are rounded to half precision, as the first comparison kept them.
            codes = codes.half().float() if kind == "kl" else codes.long()
            self._encoded[kind, split] = codes, labels
        return self._encoded[kind, split]


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
