"""Bits against codes: cross-entropy and quality of both heads over d, the bits of a token.

    python scripts/evidence/bits.py --out runs/bits --csv results/comparison/bits.csv

Each d has one multi-scale BSQ tokenizer of the bed's budget. Over it two Infinities are trained, of
one shape and on the same batches: with a head of 2 d outputs, and with one of 2^d. Learning rates
are the best of `RATES` in runs of a quarter's length, at 16 bits those of 12. With 65,536 outputs a
step takes ten times as long, so at 16 bits both heads are compared with `SMALL` images a step and
as many steps, one seed; the head of bits has a run of the bed's batch beside it.

Columns: nats a token and bits an image are held-out cross-entropy, not weighted over scales, with
the same unit for both heads; figures with "plain" are of samples without guidance, those with
"guided" of guidance 2. Killed, the same command goes on.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from varmini import quicken
from varmini.data import batch_order
from varmini.experiments.comparison.bed import Bed, Codes, claim
from varmini.experiments.comparison.measure import (
    PART,
    Measure,
    measure_against,
    recipe,
    tokenizer_row,
)
from varmini.experiments.comparison.tokenizers import BUILDERS, Builder, inner_matrices
from varmini.experiments.comparison.training import finished, train
from varmini.runtime.distributed import progress
from varmini.runtime.machine import autocast, device
from varmini.runtime.tables import RESULTS, Row, append_row, origin, read_rows, rows_of
from varmini.zoo.generators.infinity import Infinity, InfinityConfig, head_parameters
from varmini.zoo.tokenizers.multiscale_bsq import MultiScaleBSQ, MultiScaleBSQConfig

SMALL = 4
"""Images a step of both heads at 16 bits."""
RATES = (1.0, 2.0)
"""Learning rates that are tried, in units of the bed's `LR`."""
DRAWINGS: dict[str, dict[str, Any]] = {"plain": {"cfg": 0.0}, "guided": {"cfg": 1.0}}
"""Guidance 1 + cfg, not tuned; without a filter, for a nucleus of 2^16 codes is no nucleus of
bits, and sorting them takes minutes."""


@torch.no_grad()
def held_out(model: Infinity, features: Tensor, labels: Tensor) -> dict[str, float]:
    """{"val_loss": mean -log p of a token, in nats}, the same unit whatever the head."""
    total = 0.0
    for part, y in zip(features.split(PART), labels.split(PART)):
        tokens, inputs = model.teacher(part.to(device()))
        logits = model.network(y.to(device()), inputs).float()
        total += model.surprise(logits, tokens).sum().item()
    return {"val_loss": total / len(labels) / model.schedule.num_tokens}


def kinds_of(bits: int, batch: int) -> list[tuple[int, str, int]]:
    """What is compared at d = `bits`: (bits, head, images a step)."""
    whole, small = [(bits, "bits", batch)], SMALL if bits >= 16 else batch
    return list(dict.fromkeys([*whole, (bits, "bits", small), (bits, "codes", small)]))


def run(codes: Codes, bits: int, head: str, batch: int, scale: float, seed: int,
        share: int = 1) -> Path:  # fmt: skip
    """Trains one Infinity, goes on with it, or finds it finished; share: 1 / of a full run."""
    name, steps = f"multiscale-bsq-{bits}", codes.bed.images // codes.bed.batch_size // share
    training = recipe(codes, scale, seed, steps * batch, points=1 if share > 1 else 4)
    training = dataclasses.replace(training, batch_size=batch)
    out = codes.out / f"{'grid-' * (share > 1)}{head}-{bits}-b{batch}-{scale:g}-s{seed}"
    codes.train(name)
    if finished(out, training):
        return out
    tok = codes.tokenizer(name)
    (x, y), test = (codes.load(name, tok.features, split) for split in ("train", "test"))

    def stream(start: int) -> Iterator[tuple[Tensor, Tensor]]:
        order = batch_order(len(x), training.batch_size, training.seed, start)
        return ((x[rows], y[rows]) for rows, *_ in order)

    config = InfinityConfig(
        bits=bits, group=bits if head == "codes" else 1, num_classes=codes.num_classes)  # fmt: skip
    return train(lambda: Infinity(config), lambda model, x, y: model.loss(x, y), stream, training,
                 out, data=codes.about(name), held_out=lambda model: held_out(model, *test),
                 matrices=inner_matrices)  # fmt: skip


