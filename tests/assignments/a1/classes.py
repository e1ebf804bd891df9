"""Classes, NumPy and an autograd function of its own, kept behind the names that are asked for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn


def down(f: Tensor, size, known: Tensor) -> Tensor:
    pool, part = nn.AdaptiveAvgPool2d(tuple(size)), known.unsqueeze(1)
    share = pool(part.to(f))
    return pool(f.where(part, f.new_zeros(()))) / share.where(share > 0, torch.ones_like(share))


@dataclass
class Grid:
    levels: list
    span: Tensor

    def column(self) -> Tensor:
        return self.span.reshape(-1, 1, 1)

    def numbers(self, z: Tensor) -> np.ndarray:
        """(C, B, h, w)"""
        part = torch.maximum(torch.minimum(z, self.column()), -self.column()) / self.column()
        half = np.array(self.levels).reshape(-1, 1, 1) - 1
        exact = (part.detach().numpy().astype(np.float64) + 1) * half / 2
        return np.rint(exact).astype(np.int64).swapaxes(0, 1)

    def tokens(self, z: Tensor) -> Tensor:
        return torch.from_numpy(np.ravel_multi_index(tuple(self.numbers(z)), self.levels))

    def values(self, tokens: Tensor) -> Tensor:
        found = np.stack(np.unravel_index(tokens.numpy(), self.levels), 1)
        half = (torch.tensor(self.levels).reshape(-1, 1, 1) - 1) / 2
        return (torch.from_numpy(found) - half) / half * self.column()


def to_tokens(z: Tensor, levels, span: Tensor) -> Tensor:
    return Grid(levels, span).tokens(z)


def to_codes(tokens: Tensor, levels, span: Tensor) -> Tensor:
    return Grid(levels, span).values(tokens)


def sums(tokens, size, levels, spans) -> list[Tensor]:
    up, found = nn.Upsample(tuple(size), mode="bicubic"), []
    for span, map_ in zip(spans, tokens):
        share = up(to_codes(map_, levels, span))
        found.append(share + found[-1] if found else share)
    return found


def decode(tokens, size, levels, spans) -> Tensor:
    return sums(tokens, size, levels, spans)[-1]


def squares(x: Tensor, known: Tensor) -> Tensor:
    return torch.stack([one[:, seen].pow(2).sum() for one, seen in zip(x, known)])


def encode(f, known, sizes, levels, spans, gain):
    residual, tokens, nothing = f.detach(), [], torch.zeros(1, len(levels), 1, 1)
    for k, size in enumerate(sizes):
        found = to_tokens(down(residual, size, known), levels, spans[k])
        h = decode([found], f.shape[-2:], levels, spans[[k]])
        left = squares(residual - h, known) / squares(residual, known)
        for b in (left >= 1 - gain).nonzero().flatten().tolist():
            found[b], h[b] = to_tokens(nothing, levels, spans[k]), 0
        tokens.append(found)
        residual = residual - h
    return tokens


def teacher_inputs(tokens, known, sizes, levels, spans):
    f_hats = sums(tokens[:-1], known.shape[1:], levels, spans)
    blocks = [down(s, size, known).flatten(2).mT for s, size in zip(f_hats, sizes[1:])]
    held = [down(known[:, None] * 1.0, size, known).flatten(1) > 0 for size in sizes[1:]]
    return [one[seen] for one, seen in zip(torch.cat(blocks, 1), torch.cat(held, 1))]


class StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx, f: Tensor, f_hat: Tensor) -> Tensor:
        return f_hat.clone()

    @staticmethod
    def backward(ctx, grad: Tensor):
        return grad, None


def quantize(f, known, sizes, levels, spans, gain, beta):
    with torch.no_grad():
        tokens = encode(f, known, sizes, levels, spans, gain)
    f_hats, loss = sums(tokens, f.shape[2:], levels, spans), torch.zeros(())
    for f_hat in f_hats:
        pull = squares(f_hat - f.detach(), known) + beta * squares(f_hat.detach() - f, known)
        loss = loss + pull.sum() / (known.sum() * f.shape[1])
    return StraightThrough.apply(f, f_hats[-1].detach()), loss / len(f_hats)
