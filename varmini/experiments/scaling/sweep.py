"""The scaling sweep: one recipe over many sizes, along the way and to a fixed number of images.

The dial is the depth d: width 24 d (the shipped CIFAR-10 model's is d = 8), d heads. All else
follows by rule. The learning rate is flat after its warm-up and averaged weights are measured, so
every point on the way stands for a run that ended there.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from ...data import fitted
from ...model.tokenizer import MultiScaleVQVAE
from ...model.transformer import VAR, VARConfig
from ...runtime.files import file_checksum, read_json
from ...runtime.machine import device
from ...runtime.pretrained import resolve_folder
from ...runtime.tables import read_rows, write_rows
from ...training.flops import var_parameters, var_training_flops
from ...training.run_folder import make_folder
from ...training.token_sets import token_batches, token_set
from ...training.train_var import held_out_terms
from ..comparison.training import Training, finished, train
from .fits import (
    BILLION,
    PAPER,
    PFLOP,
    bend,
    bootstrap,
    curvature,
    envelope,
    fit_power_law,
    predict_largest,
)

MEASURES = ("loss_last", "loss", "error_last", "error")


@dataclass(frozen=True)
class Sweep:
    """What `varmini scaling` trains."""

    depths: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7)
    """Sizes by the one dial d: depth d, width unit times d, d heads."""
    unit: int = 24
    """Width a depth."""
    seeds: tuple[int, ...] = (0, 1)
    """One run a size and seed."""
    images: int = 20_000
    """Training length of every run: images drawn, counting repeats."""
    batch_size: int = 32
    """Images a step."""
    lr: float = 2e-3
    """Learning rate at depth 4; it falls with the square root of the width."""
    muon_lr: float = 0.03
    """Learning rate of Muon for the blocks' matrices, at every depth; 0: AdamW for all."""
    points: int = 6
    """Rows a run, at images / 2^(points - 1), ..., images."""
    held_out: int = 500
    """Test images on which loss and error are measured."""
    data: str = "cifar10"
    """Data set: a bed's name or a folder."""
    tokenizer: str = "cifar10"
    """A shipped tokenizer's name, or a run's folder."""

    def __post_init__(self) -> None:
        for name in ("depths", "seeds"):
            if not getattr(self, name):
                raise ValueError(f"{name} is empty, expected at least one")
            if len(set(getattr(self, name))) < len(getattr(self, name)):
                raise ValueError(f"{name} are {getattr(self, name)}, expected each only once")
        for name, least in (("depths", min(self.depths)), ("unit", self.unit),
                            ("held_out", self.held_out)):  # fmt: skip
            if least < 1:
                raise ValueError(f"{name} holds {least}, expected at least 1")
        for depth in self.depths:
            self.training(depth, 0)  # checks the rest

    def training(self, depth: int, seed: int) -> Training:
        """The run of one size: lr = lr_4 sqrt(4 / d), no decay."""
        return Training(
            images=self.images,
            batch_size=self.batch_size,
            lr=self.lr * (4 / depth) ** 0.5,
            muon_lr=self.muon_lr,
            warmup=0.05,
            decay=0.0,
            points=self.points,
            seed=seed,
        )

    def model(self, depth: int, tok: MultiScaleVQVAE, num_classes: int) -> VARConfig:
        """The transformer of one size: width unit d, d heads (the paper's unit is 64)."""
        return VARConfig(
            depth=depth,
            width=self.unit * depth,
            heads=depth,
            sizes=tok.config.sizes,
            vocab_size=tok.vocab_size,
            code_channels=tok.config.code_channels,
            num_classes=num_classes,
            init_gamma=0.1,
        )


def var_loss(model: VAR, tok: MultiScaleVQVAE, tokens: Tensor, labels: Tensor) -> Tensor:
    """Teacher-forced cross-entropy, -1/L sum_k log p(r_k | r_1, ..., r_{k-1}, class).

    Args:
        tokens: (B, L) flat pyramids.
        labels: (B,).
    """
    inputs = tok.quantizer.teacher_inputs(tok.schedule.unflatten(tokens))
    return F.cross_entropy(model(labels, inputs).flatten(0, 1), tokens.flatten())


