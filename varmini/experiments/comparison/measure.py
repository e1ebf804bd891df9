"""Trains and measures the family: quality with its sampling error, FLOPs, milliseconds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
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
from ...fast.halves import whole_batches
from ...model.tokenizer import MultiScaleVQVAE
from ...model.transformer import VAR
from ...runtime.machine import autocast, device
from ...runtime.tables import Row, read_rows
from ..bench.measure import Run, in_turn
from .bed import Codes
from .methods import (
    GRID,
    LR,
    METHODS,
    MUON,
    codes_of,
    draw_images,
    held_out_loss,
    new_model,
    tokenizer_of,
    training_loss,
)
from .tokenizers import BUILDERS, inner_matrices
from .training import Training, finished, train

Measure = Callable[[Tensor, Tensor], Row]
"""images (n, C, H, W) in [-1, 1] and labels (n,) -> figures, each with its `_se`."""
PART = 100
"""Images drawn together."""

# ----------------------------------------------------------------------------------------- training


def train_method(codes: Codes, name: str, out: Path, training: Training) -> list[Row]:
    """Trains a method, or goes on, or finds it finished; returns the rows of its log."""
    if finished(out, training):
        return read_rows(out / "log.csv")
    tok, probe = codes.tokenizer(tokenizer_of(name)), new_model(name, codes)
    (x, y), held_out = (codes_of(name, codes, probe, split) for split in ("train", "test"))

    def stream(start: int) -> Iterator[tuple[Tensor, Tensor]]:
        order = batch_order(len(x), training.batch_size, training.seed, start)
        return ((x[rows], y[rows]) for rows, *_ in order)

    train(
        lambda: new_model(name, codes),
        lambda model, x, y: training_loss(model, x, y, tok),
        stream,
        training,
        out,
        data=codes.about(tokenizer_of(name)),
        held_out=lambda model: held_out_loss(model, *held_out, tok),
        matrices=inner_matrices,
    )
    return read_rows(out / "log.csv")


def recipe(codes: Codes, scale: float, seed: int, images: int, points: int = 4) -> Training:
    """Of a run whose learning rates are `scale` times `LR` and Muon's."""
    lr = scale * LR
    return Training(images, codes.bed.batch_size, lr, muon_lr=MUON * lr, ema=0.98, points=points,
                    seed=seed)  # fmt: skip


