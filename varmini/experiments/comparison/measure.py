"""Trains and measures the methods: quality with its sampling error, FLOPs, milliseconds."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ... import quicken, sample
from ...data import in_order
from ...evaluation.evaluators import Evaluator
from ...evaluation.fid import reference_of
from ...evaluation.metrics import check_samples, frechet_between, precision_recall, psnr
from ...fast.copies import without_copies
from ...model.transformer import VAR
from ...runtime.files import file_checksum
from ...runtime.machine import autocast, device
from ...runtime.tables import Row, read_rows
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
from .training import Training, shuffled, train

# ----------------------------------------------------------------------------------------- training


def train_method(
    codes: Codes, name: str, out: Path, lr: float, images: int, seed: int, points: int
) -> list[Row]:
    """Trains a method, or goes on, or finds it finished; returns the rows of its log."""
    bed, method = codes.bed, METHODS[name]
    data, held_out = codes.load(method.kind, "train"), codes.load(method.kind, "test")
    tok = codes.autoencoder(method.kind)
    checksum = file_checksum(codes.folder(method.kind) / "model.safetensors")

    def build() -> nn.Module:
        model = method.build(bed, codes.num_classes)
        if method.kind == "kl":
            model.latent_std.copy_(data[0].std())
        return model

    training = Training(images=images, batch_size=bed.batch_size, lr=lr, seed=seed, points=points)
    train(
        build,
        lambda model, x, y: training_loss(model, x, y, tok),
        lambda start: shuffled(data, bed.batch_size, seed, start),
        training,
        out,
        data=f"{bed.data}, {method.kind} {checksum}",
        held_out=lambda model: held_out_loss(model, *held_out, tok),
    )
    return read_rows(out / "log.csv")


def train_all(
    codes: Codes, seeds: Sequence[int], grid_images: int, grid: Sequence[float] = GRID
) -> tuple[list[Row], list[Row]]:
    """Every method: short runs over the grid of learning rates, then the best one at full length.

    Returns:
        Rows of the grid, and of the full runs.
    """
    bed, tried, rows = codes.bed, [], []
    for name in METHODS:
        final = {}
        for lr in grid:
            folder = codes.out / f"grid-{name}-{lr:g}"
            last = train_method(codes, name, folder, lr, grid_images, 0, 1)[-1]
            final[lr] = last["val_loss"]
            tried.append({"method": name, "lr": lr, "images": last["images"],
                          "val_loss": last["val_loss"]})  # fmt: skip
        best = min(final, key=final.get)
        for seed in seeds:
            folder = codes.out / f"{name}-s{seed}"
            log = train_method(codes, name, folder, best, bed.images, seed, 4)
            rows += [{"method": name, "seed": seed, **row, "lr": best} for row in log]
    return tried, rows


# ------------------------------------------------------------------------------------------ quality


def jackknife(measure: Callable[[Tensor], Row], count: int, groups: int = 10) -> Row:
    """Measures of `count` samples and their standard errors, leaving out one group at a time.

    se^2 = (g - 1) / g sum_i (theta_i - mean theta)^2. Unlike a bootstrap it repeats no sample,
    which distances between sets would take for a narrower distribution.

    Args:
        measure: rows (LongTensor of sample numbers) -> {name: number}.

    Returns:
        {name: of all samples, name_se: standard error} for every name.
    """
    group = torch.randperm(count, generator=torch.Generator().manual_seed(0)) % groups
    left_out = [measure((group != i).nonzero()[:, 0]) for i in range(groups)]
    row: Row = {}
    for name, value in measure(torch.arange(count)).items():
        values = torch.tensor([part[name] for part in left_out], dtype=torch.float64)
        row[name] = value
        row[f"{name}_se"] = math.sqrt((groups - 1) * values.var(correction=0).item())
    return row


Measure = Callable[[Tensor, Tensor], Row]
"""images (n, C, H, W) in [-1, 1] and labels (n,) -> figures, each with its `_se`."""


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
    test, rows = codes.images["test"], []
    pairs = [test[i] for i in torch.linspace(0, len(test) - 1, n).long().tolist()]
    images, labels = torch.stack([x for x, _ in pairs]), torch.tensor([int(y) for _, y in pairs])
    rows.append({"autoencoder": "none (real images)", **measure(images, labels)})
    for kind in KINDS:
        encode, decode, drawn = codes.encoder(kind), codes.decoder(kind), []
        for part in images.split(100):
            with torch.no_grad(), autocast():
                drawn.append(decode(encode(part.to(device()))).cpu())
        result = torch.cat(drawn).float().clamp(-1, 1)
        size = sum(p.numel() for p in codes.autoencoder(kind).parameters())
        rows.append({"autoencoder": kind, "parameters": size,
                     "images": codes.bed.autoencoder_images,
                     "psnr": psnr(result, images).mean().item(),
                     **measure(result, labels)})  # fmt: skip
    return rows


def quick(model: nn.Module) -> nn.Module:
    """With quick forms, but for VAR, where `sample` sees to it: no method has quicker products."""
    return model if isinstance(model, VAR) else quicken(model)


def load_method(codes: Codes, name: str, seed: int) -> nn.Module:
    """A finished network of the comparison, in evaluation mode."""
    built = METHODS[name].build(codes.bed, codes.num_classes)
    return quick(type(built).from_pretrained(codes.out / f"{name}-s{seed}").to(device()))


def drawn_by(codes: Codes, setting: Setting, seed: int, labels: Tensor) -> Tensor:
    """Pictures (B, C, H, W) of labels (B,), on the CPU, drawn by a finished run in parts of 100."""
    kind = METHODS[setting.method].kind
    model, tok = load_method(codes, setting.method, seed), codes.autoencoder(kind)
    options = next((d.options for d in DRAWINGS if d.method == setting.method
                    and d.name == (setting.drawing or d.name)), {})  # fmt: skip
    drawn, decode = [], codes.decoder(kind)
    for i, part in enumerate(labels.split(100)):
        with torch.no_grad(), autocast():
            images = draw_images(
                model, tok, decode, part.to(device()), bed=codes.bed, guidance=setting.guidance,
                filtered=setting.filtered, seed=1000 * seed + i, **options,
            )  # fmt: skip
        drawn.append(images.float().cpu().clamp(-1, 1))
    return torch.cat(drawn)


def quality_row(
    codes: Codes, measure: Measure, setting: Setting, seed: int, per_class: int
) -> Row:
    """Draws per_class pictures of each class from a finished run and measures them."""
    labels = torch.arange(codes.num_classes).repeat_interleave(per_class)
    name = setting.drawing or setting.method
    row = {"method": name, "guidance": setting.guidance, "filtered": setting.filtered}
    row |= {"seed": seed, "images": codes.bed.images}
    return row | measure(drawn_by(codes, setting, seed, labels), labels)


# --------------------------------------------------------------------------------------------- cost


def _counted(call: Callable[[], Any]) -> int:
    from torch.utils.flop_counter import FlopCounterMode

    with without_copies(), FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def cost_rows(codes: Codes, guidance: float = 2.5) -> list[Row]:
    """Parameters, sequential steps and FLOPs, counted while the calls run; weights do not matter.

    FLOPs of an image are those of the guided generator at batch 1, without the decoder, which has
    its own column; of training, forward and backward of one image.
    """
    return [_cost(codes, d, guidance) for d in DRAWINGS]


def _cost(codes: Codes, d: Drawing, guidance: float) -> Row:
    kind, bed = METHODS[d.method].kind, codes.bed
    model, tok, decode = network(codes, d.method), codes.autoencoder(kind), codes.decoder(kind)
    label = torch.zeros(1, dtype=torch.long, device=device())
    x = codes.load(kind, "test")[0][:4].to(device())
    decoder = _counted(lambda: decode(x[:1]))

    def draw() -> Tensor:
        if isinstance(model, VAR):
            return sample(model, tok, label, cfg=guidance - 1, top_k=1)
        return draw_images(
            model, tok, decode, label, bed=bed, guidance=guidance, seed=0, **d.options
        )

    whole = _counted(draw)
    model.train()
    training = _counted(lambda: training_loss(model, x, label.expand(4), tok).backward())
    return {
        "method": d.method,
        "drawing": d.name,
        "steps": d.steps(bed),
        "parameters": sum(p.numel() for p in model.parameters()),
        "flops": whole - decoder,
        "decoder_flops": decoder,
        "training_flops": training // 4,
    }


def network(codes: Codes, name: str) -> nn.Module:
    """A method's network with random weights, in evaluation mode: time does not depend on them."""
    torch.manual_seed(0)
    return quick(METHODS[name].build(codes.bed, codes.num_classes).to(device()).eval())


def speed_rows(
    codes: Codes, rounds: int, batches: Sequence[int] = (1, 16), guidance: float = 2.5
) -> list[Row]:
    """Milliseconds an image, decoder and guidance counted: all drawings in turn, round after round.

    Interleaving spreads whatever else the machine does over all of them.
    """
    calls = []
    for d in DRAWINGS:
        kind = METHODS[d.method].kind
        calls.append((d, network(codes, d.method), codes.autoencoder(kind), codes.decoder(kind)))
    rows = []
    for number in range(-1, rounds):  # round -1 warms up
        for batch in batches:
            labels = torch.arange(batch, device=device()) % codes.num_classes
            for d, model, tok, decode in calls:
                begin = time.perf_counter()
                with torch.no_grad(), autocast():
                    images = draw_images(
                        model, tok, decode, labels, bed=codes.bed, guidance=guidance,
                        seed=number + 1, **d.options,
                    )  # fmt: skip
                images.sum().item()  # waits for a GPU
                seconds = time.perf_counter() - begin
                if number >= 0:
                    rows.append({"drawing": d.name, "batch": batch, "round": number,
                                 "ms_an_image": 1000 * seconds / batch})  # fmt: skip
    return rows