def run_sweep(sweep: Sweep, out: str | Path, csv: str | Path, tokens: Path | None = None) -> Path:
    """Trains every size and seed that is not finished; rewrites the CSV after each.

    Killed at any moment, the same call goes on where it stopped.

    Args:
        out: the folder of all runs, one folder each: d3-s0 is depth 3, seed 0.
        csv: the table: a row for every run and moment.
        tokens: folder of a `varmini train var` run's token maps to copy; they save the encoding if
            that run had the same tokenizer, data and precision.

    Returns:
        The CSV file.

    Raises:
        ValueError: on data or a tokenizer that is not there, or a folder with another sweep.
    """
    out, csv = make_folder(Path(out), clear=False), Path(csv)
    source = resolve_folder(sweep.tokenizer, MultiScaleVQVAE.kind)
    checksum = file_checksum(source / "model.safetensors")
    tok = MultiScaleVQVAE.from_pretrained(source).to(device())
    images = {split: fitted(sweep.data, split, tok.image_size, tok.config.image_channels)
              for split in ("train", "test")}  # fmt: skip
    classes, folder, sets = len(images["train"].classes), out / "tokens", {}
    runs = [(out / f"d{d}-s{s}", sweep.training(d, s)) for d in sweep.depths for s in sweep.seeds]
    # A sweep that is finished encodes nothing.
    for split in () if all(finished(*run) for run in runs) else images:
        for file in tokens.glob(f"{split}-*.safetensors") if tokens else ():
            if not (folder / file.name).exists():
                folder.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, folder / file.name)
        flip = split == "train"
        sets[split] = token_set(tok, checksum, images[split], folder, split, flip=flip)

    def loss(model: VAR, batch: Tensor, labels: Tensor) -> Tensor:
        return var_loss(model, tok, batch, labels)

    def held_out(model: VAR) -> dict[str, float]:
        terms = held_out_terms(model, tok, sets["test"], sweep.held_out)
        return {f"val_{name}": value for name, value in terms.items()}

    # Small sizes first: a sweep that is stopped early still holds both seeds of some.
    for depth in sorted(sweep.depths):
        config = sweep.model(depth, tok, classes)
        for seed in sweep.seeds:
            training = sweep.training(depth, seed)

            def stream(start: int, training: Training = training):
                return token_batches(sets["train"], training.batch_size, training.seed, start)

            train(
                lambda config=config: VAR(config),
                loss,
                stream,
                training,
                out / f"d{depth}-s{seed}",
                data=f"{sweep.data}, tokenizer {checksum}, {sweep.held_out} held out",
                held_out=held_out,
            )
            rows = collect(sweep, out, tok, classes)
            write_rows(csv, [row | {"data_images": len(images["train"])} for row in rows])
    return csv


def collect(
    sweep: Sweep, out: Path, tok: MultiScaleVQVAE, num_classes: int
) -> list[dict[str, Any]]:
    """The rows of all finished runs: size, seed, images, FLOPs, loss and token error.

    `n` counts the matrices of the blocks (with their biases), as the paper's 18 d w^2 does;
    `parameters` counts all.
    `flops` are those of the training so far, by the formula of `varmini.training.flops`.
    """
    rows: list[dict[str, Any]] = []
    for depth in sorted(sweep.depths):
        config = sweep.model(depth, tok, num_classes)
        sizes, flops = var_parameters(config), var_training_flops(config)
        about = {
            "depth": depth,
            "width": config.width,
            "heads": config.heads,
            "n": sizes["blocks"] + sizes["AdaLN"],
            "parameters": sum(sizes.values()),
            "held_out": sweep.held_out,
        }
        for seed in sweep.seeds:
            folder = out / f"d{depth}-s{seed}"
            if not finished(folder, sweep.training(depth, seed)):
                continue
            try:
                rows += [about | {"seed": seed} | row for row in _measured(folder, flops, sweep)]
            except (KeyError, IndexError, TypeError) as error:
                raise ValueError(
                    f"{folder}: its log.csv or run.json is damaged (no {error}): remove the folder "
                    f"to train this size again"
                ) from None
    return rows


def _measured(folder: Path, flops: float, sweep: Sweep) -> list[dict[str, Any]]:
    """The rows of one finished run, and where they come from."""
    session = read_json(folder / "run.json")["sessions"][-1]
    origin = ("threads", "date", "hardware", "command", "commit")
    return [
        {
            "step": row["step"],
            "images": row["images"],
            "flops": row["images"] * flops,
            "lr": row["lr"],
            "muon_lr": sweep.muon_lr,
            "loss": row["val_loss"],
            "loss_last": row["val_loss_last"],
            "error": 1 - row["val_accuracy"],
            "error_last": 1 - row["val_accuracy_last"],
            "seconds": row["seconds"],
            "arithmetic": session["precision"],
        }
        | {name: session[name] for name in origin}
        for row in read_rows(folder / "log.csv")
    ]


