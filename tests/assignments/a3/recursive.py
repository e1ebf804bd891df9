"""The loop as a recursion; thresholds instead of masks; logits shifted by a constant inside."""

import torch
import torch.nn.functional as F


def guide(cond, uncond, k, num_scales, cfg):
    s = 1 + cfg * k / (num_scales - 1)  # the standard form, with strength s
    return uncond + s * (cond - uncond)


def ruled(logits, goes):
    return logits - torch.zeros_like(logits).masked_fill(goes, torch.inf)


def keep_top_k(logits, top_k):
    if top_k < 1 or top_k > logits.size(-1):
        return logits
    return ruled(logits, logits < logits.sort(-1).values[..., -top_k].unsqueeze(-1))


def keep_top_p(logits, top_p):
    if not 0 < top_p < 1:
        return logits
    p = logits.softmax(-1)
    ordered = p.sort(-1, descending=True).values
    count = (ordered.cumsum(-1) < top_p).sum(-1, keepdim=True)  # of those that do not reach it
    return ruled(logits, p < ordered.gather(-1, count.clamp(max=p.size(-1) - 1)))


def draw(logits, uniform):
    p = (logits - logits.max()).softmax(-1)
    cumulative = p.cumsum(-1)
    last = (p > 0).int().cumsum(-1).argmax(-1)  # of the codes that have a probability
    return (cumulative <= uniform.unsqueeze(-1)).sum(-1).minimum(last)


def smooth(logits, noise, codebook, k, num_scales):
    rho = torch.tensor(k / (num_scales - 1))
    tau = (0.27 * (1 - 0.95 * rho)).clamp(min=0.005)
    return F.softmax((logits * (1 + rho) + noise) / tau, dim=-1).matmul(codebook)


def go_on(model, k, x, f_hat, force, uniforms, rule):
    if k == len(model.sizes):
        return [], f_hat
    logits = guide(*model.logits(k, x), k, len(model.sizes), rule[0])
    tokens = draw(keep_top_p(keep_top_k(logits, rule[1]), rule[2]), uniforms[k])
    tokens = force(k, tokens.reshape(len(tokens), *model.sizes[k]))
    f_hat = f_hat + model.contribution(k, model.codebook[tokens].permute(0, 3, 1, 2))
    x = model.next_input(k + 1, f_hat) if k + 1 < len(model.sizes) else None
    rest, f_hat = go_on(model, k + 1, x, f_hat, force, uniforms, rule)
    return [tokens, *rest], f_hat


def sample(model, uniforms, cfg, top_k, top_p):
    rule = (cfg, top_k, top_p)
    return go_on(model, 0, None, 0, lambda k, tokens: tokens, uniforms, rule)


def keep_maps(mask, sizes):
    drawn = mask.float().unsqueeze(0).unsqueeze(0)
    grow = [torch.nn.Upsample(size=tuple(size), mode="bilinear") for size in sizes]
    maps = [one(drawn)[0, 0] < 0.5 for one in grow]
    return [keep | torch.tensor(keep.numel() <= 3) for keep in maps]


def inpaint(model, tokens, mask, uniforms, cfg, top_k, top_p):
    keep = keep_maps(mask, model.sizes)

    def force(k, drawn):
        choice = (~keep[k]).long().expand(1, *drawn.shape)
        return torch.stack([tokens[k], drawn]).gather(0, choice)[0]

    return go_on(model, 0, None, 0, force, uniforms, (cfg, top_k, top_p))
