"""Trains an independent evaluator on all images of a data set, for measuring alone.

    python scripts/evidence/train_evaluator.py fashion --out data/models/fashion/evaluator

Stopped, it goes on after its last epoch with the same command. Set VARMINI_DATA for the full sets.
Architecture, seed and augmentation differ from those of the classifier that the tokenizers'
perceptual loss uses. The last weights are kept, nothing is picked; log.csv tells the accuracy on
the test images after every epoch.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from varmini.data import load_images, to_float
from varmini.evaluation.resnet import ResNet, ResNetConfig
from varmini.runtime.machine import autocast, provenance
from varmini.runtime.tables import origin, write_rows

SHAPES = {"fashion": ResNetConfig()}
SEED, BATCH, LAYOUT = 101, 125, torch.channels_last


def augment(images: Tensor) -> Tensor:
    """Mirrors half of the images, shifts each by up to two pixels, and blanks a square in each."""
    count, height, width = len(images), *images.shape[2:]
    images = torch.where(torch.rand(count, 1, 1, 1) < 0.5, images.flip(3), images)
    rows = (torch.randint(-2, 3, (count, 1)) + torch.arange(height)).clamp(0, height - 1)
    columns = (torch.randint(-2, 3, (count, 1)) + torch.arange(width)).clamp(0, width - 1)
    each = torch.arange(count)[:, None, None]
    images = images[each, :, rows[:, :, None], columns[:, None]].permute(0, 3, 1, 2)
    y, x = (torch.randint(n, (count, 1)) - torch.arange(n) for n in (height, width))
    hole = (y.abs() < 4)[:, :, None] & (x.abs() < 4)[:, None]
    return images.masked_fill(hole[:, None], -1.0)


@torch.no_grad()
def accuracy(model: ResNet, images: Tensor, labels: Tensor) -> float:
    """Share of images that the model names rightly, in float32."""
    model.eval()
    right = torch.cat([model(to_float(part)).argmax(1) for part in images.split(500)]) == labels
    return right.float().mean().item()


def train(data: str, out: Path, epochs: int) -> None:
    """SGD with Nesterov momentum and a one-cycle learning rate."""
    torch.manual_seed(SEED)
    sets = {split: load_images(data, split) for split in ("train", "test")}
    model, rows = ResNet(SHAPES[data]).to(memory_format=LAYOUT), []
    steps = epochs * (len(sets["train"]) // BATCH)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=steps, pct_start=0.2)
    last = out / "last.pt"  # after an epoch: all that the next one depends on
    if last.exists():
        rows, random, *states = torch.load(last, weights_only=True)
        for part, state in zip((model, optimizer, schedule), states):
            part.load_state_dict(state)
        torch.set_rng_state(random)
    for epoch in range(len(rows) + 1, epochs + 1):
        start = time.perf_counter()
        model.train()
        order = torch.randperm(len(sets["train"]))
        for index in order[: len(order) // BATCH * BATCH].split(BATCH):
            images = augment(to_float(sets["train"].images[index])).contiguous(memory_format=LAYOUT)
            with autocast():
                logits = model(images)
            labels = sets["train"].labels[index]
            F.cross_entropy(logits, labels, label_smoothing=0.05).backward()
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        right = accuracy(model, sets["test"].images, sets["test"].labels)
        seconds = time.perf_counter() - start + (rows[-1]["seconds"] if rows else 0.0)
        rows.append({"epoch": epoch, "seconds": seconds, "test_accuracy": right} | origin())
        print(f"epoch {epoch}: {right:.4f} of the test images right, {seconds:.0f} s", flush=True)
        model.save_pretrained(out, torch.float16)
        shape = vars(SHAPES[data]) | {"epochs": epochs, "seed": SEED, "batch_size": BATCH}
        about = {"config": shape, "sessions": [{"from_step": 0} | provenance()]}
        (out / "run.json").write_text(json.dumps(about, indent=1) + "\n")
        write_rows(out / "log.csv", rows)
        parts = [part.state_dict() for part in (model, optimizer, schedule)]
        torch.save([rows, torch.get_rng_state(), *parts], out / "last.new")
        (out / "last.new").rename(last)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", choices=SHAPES)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=8)
    args = parser.parse_args()
    train(args.data, args.out, args.epochs)


if __name__ == "__main__":
    main()
