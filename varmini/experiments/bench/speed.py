"""Rows of `varmini bench`: a model as it is built beside `quicken` of the same, in turn."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ...fast import drawing
from ...fast.quicken import quicken
from ...model import sampler
from ...model.tokenizer import MultiScaleVQVAE
from ...model.transformer import VAR
from ...runtime.machine import autocast, device
from ...runtime.tables import Row
from ...training import flops
from .measure import Run, arithmetic, ceilings, in_pairs, name_of, peak_memory, precisions, short
from .shapes import SHAPES, models


@dataclass(frozen=True)
class Task:
    """One task, by the quick and by the plain form, and what one run of it does."""

    what: str
    batch: int
    unit: str
    """What comes out: "tokens" or "images"; `units` of them a run."""
    units: int
    flops: int
    """Of a run, by the formulas of `training.flops`."""
    runs: dict[str, Run]
    """By form: "quick" and "plain"."""


def training(var: VAR, batch: int) -> Task:
    """Forward, loss and backward; the optimizer is left out."""
    schedule, c, where = var.schedule, var.config, device()
    tokens = batch * schedule.num_tokens
    labels = torch.randint(c.num_classes, (batch,), device=where)
    rows = schedule.num_tokens - schedule.tokens_per_scale[0]
    inputs = torch.randn(batch, rows, c.code_channels, device=where)
    targets = torch.randint(c.vocab_size, (tokens,), device=where)

    def step_of(model: VAR) -> Run:
        def step() -> None:
            with autocast():
                logits = model(labels, inputs)
            F.cross_entropy(logits.flatten(0, 1), targets).backward()
            model.zero_grad(set_to_none=True)

        return step

    work = batch * flops.var_training_flops(c)
    runs = {"quick": step_of(quicken(copy.deepcopy(var), in_halves=True)), "plain": step_of(var)}
    return Task("train", batch, "tokens", tokens, work, runs)


def drawing_of(var: VAR, tok: MultiScaleVQVAE, batch: int) -> Task:
    """Pictures, guided as in the official demonstration, and decoded."""
    labels = [i % var.config.num_classes for i in range(batch)]
    options = {"cfg": 1.5, "top_k": min(900, tok.vocab_size), "top_p": 0.96, "seed": 0}

    def draw_by(sample: Callable[..., Tensor]) -> Run:
        def draw() -> None:
            with autocast():
                sample(var, tok, labels, **options)

        return draw

    work = batch * (flops.var_sampling_flops(var.config) + flops.decode_flops(tok.config))
    runs = {"quick": draw_by(drawing.sample), "plain": draw_by(sampler.sample)}
    return Task("sample", batch, "images", batch, work, runs)


def speed_rows(
    shapes: Sequence[str], batches: Sequence[int], rounds: int, limit: float
) -> Iterator[Row]:
    """Rows of all shapes, directions and precisions as they are done.

    shapes: names of `SHAPES`. batches: images drawn together; none for each shape's own. rounds,
    limit: as in `measure.in_turn`.
    """
    most = ceilings()
    for name in shapes:
        var, tok = models(SHAPES[name])
        drawn = [drawing_of(var, tok, batch) for batch in batches or SHAPES[name].batches]
        for task in (training(var, SHAPES[name].train), *drawn):
            for dtype in precisions():
                products = most[name_of(dtype)]
                with arithmetic(dtype):
                    memory = {form: peak_memory(run) for form, run in task.runs.items()}
                    measured = in_pairs(task.runs, rounds, limit)
                seconds = float(measured["quick_ms"]) / 1e3
                yield {
                    "shape": name,
                    "what": task.what,
                    "batch": task.batch,
                    "arithmetic": name_of(dtype),
                    **measured,
                    "unit": f"{task.unit}/s",
                    "per_second": short(task.units / seconds),
                    **{f"{form}_mib": short(mib) for form, mib in memory.items()},
                    "flops": short(task.flops),
                    "products": short(products),
                    "share_of_products": short(task.flops / seconds / products),
                    "bandwidth": short(most["bandwidth"]),
                }
