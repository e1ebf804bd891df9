"""The generators of the family on the bed: how each is built, trained and drawn from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ... import sample
from ...model.transformer import VAR, VARConfig
from ...zoo.generators.family import GENERATORS, build
from ...zoo.generators.plain_var import PlainVAR
from .bed import Codes
from .tokenizers import LIVE

GRID = (0.5, 1.0, 2.0)
"""Learning rates that are tried first, in units of `LR`; the grid grows past a best end."""
LR, MUON = 2e-3, 10.0
"""AdamW's peak learning rate, and Muon's in units of it."""
GUIDANCE = (1.0, 1.5, 2.0, 3.0, 4.5)
"""Guidance s of u + s (c - u) that is tried first, 1 is none; VAR's ramps up over the scales."""
TOP_P, TOP_K = 0.96, 900 / 4096
"""The paper's filters, top-k as a share of the vocabulary, for those that draw
codes in order; colours and halves of tokens are too few for top-k."""


@dataclass(frozen=True)
class Method:
    """A generator on the bed; the shape makes its parameters alike with VAR's, within 10 %."""

    title: str
    shape: dict[str, Any] = field(default_factory=dict)
    """Fields of its configuration."""
    drawings: dict[str, dict[str, Any]] = field(default_factory=lambda: {"": {}})
    """Ways to draw, each with options of `draw`."""
    filtered: bool = False
    """Whether `draw` takes top_k and top_p."""
    scale: float = 1.0
    """Best learning rate of grid.csv, in units of `LR`."""
    guidance: float = 3.0
    """Best guidance of guidance.csv, of the first drawing."""
    seeds: int = 3
    """Seeds that are trained; five where something is claimed."""


NO_FILTER = {"no filter": {"top_k": 0, "top_p": 0.0}}
METHODS = {
    "var": Method("VAR", filtered=True, seeds=5, scale=2.0),
    "raster-ar": Method("raster AR", filtered=True, seeds=5, scale=2.0, guidance=2.0,
                        drawings={"": {}, "no cache": {"cached": False}, **NO_FILTER}),
    "maskgit": Method("MaskGIT", drawings={"": {"rounds": 8}}, seeds=5),
    "dit": Method("DiT", {"depth": 4}, seeds=5,
                  drawings={"DDIM 25": {"steps": 25}, "DDIM 250": {"steps": 250}}, guidance=1.5),
    "igpt": Method("iGPT", drawings={"": {"top_k": 0}}, filtered=True, scale=2.0, guidance=3.0),
    "raster-ar-ibq": Method("raster AR, IBQ", filtered=True, scale=2.0, guidance=1.5),
    "factorised-ar": Method("raster AR, factorised", {"depth": 5}, drawings={"": {"top_k": 0}},
                            filtered=True, guidance=2.0),
    "rq-transformer": Method("RQ-Transformer", filtered=True, scale=2.0, guidance=2.0),
    "titok-maskgit": Method("MaskGIT, TiTok", drawings={"": {"rounds": 8}}, guidance=1.0),
    "mar": Method("MAR", {"head_depth": 4}, drawings={"": {"rounds": 8}}, guidance=4.5),
    "fractal-ar": Method("FractalAR", {"widths": (128, 112, 64)}, scale=2.0, guidance=3.0),
    "infinity": Method("Infinity", seeds=5, scale=2.0, guidance=2.0),
    "infinity-sc": Method("Infinity, self-correction", seeds=5, scale=2.0),
    # Of the ablation: without AdaLN and q/k normalisation, and with AdaLN alone.
    "var-plain": Method("VAR, no AdaLN", drawings=NO_FILTER, filtered=True, seeds=5, scale=2.0),
    "var-adaln": Method("VAR, no q/k norm", drawings={"": {}, **NO_FILTER}, filtered=True,
                        seeds=5, scale=2.0),
}  # fmt: skip
"""By name."""
COMPARED = tuple(name for name in METHODS if name not in ("var-plain", "var-adaln"))
"""Methods that are compared; the others serve the ablation alone."""
ABLATION = (
    ("raster AR", "raster-ar", "no filter", 1.0),
    ("VAR, no AdaLN", "var-plain", "no filter", 1.0),
    ("+ AdaLN", "var-adaln", "no filter", 1.0),
    ("+ top-k, top-p", "var-adaln", "", 1.0),
    ("+ guidance", "var-adaln", "", None),
    ("+ q/k normalisation", "var", "", None),
)
"""The paper's table 3 as far as a toy has its rows: name, method, drawing, guidance (None: the one
chosen for VAR)."""
LONG = ("dit", "DDIM 250")
"""DiT's own way to draw. It takes long, so its guidance is the one chosen for the short one."""


