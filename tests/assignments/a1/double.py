"""All arithmetic in float64; the results stay float64."""

import torch
import torch.nn.functional as F


def down(f, size):
    return F.interpolate(f.double(), size=size, mode="area")


def up(codes, size):
    return F.interpolate(codes.double(), size=size, mode="bicubic", align_corners=False)


def phi(h, weight, bias):
    h = h.double()
    return (h + F.conv2d(h, weight.double(), bias.double(), padding=1)) / 2


def contribution(codes, size, weight, bias):
    return phi(up(codes, size), weight, bias)


def nearest(z, codebook):
    gaps = z.double().permute(0, 2, 3, 1).unsqueeze(-2) - codebook.double()
    return gaps.pow(2).sum(-1).min(-1).indices


def encode(f, codebook, sizes, phis):
    rest, tokens = f.double(), []
    for size, pair in zip(sizes, phis):
        tokens.append(nearest(down(rest, size), codebook))
        codes = F.embedding(tokens[-1], codebook.double()).permute(0, 3, 1, 2)
        rest = rest - contribution(codes, sizes[-1], *pair)
    return tuple(tokens)


def decode(tokens, codebook, sizes, phis):
    codes = [F.embedding(t, codebook.double()).permute(0, 3, 1, 2) for t in tokens]
    return sum(contribution(e, sizes[-1], *pair) for e, pair in zip(codes, phis))


def teacher_inputs(tokens, codebook, sizes, phis):
    f_hat, blocks = 0, []
    for k in range(len(sizes) - 1):
        f_hat = f_hat + decode_one(tokens, k, codebook, sizes, phis)
        blocks.append(down(f_hat, sizes[k + 1]).flatten(2).mT)
    return torch.cat(blocks, 1)


def decode_one(tokens, k, codebook, sizes, phis):
    codes = F.embedding(tokens[k], codebook.double()).permute(0, 3, 1, 2)
    return contribution(codes, sizes[-1], *phis[k])


def quantize(f, codebook, sizes, phis, beta):
    tokens, wide = encode(f, codebook, sizes, phis), f.double()
    f_hat, loss = 0, 0
    for k in range(len(sizes)):
        f_hat = f_hat + decode_one(tokens, k, codebook, sizes, phis)
        loss = loss + (f_hat - wide.detach()).pow(2).mean()
        loss = loss + beta * (wide - f_hat.detach()).pow(2).mean()
    return wide + (f_hat - wide).detach(), loss / len(sizes)