def loss_of(out: Path) -> float:
    """Held-out nats a token of a finished run."""
    return read_rows(out / "log.csv")[-1]["val_loss"]


@torch.no_grad()
def quality(codes: Codes, model: Infinity, tok: MultiScaleBSQ, seed: int, measure: Measure,
            per_class: int) -> Row:  # fmt: skip
    """Class accuracy and Frechet distance of both drawings."""
    labels, row = torch.arange(codes.num_classes).repeat(per_class), {}
    for drawing, options in DRAWINGS.items():
        drawn = []
        for i, part in enumerate(labels.split(PART)):
            with autocast():
                maps = model.draw(part, seed=1000 * seed + i, top_p=0.0, **options)
                drawn.append(tok.decode(maps).float().cpu())
        found = measure(torch.cat(drawn), labels)
        row |= {f"{name}_{drawing}": found[name] for name in
                ("accuracy", "accuracy_se", "frechet", "frechet_se")}  # fmt: skip
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/bits"))
    parser.add_argument("--csv", type=Path, default=RESULTS / "comparison" / "bits.csv")
    parser.add_argument("--bits", type=int, nargs="+", default=[8, 12, 16])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--per-class", type=int, default=100, help="samples a class")
    parser.add_argument("--images", type=int, default=Bed.images, help="training images of a run")
    args = parser.parse_args()
    for bits in {*args.bits, 12}:
        BUILDERS[f"multiscale-bsq-{bits}"] = Builder(MultiScaleBSQ, MultiScaleBSQConfig(bits=bits))
    codes = Codes(Bed(images=args.images), args.out)
    claim(args.out, codes.bed)
    measure = cache(lambda: measure_against(codes.evaluator, codes.images["test"]))
    rebuilt = cache(lambda bits: tokenizer_row(
        codes, f"multiscale-bsq-{bits}", 0, measure(), 10 * args.per_class))  # fmt: skip

    @cache
    def rate(bits: int, head: str) -> float:
        bits = min(bits, 12)
        losses = {scale: loss_of(run(codes, bits, head, codes.bed.batch_size, scale, 100, share=4))
                  for scale in RATES}  # fmt: skip
        return min(losses, key=losses.get)

    kinds = [kind for bits in args.bits for kind in kinds_of(bits, codes.bed.batch_size)]
    jobs = [(seed, *kind) for seed in range(args.seeds) for kind in kinds
            if seed == 0 or kind[2] == codes.bed.batch_size]  # fmt: skip
    for seed, bits, head, batch in progress(jobs, "heads"):
        key = {"bits": bits, "head": head, "batch": batch, "seed": seed}
        if any(all(row[name] == value for name, value in key.items()) for row in rows_of(args.csv)):
            continue
        out = run(codes, bits, head, batch, rate(bits, head), seed)
        model = quicken(Infinity.from_pretrained(out).to(device()).eval())
        told, count, last = rebuilt(bits), model.schedule.num_tokens, read_rows(out / "log.csv")[-1]
        append_row(args.csv, key | {
            "rate": rate(bits, head), "parameters": sum(p.numel() for p in model.parameters()),
            "head_parameters": head_parameters(model.config.width, bits, model.config.group),
            "images": last["images"], "tokens": count,
            "nats_a_token": last["val_loss"],
            "bits_an_image": count * last["val_loss"] / math.log(2),
            "psnr_rebuilt": told["psnr"], "accuracy_rebuilt": told["accuracy"],
            "frechet_rebuilt": told["frechet"], "usage": told["usage"],
        } | quality(codes, model, codes.tokenizer(f"multiscale-bsq-{bits}"), seed, measure(),
                    args.per_class) | origin())  # fmt: skip
    print(f"wrote {args.csv}")


if __name__ == "__main__":
    main()
