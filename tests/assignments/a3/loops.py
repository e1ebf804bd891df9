"""Token by token, in Python loops over plain numbers."""

import math

import torch


def guide(cond, uncond, k, num_scales, cfg, first):
    out = cond.clone()
    for b in range(len(cond)):
        if k >= int(first[b]):
            out[b] += float(cfg[b]) * k / (num_scales - 1) * (cond[b] - uncond[b])
    return out


def each(logits):
    for b in range(logits.shape[0]):
        for i in range(logits.shape[1]):
            yield b, i, logits[b, i].double().softmax(0).tolist()


def keep_min_p(logits, min_p):
    out = logits.clone()
    for b, i, p in each(logits):
        out[b, i, [j for j in range(len(p)) if p[j] < min_p * max(p)]] = -math.inf
    return out


def keep_typical(logits, mass):
    out = logits.clone()
    if mass >= 1:
        return out
    for b, i, p in each(logits):
        told = [-math.log(x) if x > 0 else math.inf for x in p]
        entropy = sum(x * t for x, t in zip(p, told) if x > 0)
        total, kept = 0.0, set()
        for j in sorted(range(len(p)), key=lambda j: abs(told[j] - entropy)):
            if total >= mass:
                break
            kept.add(j)
            total += p[j]
        out[b, i, list(set(range(len(p))) - kept)] = -math.inf
    return out


def first_above(weights, u):
    total = 0.0
    for j, weight in enumerate(weights):
        total += weight
        if total > u:
            return j
    return max(j for j, weight in enumerate(weights) if weight > 0)


def draw(logits, uniform):
    tokens = torch.zeros(uniform.shape, dtype=torch.int64)
    for b, i, p in each(logits):
        tokens[b, i] = first_above(p, float(uniform[b, i]))
    return tokens


def redraw(tokens, draft, logits, accept, uniform):
    out = tokens.clone()
    for (b, i, p), (_, _, q) in zip(each(draft), each(logits)):
        v = int(tokens[b, i])
        if float(accept[b, i]) * p[v] >= q[v]:
            left = [max(0.0, y - x) for x, y in zip(p, q)]
            out[b, i] = first_above(left, float(uniform[b, i]) * sum(left))
    return out


def follow(cache, index):
    half, index = cache[0].shape[0] // 2, index.tolist()
    rows = index + [half + i for i in index]
    return [torch.stack([entry[row] for row in rows]) for entry in cache]


def survivors(score, n, keep):
    groups = (range(start, start + n) for start in range(0, len(score), n))
    best = [sorted(rows, key=lambda row: -float(score[row]))[:keep] for rows in groups]
    return torch.tensor(sum(best, []))


def one_map(model, k, x, cache, uniform, cfg, first, min_p, mass):
    cond, uncond, cache = model.step(k, x, cache)
    logits = keep_min_p(guide(cond, uncond, k, len(model.sizes), cfg, first), min_p)
    return cond, draw(keep_typical(logits, mass), uniform).reshape(-1, *model.sizes[k]), cache


def sample(model, uniforms, counts, cfg, first, min_p, mass):
    x, cache, added, tokens, score = None, None, [], [], torch.zeros(len(cfg))
    for k in range(len(model.sizes)):
        cond, drawn, cache = one_map(model, k, x, cache, uniforms[k], cfg, first, min_p, mass)
        for b, flat in enumerate(drawn.flatten(1).tolist()):
            score[b] += sum(cond[b, i].log_softmax(0)[token] for i, token in enumerate(flat))
        added.append(model.contribution(k, model.codebook[drawn].movedim(-1, 1)))
        index = survivors(score, counts[k], counts[k + 1])
        added, tokens = [a[index] for a in added], [t[index] for t in [*tokens, drawn]]
        score, cfg, first, cache = score[index], cfg[index], first[index], follow(cache, index)
        if k < len(model.sizes) - 1:
            x = model.next_input(k + 1, sum(added))
    return tokens, sum(added)


def repair(model, own, start, uniforms, cfg, first, min_p, mass):
    def draw_on(read):
        x, cache, added, maps = None, None, [], []
        for k in range(len(model.sizes)):
            _, drawn, cache = one_map(model, k, x, cache, uniforms[k], cfg, first, min_p, mass)
            maps.append(read(k, drawn) if k < len(start) else drawn)
            added.append(model.contribution(k, model.codebook[maps[k]].movedim(-1, 1)))
            if k < len(model.sizes) - 1:
                x = model.next_input(k + 1, sum(added))
        return [*start, *maps[len(start) :]]

    def may_know(k, drawn):
        known = start[k].clone()
        known[start[k] != own[k]] = drawn[start[k] != own[k]]
        return known

    return draw_on(lambda k, drawn: start[k]), draw_on(may_know)
