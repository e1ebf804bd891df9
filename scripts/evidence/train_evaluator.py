"""Trains an independent evaluator on all images of a data set, for measuring alone.

    python scripts/evidence/train_evaluator.py fashion --out data/models/fashion/evaluator

Stopped, it goes on after its last epoch with the same command. Set VARMINI_DATA for the full sets.
Architecture, seed and augmentation differ from those of the classifier that the tokenizers'
perceptual loss uses. The last weights are kept, nothing is picked; log.csv tells the accuracy on
the test images after every epoch. The shipped evaluator of Fashion-MNIST is from an earlier form of
this script, by SGD alone (the commit is in its run.json).
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from varmini.data import load_images, to_float
from varmini.evaluation.resnet import ResNet, ResNetConfig
from varmini.runtime.machine import autocast, provenance
from varmini.runtime.tables import origin, write_rows
from varmini.training.muon import Muon

SHAPES = {
    "fashion": ResNetConfig(),
    "cifar10": ResNetConfig(image_channels=3, widths=(24, 96, 224), stem=1),
}
SEED, BATCH, LAYOUT = 101, 250, torch.channels_last
SHIFT = 2  # pixels, each way


def augment(images: Tensor, epoch: int, index: Tensor) -> Tensor:
    """Mirrors an image in every other epoch (Jordan 2024), and shifts it by up to `SHIFT`."""
    count, height, width = len(images), *images.shape[2:]
    images = torch.where(((index + epoch) % 2 == 0).view(-1, 1, 1, 1), images.flip(3), images)
    shifts = torch.randint(-SHIFT, SHIFT + 1, (2, count, 1))
    rows = (shifts[0] + torch.arange(height)).clamp(0, height - 1)
    columns = (shifts[1] + torch.arange(width)).clamp(0, width - 1)
    each = torch.arange(count)[:, None, None]
    return images[each, :, rows[:, :, None], columns[:, None]].permute(0, 3, 1, 2)


def optimizers(model: ResNet, steps: int) -> tuple[list, list]:
    """Muon for the kernels between maps, SGD for all else; both rise for a fifth, then fall."""
    kernels = [p for p in model.layers[1:].parameters() if p.ndim == 4]
    chosen = {id(p) for p in kernels}
    others = [p for p in model.parameters() if id(p) not in chosen]
    sgd = torch.optim.SGD(others, lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    both = [Muon(kernels, lr=0.05, momentum=0.8), sgd]

    def rate(step: int) -> float:
        return min((step + 1) / (0.2 * steps), (steps - step) / (0.8 * steps))

    return both, [torch.optim.lr_scheduler.LambdaLR(one, rate) for one in both]


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of images that the model names rightly, in float32."""
    model.eval()
    right = torch.cat([model(to_float(part)).argmax(1) for part in images.split(500)]) == labels
    return right.float().mean().item()


def train(data: str, out: Path, epochs: int) -> None:
    """Trains, and writes the model, its log and its account after every epoch."""
    torch.manual_seed(SEED)
    sets = {split: load_images(data, split) for split in ("train", "test")}
    model, rows = ResNet(SHAPES[data]).to(memory_format=LAYOUT), []
    steps = epochs * (len(sets["train"]) // BATCH)
    both, schedules = optimizers(model, steps)
    parts = [model, *both, *schedules]
    last = out / "last.pt"  # after an epoch: all that the next one depends on
    if last.exists():
        rows, random, *states = torch.load(last, weights_only=True)
        for part, state in zip(parts, states):
            part.load_state_dict(state)
        torch.set_rng_state(random)
    for epoch in range(len(rows) + 1, epochs + 1):
        start = time.perf_counter()
        model.train()
        order = torch.randperm(len(sets["train"]))
        for index in order[: len(order) // BATCH * BATCH].split(BATCH):
            images = augment(to_float(sets["train"].images[index]), epoch, index)
            with autocast():
                logits = model(images.contiguous(memory_format=LAYOUT))
            labels = sets["train"].labels[index]
            F.cross_entropy(logits, labels, label_smoothing=0.1).backward()
            for one, schedule in zip(both, schedules):
                one.step()
                schedule.step()
                one.zero_grad()
        right = accuracy(model, sets["test"].images, sets["test"].labels)
        seconds = time.perf_counter() - start + (rows[-1]["seconds"] if rows else 0.0)
        rows.append({"epoch": epoch, "seconds": seconds, "test_accuracy": right} | origin())
        print(f"epoch {epoch}: {right:.4f} of the test images right, {seconds:.0f} s", flush=True)
        model.save_pretrained(out, torch.float16)
        shape = vars(SHAPES[data]) | {"epochs": epochs, "seed": SEED, "batch_size": BATCH}
        about = {"config": shape, "sessions": [{"from_step": 0} | provenance()]}
        (out / "run.json").write_text(json.dumps(about, indent=1) + "\n")
        write_rows(out / "log.csv", rows)
        states = [part.state_dict() for part in parts]
        torch.save([rows, torch.get_rng_state(), *states], out / "last.new")
        (out / "last.new").rename(last)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", choices=SHAPES)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=10)
    args = parser.parse_args()
    train(args.data, args.out, args.epochs)


if __name__ == "__main__":
    main()
