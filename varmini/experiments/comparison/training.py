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

from ...fast.halves import divide
from ...fast.quicken import quicken
from ...runtime.machine import autocast, device
from ...runtime.tables import read_rows
from ...training.loop import Loop
from ...training.optim import Updater, averaged, make_optimizers, set_rates
from ...training.run_folder import check_folder


@dataclass(frozen=True)
class Training:
    """How one run of the comparison or of the sweep is trained."""

    images: int = 16_000  # training length: images drawn, counting repeats
    batch_size: int = 8  # images a step
    lr: float = 1e-3  # peak learning rate of AdamW (0.9, 0.95)
    muon_lr: float = 0.0  # peak learning rate of Muon for the blocks' matrices; 0: AdamW for all
    warmup: float = 0.05  # share of the run in which the learning rate rises
    decay: float = 0.5  # share of the run in which it falls linearly; 0 keeps it flat
    final: float = 0.02  # share of the peak left at the end
    weight_decay: float = 0.05  # weight decay of matrices; none on biases and embeddings
    clip: float = 2.0  # gradient norm above which gradients are scaled down
    ema: float = 0.95  # decay of the averaged weights, per step
    points: int = 6  # rows of log.csv, at images / 2^(points - 1), ..., images / 2, images
    checkpoint_every: int = 200  # steps between two checkpoints
    seed: int = 0  # seed of initialisation and order

    def __post_init__(self) -> None:
        if not 1 <= self.batch_size <= self.images:
            raise ValueError(f"images is {self.images}, expected at least a batch, and batch_size "
                             f"{self.batch_size} at least 1")  # fmt: skip
        if not 0 < self.lr < 1 or self.points < 1:
            raise ValueError(f"lr is {self.lr} and points is {self.points}, expected a learning "
                             f"rate between 0 and 1, and at least 1 row")  # fmt: skip

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return self.images // self.batch_size

    @property
    def log_steps(self) -> list[int]:
        """Steps at which to log: all of them, a half, a quarter, ..., as far as they differ."""
        return sorted({max(1, round(self.steps / 2**i)) for i in range(self.points)})


@dataclass(frozen=True)
class RunConfig(Training):
    """What run.json keeps of a run, so that no other run goes on in its folder."""

    model: Any = None
    """The model's configuration."""
    data: str = ""
    """What it learns from: a data set and the checksum of what encoded it."""


def finished(out: Path, training: Training) -> bool:
    """Whether the run in `out` has come to its end."""
    if not (out / "model.safetensors").exists() or not (out / "log.csv").exists():
        return False
    rows = read_rows(out / "log.csv")
    return bool(rows) and rows[-1]["step"] >= training.steps


def train(
    build: Callable[[], nn.Module],
    loss: Callable[..., Tensor],
    stream: Callable[[int], Iterator[tuple[Tensor, ...]]],
    training: Training,
    out: str | Path,
    *,
    data: str = "",
    held_out: Callable[[nn.Module], dict[str, float]] = lambda model: {},
    matrices: Callable[[nn.Module], list[nn.Parameter]] | None = None,
) -> Path:
    """Trains a model, or goes on with the run in `out`; nothing is left to do for a finished one.

    Args:
        build: makes the model; called after seeding. The model has `config` and `save_pretrained`.
        loss: loss(model, *batch) -> scalar.
        stream: stream(start_step) yields batches from that step on.
        out: the run's folder, which is returned, with the averaged weights in the end.
        data: what the batches are made of; a run only goes on with the same.
        held_out: measures of the averaged model, for log.csv.
        matrices: what Muon takes of a model; None for those of `model.blocks`.

    Raises:
        ValueError: when `out` holds another run.
        SystemExit: with 128 + signal after SIGTERM or Ctrl-C; the state is saved by then.
    """
    torch.manual_seed(training.seed)
    model = quicken(build().to(device()), in_halves=True)
    divide(model)
    config = RunConfig(**dataclasses.asdict(training), model=model.config, data=data)
    resume = (Path(out) / "run.json").exists()
    out = check_folder(out, config, overwrite=False, resume=resume)
    if finished(out, training):
        return out
    optimizers = make_optimizers(model, training.lr, training.weight_decay, training.muon_lr,
                                 matrices=matrices and matrices(model))  # fmt: skip
    ema = averaged(model, training.ema)
    updater = Updater(model, optimizers.values(), training.clip)
    loop = Loop("", config, out, {"model": model, "ema": ema, **optimizers}, total=training.steps,
                log_at=training.log_steps, resume=resume,
                go_on="the same command goes on")  # fmt: skip
    batches = stream(loop.start)
    with loop:
        for step in loop:
            lr = set_rates(optimizers.values(), training, step, training.steps)
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
                    measured = held_out(ema.module.eval())
                loop.log({"lr": lr, "loss": value.item(), **measured,
                          "skipped": updater.take_skipped()})  # fmt: skip
    return loop.finish(ema.module)
