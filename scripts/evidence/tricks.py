"""Changes of CIFAR-10's transformer that `cifar_tricks.py` tries, each with its source."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from varmini import VAR
from varmini.fast.transformer import QuickBlock, gated, norm, split_modulations

BATCH = 16

# What the transformer is taught: (tok, tokens, features, random numbers) -> targets, inputs.


def plain(tok: Any, tokens: Tensor, features: Tensor, rng: torch.Generator) -> tuple:
    """The image's own codes (the paper's)."""
    return tokens, tok.quantizer.teacher_inputs(tok.schedule.unflatten(tokens))


def flipped(tok: Any, tokens: Tensor, features: Tensor, rng: torch.Generator, most=0.3) -> tuple:
    """Up to 30 % of each map become other codes, and later maps code what that leaves over."""
    q, f_hat, maps, inputs = tok.quantizer, torch.zeros_like(features), [], []
    for k, (h, w) in enumerate(q.schedule.grids):
        maps.append(q.lookup_tokens(q.vectors(features - f_hat, k)).view(-1, h, w))
        share = torch.rand(len(features), 1, 1, generator=rng) * most
        flip = torch.rand(maps[-1].shape, generator=rng) < share
        wrong = torch.randint(q.vocab_size, flip.shape, generator=rng)
        with torch.no_grad():
            f_hat = f_hat + q.contribution(k, q.embed(torch.where(flip, wrong, maps[-1])))
        if k + 1 < len(q.schedule):
            inputs.append(q.next_input(f_hat, k + 1))
    return q.schedule.flatten(maps), torch.cat(inputs, 1)


def near_codes(quantizer: Any, tokens: Tensor, share: float, near: int, rng=None) -> Tensor:
    """Tokens (...), `share` of them replaced by one of their `near` nearest other codes."""
    codes = quantizer.codebook.weight.detach()
    nearest = torch.cdist(codes, codes).topk(near + 1, largest=False).indices[:, 1:]
    drawn = nearest[tokens, torch.randint(near, tokens.shape, generator=rng)]
    return torch.where(torch.rand(tokens.shape, generator=rng) < share, drawn, tokens)


def moved(tok: Any, tokens: Tensor, features: Tensor, rng: torch.Generator, near=10) -> tuple:
    """A tenth of the codes are read as one of their nearest; the targets stay the image's."""
    read = near_codes(tok.quantizer, tokens, 0.1, near, rng)
    return plain(tok, tokens, features, rng)[0], plain(tok, read, features, rng)[1]


# What is changed in a quickened model.


def zero(model: VAR) -> None:
    """Every branch begins as nothing."""
    for block in model.blocks:
        nn.init.zeros_(block.attention.proj.weight)
        nn.init.zeros_(block.fc2.weight)


class SquaredReLU(QuickBlock):
    """relu(x)^2 instead of GELU."""

    def forward(self, x, modulation, mask, cache=None, block=0):
        gamma1, gamma2, gain1, gain2, shift1, shift2 = split_modulations(
            modulation[None], x.dtype)[0]  # fmt: skip
        x = gated(x, gamma1, self.attention(norm(x, gain1, shift1), mask, cache, block))
        return gated(x, gamma2, self.fc2(F.relu(self.fc1(norm(x, gain2, shift2))).square()))


def squared(model: VAR) -> None:
    """Puts `SquaredReLU` in."""
    for block in model.blocks:
        block.__class__ = SquaredReLU


def value_residual(model: VAR) -> None:
    """Values of later blocks: v + mix (v_1 - v), with v_1 the first block's, mix = 1/2 at first."""
    first: list[Tensor] = []
    for i, block in enumerate(model.blocks):
        layer = block.attention.qkv
        layer.mix = nn.Parameter(torch.tensor(0.5)) if i else None
        layer.forward = functools.partial(mixed, layer, first)


