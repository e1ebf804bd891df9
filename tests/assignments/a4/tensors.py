"""PyTorch instead of NumPy: lstsq in float64, cumulative minima."""

import numpy as np
import torch


def parameters(model):
    w = model["width"]
    one = sum(torch.empty(shape, device="meta").numel()
              for shape in ((3 * w, w), (w, w), (4 * w, w), (w, 4 * w), (6 * w, w)))  # fmt: skip
    return model["depth"] * one


def forward_flops(model):
    n = torch.tensor(model["sizes"]).prod(1)
    w, length = model["width"], int(n.sum())
    per_block = 24 * w * w * length + 12 * w * w + 4 * w * length * length
    edges = model["channels"] * int(n[1:].sum()) + model["vocab"] * length
    return model["depth"] * per_block + 2 * w * edges


def training_flops(model, images):
    return sum(factor * forward_flops(model) * images for factor in (1, 2))


def attention_pairs(sizes):
    n = torch.tensor(sizes).prod(1)
    pairs = torch.outer(n, n).tril()
    return int(pairs.sum()), int(n.cumsum(0).square().sum())


def line(n, loss):
    x, y = (torch.from_numpy(v).log() for v in (n, loss))
    design = torch.stack([x - x.mean(), torch.ones_like(x)], 1)
    slope, height = torch.linalg.lstsq(design, y[:, None]).solution.flatten()
    s = ((y - design @ torch.stack([slope, height])).square().sum() / (len(x) - 2)).sqrt()
    return x, slope, height, s


def fit(n, loss):
    x, slope, height, _ = line(n, loss)
    return slope, torch.exp(height / slope - x.mean())


def interval(n, loss, t):
    x, slope, _, s = line(n, loss)
    half = t * s / (x - x.mean()).norm()
    return slope - half, slope + half


def predict(n, loss, new, t):
    x, slope, height, s = line(n, loss)
    away = np.log(new) - x.mean()
    half = t * s * (1 + 1 / len(x) + (away / (x - x.mean()).norm()) ** 2).sqrt()
    middle = height + slope * away
    return (middle - half).exp(), middle.exp(), (middle + half).exp()


def frontier(flops, loss):
    cost, order = torch.from_numpy(flops).sort()
    values = torch.from_numpy(loss)
    best = values[order].cummin(0).values
    last = torch.searchsorted(cost, torch.from_numpy(flops), right=True) - 1
    return (values <= best[last]).numpy()
