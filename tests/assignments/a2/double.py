"""All arithmetic in float64; the results stay float64."""

import math

import torch
import torch.nn.functional as F


def wide(p):
    return {name: value.double() for name, value in p.items()}


def level_ids(sizes):
    return torch.cat([torch.full((h * w,), k) for k, (h, w) in enumerate(sizes)])


def block_mask(sizes):
    level = level_ids(sizes)
    return ~(level.unsqueeze(1) < level)


def modulate(x, scale, shift):
    normed = F.layer_norm(x.double(), (x.shape[-1],), eps=1e-6)
    return normed + normed * scale.double()[:, None] + shift.double()[:, None]


def attend(q, k, v, log_scale, mask):
    scale = log_scale.double().clamp_max(math.log(100)).exp().view(-1, 1, 1)
    q, k = F.normalize(q.double(), dim=-1) * scale, F.normalize(k.double(), dim=-1)
    return F.scaled_dot_product_attention(q, k, v.double(), attn_mask=mask, scale=1.0)


def parts(x, p):
    heads = len(p["log_scale"])
    q, k, v = (x.double() @ p["qkv"].T).chunk(3, -1)
    rows = (q + p["q_bias"], k, v + p["v_bias"])
    return [t.reshape(*t.shape[:2], heads, -1).permute(0, 2, 1, 3) for t in rows]


def finish(mixed, p):
    joined = mixed.permute(0, 2, 1, 3).reshape(mixed.shape[0], mixed.shape[2], -1)
    return joined @ p["proj"].T + p["proj_bias"]


def attention(x, p, mask):
    p = wide(p)
    return finish(attend(*parts(x, p), p["log_scale"], mask), p)


def block(x, condition, p, mask):
    w = wide(p)
    x = x.double()
    six = F.silu(condition.double()) @ w["modulation"].T + w["modulation_bias"]
    g1, g2, s1, s2, b1, b2 = six[:, None].chunk(6, -1)
    x = x + g1 * attention(modulate(x, s1[:, 0], b1[:, 0]), p, mask)
    hidden = modulate(x, s2[:, 0], b2[:, 0]) @ w["fc1"].T + w["fc1_bias"]
    hidden = F.gelu(hidden, approximate="tanh") @ w["fc2"].T
    return x + g2 * (hidden + w["fc2_bias"])


def embed(start, teacher, p, sizes):
    p = wide(p)
    words = teacher.double() @ p["word"].T + p["word_bias"]
    place = p["position"][0] + F.embedding(level_ids(sizes), p["level"])
    return torch.cat([start.double(), words], 1) + place


def step(x, p, cache):
    p = wide(p)
    q, k, v = parts(x, p)
    cache = torch.stack([k, v]) if cache is None else torch.cat([cache, torch.stack([k, v])], 3)
    return finish(attend(q, *cache, p["log_scale"], None), p), cache
