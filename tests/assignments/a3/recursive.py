"""The loops as recursions; thresholds instead of masks; what follows is a tree of tensors."""

import torch


def guide(cond, uncond, k, num_scales, cfg, first):
    s = 1 + cfg * torch.heaviside(k - first.float(), torch.ones(())) * k / (num_scales - 1)
    return torch.einsum("b,blv->blv", s, cond - uncond) + uncond  # the standard form


def ruled(logits, goes):
    return logits - torch.zeros_like(logits).masked_fill(goes, torch.inf)


def keep_min_p(logits, min_p):
    share = (logits - logits.amax(-1, keepdim=True)).exp()  # p over the largest p
    return ruled(logits, share < min_p)


def keep_typical(logits, mass):
    if mass >= 1:
        return logits
    p = logits.softmax(-1)
    odd = (p.log() + torch.special.entr(p).sum(-1).unsqueeze(-1)).abs()
    ordered, order = odd.sort(-1)
    count = (p.gather(-1, order).cumsum(-1) < mass).sum(-1, keepdim=True)
    return ruled(logits, odd > ordered.gather(-1, count.clamp(max=p.size(-1) - 1)))


def draw(logits, uniform):
    p = logits.softmax(-1)
    last = (p > 0).int().cumsum(-1).argmax(-1)  # of the codes that have a probability
    return (p.cumsum(-1) <= uniform.unsqueeze(-1)).sum(-1).minimum(last)


def redraw(tokens, draft, logits, accept, uniform):
    p, q = draft.softmax(-1), logits.softmax(-1)
    left = torch.relu(q - p)
    total = left.sum(-1, keepdim=True)
    fresh = draw((left / total.where(total > 0, 1)).log().nan_to_num(neginf=-1e9), uniform)
    chance = torch.take_along_dim(q / p, tokens.unsqueeze(-1), -1).squeeze(-1).clamp(max=1)
    return tokens.where(accept < chance, fresh)


def follow(cache, index):
    return [torch.cat([half[index] for half in entry.chunk(2)]) for entry in cache]


def survivors(score, n, keep):
    groups = torch.arange(len(score)).div(n, rounding_mode="floor")
    order = score.argsort(descending=True)
    order = order[groups[order].argsort(stable=True)]  # by group, the best first
    return order.view(-1, n)[:, :keep].reshape(-1)


def go_on(model, k, x, cache, f_hat, of, rule, uniforms, judge):
    if k == len(model.sizes):
        return [], f_hat
    cond, uncond, cache = model.step(k, x, cache)
    logits = keep_min_p(guide(cond, uncond, k, len(model.sizes), *of), rule[0])
    drawn = draw(keep_typical(logits, rule[1]), uniforms[k]).reshape(-1, *model.sizes[k])
    read, index = judge(k, cond, drawn)
    f_hat = (f_hat + model.contribution(k, model.codebook[read].permute(0, 3, 1, 2)))[index]
    of, cache = [part[index] for part in of], follow(cache, index)
    x = model.next_input(k + 1, f_hat) if k + 1 < len(model.sizes) else None
    maps, f_hat = go_on(model, k + 1, x, cache, f_hat, of, rule, uniforms, judge)
    return [drawn, *maps], f_hat


def sample(model, uniforms, counts, cfg, first, min_p, mass):
    kept, score = [], torch.zeros(len(cfg))

    def judge(k, cond, drawn):
        nonlocal kept, score
        told = -torch.nn.functional.cross_entropy(cond.mT, drawn.flatten(1), reduction="none")
        index = survivors(score + told.sum(-1), counts[k], counts[k + 1])
        kept, score = [m[index] for m in [*kept, drawn]], (score + told.sum(-1))[index]
        return drawn, index

    _, f_hat = go_on(model, 0, None, None, 0, (cfg, first), (min_p, mass), uniforms, judge)
    return kept, f_hat


def repair(model, own, start, uniforms, cfg, first, min_p, mass):
    def arm(seen):
        def judge(k, cond, drawn):
            same = seen | (start[k] == own[k]) if k < len(start) else None
            read = drawn if same is None else same * start[k] + ~same * drawn
            return read, torch.arange(len(drawn))

        rule = (cfg, first), (min_p, mass), uniforms
        return start + go_on(model, 0, None, None, 0, *rule, judge)[0][len(start) :]

    return arm(True), arm(False)
