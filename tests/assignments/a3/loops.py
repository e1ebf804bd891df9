"""Place by place, in Python loops over plain numbers."""

import math

import torch
import torch.nn.functional as F


def guide(cond, uncond, k, num_scales, cfg):
    share = k / (num_scales - 1) if num_scales > 1 else 0
    return cond + cfg * share * (cond - uncond)


def keep_top_k(logits, top_k):
    out = logits.clone()
    if top_k == 0 or top_k >= logits.shape[-1]:
        return out
    for b in range(logits.shape[0]):
        for i in range(logits.shape[1]):
            ranked = sorted(range(logits.shape[2]), key=lambda j: -float(logits[b, i, j]))
            out[b, i, ranked[top_k:]] = -math.inf
    return out


def keep_top_p(logits, top_p):
    out = logits.clone()
    if top_p in (0, 1):
        return out
    for b in range(logits.shape[0]):
        for i in range(logits.shape[1]):
            p = logits[b, i].double().softmax(0).tolist()
            total, kept = 0.0, []
            for j in sorted(range(len(p)), key=lambda j: -p[j]):
                if total >= top_p:
                    break
                kept.append(j)
                total += p[j]
            for j in set(range(len(p))) - set(kept):
                out[b, i, j] = -math.inf
    return out


def draw(logits, uniform):
    tokens = torch.zeros(uniform.shape, dtype=torch.int64)
    for b in range(uniform.shape[0]):
        for i in range(uniform.shape[1]):
            total = 0.0
            for j, p in enumerate(logits[b, i].double().softmax(0).tolist()):
                total += p
                if total > float(uniform[b, i]):
                    tokens[b, i] = j
                    break
    return tokens


def smooth(logits, noise, codebook, k, num_scales):
    rho = k / (num_scales - 1)
    tau = max(0.27 * (1 - 0.95 * rho), 0.005)
    out = torch.zeros(*logits.shape[:2], codebook.shape[1])
    for b in range(logits.shape[0]):
        for i in range(logits.shape[1]):
            weights = ((logits[b, i] * (1 + rho) + noise[b, i]) / tau).softmax(0)
            for weight, code in zip(weights, codebook):
                out[b, i] += weight * code
    return out


def one_map(model, k, x, uniform, cfg, top_k, top_p):
    logits = guide(*model.logits(k, x), k, len(model.sizes), cfg)
    h, w = model.sizes[k]
    return draw(keep_top_p(keep_top_k(logits, top_k), top_p), uniform).reshape(-1, h, w)


def sample(model, uniforms, cfg, top_k, top_p):
    x, added, tokens = None, [], []
    for k in range(len(model.sizes)):
        tokens.append(one_map(model, k, x, uniforms[k], cfg, top_k, top_p))
        added.append(model.contribution(k, model.codebook[tokens[-1]].movedim(-1, 1)))
        if k < len(model.sizes) - 1:
            x = model.next_input(k + 1, sum(added))
    return tokens, sum(added)


def keep_maps(mask, sizes):
    maps = []
    for h, w in sizes:
        keep = torch.zeros(h, w, dtype=torch.bool)
        share = F.interpolate(1 - mask[None, None].float(), (h, w), mode="bilinear")
        for i in range(h):
            for j in range(w):
                keep[i, j] = h * w < 4 or float(share[0, 0, i, j]) > 0.5
        maps.append(keep)
    return maps


def inpaint(model, tokens, mask, uniforms, cfg, top_k, top_p):
    x, added, mixed = None, [], []
    for k, keep in enumerate(keep_maps(mask, model.sizes)):
        drawn = one_map(model, k, x, uniforms[k], cfg, top_k, top_p)
        for b, i, j in torch.cartesian_prod(*map(torch.arange, drawn.shape)).tolist():
            if keep[i, j]:
                drawn[b, i, j] = tokens[k][b, i, j]
        mixed.append(drawn)
        added.append(model.contribution(k, model.codebook[drawn].movedim(-1, 1)))
        if k < len(model.sizes) - 1:
            x = model.next_input(k + 1, sum(added))
    return mixed, sum(added)
