"""Token by token, head by head, in Python loops."""

import math

import torch


def level_ids(sizes):
    ids = []
    for k, (h, w) in enumerate(sizes):
        ids += [k] * (h * w)
    return torch.tensor(ids)


def block_mask(sizes):
    ends, total = [], 0
    for h, w in sizes:
        ends += [total + h * w] * (h * w)
        total += h * w
    mask = torch.zeros(total, total, dtype=torch.bool)
    for i, end in enumerate(ends):
        mask[i, :end] = True
    return mask


def modulate(x, scale, shift):
    out = torch.empty_like(x)
    for b in range(len(x)):
        for i in range(x.shape[1]):
            row = x[b, i]
            centred = row - row.mean()
            normed = centred / torch.sqrt((centred * centred).mean() + 1e-6)
            out[b, i] = normed * (1 + scale[b]) + shift[b]
    return out


def attend(q, k, v, log_scale, mask):
    out = torch.empty(*q.shape[:3], v.shape[-1])
    for b in range(q.shape[0]):
        for head in range(q.shape[1]):
            factor = min(math.exp(float(log_scale[head])), 100.0)
            for i in range(q.shape[2]):
                seen = range(k.shape[2]) if mask is None else mask[i].nonzero().flatten().tolist()
                query = q[b, head, i] / q[b, head, i].norm()
                keys = [k[b, head, j] / k[b, head, j].norm() for j in seen]
                weights = torch.stack([factor * (query @ key) for key in keys]).softmax(0)
                out[b, head, i] = sum(p * v[b, head, j] for p, j in zip(weights, seen))
    return out


def parts(x, p):
    w, heads = x.shape[-1], len(p["log_scale"])
    d = w // heads
    q = x @ p["qkv"][:w].T + p["q_bias"]
    k = x @ p["qkv"][w : 2 * w].T
    v = x @ p["qkv"][2 * w :].T + p["v_bias"]
    return [torch.stack([t[..., h * d : h * d + d] for h in range(heads)], 1) for t in (q, k, v)]


def finish(mixed, p):
    return torch.cat(list(mixed.unbind(1)), -1) @ p["proj"].T + p["proj_bias"]


def attention(x, p, mask):
    return finish(attend(*parts(x, p), p["log_scale"], mask), p)


def block(x, condition, p, mask):
    rows = []
    for one, c in zip(x, condition):
        silu = c * torch.sigmoid(c)
        g1, g2, s1, s2, b1, b2 = (p["modulation"] @ silu + p["modulation_bias"]).view(6, -1)
        one = one[None]
        one = one + g1 * attention(modulate(one, s1[None], b1[None]), p, mask)
        hidden = modulate(one, s2[None], b2[None]) @ p["fc1"].T + p["fc1_bias"]
        hidden = torch.nn.GELU("tanh")(hidden)
        rows.append(one + g2 * (hidden @ p["fc2"].T + p["fc2_bias"]))
    return torch.cat(rows)


def embed(start, teacher, p, sizes):
    level, first, out = level_ids(sizes).tolist(), start.shape[1], []
    for i, k in enumerate(level):
        token = start[:, i] if i < first else teacher[:, i - first] @ p["word"].T + p["word_bias"]
        out.append(token + p["position"][0, i] + p["level"][k])
    return torch.stack(out, 1)


def step(x, p, cache):
    q, k, v = parts(x, p)
    cache = (cache or []) + [(k, v)]
    k = torch.cat([one for one, _ in cache], 2)
    v = torch.cat([one for _, one in cache], 2)
    return finish(attend(q, k, v, p["log_scale"], None), p), cache
