"""Measures CIFAR-10 samples by a second evaluator, of the airbench kind (Jordan 2024).

    mkdir -p runs/first
    git show 7e167bc:data/models/cifar10/var/model.safetensors > runs/first/model.safetensors
    git show 7e167bc:data/models/cifar10/var/config.json > runs/first/config.json
    python scripts/evidence/second_evaluator.py train --out runs/second
    python scripts/evidence/second_evaluator.py measure --out runs/second --first runs/first
    python scripts/evidence/second_evaluator.py report

The shipped evaluator averages its last map, this one takes the maximum, as the networks of
arXiv:2404.00498 do, and has no residual blocks. So the two tell whether a figure depends on the
network that measures. It sees all training images, takes part in no training and is not shipped.
`measure` draws a thousand pictures for each seed and writes results/second_evaluator.csv, by both
networks; `--first` also measures the transformer of before its last training. Set VARMINI_DATA.
Stopped, `train` begins anew.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from train_evaluator import accuracy

from varmini import VAR, MultiScaleVQVAE, sample
from varmini.data import load_images, to_float
from varmini.evaluation.evaluators import Evaluator, classifier_evaluator
from varmini.evaluation.metrics import frechet_distance
from varmini.evaluation.statistics import interval, welch
from varmini.runtime.files import file_checksum
from varmini.runtime.machine import autocast, provenance
from varmini.runtime.tables import RESULTS, Row, origin, read_cells, write_rows

WIDTHS, SEED, BATCH, SHIFT = (64, 256, 256), 2024, 500, 2
RATE, DECAY = 0.8, 1.4e-3  # of the mean loss; the norms' biases learn eight times as fast
FIRST = "before the last training"
COUNT, SEEDS, GUIDANCE = 1000, range(5), (1.5, 3.0)


def group(before: int, width: int) -> list[nn.Module]:
    """Two convolutions, a halving after the first; norms have biases, and weights of one."""
    layers: list[nn.Module] = []
    for channels, halving in ((before, [nn.MaxPool2d(2)]), (width, [])):
        conv = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        nn.init.dirac_(conv.weight[:channels].detach())  # an identity where it can be one
        norm = nn.BatchNorm2d(width, momentum=0.4)
        norm.weight.requires_grad = False
        layers += [conv, *halving, norm, nn.GELU()]
    return layers


class Airbench(nn.Module):
    """Images (B, 3, 32, 32) in [-1, 1] -> logits (B, 10)."""

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self.whiten = nn.Conv2d(3, 24, 2)
        self.whiten.weight.data = whitening(images)
        self.whiten.weight.requires_grad = False
        self.layers = nn.Sequential(
            nn.GELU(), *group(24, WIDTHS[0]), *group(WIDTHS[0], WIDTHS[1]),
            *group(WIDTHS[1], WIDTHS[2]), nn.MaxPool2d(3), nn.Flatten(),
        )  # fmt: skip
        self.head = nn.Linear(WIDTHS[-1], 10, bias=False)

    def features(self, images: Tensor) -> Tensor:
        """The last map's maximum: (B, WIDTHS[-1]), float32."""
        return self.layers(self.whiten(images)).float()

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images)) / 9


def whitening(images: Tensor) -> Tensor:
    """Filters (24, 3, 2, 2): the patches' principal directions by their spread, and negated."""
    patches = images.unfold(2, 2, 1).unfold(3, 2, 1).permute(0, 2, 3, 1, 4, 5).reshape(-1, 12)
    values, vectors = torch.linalg.eigh(torch.cov(patches.T))
    filters = (vectors / (values + 5e-4).sqrt()).T.reshape(12, 3, 2, 2)
    return torch.cat([filters, -filters])


def augment(images: Tensor, epoch: int, index: Tensor) -> Tensor:
    """Mirrors an image in every other epoch, and shifts each ten by up to `SHIFT` pixels, by
    reflection."""
    images = torch.where(((index + epoch) % 2 == 0).view(-1, 1, 1, 1), images.flip(3), images)
    padded = F.pad(images, (SHIFT,) * 4, mode="reflect")
    size = images.shape[-1]
    parts = []
    for part in padded.split(10):  # ten images share a shift
        y, x = torch.randint(2 * SHIFT + 1, (2,)).tolist()
        parts.append(part[:, :, y : y + size, x : x + size])
    return torch.cat(parts)


def train(out: Path, epochs: int) -> None:
    """Trains for some epochs and keeps the last weights; nothing is picked."""
    torch.manual_seed(SEED)
    sets = {split: load_images("cifar10", split) for split in ("train", "test")}
    count = len(sets["train"])
    model = Airbench(to_float(sets["train"].images[:5000])).to(memory_format=torch.channels_last)
    steps = epochs * (count // BATCH)
    biases = [m.bias for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    others = [p for p in model.parameters() if p.ndim > 1 and p.requires_grad]
    groups = [
        {"params": biases, "lr": 8 * RATE, "weight_decay": DECAY / 8},
        {"params": [model.whiten.bias, *others], "lr": RATE, "weight_decay": DECAY},
    ]
    sgd = torch.optim.SGD(groups, momentum=0.85, nesterov=True)
    rate = torch.optim.lr_scheduler.LambdaLR(
        sgd, lambda s: min(0.2 + 0.8 * s / (0.23 * steps), (steps - s) / (0.77 * steps) + 0.05)
    )
    start, about, epochs_log = time.perf_counter(), provenance(), []
    for epoch in range(epochs):
        model.train()
        for index in torch.randperm(count).split(BATCH):
            images = augment(to_float(sets["train"].images[index]), epoch, index)
            with autocast():
                logits = model(images.contiguous(memory_format=torch.channels_last))
            labels = sets["train"].labels[index]
            F.cross_entropy(logits.float(), labels, label_smoothing=0.2).backward()
            sgd.step()
            rate.step()
            sgd.zero_grad()
        right = accuracy(model, sets["test"].images, sets["test"].labels)
        epochs_log.append({"test_accuracy": right, "seconds": time.perf_counter() - start})
        print(f"epoch {epoch + 1}", epochs_log[-1], flush=True)
    out.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), out / "model.pt")
    weights = file_checksum(out / "model.pt")
    told = {"test_accuracy": right, "weights": weights, "session": about, "epochs": epochs_log}
    (out / "run.json").write_text(json.dumps(told, indent=1) + "\n")


