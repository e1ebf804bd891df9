"""Token by token, head by head, in Python loops; leaks by changing one input after the other."""

import math

import torch


def token_table(schedules):
    rows = []
    for b, sizes in enumerate(schedules):
        for k, (h, w) in enumerate(sizes):
            for i in range(h * w):
                rows.append([b, k, i // w, i - i // w * w])
    return torch.tensor(rows)


def packed_mask(table):
    rows = table.tolist()
    return torch.tensor([[a[0] == b[0] and b[1] <= a[1] for b in rows] for a in rows])


def reach(masks):
    known = [{i} for i in range(len(masks[0]))]
    for mask in masks:
        known = [
            set.union(known[i], *(known[j] for j in mask[i].nonzero().flatten().tolist()))
            for i in range(len(mask))
        ]
    found = torch.zeros_like(masks[0])
    for i, inputs in enumerate(known):
        found[i, sorted(inputs)] = True
    return found


def leaks(network, x, table):
    allowed, found = packed_mask(table), torch.zeros(len(x), len(x), dtype=torch.bool)
    for j in range(len(x)):
        other = x.clone()
        other[j, 0] += 1
        found[:, j] = ((network(other) - network(x)).abs() > 0).any(1)
    return found & ~allowed


def modulate(x, scale, shift, picture):
    out = torch.empty_like(x)
    for i, b in enumerate(picture.tolist()):
        centred = x[i] - x[i].mean()
        normed = centred / torch.sqrt((centred * centred).mean() + 1e-6)
        out[i] = normed * (1 + scale[b]) + shift[b]
    return out


def rotate(x, at):
    out, d = x.clone(), x.shape[-1]
    for token, place in enumerate(at.tolist()):
        for i in range(d // 2):
            axis, number = divmod(i, d // 4)
            angle = place[axis] / 100 ** (4 * number / d)
            a, b = x[..., token, 2 * i], x[..., token, 2 * i + 1]
            out[..., token, 2 * i] = a * math.cos(angle) - b * math.sin(angle)
            out[..., token, 2 * i + 1] = a * math.sin(angle) + b * math.cos(angle)
    return out


def one_head(q, k, v, log_scale, mask):  # (l, d), (m, d), (m, d)
    factor, rows = min(math.exp(float(log_scale)), 100.0), []
    for i in range(len(q)):
        seen = range(len(k)) if mask is None else mask[i].nonzero().flatten().tolist()
        weights = torch.stack([factor * (q[i] @ k[j]) for j in seen]).softmax(0)
        rows.append(sum(p * v[j] for p, j in zip(weights, seen)))
    return torch.stack(rows)


def parts(x, p, at):  # of one sequence (L, w): lists of queries, keys and values
    w, heads = x.shape[-1], len(p["log_scale"])
    d, groups = w // heads, len(p["v_bias"]) // (w // heads)
    rows = x @ p["qkv"].T
    q, k, v = rows[:, :w] + p["q_bias"], rows[:, w : w + groups * d], rows[:, w + groups * d :]
    found = []
    for part, count in ((q, heads), (k, groups), (v + p["v_bias"], groups)):
        found.append([part[:, i * d : i * d + d] for i in range(count)])
    for part in found[:2]:
        part[:] = [rotate(one / one.norm(dim=1, keepdim=True), at) for one in part]
    return found


def mixed(q, k, v, p, mask):
    n, sigma = len(q) // len(k), p["log_scale"]
    out = [one_head(one, k[i // n], v[i // n], sigma[i], mask) for i, one in enumerate(q)]
    return torch.cat(out, 1) @ p["proj"].T + p["proj_bias"]


def attention(x, p, at, mask):
    if x.ndim > 2:
        return torch.stack([attention(one, p, at, mask) for one in x])
    return mixed(*parts(x, p, at), p, mask)


def block(x, shared, p, at, picture, mask):
    g1, g2, s1, s2, b1, b2 = [shared[:, i] + p["offset"][i] for i in range(6)]
    branch = attention(modulate(x, s1, b1, picture), p, at, mask)
    x = torch.stack([x[i] + g1[b] * branch[i] for i, b in enumerate(picture)])
    hidden = modulate(x, s2, b2, picture) @ p["fc1"].T + p["fc1_bias"]
    hidden = torch.nn.GELU("tanh")(hidden) @ p["fc2"].T + p["fc2_bias"]
    return torch.stack([x[i] + g2[b] * hidden[i] for i, b in enumerate(picture)])


def step(x, keep, at, p, cache):
    out, new = [], []
    for b in range(len(x)):
        q, k, v = parts(x[b], p, at)
        if cache is not None:
            before = cache[int(keep[b])]
            k = [torch.cat(pair) for pair in zip(before[0], k)]
            v = [torch.cat(pair) for pair in zip(before[1], v)]
        new.append((k, v))
        out.append(mixed(q, k, v, p, None))
    return torch.stack(out), new