def search(codes: Codes, name: str, grid: Sequence[float] = GRID, share: int = 4) -> list[Row]:
    """Short runs over learning rates, a quarter of a full one each, of a seed of their own.

    The grid grows by factors of two until its best is inside it.
    """
    tried: dict[float, Row] = {}
    todo = list(grid)
    while todo:
        for scale in todo:
            training = recipe(codes, scale, 100, codes.bed.images // share, points=1)
            last = train_method(codes, name, codes.out / f"grid-{name}-{scale:g}", training)[-1]
            tried[scale] = {"method": name, "scale": scale, "lr": scale * LR}
            tried[scale] |= {k: last[k] for k in ("images", "val_loss")}
        best = min(tried, key=lambda scale: tried[scale]["val_loss"])
        todo = [best / 2] if best == min(tried) else [best * 2] if best == max(tried) else []
    return [tried[scale] | {"best": scale == best} for scale in sorted(tried)]


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


def some_images(codes: Codes, n: int) -> tuple[Tensor, Tensor]:
    """n test images, evenly spread, and their labels."""
    test = codes.images["test"]
    pairs = [test[i] for i in torch.linspace(0, len(test) - 1, n).long().tolist()]
    return torch.stack([x for x, _ in pairs]), torch.tensor([int(y) for _, y in pairs])


@torch.no_grad()
def tokenizer_row(codes: Codes, name: str, seed: int, measure: Measure, n: int) -> Row:
    """What a finished tokenizer keeps of n test images, and the share of codes they use.

    PSNR is a mean over images with its standard error; usage as of `counts`.
    """
    images, labels = some_images(codes, n)
    tok, builder, parts, tokens = codes.tokenizer(name, seed), BUILDERS[name], [], []
    for part in images.split(PART):
        with autocast():
            tokens.append(tok.encode(part.to(device())))
            parts.append(tok.decode(tokens[-1]).cpu().float().clamp(-1, 1))
    drawn = torch.cat(parts)
    each = psnr(drawn, images)
    row = {"tokenizer": name, "seed": seed, "lacks": builder.lacks,
           "parameters": sum(p.numel() for p in tok.parameters()),
           "images": codes.bed.tokenizer_images, **counts(tok, tokens), "psnr": each.mean().item(),
           "psnr_se": each.std().item() / math.sqrt(n)}  # fmt: skip
    return row | measure(drawn, labels)


def counts(tok: nn.Module, tokens: Sequence[Any]) -> Row:
    """Tokens (or real numbers) and bits an image, codes, and the share of them in these tokens.

    A factorised token counts as the code that its parts name together; a pyramid's maps share
    their codes.
    """
    row: Row = dict.fromkeys(("tokens", "bits", "codes", "usage"), "")
    if isinstance(tokens[0], Tensor) and tokens[0].is_floating_point():
        return row | {"numbers": tokens[0][0].numel()}
    if isinstance(tok, MultiScaleVQVAE):
        count, vocab = tok.schedule.num_tokens, [tok.vocab_size]
        bits = count * math.log2(tok.vocab_size)
    else:
        count, bits, vocab = tok.tokens_per_image, tok.bits_per_image, tok.quantizer.vocab_sizes
    parts = [m for t in tokens for m in ([t] if isinstance(t, Tensor) else t)]
    if len(set(vocab)) > 1:
        parts = [part[..., 0] * vocab[1] + part[..., 1] for part in parts]
        vocab, count = [vocab[0] * vocab[1]], count // 2
    used = torch.cat([part.flatten() for part in parts]).unique()
    return {"tokens": count, "bits": bits, "codes": vocab[0], "usage": len(used) / vocab[0],
            "numbers": ""}  # fmt: skip


def finished_model(codes: Codes, name: str, seed: int | None = None) -> nn.Module:
    """A method's network in evaluation mode: of a finished run, or with random weights.

    Quickened, but for VAR, where `sample` sees to it: no method has quicker products.
    """
    torch.manual_seed(0)
    model = new_model(name, codes)
    if seed is not None:
        model = type(model).from_pretrained(codes.out / f"{name}-s{seed}")
    model = model.to(device()).eval()
    return model if isinstance(model, VAR) else quicken(model)


def draw_many(
    codes: Codes, name: str, model: nn.Module, labels: Tensor, seed: int, **options: Any
) -> Tensor:
    """Pictures (B, 1, 32, 32) of labels (B,), on the CPU, drawn in parts; options of
    `draw_images`."""
    tok, drawn = codes.tokenizer(tokenizer_of(name)), []
    for i, part in enumerate(labels.split(PART)):
        with torch.no_grad(), autocast():
            images = draw_images(name, model, tok, part.to(device()), seed=1000 * seed + i,
                                 **options)  # fmt: skip
        drawn.append(images.float().cpu().clamp(-1, 1))
    return torch.cat(drawn)


# --------------------------------------------------------------------------------------------- cost


def counted(train: bool, call: Callable[..., Tensor], *args: Any, **options: Any) -> int:
    """FLOPs of a call; with `train` of a loss and its backward pass."""
    from torch.utils.flop_counter import FlopCounterMode

    with without_copies(), FlopCounterMode(display=False) as counter:
        result = call(*args, **options)
        if train:
            result.backward()
    return counter.get_total_flops()


def cost_rows(codes: Codes, names: Sequence[str]) -> list[Row]:
    """Parameters, sequential steps and FLOPs, counted while the calls run; weights do not matter.

    FLOPs are those of one image, guided, with the decoder; of training, forward and backward of
    one image.
    """
    rows, label = [], torch.zeros(1, dtype=torch.long, device=device())
    for name in names:
        tok, model = codes.tokenizer(tokenizer_of(name)), finished_model(codes, name)
        x = codes_of(name, codes, model, "test")[0][:4].to(device())
        model.train()
        training = counted(True, training_loss, model, x, label.expand(4), tok)
        model.eval()
        for drawing, options in timed(name).items():
            given = {"guidance": 2.0, "seed": 0, **options}
            steps = len(model.config.sizes) if isinstance(model, VAR) else model.steps(**options)
            rows.append({"method": name, "drawing": drawing, "steps": steps,
                         "parameters": sum(p.numel() for p in model.parameters()),
                         "flops": counted(False, draw_images, name, model, tok, label, **given),
                         "training_flops": training // 4})  # fmt: skip
    return rows


def timed(name: str) -> dict[str, dict[str, Any]]:
    """The drawings of a method whose cost differs."""
    return {key: d for key, d in METHODS[name].drawings.items() if key != "no filter"}


def speed_rows(
    codes: Codes, names: Sequence[str], rounds: int, batches: Sequence[int] = (1, 16)
) -> list[Row]:
    """Milliseconds an image, decoder and guidance counted: all drawings in turn, round after round.

    Interleaving spreads whatever else the machine does over all of them. Batches stay whole: VAR
    alone could be drawn in halves.
    """

    def run(name: str, options: dict[str, Any], batch: int) -> Run:
        model, tok = finished_model(codes, name), codes.tokenizer(tokenizer_of(name))
        labels = torch.arange(batch, device=device()) % codes.num_classes

        @torch.no_grad()
        def draw() -> None:
            with autocast():
                draw_images(name, model, tok, labels, **{"guidance": 2.0, "seed": 0, **options})

        return draw

    runs = {(name, drawing, batch): run(name, options, batch) for batch in batches
            for name in names for drawing, options in timed(name).items()}  # fmt: skip
    with whole_batches():
        in_turn(runs, 1, 0)  # warms up
        seconds = in_turn(runs, rounds, math.inf)
    return [{"method": key[0], "drawing": key[1], "batch": key[2], "round": number,
             "ms_an_image": 1000 * seconds[key][number] / key[2]}
            for number in range(rounds) for key in runs]  # fmt: skip
