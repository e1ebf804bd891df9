"""nn.Module and classes behind the names; the mask built from slices; a cache object."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn


def level_ids(sizes: list[tuple[int, int]]) -> Tensor:
    ends = torch.tensor([h * w for h, w in sizes]).cumsum(0)
    return torch.searchsorted(ends, torch.arange(int(ends[-1])), right=True)


def block_mask(sizes: list[tuple[int, int]]) -> Tensor:
    blocks = [torch.ones(h * w, h * w, dtype=torch.bool) for h, w in sizes]
    inside, start = torch.block_diag(*blocks).bool(), 0
    for h, w in sizes:
        inside[start : start + h * w, :start] = True
        start += h * w
    return inside


class AdaptiveNorm(nn.LayerNorm):
    def __init__(self, width: int) -> None:
        super().__init__(width, eps=1e-6, elementwise_affine=False)

    def forward(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        return super().forward(x).mul(scale.add(1).unsqueeze(1)).add(shift.unsqueeze(1))


def modulate(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return AdaptiveNorm(x.shape[-1])(x, scale, shift)


def attend(q: Tensor, k: Tensor, v: Tensor, log_scale: Tensor, mask: Tensor | None) -> Tensor:
    cosine = nn.functional.cosine_similarity(q.unsqueeze(3), k.unsqueeze(2), dim=-1)
    ceiling = torch.full_like(log_scale, math.log(100))
    scores = cosine * torch.minimum(log_scale, ceiling).exp().reshape(-1, 1, 1)
    if mask is not None:
        scores = torch.where(mask, scores, -torch.inf)
    weights = torch.exp(scores - scores.amax(-1, keepdim=True))
    return weights @ v / weights.sum(-1, keepdim=True)


@dataclass
class Cache:
    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)


class Attention:
    def __init__(self, p: dict[str, Tensor]) -> None:
        self.p, self.heads = p, len(p["log_scale"])

    def split(self, x: Tensor) -> tuple[Tensor, ...]:
        bias = torch.cat([self.p["q_bias"], 0 * self.p["q_bias"], self.p["v_bias"]])
        rows = nn.functional.linear(x, self.p["qkv"], bias)
        return tuple(rows.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4))

    def join(self, mixed: Tensor) -> Tensor:
        rows = mixed.movedim(1, 2).flatten(2)
        return torch.addmm(self.p["proj_bias"], rows.flatten(0, 1), self.p["proj"].T).view_as(rows)

    def __call__(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return self.join(attend(*self.split(x), self.p["log_scale"], mask))


def attention(x: Tensor, p: dict[str, Tensor], mask: Tensor | None) -> Tensor:
    return Attention(p)(x, mask)


def block(x: Tensor, condition: Tensor, p: dict[str, Tensor], mask: Tensor | None) -> Tensor:
    width = x.shape[-1]
    linear = nn.Linear(width, 6 * width)
    linear.weight.data, linear.bias.data = p["modulation"], p["modulation_bias"]
    with torch.no_grad():
        six = nn.Sequential(nn.SiLU(), linear)(condition)
    six = [six[:, i * width : (i + 1) * width] for i in range(6)]
    x = x + six[0][:, None] * attention(modulate(x, six[2], six[4]), p, mask)
    hidden = nn.functional.linear(modulate(x, six[3], six[5]), p["fc1"], p["fc1_bias"])
    hidden = nn.functional.gelu(hidden, approximate="tanh")
    return x + six[1][:, None] * nn.functional.linear(hidden, p["fc2"], p["fc2_bias"])


def embed(start: Tensor, teacher: Tensor, p: dict[str, Tensor], sizes) -> Tensor:
    place = p["position"] + p["level"].index_select(0, level_ids(sizes))
    first = start.shape[1]
    words = nn.functional.linear(teacher, p["word"], p["word_bias"])
    return torch.cat([start + place[:, :first], words + place[:, first:]], 1)


def step(x: Tensor, p: dict[str, Tensor], cache: Cache | None) -> tuple[Tensor, Cache]:
    cache, own = cache or Cache(), Attention(p)
    q, k, v = own.split(x)
    cache.keys.append(k)
    cache.values.append(v)
    mixed = attend(q, torch.cat(cache.keys, 2), torch.cat(cache.values, 2), p["log_scale"], None)
    return own.join(mixed), cache
