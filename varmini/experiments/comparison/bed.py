"""The bed on which methods are compared: data, three autoencoders of one budget, their codes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from ... import quicken
from ...data import batches, fitted, in_order
from ...model.tokenizer import MultiScaleVQVAE, TokenizerConfig
from ...runtime.distributed import progress
from ...runtime.files import file_checksum, read_json, write_atomic
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
    """Channels of every generator."""
    heads: int = 3
    """Attention heads of every generator."""
    batch_size: int = 8
    """Images a step of every generator."""

    def __post_init__(self) -> None:
        for name in ("images", "autoencoder_images", "depth", "width", "heads", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least 1")
        if self.depth % 4:
            raise ValueError(
                f"depth is {self.depth}, expected a multiple of 4: others have 6/4 of it"
            )

    @property
    def side(self) -> int:
        """Side of the single token map and of the latent."""
        return self.sizes[-1]

    def tokenizer_training(self, sizes: tuple[int, ...]) -> TokenizerTraining:
        """How a tokenizer with these maps is trained; one scale needs no phi."""
        return TokenizerTraining(
            data=self.data,
            images=self.autoencoder_images,
            batch_size=32,
            lr=1.5e-3,
            perceptual=0.1,
            perceptual_network=self.perceptual_network,
            ema=0.99,
            held_out=250,
            log_every=max(1, self.autoencoder_images // 32 // 4),
            model=TokenizerConfig(
                sizes=sizes,
                vocab_size=self.vocab_size,
                code_channels=self.code_channels,
                num_phi=4 if len(sizes) > 1 else 0,
                width=self.autoencoder_width,
                norm_groups=8,
                multipliers=(1, 2),
                patch=2,
                num_res_blocks=1,
                attention=False,
            ),
        )


class Codes:
    """The autoencoders and the codes of the bed, made once in `out` and read again after that."""

    def __init__(self, bed: Bed, out: str | Path) -> None:
        self.bed, self.out = bed, Path(out)

    @cached_property
    def images(self) -> dict:
        """The data set's splits; the training split as far as the generators see it."""
        size = (self.bed.side * 4,) * 2
        return {split: fitted(self.bed.data, split, size, 3) for split in ("train", "test")}

    @property
    def num_classes(self) -> int:
        """Classes of the data set."""
        return len(self.images["train"].classes)

    def folder(self, kind: str) -> Path:
        """Where an autoencoder lies."""
        return self.out / f"autoencoder-{kind}"

    def train_autoencoder(self, kind: str) -> Path:
        """Trains one of `KINDS`, goes on with it, or finds it finished; returns its folder."""
        bed, out = self.bed, self.folder(kind)
        if kind == "kl":
            return self._train_kl(out)
        if not (out / "model.safetensors").exists():
            config = bed.tokenizer_training(bed.sizes if kind == "multi" else (bed.side,))
            train_tokenizer(config, out, resume=(out / "run.json").exists())
        return out

    def _train_kl(self, out: Path) -> Path:
        like = self.bed.tokenizer_training((self.bed.side,))
        network = perceptual_network(like.perceptual_network)
        names = ("width", "norm_groups", "multipliers", "num_res_blocks", "attention", "patch")
        config = KLConfig(
            side=self.bed.side,
            latent_channels=self.bed.latent_channels,
            **{name: getattr(like.model, name) for name in names},
        )
        same = ("images", "batch_size", "lr", "warmup", "decay", "final", "weight_decay", "clip",
                "ema")  # fmt: skip
        training = Training(points=2, **{name: getattr(like, name) for name in same})

        def loss(model: KLAutoencoder, images: Tensor, labels: Tensor) -> Tensor:
            return model.training_loss(images, like.l1, like.l2, like.perceptual, network)

        def stream(start: int):
            return batches(
                self.images["train"], like.batch_size, seed=0, start_step=start, flip=True
            )

        return train(lambda: KLAutoencoder(config), loss, stream, training, out, data=self.bed.data)

    def autoencoder(self, kind: str) -> nn.Module:
        """The finished model of one of `KINDS`, in evaluation mode."""
        build = KLAutoencoder if kind == "kl" else MultiScaleVQVAE
        folder = self.folder(kind)
        if not (folder / "model.safetensors").exists():
            raise ValueError(f"{folder} holds no model: run `varmini compare train` first")
        return quicken(build.from_pretrained(folder).to(device()))

    def encoder(self, kind: str) -> Callable[[Tensor], Tensor]:
        """images -> codes: flat pyramids (B, L), token maps (B, side, side), or mean latents."""
        model = self.autoencoder(kind)
        if kind == "multi":
            return lambda images: model.schedule.flatten(model.encode(images))
        if kind == "single":
            return lambda images: model.encode(images)[0]
        return model.encode

    def decoder(self, kind: str) -> Callable[[Tensor], Tensor]:
        """codes as `encoder` makes them -> images in [-1, 1]."""
        model = self.autoencoder(kind)
        if kind == "multi":
            return lambda codes: model.decode(model.schedule.unflatten(codes))
        if kind == "single":
            return lambda codes: model.decode([codes])
        return model.decode

    def load(self, kind: str, split: str) -> tuple[Tensor, Tensor]:
        """Codes and labels of a split, encoded once; of training images as many as are seen.

        Returns:
            Codes as in `encoder` (tokens as int64, latents as float32) and (N,) labels.
        """
        from safetensors import SafetensorError, safe_open
        from safetensors.torch import save

        count = self.bed.images if split == "train" else HELD_OUT
        path = self.out / "codes" / f"{kind}-{split}.safetensors"
        weights = file_checksum(self.folder(kind) / "model.safetensors")
        key = {"weights": weights, "data": self.bed.data, "count": str(count)}
        try:
            with safe_open(path, "pt") as file:
                if file.metadata() == key:
                    codes, labels = file.get_tensor("codes"), file.get_tensor("labels")
                    return codes.float() if kind == "kl" else codes.long(), labels
        except (OSError, SafetensorError):
            pass
        dataset, encode, codes, labels = self.images[split], self.encoder(kind), [], []
        stream, count = in_order(dataset, 250), min(count, len(dataset))
        for _ in progress(range(0, count, 250), f"codes {kind} {split}"):
            images, part = next(stream)
            with torch.no_grad(), autocast():
                codes.append(encode(images.to(device())).cpu())
            labels.append(part)
        codes, labels = torch.cat(codes)[:count], torch.cat(labels)[:count]
        stored = codes.half() if kind == "kl" else codes.int()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, save({"codes": stored.contiguous(), "labels": labels}, metadata=key))
        return (stored.float() if kind == "kl" else codes), labels


def claim(out: Path, bed: Bed) -> None:
    """Notes the bed in `out`/bed.json, or checks that what is there was made on the same one.

    Raises:
        ValueError: when `out` holds another comparison, naming the first difference.
    """
    path, own = Path(out) / "bed.json", json.loads(json.dumps(dataclasses.asdict(bed)))
    if path.exists():
        for key, value in read_json(path).items():
            if own.get(key) != value:
                raise ValueError(
                    f"{out} holds a comparison with {key}={value}, not {own.get(key)}: "
                    f"give the same, or choose another --out"
                )
        return
    make_folder(path.parent, clear=False)
    write_atomic(path, (json.dumps(own, indent=1) + "\n").encode())