def evaluator(folder: Path) -> Evaluator:
    """The trained network as an `Evaluator`."""
    told = json.loads((folder / "run.json").read_text())
    model = Airbench(torch.rand(8, 3, 32, 32))
    model.load_state_dict(torch.load(folder / "model.pt", weights_only=True))
    model.eval()

    def run(images: Tensor) -> tuple[Tensor, Tensor]:
        features = model.features(to_float(images))
        return features, (model.head(features) / 9).softmax(-1)

    about = f"airbench kind, {told['test_accuracy']:.2%} of the test images, not shipped"
    return Evaluator("second", about, WIDTHS[-1], run, classes=10)


def pictures(models: dict[str, VAR], tok: MultiScaleVQVAE) -> Iterator[tuple[Row, Tensor, Tensor]]:
    """What is measured: a row that names it, images in [-1, 1] and their classes."""
    real = load_images("cifar10", "train")
    for seed in SEEDS:
        at = torch.randperm(len(real), generator=torch.Generator().manual_seed(seed))[:COUNT]
        images = to_float(real.images[at])
        yield {"pictures": "training images", "seed": seed}, images, real.labels[at]
        with torch.no_grad():
            again = tok.decode(tok.encode(images)).clamp(-1, 1)
        yield {"pictures": "reconstructions of them", "seed": seed}, again, real.labels[at]
    labels = torch.arange(10).repeat(COUNT // 10)
    for name, var in models.items():
        for cfg in GUIDANCE:
            for seed in SEEDS:
                drawn = sample(var, tok, labels, cfg=cfg, seed=seed)
                yield {"pictures": name, "guidance": cfg, "seed": seed}, drawn, labels


def measure(folder: Path, first: Path | None, out: Path) -> None:
    """Writes a row for each network, set of pictures and seed."""
    tok = MultiScaleVQVAE.from_pretrained("cifar10").eval()
    names = {"shipped transformer": "cifar10"} | ({FIRST: first} if first else {})
    models = {name: VAR.from_pretrained(source).eval() for name, source in names.items()}
    networks = [classifier_evaluator("cifar10", "evaluator"), evaluator(folder)]
    test, rows = load_images("cifar10", "test"), []
    real = [network.all_of(test.images.split(250))[0] for network in networks]
    where = origin()  # of the code that runs, whatever is committed meanwhile
    for about, images, labels in pictures(models, tok):
        for network, reference in zip(networks, real):
            features, probs = network.all_of(images.split(250))
            figures = {
                "own_class": (probs.argmax(1) == labels).float().mean().item(),
                "frechet": frechet_distance(features, reference),
            }
            each = {"network": network.about, "pictures": "", "guidance": "", "seed": ""} | about
            rows.append(each | {"n": len(images)} | figures | where)
        write_rows(out, rows)
        print(about, figures, flush=True)


def report(table: Path) -> None:
    """Prints the rows of README's table, and what the last training changed, by Welch's test."""
    groups: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for row in read_cells(table):
        groups.setdefault((row["network"], row["pictures"], row["guidance"]), []).append(row)
    networks = sorted({key[0] for key in groups}, key=lambda name: "airbench" in name)
    for pictures, guidance in dict.fromkeys(key[1:] for key in groups):
        line = [pictures, guidance]
        for figure, form in (("own_class", ".1%"), ("frechet", ".3g")):
            for network in networks:
                values = [float(row[figure]) for row in groups[network, pictures, guidance]]
                low, high = interval(values)
                line.append(f"{fmean(values):{form}} ({low:{form}} to {high:{form}})")
        print("|", " | ".join(line), "|")
    for network, guidance in itertools.product(networks, map(str, GUIDANCE)):
        after, before = (
            [float(row["frechet"]) for row in groups.get((network, pictures, guidance), [])]
            for pictures in ("shipped transformer", FIRST)
        )
        if not before:
            continue
        ratio = fmean(after) / fmean(before)
        print(f"{network}, guidance {guidance}: {ratio:.2f} times, {welch(after, before)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["train", "measure", "report"])
    parser.add_argument("--out", type=Path, default=Path("runs/second"))
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--first", type=Path)
    parser.add_argument("--csv", type=Path, default=RESULTS / "second_evaluator.csv")
    args = parser.parse_args()
    if args.what == "train":
        train(args.out, args.epochs)
    elif args.what == "report":
        report(args.csv)
    else:
        measure(args.out, args.first, args.csv)


if __name__ == "__main__":
    main()
