"""Trains what draws and what measures moving garments: one recipe, one loop, folders of runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from ...data import batch_order
from ...data.motion import CLASSES, MovingGarments, Videos
from ...fast.halves import halved, trained
from ...fast.quicken import quicken
from ...runtime.files import file_checksum, write_atomic
from ...runtime.machine import device
from ...zoo.generators.infinity_star import InfinityStar
from ...zoo.generators.magvit import MAGVIT
from ...zoo.tokenizers.causal_video import CausalVideoConfig, CausalVideoTokenizer
from ..comparison.training import Training, train
from .network import (
    VideoNetwork,
    VideoNetworkConfig,
    network_loss,
    perceptual_distance,
    perceptual_parts,
)

TOKENIZERS = {
    "pyramid": CausalVideoConfig(),
    "grid": CausalVideoConfig(sizes=(4,), bits=18),
}
"""Of InfinityStar and of MAGVIT."""
CLIP = 5
"""Frames of a video that tokenizers and evaluator learn from. A latent frame sees five frames at
most, so longer ones teach an encoder nothing; a decoder goes on learning from whole videos."""
VIDEOS = 4_096
"""Training videos of the generators, encoded once."""
NETWORKS = {"evaluator": 101, "classifier": 202}
"""Their seeds. One measures, and takes part in no other training; the other is in the tokenizers'
perceptual loss, and measures nothing."""
PERCEPTUAL = 0.1
"""Weight of that loss."""
RECIPES = {
    "evaluator": Training(images=38_400, batch_size=32, lr=3e-3, weight_decay=0.01, ema=0.98),
    "tokenizer": Training(images=32_000, batch_size=16, lr=3e-3, weight_decay=0.005, ema=0.99,
                          clip=1.0),
    "decoder": Training(images=12_800, batch_size=8, lr=2e-3, weight_decay=0.005, ema=0.99,
                        clip=1.0),
    "infinity-star": Training(images=14_400, batch_size=16, lr=3e-3, muon_lr=0.03, ema=0.98),
    "magvit": Training(images=25_600, batch_size=16, lr=2e-3, muon_lr=0.02, ema=0.98, decay=0.95),
}  # fmt: skip
"""Videos a training, counting those that only differ in where the garment flies."""
SHAPE: dict[str, int] = {}
"""Of the generators' configurations, what is not their default."""
METHODS = {"infinity-star": (InfinityStar, "pyramid"), "magvit": (MAGVIT, "grid")}
"""The generators, and the tokenizer of each."""


def stream(seed: int, count: int, frames: int = 13) -> Any:
    """stream(start) yields the batches of a training from that step on, as tuples of tensors."""
    garments = MovingGarments("train", frames=frames)

    def batches(start: int) -> Iterator[Videos]:
        while True:
            yield garments.batch(count, seed, start)
            start += 1

    return batches


def reconstruction(
    model: CausalVideoTokenizer, z_q: Tensor, true: Tensor, classifier: VideoNetwork
) -> Tensor:
    """0.2 |x - x_hat| + |x - x_hat|^2 + a perceptual term, of true videos (B, 1, F, H, W)."""

    def run(z_q: Tensor, true: Tensor) -> Tensor:
        drawn = model.decode_features(z_q)
        near = (0.2 * (drawn - true).abs() + (drawn - true).square()).flatten(1).mean(1)
        return torch.cat([near[:, None], perceptual_parts(classifier, drawn, true).flatten(1)], 1)

    found = halved(run, trained(model), z_q, true)
    far = perceptual_distance(found[:, 1:].unflatten(1, (2, -1)))
    return found[:, 0].mean() + PERCEPTUAL * far


def tokenizer_loss(
    model: CausalVideoTokenizer, frames: Tensor, *_: Tensor, classifier: VideoNetwork
) -> Tensor:
    """The difference from the true frames, and the quantizer's loss.

    What knows its rows alone is done by halves of the batch; the quantizer knows all.
    """
    z_q, _, loss, _ = model.quantize(halved(model.features, trained(model), frames))
    return reconstruction(model, z_q, frames, classifier) + 0.25 * loss


def train_network(name: str, out: Path) -> Path:
    """Trains the evaluator or the classifier, or finds it trained."""
    recipe = dataclasses.replace(RECIPES["evaluator"], seed=NETWORKS[name])
    return train(
        lambda: VideoNetwork(VideoNetworkConfig()),
        lambda model, *batch: network_loss(model, Videos(*batch)),
        stream(recipe.seed, recipe.batch_size, CLIP), recipe, out / name, data="moving garments",
    )  # fmt: skip


