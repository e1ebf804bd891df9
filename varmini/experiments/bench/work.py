"""The work that is measured, each in its quick form, the library's default, and its plain form."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ...model.sampler import _Noise, generate, sample
from ...model.tokenizer import MultiScaleVQVAE
from ...model.transformer import VAR
from ...runtime.machine import autocast, device
from ...training import flops as scaling
from . import plain
from .measure import Run
from .peers import diffusers_dit, residual_vq
from .shapes import Shape

PARTS = ("train", "sample", "tokenizer", "peers")
GUIDED = {"cfg": 1.5, "top_k": 900, "top_p": 0.96}
"""How pictures are drawn: as in the official demonstration, or by all codes if there are fewer."""


@dataclass(frozen=True)
class Work:
    """One task: its runs, and what one run does."""

    part: str
    what: str
    batch: int
    unit: str
    """What comes out: "tokens" or "images"."""
    units: int
    """How many of them, a run."""
    runs: dict[str, Run]
    """By variant: "quick", the library's default; "quick, float32"; "plain"; or a peer's name."""
    missing: str = ""
    """Why a peer has no runs."""
    flops: int = 0
    """FLOPs of the quick form, by the formulas of `scaling`."""
    counted: Run | None = None
    """The quick form in float32, of `counted_images` images, for torch's counter."""
    counted_images: int = 1
    weights: int = 0
    """Numbers that must come from memory: all weights, once a scale."""


def works(
    shape: Shape, var: VAR, tok: MultiScaleVQVAE, parts: list[str], batches: list[int]
) -> Iterator[Work]:
    """All work of a shape.

    Args:
        parts: of `PARTS`.
        batches: images drawn, encoded, decoded together.
    """
    if "train" in parts:
        yield training(var, shape.train)
    for batch in batches:
        if "sample" in parts:
            yield sampling(var, tok, batch)
        if "tokenizer" in parts:
            yield from coding(tok, batch)
    if "peers" in parts:
        yield beside_dit(shape, var, tok, min(batches))
        yield beside_residual_vq(shape, tok, min(batches))


def training(var: VAR, batch: int) -> Work:
    """Forward, loss and backward; the optimizer is left out."""
    schedule, c = var.schedule, var.config
    where, tokens = device(), batch * schedule.num_tokens
    labels = torch.randint(c.num_classes, (batch,), device=where)
    rows = schedule.num_tokens - schedule.tokens_per_scale[0]
    inputs = torch.randn(batch, rows, c.code_channels, device=where)
    targets = torch.randint(c.vocab_size, (tokens,), device=where)

    def step(forward: Callable[..., Tensor], quick: bool) -> None:
        with autocast() if quick else torch.autocast(where.type, enabled=False):
            logits = forward(labels, inputs)
        F.cross_entropy(logits.flatten(0, 1), targets).backward()
        var.zero_grad(set_to_none=True)

    runs = {
        "quick": lambda: step(var, True),
        "quick, float32": lambda: step(var, False),
        "plain": lambda: step(lambda *given: plain.forward(var, *given), False),
    }
    flops = batch * scaling.var_training_flops(var.config, computed=True)
    return Work(
        "train", "train", batch, "tokens", tokens, runs,
        flops=flops, counted=runs["quick, float32"], counted_images=batch,
    )  # fmt: skip


def sampling(var: VAR, tok: MultiScaleVQVAE, batch: int) -> Work:
    """Pictures, guided and decoded."""
    labels = [i % var.config.num_classes for i in range(batch)]
    guided = GUIDED | {"top_k": min(GUIDED["top_k"], tok.vocab_size)}
    runs = {
        "quick": lambda: sample(var, tok, labels, seed=0, **guided),
        "plain": lambda: plain.sample(var, tok, labels, seed=0, **guided),
    }
    return Work(
        "sample", "sample", batch, "images", batch, runs,
        flops=batch * (scaling.var_sampling_flops(var.config) + decoded_flops(tok)),
        counted=lambda: sample(var, tok, [0], seed=0, top_k=1),  # greedy drawing is float32
        weights=weights_read(var) + sum(p.numel() for p in tok.decoder.parameters()),
    )  # fmt: skip


def weights_read(var: VAR) -> int:
    """Weights that drawing reads: blocks and head at every scale, the modulations once."""
    every = sum(p.numel() for p in (*var.blocks.parameters(), *var.head.parameters()))
    return len(var.schedule) * every + sum(p.numel() for p in var.modulation.parameters())


def decoded_flops(tok: MultiScaleVQVAE) -> int:
    """FLOPs of decoding one image here: on a CPU, doubling takes 4/9 of the formula's."""
    ups = [x.flops for x in scaling.tokenizer_layers(tok.config)[1] if x.kind == "up"]
    less = 5 * sum(ups) // 9 if device().type == "cpu" else 0
    return scaling.decode_flops(tok.config) - less


def coding(tok: MultiScaleVQVAE, batch: int) -> Iterator[Work]:
    """Encoding and decoding of a batch of pictures."""
    images = torch.rand(batch, tok.config.image_channels, *tok.image_size, device=device()) * 2 - 1
    with torch.no_grad(), autocast():
        tokens = tok.encode(images)

    def quickly(call: Callable, given) -> None:
        with torch.no_grad(), autocast():
            call(given)

    def slowly(call: Callable, given) -> None:
        with torch.no_grad(), torch.autocast(device().type, enabled=False):
            call(given)

    def decode_plainly(maps: list[Tensor]) -> Tensor:
        return plain.decode_features(tok, tok.quantizer.decode(maps))

    one = [t[:1] for t in tokens]
    for what, plainly, given, flops, counted in (
        ("encode", tok.encode, images, scaling.encode_flops(tok.config), images[:1]),
        ("decode", decode_plainly, tokens, decoded_flops(tok), one),
    ):
        quick = getattr(tok, what)
        yield Work(
            "tokenizer", what, batch, "images", batch,
            {
                "quick": lambda q=quick, g=given: quickly(q, g),
                "plain": lambda p=plainly, g=given: slowly(p, g),
            },
            flops=batch * flops,
            counted=lambda q=quick, c=counted: slowly(q, c),
        )  # fmt: skip


def beside_dit(shape: Shape, var: VAR, tok: MultiScaleVQVAE, batch: int) -> Work:
    """Tokens of `batch` pictures against as many latents of diffusers' DiT; neither is decoded."""
    labels = torch.arange(batch, device=device())
    top_k = min(GUIDED["top_k"], tok.vocab_size)

    def draw() -> None:
        noise = _Noise(0, 0, batch, device())
        with torch.no_grad(), autocast():
            for _ in generate(var, tok, labels, GUIDED["cfg"], top_k, GUIDED["top_p"], noise):
                pass

    peer, missing = diffusers_dit(shape, batch)
    runs = {"quick": draw} | peer if peer else {}
    return Work("peers", "draw, not decoded", batch, "images", batch, runs, missing)


def beside_residual_vq(shape: Shape, tok: MultiScaleVQVAE, batch: int) -> Work:
    """Algorithm 1 against the residual VQ of vector-quantize-pytorch: K layers of full size."""
    c = tok.config
    f = torch.randn(batch, c.code_channels, *tok.schedule.grids[-1], device=device())

    def quantize() -> None:
        tok.quantizer.encode(f)

    peer, missing = residual_vq(shape, f.flatten(2).mT.contiguous())
    runs = {"quick": quantize} | peer if peer else {}
    return Work("peers", "quantize", batch, "images", batch, runs, missing)
