"""`varmini plan`: what a preset needs on rented GPUs."""

import dataclasses
import math
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Annotated

import tyro

from ..data import class_names
from ..model.scales import ScaleSchedule
from ..model.tokenizer import TokenizerConfig
from ..model.transformer import VARConfig
from ..training import flops, planner
from ..training.configs import TokenizerTraining, VARTraining
from ..training.planner import GPU, GPUS, USABLE, UTILISATION, WAYS
from ..training.presets import IMAGENET_IMAGES, PRESETS, preset

Row = tuple[str, str]
"""A line: what, and its value; without one a heading, or nothing at all."""

NOTE = """
Counted from formulas, not measured. Times hold at the stated utilisation and leave out
data, evaluation and restarts; communication between GPUs is part of the utilisation."""


@dataclass(frozen=True)
class Plan:
    """Parameters, FLOPs, memory, hours and cost of a preset, without running it."""

    preset: Annotated[
        str,
        tyro.conf.Positional,
        tyro.conf.arg(metavar="PRESET", help=f"One of {', '.join(PRESETS)}."),
    ]
    gpus: int = 8  # GPUs that share a batch.
    gpu: Annotated[str, tyro.conf.arg(help=f"Their kind: {', '.join(GPUS)}.")] = "h100"
    utilisation: float = UTILISATION
    """Share of the peak bf16 FLOP/s reached; by default what the official d16 run tells."""
    price: float | None = None
    """USD an hour for one GPU; by default a rough rental price."""

    def __call__(self) -> None:
        runs, card = preset(self.preset), planner.gpu(self.gpu)
        card = card if self.price is None else dataclasses.replace(card, price=self.price)
        self._check(runs.tokenizer.batch_size, runs.var.batch_size)
        tok, var = runs.tokenizer.model, runs.var.model
        given = {k: getattr(tok, k) for k in ("sizes", "vocab_size", "code_channels")}
        given["num_classes"] = len(class_names(runs.var.data)) or var.num_classes
        var = dataclasses.replace(var, **given)
        print(
            f"{self.preset} on {self.gpus} x {card.name} ({card.peak / 1e12:.0f} TFLOP/s bf16, "
            f"{card.memory / 1e9:.0f} GB, {card.price:.2f} USD an hour each)"
        )
        stages = (
            self._stage1(runs.tokenizer, card),
            self._stage2(runs.var, tok, var, card),
            _sampling(tok, var),
        )
        for rows in stages:
            print()
            for what, value in rows:
                print(f"  {what:<22}{value}" if value else what)
        print(NOTE)

    def _check(self, *batches: int) -> None:
        if self.gpus < 1:
            raise ValueError(f"gpus is {self.gpus}, expected at least 1")
        for batch in batches:
            if batch % self.gpus:
                raise ValueError(
                    f"{self.gpus} GPUs cannot share a batch of {batch} evenly: choose a divisor of "
                    f"it, for example {math.gcd(self.gpus, batch)}"
                )
        if not 0 < self.utilisation <= 1:
            raise ValueError(f"utilisation is {self.utilisation}, expected a share in (0, 1]")
        if self.price is not None and self.price < 0:
            raise ValueError(f"price is {self.price}, expected USD an hour, 0 or more")

    def _cost(self, count: float, card: GPU, gpus: int | None = None) -> str:
        gpus = gpus or self.gpus
        time = planner.hours(count, card, gpus, self.utilisation)
        spell = f"{time:,.1f} hours ({time / 24:.1f} days)"
        spell = spell if time > 1 else f"{time * 60:.0f} minutes"
        spell += f", {time * gpus:,.0f} GPU hours, {time * gpus * card.price:,.0f} USD"
        return f"{spell} at {self.utilisation:.0%} of the peak"

    def _stage1(self, config: TokenizerTraining, card: GPU) -> Iterator[Row]:
        tok, images = config.model, config.batch_size // self.gpus
        factor = tok.patch * 2 ** (len(tok.multipliers) - 1)
        height, width = size = tuple(side * factor for side in ScaleSchedule(tok.sizes).grids[-1])
        lpips = config.perceptual_network == "lpips"
        yield f"stage 1: tokenizer, {height}x{width} pixels, {tok.vocab_size} codes", ""
        yield "parameters", f"{flops.exact_parameters(tok):,}"
        yield "batch", f"{config.batch_size} images, {images} a GPU"
        step = planner.stage1_flops(tok, size, lpips, config.recompute)
        yield "FLOPs a step", f"{_short(step * config.batch_size)}FLOP"
        yield "training", f"{config.images:,} images: {self._cost(step * config.images, card)}"

    def _stage2(
        self, config: VARTraining, tok: TokenizerConfig, var: VARConfig, card: GPU
    ) -> Iterator[Row]:
        schedule, batch = ScaleSchedule(var.sizes), config.batch_size
        length = schedule.num_tokens
        yield f"stage 2: transformer, depth {var.depth}, width {var.width}, {var.heads} heads", ""
        yield "parameters", f"{flops.exact_parameters(var):,}"
        yield "tokens an image", f"{length} in {len(schedule)} maps"
        share = f"{batch // self.gpus} a GPU in {config.accumulate} part(s)"
        yield "batch", f"{batch} images, {share}, {batch * length:,} tokens"
        steps = f"{config.images // batch:,} steps, {_short(config.images * length)}tokens"
        epoch = IMAGENET_IMAGES if config.data == "imagenet" else 0
        epochs = f", {config.images / epoch:.0f} epochs" if epoch else ""
        yield "length", f"{config.images:,} images, {steps}{epochs}"
        forward = flops.var_flops(var)
        shares = ", ".join(f"{k} {v / sum(forward.values()):.1%}" for k, v in forward.items())
        yield "FLOPs a step", f"{_short(batch * flops.var_training_flops(var))}FLOP ({shares})"
        again = batch * flops.var_training_flops(var, recompute=True)
        yield "", f"{_short(again)}FLOP when blocks are recomputed"
        yield "", ""
        fixed = 4.0 * flops.exact_parameters(tok)
        recompute, gpus = yield from self._ways(config, var, fixed, card)
        cache = (epoch or config.images) * flops.encode_flops(tok)
        yield "token cache, once", self._cost(cache, card)
        total = config.images * flops.var_training_flops(var, recompute=recompute)
        yield "training", self._cost(total, card, gpus) + ", recomputing" * recompute

    def _ways(
        self, config: VARTraining, var: VARConfig, fixed: float, card: GPU
    ) -> Generator[Row, None, tuple[bool, int]]:
        """Memory of each way to run; returns (recomputing, GPUs) of the preset, or what fits."""
        given, room = (var, config.batch_size, self.gpus), USABLE * card.memory
        table = [planner.way_memory(*given, way, config.accumulate, fixed) for way in WAYS]
        sums = [sum(parts.values()) for parts in table]
        fits = [value <= room for value in sums]
        yield "memory a GPU, GB", "".join(f"{planner.way_name(way):>16}" for way in WAYS)
        for part in table[0]:
            yield f"  {part}", "".join(f"{parts[part] / 1e9:>16.2f}" for parts in table)
        yield "  sum", "".join(f"{value / 1e9:>16.2f}" for value in sums)
        told = (f"{'fits' if yes else 'too much':>16}" for yes in fits)
        yield f"  of {room / 1e9:.0f} usable", "".join(told)
        yield "", ""
        own = (config.parallel, config.recompute)
        name = f"the preset's {planner.way_name(own)} in {config.accumulate} part(s)"
        if fits[WAYS.index(own)]:
            others = "; so does ddp" if fits[0] and own != WAYS[0] else ""
            yield "verdict", f"{name} fits{others}"
            return config.recompute, self.gpus
        fit = planner.find_fit(*given, card, fixed)
        if fit is None:
            lost = "does not fit, nor does more sharing: take GPUs with more memory"
            yield "verdict", f"{name} {lost}"
            return config.recompute, self.gpus
        options = f"--parallel {fit.way[0]} --{'' if fit.way[1] else 'no-'}recompute"
        options += f" --accumulate {fit.accumulate}"
        more = f" on {self.gpus} GPU(s); {fit.gpus} do with {options}"
        more = f"; this does: {options}" if fit.gpus == self.gpus else more
        yield "verdict", f"{name} does not fit{more}"
        return fit.way[1], fit.gpus


def _sampling(tok: TokenizerConfig, var: VARConfig) -> Iterator[Row]:
    decoder = flops.decode_flops(tok)
    total = flops.var_sampling_flops(var) + decoder
    yield "sampling, guided", ""
    yield "FLOPs an image", f"{_short(total)}FLOP, decoder {decoder / total:.0%}"
    sizes = (f"{planner.cache_memory(var, n) / 1e9:.2f} GB for {n}" for n in (1, 8, 50))
    yield "key-value cache", f"{', '.join(sizes)} images at once, in bf16"


def _short(number: float) -> str:
    """FLOPs or tokens with a prefix: 3.1e12 -> "3.10 T"."""
    for limit, prefix in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if number >= limit:
            return f"{number / limit:.2f} {prefix}"
    return f"{number:,.0f} "