def train_tokenizer(name: str, out: Path) -> Path:
    """Trains a tokenizer of `TOKENIZERS`, goes on with it, or finds it trained."""
    recipe, classifier = RECIPES["tokenizer"], load(VideoNetwork, out / "classifier")
    return train(
        lambda: CausalVideoTokenizer(TOKENIZERS[name]),
        partial(tokenizer_loss, classifier=classifier.requires_grad_(False)),
        stream(recipe.seed, recipe.batch_size, CLIP), recipe, out / f"tokenizer-{name}",
        data=f"moving garments, {checksum(out / 'classifier')}", matrices=lambda model: [],
    )  # fmt: skip


def decoder_loss(
    model: CausalVideoTokenizer, frames: Tensor, *_: Tensor, classifier: VideoNetwork
) -> Tensor:
    """The difference alone, with tokens as they are."""
    with torch.no_grad():
        z_q = halved(lambda x: model.quantize(model.features(x))[0], (), frames)
    return reconstruction(model, z_q, frames, classifier)


def train_decoder(name: str, out: Path) -> Path:
    """Trains a finished tokenizer's decoder on, on videos of full length; its tokens stay."""
    recipe, first = RECIPES["decoder"], out / f"tokenizer-{name}"
    classifier = load(VideoNetwork, out / "classifier").requires_grad_(False)

    def build() -> CausalVideoTokenizer:
        model = CausalVideoTokenizer.from_pretrained(first)
        for part in (model.encoder, model.past):
            part.requires_grad_(False)
        return model

    return train(
        build, partial(decoder_loss, classifier=classifier),
        stream(recipe.seed + 1, recipe.batch_size), recipe, out / f"decoder-{name}",
        data=f"moving garments, {checksum(first)}", matrices=lambda model: [],
    )  # fmt: skip


def checksum(folder: Path) -> str:
    """Of a finished model's weights."""
    return file_checksum(folder / "model.safetensors")[:12]


def load(cls: type, folder: Path) -> nn.Module:
    """A finished model of that class; ValueError with the command to make it when there is none."""
    if not (folder / "model.safetensors").exists():
        raise ValueError(f"{folder} holds no model: run `python scripts/evidence/motion.py --train "
                         f"{folder.name}` first")  # fmt: skip
    return quicken(cls.from_pretrained(folder).to(device()).eval())


@torch.no_grad()
def codes(method: str, out: Path, split: str, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """What a generator learns from, and labels: features or tokens of `count` videos of a split.

    Kept in a file beside the runs, for encoding takes longer than a step of training.
    """
    name = METHODS[method][1]
    tok = load(CausalVideoTokenizer, out / f"tokenizer-{name}")
    about = checksum(out / f"tokenizer-{name}")
    path = out / f"codes-{name}-{split}-{count}-{seed}-{about}.safetensors"
    if not path.exists():
        garments, parts = MovingGarments(split), []
        for step in range(count // 64):
            batch = garments.batch(64, seed, step)
            frames = batch.frames.to(device())
            x = tok.features(frames) if method == "infinity-star" else tok.encode(frames)[0]
            parts.append((x.cpu(), batch.labels))
        x, labels = (torch.cat(part) for part in zip(*parts))
        write_atomic(path, save({"x": x, "labels": labels}))
    found = load_file(path)
    return found["x"], found["labels"]


def train_model(method: str, seed: int, out: Path) -> Path:
    """Trains a generator of `METHODS`, goes on with it, or finds it trained."""
    cls, name = METHODS[method]
    recipe = dataclasses.replace(RECIPES[method], seed=seed)
    x, labels = codes(method, out, "train", VIDEOS, seed=7)
    unseen = codes(method, out, "test", 128, seed=8)

    def batches(start: int) -> Iterator[tuple[Tensor, Tensor]]:
        for rows, _, _ in batch_order(len(x), recipe.batch_size, seed, start):
            yield x[rows], labels[rows]

    def held_out(model: nn.Module) -> dict[str, float]:
        torch.manual_seed(0)  # the same masks always
        return {"val_loss": model.loss(*(t.to(device()) for t in unseen)).item()}

    weights = file_checksum(out / f"tokenizer-{name}" / "model.safetensors")
    return train(
        lambda: cls(cls.config_class(num_classes=len(CLASSES), **SHAPE)),
        lambda model, *batch: model.loss(*batch), batches, recipe, out / f"{method}-s{seed}",
        data=f"moving garments, {name} {weights}", held_out=held_out,
    )  # fmt: skip
