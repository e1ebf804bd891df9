"""Scores the live bed with an outside evaluator: results/live_bed.csv.

    python scripts/evidence/live_bed.py evaluator --out out/evaluator.pt  # a quarter of an hour
    python scripts/evidence/live_bed.py score --evaluator out/evaluator.pt \
        --tokenizer fashion --var fashion

The evaluator is a network of its own make, trained here on all 60,000 training images (set
VARMINI_DATA, as for `load_images("fashion")`); it takes no part in any training of varmini. A row
is 500 samples, 50 a class, at guidance 1.5: the share that it takes for the class asked for, and
the Frechet distance of its averaged last features to those of the 10,000 test images.

Seconds in the table are those on the reference (two cores of an AMD EPYC with AVX2, float32): the
preset until e1db90b trained 128 and 65 images a second there, and 5bf4597 of this script measured
how much quicker today's preset is, in seconds of the processor. The row "poor, emulated: AVX2,
float32, 2 threads" holds the seconds of its own run of `varmini demo`, on the hardware it names.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from varmini import VAR, MultiScaleVQVAE, sample
from varmini.data import load_images, to_float
from varmini.evaluation.metrics import frechet_distance
from varmini.runtime.machine import autocast, provenance
from varmini.runtime.tables import RESULTS, read_rows, write_rows

CLASSES, ROWS, GUIDANCE = 10, 50, 1.5
NAME = "ResNet of scripts/evidence/live_bed.py, seed 101"


class Residual(nn.Module):
    """Pre-activation residual block, as He et al. 2016b."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(F.silu(self.norm2(h)))


class Evaluator(nn.Module):
    """Images (B, 1, 32, 32) in [-1, 1] -> logits (B, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 32, 4, stride=2, padding=1),
            Residual(32),
            nn.Conv2d(32, 80, 3, stride=2, padding=1, bias=False),
            Residual(80),
            nn.Conv2d(80, 160, 3, stride=2, padding=1, bias=False),
            Residual(160),
            nn.BatchNorm2d(160),
            nn.SiLU(),
        )
        self.head = nn.Linear(160, CLASSES)

    def features(self, images: Tensor) -> Tensor:
        """The last map, averaged: (B, 160)."""
        return self.layers(images).float().mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))


def augment(images: Tensor) -> Tensor:
    """Mirrors half of the images, shifts each by up to two pixels, and blanks a square in each."""
    count = len(images)
    images = torch.where(torch.rand(count, 1, 1, 1) < 0.5, images.flip(3), images)
    rows, columns = (torch.randint(-2, 3, (count, 1)) + torch.arange(32) for _ in range(2))
    rows, columns = rows.clamp(0, 31), columns.clamp(0, 31)
    images = images[torch.arange(count)[:, None, None], 0, rows[:, :, None], columns[:, None]]
    y, x = (torch.randint(32, (count, 1)) - torch.arange(32) for _ in range(2))
    hole = (y.abs() < 4)[:, :, None] & (x.abs() < 4)[:, None]
    return images.masked_fill(hole, -1.0)[:, None]


def train_evaluator(out: Path, epochs: int) -> None:
    """SGD with a one-cycle learning rate; the last weights are kept, nothing is picked."""
    torch.manual_seed(101)
    train, test = (load_images("fashion", split) for split in ("train", "test"))
    model, batch = Evaluator().to(memory_format=torch.channels_last), 125
    steps = epochs * len(train) // batch
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=steps, pct_start=0.2)
    start = time.perf_counter()
    for epoch in range(epochs):
        model.train()
        for index in torch.randperm(len(train)).split(batch):
            images = augment(to_float(train.images[index]))
            with autocast():
                logits = model(images.contiguous(memory_format=torch.channels_last))
            F.cross_entropy(logits, train.labels[index], label_smoothing=0.05).backward()
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        right = evaluate(model, to_float(test.images))[1] == test.labels
        print(f"epoch {epoch + 1}: {right.float().mean():.4f} of the test images right, "
              f"{time.perf_counter() - start:.0f} s", flush=True)  # fmt: skip
    out.parent.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), out)


@torch.no_grad()
def evaluate(model: Evaluator, images: Tensor) -> tuple[Tensor, Tensor]:
    """Features (N, 160) and classes (N,) of images in [-1, 1], in float32."""
    model.eval()
    features = torch.cat([model.features(part) for part in images.split(500)])
    return features, model.head(features).argmax(1)


def score(args: argparse.Namespace) -> dict[str, object]:
    """One row: own class and Frechet distance of 500 samples, or of 500 training images."""
    model = Evaluator()
    model.load_state_dict(torch.load(args.evaluator, weights_only=True))
    test = load_images("fashion", "test")
    wanted = torch.arange(CLASSES).repeat(ROWS)
    if args.real:
        train = load_images("fashion", "train")
        first = [(train.labels == c).nonzero()[:ROWS, 0] for c in range(CLASSES)]
        images = to_float(train.images[torch.stack(first, 1).flatten()])
    else:
        tok, var = MultiScaleVQVAE.from_pretrained(args.tokenizer), VAR.from_pretrained(args.var)
        images = torch.cat(
            [
                sample(var, tok, part, cfg=GUIDANCE, seed=args.sample_seed + i)
                for i, part in enumerate(wanted.split(100))
            ]
        )
    if args.picture:
        from varmini import plots

        plots.save(plots.image_grid(images[:80], columns=CLASSES), args.picture)
    features, classes = evaluate(model, images)
    own = (classes == wanted).float().mean().item()
    distance = frechet_distance(features, evaluate(model, to_float(test.images))[0])
    return {"own_class": round(own, 4), "frechet": round(distance, 3), "evaluator": NAME}


def main() -> None:
    raw = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    commands = parser.add_subparsers(dest="what", required=True)
    one = commands.add_parser("evaluator", help="train the evaluator")
    one.add_argument("--out", type=Path, default=Path("out/evaluator.pt"))
    one.add_argument("--epochs", type=int, default=8)
    two = commands.add_parser("score", help="score a pair of models; appends a row")
    two.add_argument("--evaluator", type=Path, default=Path("out/evaluator.pt"))
    two.add_argument("--tokenizer", default="fashion")
    two.add_argument("--var", default="fashion")
    two.add_argument("--real", action="store_true", help="500 training images instead: the floor")
    two.add_argument("--sample-seed", type=int, default=0)
    two.add_argument("--seed", default="", help="of the trainings")
    two.add_argument("--kind", default="", help="on what they ran: poor is AVX2 in float32")
    two.add_argument("--preset", default="fashion", help="what to call it in the table")
    two.add_argument("--tokenizer-seconds", default="", help="training on the reference, quiet")
    two.add_argument("--var-seconds", default="", help="the same, of the transformer")
    two.add_argument("--picture", type=Path, help="a PNG of the first 80 samples")
    two.add_argument("--table", type=Path, default=RESULTS / "live_bed.csv")
    args = parser.parse_args()
    if args.what == "evaluator":
        train_evaluator(args.out, args.epochs)
    else:
        found = provenance()
        row = {
            "command": found["command"],
            "commit": found["commit"],
            "hardware": found["hardware"],
            "date": found["date"],
            "kind": args.kind,
            "seed": args.seed,
            "preset": "real training images" if args.real else args.preset,
            "images": CLASSES * ROWS,
            "tokenizer_seconds_equiv": args.tokenizer_seconds,
            "var_seconds_equiv": args.var_seconds,
            **score(args),
        }
        print(row)
        write_rows(args.table, [*(read_rows(args.table) if args.table.is_file() else []), row])


if __name__ == "__main__":
    main()
