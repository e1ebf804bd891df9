"""The cache holds the tokens and their positions and computes all keys anew."""

import math

import torch
import torch.nn.functional as F


def token_table(schedules):
    flat = [(b, k, *size) for b, sizes in enumerate(schedules) for k, size in enumerate(sizes)]
    counts = torch.tensor([h * w for _, _, h, w in flat])
    rows = torch.tensor(flat).repeat_interleave(counts, 0)
    number = torch.arange(len(rows)) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    width = rows[:, 3]
    return torch.stack([rows[:, 0], rows[:, 1], number // width, number % width], 1)


def packed_mask(table):
    picture, level = table.T[:2]
    order = picture * (level.max() + 1)
    return torch.le(order + level, (order + level).view(-1, 1)) & (order >= order.view(-1, 1))


def reach(masks):
    found = torch.eye(len(masks[0]), dtype=torch.float64)
    for mask in masks:
        found = (found + mask.to(found) @ found).clamp(max=1)
    return found.bool()


def leaks(network, x, table):
    seen = torch.zeros(len(x), len(x), dtype=torch.bool)
    for j, other in enumerate(x.repeat(len(x), 1, 1)):
        other[j] *= -2
        seen[:, j] = network(other).sub(network(x)).abs().amax(1) > 0
    return seen.masked_fill(packed_mask(table), False)


def modulate(x, scale, shift, picture):
    one_hot = F.one_hot(picture, len(scale)).to(x)
    squares = (x - x.mean(-1, keepdim=True)).square().mean(-1, keepdim=True)
    normed = (x - x.sum(-1, keepdim=True) / x.shape[-1]) / (squares + 1e-6) ** 0.5
    return normed * (one_hot @ scale + 1) + one_hot @ shift


def rotate(x, at):
    d = x.shape[-1]
    speed = torch.exp(-math.log(100) * torch.arange(0, d, 4) / d)
    angle = torch.outer(at[:, 0], speed), torch.outer(at[:, 1], speed)
    angle = torch.cat(angle, 1).repeat_interleave(2, 1)
    other = torch.stack([-x[..., 1::2], x[..., ::2]], -1).reshape(x.shape)
    return x * angle.cos() + other * angle.sin()


def split(x, p, at):
    heads = p["log_scale"].numel()
    d, kv = x.shape[-1] // heads, len(p["v_bias"])
    q = F.linear(x, p["qkv"][: -2 * kv], p["q_bias"])
    k, v = F.linear(x, p["qkv"][-2 * kv : -kv]), F.linear(x, p["qkv"][-kv:], p["v_bias"])
    which = torch.arange(heads) // (heads * d // kv)
    q, k, v = (t.unflatten(-1, (-1, d)).swapaxes(-2, -3) for t in (q, k, v))
    k, v = k.index_select(-3, which), v.index_select(-3, which)
    return rotate(F.normalize(q, dim=-1), at), rotate(F.normalize(k, dim=-1), at), v


def mix(q, k, v, p, mask):
    q = q * p["log_scale"].clamp(max=math.log(100)).exp()[:, None, None]
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0)
    return F.linear(mixed.swapaxes(-2, -3).flatten(-2), p["proj"], p["proj_bias"])


def attention(x, p, at, mask):
    return mix(*split(x, p, at), p, mask)


def block(x, shared, p, at, picture, mask):
    gamma1, gamma2, scale1, scale2, shift1, shift2 = shared.add(p["offset"]).swapaxes(0, 1)
    branch = attention(modulate(x, scale1, shift1, picture), p, at, mask)
    x = torch.addcmul(x, gamma1[picture], branch)
    hidden = F.linear(modulate(x, scale2, shift2, picture), p["fc1"], p["fc1_bias"])
    cubic = math.sqrt(2 / math.pi) * (hidden + 0.044715 * hidden**3)
    hidden = 0.5 * hidden * (1 + cubic.tanh())
    return x + gamma2[picture] * F.linear(hidden, p["fc2"], p["fc2_bias"])


def step(x, keep, at, p, cache):
    if cache is None:
        seen, places = x, at
    else:
        seen, places = torch.cat([cache[0][keep], x], 1), torch.cat([cache[1], at])
    q = split(x, p, at)[0]
    _, k, v = split(seen, p, places)
    return mix(q, k, v, p, None), (seen, places)
