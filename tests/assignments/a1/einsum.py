"""Means and the convolution as einsum over matrices and shifted copies."""

import torch
import torch.nn.functional as F
from torch import einsum


def windows(n, m):
    matrix = torch.zeros(m, n)
    for i in range(m):
        start, stop = i * n // m, -(-(i + 1) * n // m)
        matrix[i, start:stop] = 1 / (stop - start)
    return matrix


def down(f, size):
    H, W = f.shape[-2:]
    return einsum("ih,bchw,jw->bcij", windows(H, size[0]), f, windows(W, size[1]))


def kernel(n, m):
    eye = torch.eye(n)[None, None]
    return F.interpolate(eye, size=(m, n), mode="bicubic")[0, 0]


def up(codes, size):
    h, w = codes.shape[-2:]
    return einsum("ih,bchw,jw->bcij", kernel(h, size[0]), codes, kernel(w, size[1]))


def phi(h, weight, bias):
    H, W = h.shape[-2:]
    padded = F.pad(h, (1, 1, 1, 1))
    copies = torch.stack(
        [padded[..., i : i + H, j : j + W] for i in range(3) for j in range(3)], -1
    )
    mixed = einsum("bchwn,ocn->bohw", copies, weight.flatten(2)) + bias[:, None, None]
    return torch.lerp(h, mixed, 0.5)


def contribution(codes, size, weight, bias):
    return phi(up(codes, size), weight, bias)


def nearest(z, codebook):
    score = einsum("bchw,vc->bhwv", z, codebook) - einsum("vc,vc->v", codebook, codebook) / 2
    return score.argmax(-1)


def spread(tokens, codebook):
    return einsum("bhwv,vc->bchw", F.one_hot(tokens, len(codebook)).to(codebook), codebook)


def encode(f, codebook, sizes, phis):
    f_hat, tokens = torch.zeros_like(f), []
    for size, pair in zip(sizes, phis):
        tokens.append(nearest(down(f - f_hat, size), codebook))
        f_hat = f_hat + contribution(spread(tokens[-1], codebook), sizes[-1], *pair)
    return tokens


def decode(tokens, codebook, sizes, phis):
    parts = [contribution(spread(t, codebook), sizes[-1], *pair) for t, pair in zip(tokens, phis)]
    return einsum("kbchw->bchw", torch.stack(parts))


def teacher_inputs(tokens, codebook, sizes, phis):
    parts = [contribution(spread(t, codebook), sizes[-1], *pair) for t, pair in zip(tokens, phis)]
    sums = torch.stack(parts).cumsum(0)
    blocks = [down(total, size) for total, size in zip(sums, sizes[1:])]
    return torch.cat([b.permute(0, 2, 3, 1).reshape(len(b), -1, b.shape[1]) for b in blocks], 1)


def quantize(f, codebook, sizes, phis, beta):
    tokens = encode(f, codebook, sizes, phis)
    parts = [contribution(spread(t, codebook), sizes[-1], *pair) for t, pair in zip(tokens, phis)]
    sums = torch.stack(parts).cumsum(0)
    loss = (sums - f.detach()).square().mean() + beta * (sums.detach() - f).square().mean()
    return f + (sums[-1] - f).detach(), loss
