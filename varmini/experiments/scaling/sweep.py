"""The scaling sweep: one recipe over many sizes, along the way and to a fixed number of images.

The dial is the depth d: width 24 d (the shipped CIFAR-10 model's is d = 8), d heads. All else
follows by rule. The learning rate is flat after its warm-up and averaged weights are measured, so
every point on the way stands for a run that ended there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor

from ...data import fitted
from ...model.tokenizer import MultiScaleVQVAE
from ...model.transformer import VAR, VARConfig
from ...runtime.files import file_checksum, read_json
from ...runtime.machine import device
from ...runtime.pretrained import resolve_folder
from ...runtime.tables import Row, read_rows, write_rows
from ...training.flops import var_parameters, var_training_flops
from ...training.run_folder import make_folder
from ...training.token_sets import token_batches, token_set
from ...training.train_var import held_out_terms
from ..comparison.training import Training, finished, train
from .fits import MEASURES, frontier, laws

__all__ = ["MEASURES", "Sweep", "collect", "frontier", "laws", "run_sweep", "var_loss"]


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
        for name, values in (("depths", self.depths), ("seeds", self.seeds)):
            if not values or len(set(values)) < len(values):
                raise ValueError(f"{name} are {values}, expected at least one, each only once")
        if min(*self.depths, self.unit, self.held_out) < 1:
            raise ValueError(f"depths are {self.depths}, unit {self.unit} and held_out "
                             f"{self.held_out}, expected at least 1")  # fmt: skip
        self.training(min(self.depths), 0)  # checks the rest at the largest learning rate

    def training(self, depth: int, seed: int) -> Training:
        """The run of one size: lr = lr_4 sqrt(4 / d), no decay."""
        return Training(self.images, self.batch_size, self.lr * (4 / depth) ** 0.5, self.muon_lr,
                        decay=0.0, points=self.points, seed=seed)  # fmt: skip

    def model(self, depth: int, tok: MultiScaleVQVAE, num_classes: int) -> VARConfig:
        """The transformer of one size: width unit d, d heads (the paper's unit is 64)."""
        shape = {n: getattr(tok.config, n) for n in ("sizes", "vocab_size", "code_channels")}
        return VARConfig(depth, self.unit * depth, depth, **shape, num_classes=num_classes,
                         init_gamma=0.1)  # fmt: skip

    def runs(self, out: Path) -> Iterator[tuple[int, int, Path, Training]]:
        """(depth, seed, folder, training) of every run, small sizes first.

        A sweep that is stopped early then still holds all seeds of some.
        """
        for depth in sorted(self.depths):
            for seed in self.seeds:
                yield depth, seed, out / f"d{depth}-s{seed}", self.training(depth, seed)


LIVE = Sweep((1, 2, 3, 4), 16, images=60_000, held_out=1000, data="fashion-subset",
             tokenizer="fashion")  # fmt: skip
"""On the live bed, for a reader: under 20 minutes on two cores."""


def var_loss(model: VAR, tok: MultiScaleVQVAE, tokens: Tensor, labels: Tensor) -> Tensor:
    """Teacher-forced cross-entropy, -1/L sum_k log p(r_k | r_1, ..., r_{k-1}, class).

    tokens: (B, L) flat pyramids; labels: (B,).
    """
    inputs = tok.quantizer.teacher_inputs(tok.schedule.unflatten(tokens))
    return F.cross_entropy(model(labels, inputs).flatten(0, 1), tokens.flatten())


def run_sweep(sweep: Sweep, out: str | Path, csv: str | Path) -> Path:
    """Trains every size and seed that is not finished; rewrites the CSV after each.

    Killed at any moment, the same call goes on where it stopped.

    out: the folder of all runs, one folder each: d3-s0 is depth 3, seed 0. csv: the table, a row
    for every run and moment; it is returned. ValueError on data or a tokenizer that is not there,
    or a folder with another sweep.
    """
    out, csv = make_folder(Path(out), clear=False), Path(csv)
    source = resolve_folder(sweep.tokenizer, MultiScaleVQVAE.kind)
    checksum = file_checksum(source / "model.safetensors")
    tok = MultiScaleVQVAE.from_pretrained(source).to(device())
    images = {split: fitted(sweep.data, split, tok.image_size, tok.config.image_channels)
              for split in ("train", "test")}  # fmt: skip
    classes, sets = len(images["train"].classes), {}
    # A sweep that is finished encodes nothing.
    done = all(finished(folder, training) for *_, folder, training in sweep.runs(out))
    for split in () if done else images:
        flip = split == "train"
        sets[split] = token_set(tok, checksum, images[split], out / "tokens", split, flip=flip)

    def held_out(model: VAR) -> dict[str, float]:
        terms = held_out_terms(model, tok, sets["test"], sweep.held_out)
        return {f"val_{name}": value for name, value in terms.items()}

    for depth, seed, folder, training in sweep.runs(out):
        config = sweep.model(depth, tok, classes)
        train(
            lambda config=config: VAR(config),
            lambda model, tokens, labels: var_loss(model, tok, tokens, labels),
            lambda start, seed=seed: token_batches(sets["train"], sweep.batch_size, seed, start),
            training,
            folder,
            data=f"{sweep.data}, tokenizer {checksum}, {sweep.held_out} held out",
            held_out=held_out,
        )
        rows = collect(sweep, out, tok, classes)
        write_rows(csv, [row | {"data_images": len(images["train"])} for row in rows])
    return csv


def collect(sweep: Sweep, out: Path, tok: MultiScaleVQVAE, num_classes: int) -> list[Row]:
    """The rows of all finished runs: size, seed, images, FLOPs, loss and token error.

    `n` counts the matrices of the blocks (with their biases), as the paper's 18 d w^2 does;
    `parameters` counts all. `flops` are those of the training so far, by `varmini.training.flops`.
    """
    rows: list[Row] = []
    for depth, seed, folder, training in sweep.runs(out):
        if not finished(folder, training):
            continue
        config = sweep.model(depth, tok, num_classes)
        sizes, flops = var_parameters(config), var_training_flops(config)
        session = read_json(folder / "run.json")["sessions"][-1]
        about = {
            "depth": depth,
            "width": config.width,
            "heads": config.heads,
            "n": sizes["blocks"] + sizes["AdaLN"],
            "parameters": sum(sizes.values()),
            "held_out": sweep.held_out,
            "tokens": tok.schedule.num_tokens,
            "seed": seed,
        }
        origin = {"arithmetic": session["precision"]}
        origin |= {k: session[k] for k in ("threads", "date", "hardware", "command", "commit")}
        for row in read_rows(folder / "log.csv"):
            rows.append(about | {
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
            } | origin)  # fmt: skip
    return rows