def frontier(rows: Sequence[dict[str, Any]], measure: str) -> tuple[np.ndarray, np.ndarray]:
    """Compute in PFlops and the best value of `measure` that was reached with it: (m,), (m,).

    Of all sizes at all moments, without the start of each run: its warm-up, and as long as a tenth
    of the first weights is left in the average (decay^step > 0.1). Such a point is no run that
    ended there, and the cheapest of them would always lie on the frontier.
    """
    training = Training()
    begin = max(training.warmup * max(row["step"] for row in rows),
                math.log(0.1) / math.log(training.ema))  # fmt: skip
    rows = [row for row in rows if row["step"] >= begin]
    if len({row["flops"] for row in rows}) < 2:
        return np.empty(0), np.empty(0)
    x, y = (np.array([row[name] for row in rows]) for name in ("flops", measure))
    keep = envelope(x / PFLOP, y)
    return x[keep] / PFLOP, y[keep]


def second_half(rows: Sequence[dict[str, Any]]) -> dict[int, float]:
    """{n: the share of the loss of all scales that the second half of a run takes off}.

    A run that has learned what its size allows gains nothing; the mean over seeds.
    """
    last = max(row["images"] for row in rows)
    half = max(row["images"] for row in rows if row["images"] < last)

    def loss(n: int, images: int) -> float:
        return float(np.mean([r["loss"] for r in rows if (r["n"], r["images"]) == (n, images)]))

    return {n: 1 - loss(n, last) / loss(n, half) for n in sorted({row["n"] for row in rows})}


def laws(rows: list[dict[str, Any]], *, draws: int = 2000) -> list[dict[str, Any]]:
    """The fits of a sweep: every measure over N at the end, and over compute on the frontier.

    Returns:
        One row a law, none where the frontier has fewer than three points: a (in the paper's
        units: N in billions, C in PFlops), b, their intervals, Pearson's correlation, curvature,
        largest residual, `bend`, what the law fitted without the largest size says about it, the
        value at the next largest (the prediction of one who knows no law), how many times flatter
        the law is than the paper's, and how many of its points are ends of runs.

    Raises:
        ValueError: when the rows hold fewer than three sizes.
    """
    last = max(row["images"] for row in rows)
    end = [row for row in rows if row["images"] == last]
    found = []
    for over in ("n", "c"):
        for measure in MEASURES:
            if over == "n":
                x, y = [r["n"] / BILLION for r in end], [r[measure] for r in end]
            else:
                x, y = frontier(rows, measure)
                if len(x) < 3:  # more compute did not help: there is no frontier to fit
                    continue
            x, y = np.asarray(x), np.asarray(y)
            law, interval = fit_power_law(x, y), bootstrap(x, y, draws=draws)
            ask, second = predict_largest(x, y), x == np.unique(x)[-2]
            ends = {row["n"] / BILLION if over == "n" else row["flops"] / PFLOP for row in end}
            paper = next(p for p in PAPER if (p.measure, p.over) == (measure, over))
            lazy = float(np.exp(np.log(y[second]).mean()))
            found.append(
                {
                    "measure": measure,
                    "over": over,
                    "points": len(x),
                    "ends": sum(value in ends for value in x.tolist()),
                    "images": last,
                    "a": law.a,
                    "a_low": interval["a"][0],
                    "a_high": interval["a"][1],
                    "b": law.b,
                    "b_low": interval["b"][0],
                    "b_high": interval["b"][1],
                    "pearson": law.pearson,
                    "pearson_low": interval["pearson"][0],
                    "pearson_high": interval["pearson"][1],
                    "curvature": curvature(x, y),
                    "bend": bend(x, y),
                    "largest_residual": max(abs(r) for r in law.residuals),
                    "predicted": ask["predicted"],
                    "measured": ask["measured"],
                    "miss": ask["miss"],
                    "next_largest": lazy,
                    "next_miss": lazy / ask["measured"] - 1,
                    "flatter": paper.b / law.b,
                    "paper_a": paper.a,
                    "paper_b": paper.b,
                }
            )
    return found