def mixed(layer: nn.Module, first: list[Tensor], x: Tensor, bias: Tensor) -> Tensor:
    """Queries, keys and values side by side, the values mixed with the first block's."""
    out = type(layer).forward(layer, x, bias)
    q, k, v = out.chunk(3, dim=2)
    if layer.mix is None:
        first[:] = [v]
        return out
    return torch.cat([q, k, v + layer.mix.to(v.dtype) * (first[0] - v)], 2)


class SOAP(torch.optim.Optimizer):
    """Adam in the eigenbases of g g^T and g^T g, which are brought up to date every ten steps."""

    def __init__(self, params: Any, lr: float, weight_decay: float, beta=0.95, every=10) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})
        self.beta, self.every = beta, every

    @torch.no_grad()
    def step(self) -> None:
        """One update; the first only measures, as in the authors' code."""
        for group in self.param_groups:
            for p in group["params"]:
                self._step(p, self.state[p], p.grad.float(), group["lr"], group["weight_decay"])

    def _step(self, p: Tensor, s: dict, g: Tensor, lr: float, weight_decay: float) -> None:
        grams, beta = (g @ g.T, g.T @ g), self.beta
        if not s:
            bases = [torch.linalg.eigh(x).eigenvectors for x in grams]
            s.update(t=0, grams=grams, bases=bases, mean=torch.zeros_like(g),
                     square=torch.zeros_like(g))  # fmt: skip
            return
        s["t"] += 1
        left, right = s["bases"]
        mean = left.T @ s["mean"].lerp_(g, 1 - beta) @ right
        s["square"].lerp_((left.T @ g @ right).square(), 1 - beta)
        update = mean / (s["square"].sqrt() + 1e-8) / (1 - beta ** s["t"]) ** 0.5
        p.mul_(1 - lr * weight_decay).add_(left @ update @ right.T, alpha=-lr)
        for kept, new in zip(s["grams"], grams):
            kept.lerp_(new, 1 - beta)
        if s["t"] % self.every == 0:
            s["bases"] = [torch.linalg.qr(x @ q).Q for x, q in zip(s["grams"], s["bases"])]


class Variant(NamedTuple):
    """One change of the base."""

    change: str
    source: str
    patch: Callable[[VAR], None] = lambda model: None
    teach: Callable[..., tuple[Tensor, Tensor]] = plain
    shape: Any = MappingProxyType({})  # of the model
    recipe: Any = MappingProxyType({})  # of `Training`
    optimizer: str = "muon"
    batches: tuple[int, ...] = (BATCH,)  # images a step, each for an equal share of the images
    epochs: int = 1
    mirrored: str = "at random"
    against: str = "base"


VARIANTS = {
    "base": Variant("", "the sweep's d = 3"),
    "zero": Variant("output projections start at zero", "Jordan et al. 2024", zero),
    "relu2": Variant("relu(x)^2 instead of GELU", "So et al. 2021", squared),
    "value": Variant("values mixed with the first block's", "Zhou et al. 2024", value_residual),
    "batches": Variant("batches of 8 for half the images, then of 32", "Smith et al. 2018",
                       batches=(8, 32)),
    "adamw": Variant("AdamW instead of Muon", "the paper's", recipe={"muon_lr": 0.0}),
    "soap": Variant("SOAP instead of Muon, rate 0.003", "Vyas et al. 2024", optimizer="soap",
                    recipe={"muon_lr": 0.003}),
    "repeated": Variant("a quarter of the images, four times", "control of mirroring", epochs=4),
    "alternating": Variant("the same, mirrored every other time", "Jordan 2024", epochs=4,
                           mirrored="in turn", against="repeated"),
    "flipped": Variant("up to 30 % of the codes flipped, the rest coded anew", "Infinity, 2024",
                       teach=flipped),
    "moved": Variant("a tenth of the input's codes moved to near ones", "RobustTok, 2025",
                     teach=moved),
    "wide": Variant("width 96, fewer images for equal FLOPs", "Hoffmann et al. 2022",
                    shape={"width": 96, "heads": 4}),
}  # fmt: skip
