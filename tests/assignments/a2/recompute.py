"""The cache holds the tokens themselves and computes all keys anew; keys in reverse order."""

import math

import torch
import torch.nn.functional as F


def level_ids(sizes):
    return torch.tensor(sum(([k] * h * w for k, (h, w) in enumerate(sizes)), []))


def block_mask(sizes):
    level = level_ids(sizes)
    return torch.le(level, level.view(-1, 1))


def modulate(x, scale, shift):
    w = x.shape[-1]
    squares = x.square().mean(-1, keepdim=True) - x.mean(-1, keepdim=True).square()
    normed = (x - x.sum(-1, keepdim=True) / w) / (squares + 1e-6) ** 0.5
    return (normed.transpose(0, 1) * (scale + 1) + shift).transpose(0, 1)


def attend(q, k, v, log_scale, mask):
    q = F.normalize(q, dim=-1) * log_scale.clamp(max=math.log(100)).exp()[:, None, None]
    k = F.normalize(k, dim=-1)
    scores = (k.flip(2) @ q.mT).mT  # the order of the keys does not matter
    if mask is not None:
        scores = scores.masked_fill(mask.flip(1) == 0, -torch.inf)
    return F.softmax(scores, dim=-1).matmul(v.flip(2))


def split(x, p):
    heads = p["log_scale"].numel()
    q, k, v = torch.split(F.linear(x, p["qkv"]), x.shape[-1], dim=2)
    q, v = q + p["q_bias"], v + p["v_bias"]
    return tuple(t.unflatten(2, (heads, -1)).swapaxes(1, 2) for t in (q, k, v))


def attention(x, p, mask):
    mixed = attend(*split(x, p), p["log_scale"], mask)
    return F.linear(mixed.swapaxes(1, 2).flatten(2), p["proj"], p["proj_bias"])


def block(x, condition, p, mask):
    six = F.linear(F.silu(condition), p["modulation"], p["modulation_bias"])
    gamma1, gamma2, scale1, scale2, shift1, shift2 = six.reshape(len(x), 6, -1).swapaxes(0, 1)
    branch = attention(modulate(x, scale1, shift1), p, mask)
    x = x + torch.einsum("bw,blw->blw", gamma1, branch)
    hidden = F.linear(modulate(x, scale2, shift2), p["fc1"], p["fc1_bias"])
    cubic = math.sqrt(2 / math.pi) * (hidden + 0.044715 * hidden**3)
    hidden = 0.5 * hidden * (1 + cubic.tanh())
    return x + gamma2[:, None] * F.linear(hidden, p["fc2"], p["fc2_bias"])


def embed(start, teacher, p, sizes):
    x = p["position"].repeat(len(start), 1, 1)
    x[:, : start.shape[1]] += start
    x[:, start.shape[1] :] += F.linear(teacher, p["word"], p["word_bias"])
    return x + p["level"][level_ids(sizes)]


def step(x, p, cache):
    seen = x if cache is None else torch.cat([cache, x], 1)
    q, _, _ = split(x, p)
    _, k, v = split(seen, p)
    mixed = attend(q, k, v, p["log_scale"], None)
    return F.linear(mixed.swapaxes(1, 2).flatten(2), p["proj"], p["proj_bias"]), seen
