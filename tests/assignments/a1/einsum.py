"""Means as einsum over matrices, tokens as products with the worth of each digit."""

import torch
import torch.nn.functional as F
from torch import einsum


def windows(n, m):
    matrix = torch.zeros(m, n)
    for i in range(m):
        matrix[i, i * n // m : -(-(i + 1) * n // m)] = 1
    return matrix


def down(f, size, known):
    rows, columns = windows(f.shape[2], size[0]), windows(f.shape[3], size[1])
    total = einsum("ih,bchw,bhw,jw->bcij", rows, f, known.to(f), columns)
    count = einsum("ih,bhw,jw->bij", rows, known.to(f), columns)
    return total / count.clamp(min=1)[:, None]


def worth(levels):
    return torch.tensor([*levels[1:], 1]).flip(0).cumprod(0).flip(0)


def to_tokens(z, levels, span):
    top, span = (torch.as_tensor(x).view(-1, 1, 1) for x in (torch.tensor(levels) - 1, span))
    shifted = (z + span) / (2 * span / top)
    numbers = torch.minimum(shifted.round().clamp(min=0), top).long()
    return einsum("bchw,c->bhw", numbers, worth(levels))


def to_codes(tokens, levels, span):
    count = torch.tensor(levels).view(-1, 1, 1)
    numbers = tokens[:, None] // worth(levels).view(-1, 1, 1) % count
    return torch.lerp(-span.view(-1, 1, 1), span.view(-1, 1, 1), numbers / (count - 1))


def grown(tokens, size, levels, span):
    return F.interpolate(to_codes(tokens, levels, span), tuple(size), mode="bicubic")


def decode(tokens, size, levels, spans):
    return torch.stack([grown(t, size, levels, s) for t, s in zip(tokens, spans)]).sum(0)


def encode(f, known, sizes, levels, spans, gain):
    empty = ((torch.tensor(levels) - 1) // 2 * worth(levels)).sum()
    f_hat, tokens = torch.zeros_like(f), []
    left = einsum("bchw,bchw,bhw->b", f, f, known.to(f))
    for size, span in zip(sizes, spans):
        found = to_tokens(down(f - f_hat, size, known), levels, span)
        new = f_hat + grown(found, f.shape[2:], levels, span)
        after = einsum("bchw,bchw,bhw->b", f - new, f - new, known.to(f))
        keep = (left - after) / left > gain
        tokens.append(empty + (found - empty) * keep[:, None, None])
        f_hat = torch.where(keep[:, None, None, None], new, f_hat)
        left = torch.where(keep, after, left)
    return tokens


def sums(tokens, size, levels, spans):
    return torch.stack([grown(t, size, levels, s) for t, s in zip(tokens, spans)]).cumsum(0)


def teacher_inputs(tokens, known, sizes, levels, spans):
    f_hats, found = sums(tokens, known.shape[1:], levels, spans), [[] for _ in known]
    for f_hat, size in zip(f_hats, sizes[1:]):
        small, held = down(f_hat, size, known), F.adaptive_max_pool2d(known.float(), size) > 0
        for rows, block, seen in zip(found, small, held):
            rows.append(block[:, seen].T)
    return [torch.cat(rows) for rows in found]


def quantize(f, known, sizes, levels, spans, gain, beta):
    tokens = encode(f, known, sizes, levels, spans, gain)
    f_hats = sums(tokens, f.shape[2:], levels, spans)
    weight = known[:, None] / (known.sum() * f.shape[1] * len(sizes))
    loss = ((f_hats - f.detach()) ** 2 * weight).sum()
    loss = loss + beta * ((f_hats.detach() - f) ** 2 * weight).sum()
    return f + (f_hats[-1] - f).detach(), loss
