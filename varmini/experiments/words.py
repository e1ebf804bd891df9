"""Words to pictures on the bed: trains Parti and Infinity on scenes, and counts garments.

The bed's tokenizers stay as they are, for 32 x 32 pictures: each half of a scene is encoded and
decoded by itself, and the generators draw the 4 x 8 map of both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import quicken
from ..evaluation.evaluators import Evaluator
from ..runtime.machine import autocast, device
from ..runtime.tables import Row
from ..zoo.generators.parti import Parti, PartiConfig
from ..zoo.generators.text_infinity import TextInfinity, TextInfinityConfig
from ..zoo.text import grammar
from ..zoo.text.pretraining import pretrain
from ..zoo.text.scenes import HELD_OUT, SEEN, halves, scenes, side_by_side
from .comparison.bed import Codes
from .comparison.methods import LR, MUON, TOP_P
from .comparison.tokenizers import inner_matrices
from .comparison.training import Training, train
from .zero_shot.likelihood import wilson

TOKENIZERS = {"parti": "vqgan", "text-infinity": "multiscale-bsq"}
SCALES = {"parti": 2.0, "text-infinity": 1.0}
"""Learning rates in units of `LR`: those of raster AR and of Infinity with classes (grid.csv)."""
GUIDANCE = (1.0, 2.0, 4.0, 6.0, 8.0)
PAIRS = {"held out": HELD_OUT, "seen": SEEN}
"""Which pairs of classes are asked for."""


def new_model(name: str) -> nn.Module:
    """A system with random weights, for the tokens of its tokenizer on the bed."""
    return Parti(PartiConfig()) if name == "parti" else TextInfinity(TextInfinityConfig())


def reading_model(name: str) -> nn.Module:
    """The same, whose text encoder is trained on captions alone and frozen."""
    model = new_model(name).to(device())
    pretrain((model if name == "parti" else model.network).text, model.config.heads)
    return model


def recipe(name: str, images: int, seed: int) -> Training:
    """The bed's, with so many scenes."""
    lr = SCALES[name] * LR
    return Training(images, 16, lr, muon_lr=MUON * lr, ema=0.98, points=4, seed=seed)


def train_system(codes: Codes, name: str, training: Training, out: Path) -> Path:
    """Trains a system on scenes of `SEEN` pairs, goes on, or finds it finished."""
    sets = {split: encoded(codes, name, split) for split in ("train", "test")}

    def batches(split: str, size: int, **options: Any) -> Iterator[tuple[Tensor, Tensor]]:
        x, labels = sets[split]
        for rows, captions in scenes(labels, size, **options):
            yield side_by_side(x, rows), captions

    def held_out(model: nn.Module) -> dict[str, float]:
        found = {}
        for pairs, column in ((SEEN, "val_loss"), (HELD_OUT, "val_loss_held_out")):
            x, captions = next(batches("test", 100, seed=1, pairs=pairs))
            with autocast():
                found[column] = model.loss(x.to(device()), captions.to(device())).item()
        return found

    return train(
        lambda: reading_model(name), lambda model, x, captions: model.loss(x, captions),
        lambda start: batches("train", training.batch_size, seed=training.seed, start_step=start),
        training, out, data=f"scenes, {codes.about(TOKENIZERS[name])}", held_out=held_out,
        matrices=inner_matrices,
    )  # fmt: skip


def encoded(codes: Codes, name: str, split: str) -> tuple[Tensor, Tensor]:
    """What a system learns of single images, mirrored ones too to train, and their classes."""
    kind, learns = TOKENIZERS[name], "encode" if name == "parti" else "features"
    tok = codes.tokenizer(kind)
    return codes.load(kind if learns == "encode" else f"{kind}, {learns}", getattr(tok, learns),
                      split)  # fmt: skip


def finished_model(name: str, folder: Path) -> nn.Module:
    """A trained system, ready to draw."""
    return quicken(type(new_model(name)).from_pretrained(folder).to(device()).eval())


@torch.no_grad()
def draw_scenes(
    codes: Codes, model: nn.Module, captions: Sequence[str], *, seed: int, guidance: float = 1.0,
    part: int = 100, **options: Any,
) -> Tensor:  # fmt: skip
    """Pictures (B, 1, 32, 64) in [-1, 1] of captions, on the CPU, drawn `part` at a time."""
    tok, drawn = codes.tokenizer(TOKENIZERS[model.kind]), []
    for i in range(0, len(captions), part):
        with autocast():
            maps = model.draw(list(captions[i : i + part]), seed=1000 * seed + i // part,
                              cfg=guidance - 1, top_p=TOP_P, **options)  # fmt: skip
            drawn.append(picture(tok, model, maps))
    return torch.cat(drawn)


def picture(tok: nn.Module, model: nn.Module, maps: Any) -> Tensor:
    """Token maps of scenes -> (B, 1, 32, 64): each half through the decoder by itself."""
    if isinstance(maps, list):
        features = model.quantizer.embed(maps)
    else:
        features = tok.quantizer.embed(maps)
    left, right = tok.decode_features(halves(features)).float().clamp(-1, 1).cpu().chunk(2)
    return torch.cat([left, right], dim=3)


def asked(pairs: Sequence[tuple[int, int]], repeats: int) -> list[tuple[str, int, int]]:
    """Captions to measure with: every pair `repeats` times, its captions in turn."""
    found = []
    for left, right in pairs:
        forms = grammar.captions(left, right)
        found += [(forms[i % len(forms)], left, right) for i in range(repeats)]
    return found


def count_right(evaluator: Evaluator, pictures: Tensor, wanted: Tensor) -> Row:
    """Share of scenes (B, 1, 32, 64) whose halves hold the classes `wanted` (B, 2).

    Left, right and both, each with its 95 % interval (Wilson's); and "swapped": both garments are
    there, on the wrong sides (of pairs that differ).
    """
    seen = evaluator(halves(pictures))[1].argmax(1).view(2, -1).T  # (B, 2)
    right = seen == wanted
    differ = wanted[:, 0] != wanted[:, 1]
    found = {"left": right[:, 0], "right": right[:, 1], "both": right.all(1),
             "swapped": (seen.flip(1) == wanted).all(1) & differ}  # fmt: skip
    row: Row = {"n": len(wanted)}
    for name, values in found.items():
        low, high = wilson(int(values.sum()), len(values))
        row |= {name: values.float().mean().item(), f"{name}_low": low, f"{name}_high": high}
    return row
