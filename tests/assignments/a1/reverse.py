"""Sums from fine to coarse, adaptive pooling for the means, cdist for the lookup."""

import torch
import torch.nn.functional as F


def down(f, size):
    return F.adaptive_avg_pool2d(f, size)


def up(codes, size):
    return torch.nn.Upsample(size=size, mode="bicubic")(codes)


def phi(h, weight, bias):
    columns = F.unfold(h, 3, padding=1)  # (B, 9 C, H W)
    mixed = weight.flatten(1) @ columns + bias[:, None]
    return (mixed.view_as(h) + h).mul(0.5)


def contribution(codes, size, weight, bias):
    return phi(up(codes, size), weight, bias)


def nearest(z, codebook):
    batch, channels, h, w = z.shape
    rows = z.flatten(2).transpose(1, 2).reshape(-1, channels)
    return torch.cdist(rows, codebook).argmin(1).view(batch, h, w)


def encode(f, codebook, sizes, phis):
    tokens = []
    for k, size in enumerate(sizes):
        rest = f - decode(tokens, codebook, sizes, phis) if tokens else f
        tokens.append(nearest(down(rest, size), codebook))
    return tokens


def decode(tokens, codebook, sizes, phis):
    total = None
    for k in reversed(range(len(tokens))):
        part = contribution(codebook[tokens[k]].permute(0, 3, 1, 2), sizes[-1], *phis[k])
        total = part if total is None else part + total
    return total


def teacher_inputs(tokens, codebook, sizes, phis):
    blocks = []
    for k in reversed(range(1, len(sizes))):
        small = down(decode(tokens[:k], codebook, sizes, phis), sizes[k])
        blocks.insert(0, small.view(*small.shape[:2], -1).permute(0, 2, 1))
    return torch.cat(blocks, 1)


def quantize(f, codebook, sizes, phis, beta):
    tokens = encode(f.detach(), codebook, sizes, phis)
    f_hats = [decode(tokens[:k], codebook, sizes, phis) for k in range(len(sizes), 0, -1)]
    pull = torch.stack([F.mse_loss(f_hat, f.detach()) for f_hat in f_hats]).mean()
    commit = torch.stack([F.mse_loss(f, f_hat.detach()) for f_hat in f_hats]).mean()
    return f - f.detach() + f_hats[0].detach(), pull + beta * commit
