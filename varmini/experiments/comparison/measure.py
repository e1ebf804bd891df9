"""Trains and measures the methods: quality with its sampling error, FLOPs, milliseconds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ... import quicken
from ...data import batch_order, in_order
from ...evaluation.evaluators import Evaluator
from ...evaluation.fid import reference_of
from ...evaluation.metrics import check_samples, frechet_between, precision_recall, psnr
from ...fast.copies import without_copies
from ...model.transformer import VAR
from ...runtime.files import file_checksum
from ...runtime.machine import autocast, device
from ...runtime.tables import Row, read_rows
from ..bench.measure import Run, in_turn
from .bed import KINDS, Codes
from .methods import (
    DRAWINGS,
    GRID,
    METHODS,
    Drawing,
    Setting,
    draw_images,
    held_out_loss,
    training_loss,
)
from .training import Training, finished, train

Measure = Callable[[Tensor, Tensor], Row]
"""images (n, C, H, W) in [-1, 1] and labels (n,) -> figures, each with its `_se`."""


def train_method(codes: Codes, name: str, out: Path, training: Training) -> list[Row]:
    """Trains a method, or goes on, or finds it finished; returns the rows of its log."""
    if finished(out, training):
        return read_rows(out / "log.csv")
    bed, kind = codes.bed, METHODS[name].kind
    (x, y), held_out = codes.load(kind, "train"), codes.load(kind, "test")
    tok = codes.autoencoder(kind).model
    checksum = file_checksum(codes.folder(kind) / "model.safetensors")

    def build() -> nn.Module:
        model = METHODS[name].build(bed, codes.num_classes)
        if kind == "kl":
            model.latent_std.copy_(x.std())
        return model

    def stream(start: int):
        order = batch_order(len(x), training.batch_size, training.seed, start)
        return ((x[rows], y[rows]) for rows, *_ in order)

    train(
        build,
        lambda model, x, y: training_loss(model, x, y, tok),
        stream,
        training,
        out,
        data=f"{bed.data}, {kind} {checksum}",
        held_out=lambda model: held_out_loss(model, *held_out, tok),
    )
    return read_rows(out / "log.csv")


def train_all(
    codes: Codes, seeds: Sequence[int], grid_images: int, grid: Sequence[float] = GRID
) -> tuple[list[Row], list[Row]]:
    """Every method: short runs over the grid of learning rates, then the best one at full length.

    Returns the rows of the grid, and of the full runs.
    """
    tried, rows, size = [], [], codes.bed.batch_size
    for name in METHODS:
        for lr in grid:
            training = Training(grid_images, size, lr, points=1)
            last = train_method(codes, name, codes.out / f"grid-{name}-{lr:g}", training)[-1]
            tried.append({"method": name, "lr": lr} | {k: last[k] for k in ("images", "val_loss")})
        best = min(tried[-len(grid) :], key=lambda row: row["val_loss"])["lr"]
        for seed in seeds:
            training = Training(codes.bed.images, size, best, points=4, seed=seed)
            log = train_method(codes, name, codes.out / f"{name}-s{seed}", training)
            rows += [{"method": name, "seed": seed, **row, "lr": best} for row in log]
    return tried, rows


# ------------------------------------------------------------------------------------------ quality


def jackknife(measure: Callable[[Tensor], Row], count: int, groups: int = 10) -> Row:
    """Measures of `count` samples and their standard errors, leaving out one group at a time.

    se^2 = (g - 1) / g sum_i (theta_i - mean theta)^2. Unlike a bootstrap it repeats no sample,
    which distances between sets would take for a narrower distribution.

    measure: numbers of samples (LongTensor) -> {name: figure}. Returns {name: of all samples,
    name_se: standard error} for every name.
    """
    group = torch.randperm(count, generator=torch.Generator().manual_seed(0)) % groups
    left_out = [measure((group != i).nonzero()[:, 0]) for i in range(groups)]
    row: Row = {}
    for name, value in measure(torch.arange(count)).items():
        values = torch.tensor([part[name] for part in left_out], dtype=torch.float64)
        row[name] = value
        row[f"{name}_se"] = math.sqrt((groups - 1) * values.var(correction=0).item())
    return row


def measure_against(evaluator: Evaluator, dataset: Any) -> Measure:
    """What measures drawn images: class accuracy, Frechet distance, precision and recall.

    Precision and recall compare with as many real images, for both depend on the number. Errors
    are of sampling alone; that of training shows between seeds. The measure raises a ValueError
    when nine tenths of its images are fewer than the evaluator's features.
    """
    batches = (images for images, _ in in_order(dataset, 500))
    reference = reference_of(evaluator, batches, len(dataset), dataset.name)

    def measure(images: Tensor, labels: Tensor) -> Row:
        check_samples(len(images) * 9 // 10, evaluator.features, "the sample less a tenth")
        fake, probs = evaluator.all_of(images.split(500))
        fake, right = fake.double(), (probs.argmax(1) == labels.cpu()).double()
        generator = torch.Generator().manual_seed(0)
        order = torch.randperm(len(reference.features), generator=generator)
        real = reference.features[order[: len(fake)]].double()

        def figures(rows: Tensor) -> Row:
            part = fake[rows]
            precision, recall = precision_recall(real[: len(rows)], part)
            distance = frechet_between(
                reference.mean, reference.covariance, part.mean(0), torch.cov(part.T)
            )
            return {"accuracy": right[rows].mean().item(), "frechet": distance,
                    "precision": precision, "recall": recall}  # fmt: skip

        return {"n": len(fake)} | jackknife(figures, len(fake))

    return measure


def autoencoder_rows(codes: Codes, measure: Measure, n: int) -> list[Row]:
    """Reconstructions of n test images by each autoencoder: the bound of every generator on it."""
    test = codes.images["test"]
    pairs = [test[i] for i in torch.linspace(0, len(test) - 1, n).long().tolist()]
    images, labels = torch.stack([x for x, _ in pairs]), torch.tensor([int(y) for _, y in pairs])
    rows = [{"autoencoder": "none (real images)", **measure(images, labels)}]
    for kind in KINDS:
        own = codes.autoencoder(kind)
        with torch.no_grad(), autocast():
            drawn = [own.decode(own.encode(x.to(device()))).cpu() for x in images.split(100)]
        result = torch.cat(drawn).float().clamp(-1, 1)
        rows.append({"autoencoder": kind,
                     "parameters": sum(p.numel() for p in own.model.parameters()),
                     "images": codes.bed.autoencoder_images,
                     "psnr": psnr(result, images).mean().item(),
                     **measure(result, labels)})  # fmt: skip
    return rows


def network(codes: Codes, name: str, seed: int | None = None) -> nn.Module:
    """A method's network in evaluation mode: of a finished run, or with random weights.

    Quickened, but for VAR, where `sample` sees to it: no method has quicker products.
    """
    torch.manual_seed(0)
    model = METHODS[name].build(codes.bed, codes.num_classes)
    if seed is not None:
        model = type(model).from_pretrained(codes.out / f"{name}-s{seed}")
    model = model.to(device()).eval()
    return model if isinstance(model, VAR) else quicken(model)


def drawn_by(codes: Codes, setting: Setting, seed: int, labels: Tensor) -> Tensor:
    """Pictures (B, C, H, W) of labels (B,), on the CPU, drawn by a finished run in parts of 100."""
    own = codes.autoencoder(METHODS[setting.method].kind)
    model, options = network(codes, setting.method, seed), {"filtered": setting.filtered}
    options |= next((d.options for d in DRAWINGS if d.method == setting.method
                     and d.name == (setting.drawing or d.name)), {})  # fmt: skip
    drawn = []
    for i, part in enumerate(labels.split(100)):
        with torch.no_grad(), autocast():
            images = draw_images(model, own, part.to(device()), bed=codes.bed, seed=1000 * seed + i,
                                 guidance=setting.guidance, **options)  # fmt: skip
        drawn.append(images.float().cpu().clamp(-1, 1))
    return torch.cat(drawn)


def quality_row(
    codes: Codes, measure: Measure, setting: Setting, seed: int, per_class: int
) -> Row:
    """Draws per_class pictures of each class from a finished run and measures them."""
    labels = torch.arange(codes.num_classes).repeat_interleave(per_class)
    row = dict(zip(("method", "guidance", "filtered"), setting.key))
    row |= {"seed": seed, "images": codes.bed.images}
    return row | measure(drawn_by(codes, setting, seed, labels), labels)


# --------------------------------------------------------------------------------------------- cost


def _counted(train: bool, call: Callable[..., Tensor], *args: Any, **options: Any) -> int:
    """FLOPs of a call; with `train` of a loss and its backward pass."""
    from torch.utils.flop_counter import FlopCounterMode

    with without_copies(), FlopCounterMode(display=False) as counter:
        result = call(*args, **options)
        if train:
            result.backward()
    return counter.get_total_flops()


def cost_rows(codes: Codes) -> list[Row]:
    """Parameters, sequential steps and FLOPs, counted while the calls run; weights do not matter.

    FLOPs of an image are those of the guided generator at batch 1, without the decoder, which has
    its own column; of training, forward and backward of one image.
    """
    rows, label = [], torch.zeros(1, dtype=torch.long, device=device())
    for d in DRAWINGS:
        kind = METHODS[d.method].kind
        model, own = network(codes, d.method), codes.autoencoder(kind)
        x = codes.load(kind, "test")[0][:4].to(device())
        decoder = _counted(False, own.decode, x[:1])
        options = {"bed": codes.bed, "guidance": 2.5, "seed": 0, **d.options}
        flops = _counted(False, draw_images, model, own, label, **options) - decoder
        model.train()
        training = _counted(True, training_loss, model, x, label.expand(4), own.model)
        rows.append({"method": d.method, "drawing": d.name, "steps": d.steps(codes.bed),
                     "parameters": sum(p.numel() for p in model.parameters()), "flops": flops,
                     "decoder_flops": decoder, "training_flops": training // 4})  # fmt: skip
    return rows


def speed_rows(codes: Codes, rounds: int, batches: Sequence[int] = (1, 16)) -> list[Row]:
    """Milliseconds an image, decoder and guidance counted: all drawings in turn, round after round.

    Interleaving spreads whatever else the machine does over all of them.
    """

    def run(d: Drawing, batch: int) -> Run:
        model, own = network(codes, d.method), codes.autoencoder(METHODS[d.method].kind)
        labels = torch.arange(batch, device=device()) % codes.num_classes
        options = {"bed": codes.bed, "guidance": 2.5, "seed": 0, **d.options}

        @torch.no_grad()
        def draw() -> None:
            with autocast():
                draw_images(model, own, labels, **options)

        return draw

    runs = {(d.name, batch): run(d, batch) for batch in batches for d in DRAWINGS}
    in_turn(runs, 1, 0)  # warms up
    seconds = in_turn(runs, rounds, math.inf)
    return [{"drawing": name, "batch": batch, "round": number,
             "ms_an_image": 1000 * seconds[name, batch][number] / batch}
            for number in range(rounds) for name, batch in runs]  # fmt: skip
