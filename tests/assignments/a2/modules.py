"""Classes behind the names; rotations as complex numbers; groups as a dimension of their own."""

from __future__ import annotations

import math
from itertools import product

import torch
from torch import Tensor, nn


def token_table(schedules) -> Tensor:
    parts = []
    for b, sizes in enumerate(schedules):
        for k, size in enumerate(sizes):
            cells = torch.tensor(list(product(*map(range, size))))
            parts.append(torch.cat([torch.tensor([[b, k]]).expand(len(cells), 2), cells], 1))
    return torch.cat(parts)


def packed_mask(table: Tensor) -> Tensor:
    difference = table[:, None, :2] - table[None, :, :2]
    return difference[..., 0].eq(0) & difference[..., 1].ge(0)


def reach(masks: list[Tensor]) -> Tensor:
    eye = torch.eye(len(masks[0]))
    whole = torch.linalg.multi_dot([eye, *(mask + eye for mask in reversed(masks)), eye])
    return whole > 0


def leaks(network, x: Tensor, table: Tensor) -> Tensor:
    others = x.repeat(len(x), 1, 1) + torch.eye(len(x)).unsqueeze(2)
    changed = torch.stack([network(one) for one in others]).ne(network(x))  # (inputs, outputs, w)
    return changed.any(2).T.logical_and(packed_mask(table).logical_not())


Cache = tuple[list[Tensor], list[Tensor]]


class AdaptiveNorm(nn.LayerNorm):
    def __init__(self, width: int) -> None:
        super().__init__(width, eps=1e-6, elementwise_affine=False)

    def forward(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        return torch.addcmul(shift, super().forward(x), scale.add(1))


def modulate(x: Tensor, scale: Tensor, shift: Tensor, picture: Tensor) -> Tensor:
    own = (part.index_select(0, picture) for part in (scale, shift))
    return AdaptiveNorm(x.shape[-1])(x, *own)


def rotate(x: Tensor, at: Tensor) -> Tensor:
    quarter = x.shape[-1] // 4
    speed = torch.logspace(0, -2, quarter + 1)[:-1]
    angle = (at[:, :, None] * speed).flatten(1)
    pairs = torch.view_as_complex(x.contiguous().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * torch.exp(1j * angle)).flatten(-2)


class Attention:
    def __init__(self, p: dict[str, Tensor]) -> None:
        self.p, self.heads = p, len(p["log_scale"])
        self.d = len(p["q_bias"]) // self.heads
        self.groups = len(p["v_bias"]) // self.d

    def split(self, x: Tensor, at: Tensor) -> tuple[Tensor, ...]:
        bias = torch.cat([self.p["q_bias"], 0 * self.p["v_bias"], self.p["v_bias"]])
        rows = nn.functional.linear(x, self.p["qkv"], bias)
        parts = rows.unflatten(-1, (-1, self.d)).movedim(-2, -3)
        q, k, v = parts.split([self.heads, self.groups, self.groups], dim=-3)
        unit = [rotate(part / part.norm(dim=-1, keepdim=True), at) for part in (q, k)]
        return unit[0].unflatten(-3, (self.groups, -1)), unit[1], v

    def mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        ceiling = torch.full((self.heads,), math.log(100))
        factor = torch.minimum(self.p["log_scale"], ceiling).exp().view(self.groups, -1, 1, 1)
        scores = q @ k.unsqueeze(-3).mT * factor
        if mask is not None:
            scores = torch.where(mask, scores, -torch.inf)
        weights = torch.exp(scores - scores.amax(-1, keepdim=True))
        mixed = weights @ v.unsqueeze(-3) / weights.sum(-1, keepdim=True)
        rows = mixed.flatten(-4, -3).movedim(-3, -2).flatten(-2)
        return rows @ self.p["proj"].T + self.p["proj_bias"]


def attention(x: Tensor, p: dict[str, Tensor], at: Tensor, mask: Tensor | None) -> Tensor:
    own = Attention(p)
    return own.mix(*own.split(x, at), mask)


def block(x: Tensor, shared: Tensor, p: dict[str, Tensor], at, picture, mask) -> Tensor:
    width = x.shape[-1]
    six = torch.add(shared, p["offset"]).flatten(1).split(width, dim=1)
    x = x + six[0][picture] * attention(modulate(x, six[2], six[4], picture), p, at, mask)
    first, second = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
    first.weight.data, first.bias.data = p["fc1"], p["fc1_bias"]
    second.weight.data, second.bias.data = p["fc2"], p["fc2_bias"]
    with torch.no_grad():
        feed = nn.Sequential(first, nn.GELU("tanh"), second)(modulate(x, six[3], six[5], picture))
    return x + six[1][picture] * feed


def step(x: Tensor, keep: Tensor, at: Tensor, p, cache: Cache | None) -> tuple[Tensor, Cache]:
    (keys, values), own = cache or ((), ()), Attention(p)
    q, k, v = own.split(x, at)
    keys, values = ([*(one[keep] for one in old), new] for old, new in ((keys, k), (values, v)))
    return own.mix(q, torch.cat(keys, -2), torch.cat(values, -2), None), (keys, values)
