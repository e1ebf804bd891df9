"""Everything place by place, in Python loops."""

import math

import torch
import torch.nn.functional as F


def down(f, size):
    (h, w), (H, W) = size, f.shape[2:]
    out = torch.zeros(*f.shape[:2], h, w)
    for i in range(h):
        rows = range(math.floor(i * H / h), math.ceil((i + 1) * H / h))
        for j in range(w):
            columns = range(math.floor(j * W / w), math.ceil((j + 1) * W / w))
            out[:, :, i, j] = sum(f[:, :, r, c] for r in rows for c in columns) / (
                len(rows) * len(columns)
            )
    return out


def up(codes, size):
    images = [F.interpolate(one[None], size=size, mode="bicubic") for one in codes]
    return torch.cat(images)


def phi(h, weight, bias):
    rows = []
    for image in h:
        planes = [
            F.conv2d(image[None], w[None], b[None], padding="same")[0, 0]
            for w, b in zip(weight, bias)
        ]
        rows.append((image + torch.stack(planes)) / 2)
    return torch.stack(rows)


def contribution(codes, size, weight, bias):
    grown = up(codes, size) if tuple(codes.shape[2:]) != tuple(size) else codes
    return phi(grown, weight, bias)


def nearest(z, codebook):
    batch, _, h, w = z.shape
    out = torch.empty(batch, h, w, dtype=torch.long)
    for b in range(batch):
        for i in range(h):
            for j in range(w):
                gaps = [float((z[b, :, i, j] - e).norm()) for e in codebook]
                out[b, i, j] = gaps.index(min(gaps))
    return out


def encode(f, codebook, sizes, phis):
    rest, tokens = f.clone(), []
    for k in range(len(sizes)):
        tokens += [nearest(down(rest, sizes[k]), codebook)]
        codes = codebook[tokens[k]].movedim(-1, 1)
        rest -= contribution(codes, sizes[-1], *phis[k])
    return tokens


def decode(tokens, codebook, sizes, phis):
    total = torch.zeros(len(tokens[0]), codebook.shape[1], *sizes[-1])
    for k, part in enumerate(tokens):
        total = total + contribution(codebook[part].movedim(-1, 1), sizes[-1], *phis[k])
    return total


def teacher_inputs(tokens, codebook, sizes, phis):
    rows = []
    for k in range(1, len(sizes)):
        small = down(decode(tokens[:k], codebook, sizes, phis), sizes[k])
        for i in range(sizes[k][0]):
            for j in range(sizes[k][1]):
                rows.append(small[:, :, i, j])
    return torch.stack(rows, 1)


def quantize(f, codebook, sizes, phis, beta):
    with torch.no_grad():
        tokens = encode(f, codebook, sizes, phis)
    losses = []
    for k in range(len(sizes)):
        f_hat = decode(tokens[: k + 1], codebook, sizes, phis)
        losses.append(((f_hat - f.detach()) ** 2).mean())
        losses.append(beta * ((f_hat.detach() - f) ** 2).mean())
    return f_hat.detach() + f - f.detach(), sum(losses) / len(sizes)
