"""`varmini plan`: what a preset needs on rented GPUs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from ..data import class_names
from ..model.scales import ScaleSchedule
from ..model.tokenizer import TokenizerConfig
from ..model.transformer import VARConfig
from ..training.flops import (
    decode_flops,
    encode_flops,
    exact_parameters,
    paper_parameters,
    var_flops,
    var_sampling_flops,
    var_training_flops,
    visible_pairs,
)
from ..training.planner import (
    GPU,
    GPUS,
    USABLE,
    UTILISATION,
    WAYS,
    Fit,
    cache_memory,
    find_fit,
    gpu,
    hours,
    perceptual_memory,
    stage1_flops,
    tokenizer_memory,
    way_memory,
    way_name,
)
from ..training.presets import IMAGENET_IMAGES, PRESETS, Preset, preset
from .main import parse


@dataclass(frozen=True)
class Plan:
    """Parameters, FLOPs, memory, hours and cost of a preset, without running it."""

    preset: Annotated[
        str,
        tyro.conf.Positional,
        tyro.conf.arg(metavar="PRESET", help=f"One of {', '.join(PRESETS)}."),
    ]
    gpus: int = 8
    """GPUs that share a batch."""
    gpu: Annotated[str, tyro.conf.arg(help=f"Their kind: {', '.join(GPUS)}.")] = "h100"
    utilisation: float = UTILISATION
    """Share of the peak bf16 FLOP/s reached; by default what the official d16 run tells."""
    price: float | None = None
    """USD an hour for one GPU; by default a rough rental price."""


def plan(args: Sequence[str], prog: str) -> None:
    """`varmini plan`."""
    o = parse(Plan, args, prog)
    runs, card = preset(o.preset), gpu(o.gpu)
    if o.gpus < 1:
        raise ValueError(f"gpus is {o.gpus}, expected at least 1")
    for stage in (runs.tokenizer, runs.var):
        if stage.batch_size % o.gpus:
            raise ValueError(
                f"{o.gpus} GPUs cannot share a batch of {stage.batch_size} evenly: choose a "
                f"divisor of it, for example {math.gcd(o.gpus, stage.batch_size)}"
            )
    if not 0 < o.utilisation <= 1:
        raise ValueError(f"utilisation is {o.utilisation}, expected a share in (0, 1]")
    if o.price is not None and o.price < 0:
        raise ValueError(f"price is {o.price}, expected USD an hour, 0 or more")
    card = card if o.price is None else dataclasses.replace(card, price=o.price)
    print("\n".join(_lines(o, runs, card)))


def _lines(o: Plan, runs: Preset, card: GPU) -> Iterator[str]:
    tok = runs.tokenizer.model
    model = dataclasses.replace(
        runs.var.model,
        sizes=tok.sizes,
        vocab_size=tok.vocab_size,
        code_channels=tok.code_channels,
        num_classes=len(class_names(runs.var.data)) or runs.var.model.num_classes,
    )
    yield (
        f"{o.preset} on {o.gpus} x {card.name} ({card.peak / 1e12:.0f} TFLOP/s bf16, "
        f"{card.memory / 1e9:.0f} GB, {card.price:.2f} USD an hour each)"
    )
    yield from _stage1(o, runs, tok, card)
    yield from _stage2(o, runs, tok, model, card)
    yield from _sampling(model, tok)
    yield ""
    yield "Counted from formulas, not measured. Times hold at the stated utilisation and leave out"
    yield "data, evaluation and restarts; communication between GPUs is part of the utilisation."


def _row(name: str, text: str) -> str:
    return f"  {name:<22}{text}"


def _billions(number: float) -> str:
    """FLOPs or parameters with a prefix: 3.1e12 -> "3.10 T"."""
    for limit, prefix in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if number >= limit:
            return f"{number / limit:.2f} {prefix}"
    return f"{number:,.0f} "


def _cost(flops: float, o: Plan, card: GPU) -> str:
    time = hours(flops, card, o.gpus, o.utilisation)
    spell = f"{time:,.1f} hours ({time / 24:.1f} days)" if time > 1 else f"{time * 60:.0f} minutes"
    return (
        f"{spell}, {time * o.gpus:,.0f} GPU hours, "
        f"{time * o.gpus * card.price:,.0f} USD at {o.utilisation:.0%} of the peak"
    )


def _stage1(o: Plan, runs: Preset, tok: TokenizerConfig, card: GPU) -> Iterator[str]:
    config, h_w = runs.tokenizer, ScaleSchedule(tok.sizes).grids[-1]
    factor = tok.patch * 2 ** (len(tok.multipliers) - 1)
    size = (h_w[0] * factor, h_w[1] * factor)
    images = config.batch_size // o.gpus
    lpips = config.perceptual_network == "lpips"
    yield ""
    yield f"stage 1: tokenizer, {size[0]}x{size[1]} pixels, {tok.vocab_size} codes"
    yield _row("parameters", f"{exact_parameters(tok):,}")
    yield _row("batch", f"{config.batch_size} images, {images} a GPU")
    step = stage1_flops(tok, size, lpips, config.recompute)
    yield _row("FLOPs a step", f"{_billions(step * config.batch_size)}FLOP")
    needs = {}
    for recompute in (False, True):
        parts = {}
        for count in (0, images):
            parts = tokenizer_memory(tok, count, recompute=recompute)
            if lpips:
                parts["perceptual (estimate)"] = perceptual_memory(size, count)
            needs[recompute, count] = sum(parts.values())
        name = "memory, recomputing" if recompute else "memory a GPU"
        shares = ", ".join(f"{part} {value / 1e9:.1f}" for part, value in parts.items())
        yield _row(name, f"{needs[recompute, images] / 1e9:.1f} GB: {shares}")
    fixed, need = (needs[config.recompute, count] for count in (0, images))
    room = USABLE * card.memory
    most = max(0, int((room - fixed) / (need - fixed) * images))
    name = f"the preset, {'' if config.recompute else 'not '}recomputing,"
    verdict = f"{name} does not fit; --batch-size {o.gpus * most} does, {most} a GPU"
    if need <= room:
        verdict = f"{name} fits"
    elif not most:
        verdict = f"{name} does not fit, nor does one image: take GPUs with more memory"
    yield _row("verdict", verdict)
    length = f"{config.images:,} images: "
    yield _row("training", length + _cost(step * config.images, o, card))


def _stage2(
    o: Plan, runs: Preset, tok: TokenizerConfig, model: VARConfig, card: GPU
) -> Iterator[str]:
    config, schedule = runs.var, ScaleSchedule(model.sizes)
    length, pairs = schedule.num_tokens, visible_pairs(schedule)
    accumulate, batch = config.accumulate, config.batch_size
    yield ""
    yield f"stage 2: transformer, depth {model.depth}, width {model.width}, {model.heads} heads"
    yield _row("parameters", f"{exact_parameters(model):,}")
    if model.width == 64 * model.depth:
        rule = "12 d w^2" if model.shared_adaln else "18 d w^2"
        formula = paper_parameters(model.depth, model.shared_adaln)
        yield _row("", f"{formula:,} by the paper's {rule}, the blocks' matrices alone")
    yield _row("tokens an image", f"{length} in {len(schedule)} maps")
    yield _row(
        "attention", f"{pairs:,} of {length**2:,} query-key pairs visible ({pairs / length**2:.0%})"
    )
    yield _row(
        "batch",
        f"{batch} images, {batch // o.gpus} a GPU in {accumulate} part(s), "
        f"{batch * length:,} tokens",
    )
    yield _row(
        "length",
        f"{config.images:,} images, {config.images // batch:,} steps, "
        f"{_billions(config.images * length)}tokens"
        + (f", {config.images / IMAGENET_IMAGES:.0f} epochs" if config.data == "imagenet" else ""),
    )
    forward = var_flops(model)
    shares = ", ".join(f"{k} {v / sum(forward.values()):.1%}" for k, v in forward.items())
    yield _row("FLOPs a step", f"{_billions(batch * var_training_flops(model))}FLOP ({shares})")
    again = batch * var_training_flops(model, recompute=True)
    yield _row("", f"{_billions(again)}FLOP when blocks are recomputed")
    yield ""
    fixed = 4.0 * exact_parameters(tok)
    table = [way_memory(model, batch, o.gpus, way, accumulate, fixed) for way in WAYS]
    yield _row("memory a GPU, GB", "".join(f"{way_name(way):>16}" for way in WAYS))
    for part in table[0]:
        yield _row(f"  {part}", "".join(f"{parts[part] / 1e9:>16.2f}" for parts in table))
    sums = [sum(parts.values()) for parts in table]
    yield _row("  sum", "".join(f"{value / 1e9:>16.2f}" for value in sums))
    fits = [value <= USABLE * card.memory for value in sums]
    usable = f"  of {USABLE * card.memory / 1e9:.0f} usable"
    yield _row(usable, "".join(f"{'fits' if yes else 'too much':>16}" for yes in fits))
    yield ""
    own = (config.parallel, config.recompute)
    fits_own = fits[WAYS.index(own)]
    fit = None if fits_own else find_fit(model, batch, o.gpus, card, fixed)
    yield _row("verdict", _verdict(o, accumulate, own, fits_own, fits[0], fit))
    epoch = IMAGENET_IMAGES if config.data == "imagenet" else config.images
    yield _row("token cache, once", _cost(epoch * encode_flops(tok), o, card))
    recompute = fit.way[1] if fit else config.recompute
    total = config.images * var_training_flops(model, recompute=recompute)
    there = dataclasses.replace(o, gpus=fit.gpus) if fit else o
    yield _row("training", _cost(total, there, card) + (", recomputing" if recompute else ""))


def _verdict(o: Plan, accumulate: int, own, fits_own: bool, plain: bool, fit: Fit | None) -> str:
    name = f"the preset's {way_name(own)} in {accumulate} part(s)"
    if fits_own:
        return f"{name} fits" + ("; so does ddp" if plain and own != WAYS[0] else "")
    if fit is None:
        return f"{name} does not fit, nor does more sharing: take GPUs with more memory"
    options = f"--parallel {fit.way[0]} --{'' if fit.way[1] else 'no-'}recompute"
    options += f" --accumulate {fit.accumulate}"
    if fit.gpus == o.gpus:
        return f"{name} does not fit; this does: {options}"
    return f"{name} does not fit on {o.gpus} GPU(s); {fit.gpus} do with {options}"


def _sampling(model: VARConfig, tok: TokenizerConfig) -> Iterator[str]:
    flops = var_sampling_flops(model) + decode_flops(tok)
    yield ""
    yield "sampling, guided"
    yield _row("FLOPs an image", f"{_billions(flops)}FLOP, decoder {decode_flops(tok) / flops:.0%}")
    sizes = ", ".join(f"{cache_memory(model, n) / 1e9:.2f} GB for {n}" for n in (1, 8, 50))
    yield _row("key-value cache", f"{sizes} images at once, in bf16")
