"""One training loop for everything that is compared or swept: same optimizer, schedule and average.

`varmini.training.train_var` is the loop for a model that ships; this one takes any module and any
loss, so that no method gets a better recipe than another.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...data import batch_order
from ...fast.quicken import quicken
from ...runtime.machine import autocast, device
from ...runtime.tables import read_rows
from ...training.loop import Loop
from ...training.optim import Updater, averaged, make_optimizers, set_rates
from ...training.run_folder import check_folder


@dataclass(frozen=True)
class Training:
    """How one run of the comparison or of the sweep is trained."""

    images: int = 16_000
    """Training length: images drawn, counting repeats."""
    batch_size: int = 8
    """Images a step."""
    lr: float = 1e-3
    """Peak learning rate of AdamW (0.9, 0.95)."""
    muon_lr: float = 0.0
    """Peak learning rate of Muon for the blocks' matrices; 0: AdamW for all."""
    warmup: float = 0.05
    """Share of the run in which the learning rate rises."""
    decay: float = 0.5
    """Share of the run in which it falls linearly; 0 keeps it flat."""
    final: float = 0.02
    """Share of the peak left at the end."""
    weight_decay: float = 0.05
    """Weight decay of matrices; none on biases and embeddings."""
    clip: float = 2.0
    """Gradient norm above which gradients are scaled down."""
    ema: float = 0.95
    """Decay of the averaged weights, per step."""
    points: int = 6
    """Rows of log.csv, at images / 2^(points - 1), ..., images / 2, images."""
    checkpoint_every: int = 200
    """Steps between two checkpoints."""
    seed: int = 0
    """Seed of initialisation and order."""

    def __post_init__(self) -> None:
        for name in ("images", "batch_size", "points", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least 1")
        if self.images < self.batch_size:
            raise ValueError(
                f"images is {self.images}, expected at least a batch of {self.batch_size}"
            )
        if not 0 < self.lr < 1:
            raise ValueError(f"lr is {self.lr}, expected a learning rate between 0 and 1")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed is {self.seed}, expected 0 to 2^32 - 1")


@dataclass(frozen=True)
class RunConfig(Training):
    """What run.json keeps of a run, so that no other run goes on in its folder."""

    model: Any = None
    """The model's configuration."""
    data: str = ""
    """What it learns from: a data set and the checksum of what encoded it."""


Batch = tuple[Tensor, ...]


def shuffled(data: Batch, batch_size: int, seed: int, start_step: int = 0) -> Iterator[Batch]:
    """Endless batches of tensors of equal length, in an order that seed and step alone decide.

    Raises:
        ValueError: when a batch is larger than the set.
    """
    for rows, *_ in batch_order(len(data[0]), batch_size, seed, start_step):
        yield tuple(t[rows] for t in data)


def log_steps(total: int, points: int) -> list[int]:
    """Steps at which to log: total, total / 2, total / 4, ..., as far as they differ."""
    return sorted({max(1, round(total / 2**i)) for i in range(points)})


def finished(out: Path, training: Training) -> bool:
    """Whether the run in `out` has come to its end."""
    if not (out / "model.safetensors").exists() or not (out / "log.csv").exists():
        return False
    rows = read_rows(out / "log.csv")
    last = rows[-1].get("step") if rows else None
    return isinstance(last, int) and last >= training.images // training.batch_size


def train(
    build: Callable[[], nn.Module],
    loss: Callable[..., Tensor],
    stream: Callable[[int], Iterator[Batch]],
    training: Training,
    out: str | Path,
    *,
    data: str = "",
    held_out: Callable[[nn.Module], dict[str, float]] | None = None,
) -> Path:
    """Trains a model, or goes on with the run in `out`; nothing is left to do for a finished one.

    Args:
        build: makes the model; called after seeding. The model has `config` and `save_pretrained`.
        loss: loss(model, *batch) -> scalar.
        stream: stream(start_step) yields batches from that step on.
        training: length, optimizer and schedule.
        out: the run's folder, with the averaged weights in the end.
        data: what the batches are made of; a run only goes on with the same.
        held_out: measures of the averaged model, for log.csv.

    Returns:
        The folder.

    Raises:
        ValueError: when `out` holds another run.
        SystemExit: with 128 + signal after SIGTERM or Ctrl-C; the state is saved by then.
    """
    torch.manual_seed(training.seed)
    model = quicken(build().to(device()))
    config = RunConfig(**dataclasses.asdict(training), model=model.config, data=data)
    resume = (Path(out) / "run.json").exists()
    out = check_folder(out, config, overwrite=False, resume=resume)
    if finished(out, training):
        return out
    optimizers = make_optimizers(model, training.lr, training.weight_decay, training.muon_lr)
    ema = averaged(model, training.ema)
    updater = Updater(model, optimizers.values(), training.clip)
    total = training.images // training.batch_size
    state, logged = {"model": model, "ema": ema, **optimizers}, log_steps(total, training.points)
    loop = Loop("", config, out, state, total=total, log_at=logged, resume=resume,
                go_on="the same command goes on")  # fmt: skip
    batches = stream(loop.start)
    with loop:
        for step in loop:
            lr = set_rates(optimizers.values(), training, step, total)
            batch = tuple(t.to(device(), non_blocking=True) for t in next(batches))
            with autocast():
                value = loss(model, *batch)
            value.backward()
            updater.step(value)
            ema.update_parameters(model)
            loop.show(value)
            if loop.logs:
                # What a measure draws must not change the training after it.
                with torch.random.fork_rng(), torch.no_grad():
                    measured = held_out(ema.module.eval()) if held_out else {}
                loop.log({"lr": lr, "loss": value.item(), **measured,
                          "skipped": updater.take_skipped()})  # fmt: skip
    return loop.finish(ema.module)