def tokenizer_of(name: str) -> str:
    """The name of a method's tokenizer; "" for none."""
    return "var" if name.startswith("var") else GENERATORS[name].tokenizer


def new_model(name: str, codes: Codes) -> nn.Module:
    """A method's network with random weights."""
    tok = codes.tokenizer(tokenizer_of(name))
    if not name.startswith("var"):
        model = build(name, tok, num_classes=codes.num_classes, **METHODS[name].shape)
        if hasattr(model, "latent_std"):
            model.latent_std.copy_(codes.load("kl", tok.encode, "train")[0].std())
        return model
    c, cls = LIVE.model, PlainVAR if name == "var-plain" else VAR
    return cls(VARConfig(sizes=c.sizes, vocab_size=c.vocab_size, code_channels=c.code_channels,
                         depth=4, width=128, heads=4, init_gamma=0.1, qk_norm=name == "var",
                         num_classes=codes.num_classes))  # fmt: skip


def codes_of(name: str, codes: Codes, model: nn.Module, split: str) -> tuple[Tensor, Tensor]:
    """What a method learns, and labels: `Codes.load` of its tokenizer, or of itself."""
    kind, member = tokenizer_of(name), GENERATORS.get(name)
    learns = member.learns if member else "encode"
    encode = getattr(codes.tokenizer(kind) or model, learns)
    return codes.load(kind if learns == "encode" else f"{kind}, {learns}", encode, split)


def training_loss(model: nn.Module, x: Tensor, labels: Tensor, tok: nn.Module | None) -> Tensor:
    """The method's own loss on codes as `codes_of` gives them; `tok` serves VAR alone."""
    if not isinstance(model, VAR):
        return model.loss(x, labels)
    inputs = tok.quantizer.teacher_inputs(tok.schedule.unflatten(x))
    return F.cross_entropy(model(labels, inputs).flatten(0, 1), x.flatten())


@torch.no_grad()
def held_out_loss(
    model: nn.Module, x: Tensor, labels: Tensor, tok: nn.Module | None
) -> dict[str, float]:
    """{"val_loss": the mean loss in evaluation mode}, with the same random masks and noises always.

    Comparable within a method alone: cross-entropy a token, or squared error of the noise.
    """
    where, total = next(model.parameters()).device, 0.0
    torch.manual_seed(0)
    for part, y in zip(x.split(100), labels.split(100)):
        value = training_loss(model.eval(), part.to(where), y.to(where), tok)
        total += value.item() * len(part)
    return {"val_loss": total / len(labels)}


def draw_images(
    name: str, model: nn.Module, tok: nn.Module | None, labels: Tensor, *,
    guidance: float, seed: int, **options: Any,
) -> Tensor:  # fmt: skip
    """Draws one batch, (B, 1, 32, 32) in [-1, 1].

    Args:
        guidance: s of u + s (c - u), 1 for none; VAR's own ramps up to it, t = s - 1 at the end.
        options: of the drawing; top_k and top_p replace the paper's.
    """
    if METHODS[name].filtered:
        vocab = getattr(model.config, "vocab_size", 0)
        options = {"top_k": round(vocab * TOP_K), "top_p": TOP_P} | options
    if isinstance(model, VAR):
        return sample(model, tok, labels, cfg=guidance - 1, seed=seed, **options)
    drawn = model.draw(labels, seed=seed, cfg=guidance - 1, **options)
    decode: Callable[[Tensor], Tensor] = (tok or model).decode
    return decode(drawn).float().clamp(-1, 1)
