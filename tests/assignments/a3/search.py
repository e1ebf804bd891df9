"""searchsorted, scatter and ascending sorts, as in the library."""

import torch
import torch.nn.functional as F


def guide(cond, uncond, k, num_scales, cfg):
    t = cfg * k / max(1, num_scales - 1)
    return torch.lerp(uncond, cond, 1 + t)


def keep_top_k(logits, top_k):
    if top_k <= 0 or top_k >= logits.shape[-1]:
        return logits
    values, index = logits.topk(top_k)
    return torch.full_like(logits, float("-inf")).scatter(-1, index, values)


def keep_top_p(logits, top_p):
    if top_p <= 0 or top_p >= 1:
        return logits
    ordered, order = logits.sort(dim=-1)
    goes = ordered.softmax(-1).cumsum(-1) <= 1 - top_p
    goes[..., -1] = False
    back = order.argsort(-1)
    return torch.where(goes.gather(-1, back), float("-inf"), logits)


def draw(logits, uniform):
    cumulative = logits.softmax(-1).cumsum(-1)
    found = torch.searchsorted(cumulative, uniform[..., None] * cumulative[..., -1:], right=True)
    return found.squeeze(-1).clamp(max=logits.shape[-1] - 1)


def smooth(logits, noise, codebook, k, num_scales):
    rho = k / (num_scales - 1)
    tau = 0.27 * (1 - 0.95 * rho)  # never as low as 0.005
    weights = F.softmax((logits + rho * logits + noise) / tau, 2)
    return torch.einsum("blv,vc->blc", weights, codebook)


def run(model, uniforms, cfg, top_k, top_p, replace):
    x, f_hat, found = None, None, []
    last = len(model.sizes) - 1
    for k, size in enumerate(model.sizes):
        cond, uncond = model.logits(k, x)
        logits = keep_top_p(keep_top_k(guide(cond, uncond, k, last + 1, cfg), top_k), top_p)
        tokens = replace(k, draw(logits, uniforms[k]).unflatten(1, size))
        h = model.contribution(k, F.embedding(tokens, model.codebook).permute(0, 3, 1, 2))
        f_hat = h if f_hat is None else f_hat.add(h)
        found.append(tokens)
        x = model.next_input(k + 1, f_hat) if k < last else None
    return found, f_hat


def sample(model, uniforms, cfg, top_k, top_p):
    return run(model, uniforms, cfg, top_k, top_p, lambda k, tokens: tokens)


def keep_maps(mask, sizes):
    keep = (~mask).to(torch.float64)[None, None]
    maps = [F.interpolate(keep, size=size, mode="bilinear").gt(0.5)[0, 0] for size in sizes]
    return [torch.ones_like(m) if m.numel() <= 3 else m for m in maps]


def inpaint(model, tokens, mask, uniforms, cfg, top_k, top_p):
    keep = keep_maps(mask, model.sizes)

    def replace(k, drawn):
        return drawn.masked_scatter(keep[k].expand_as(drawn), tokens[k][:, keep[k]])

    return run(model, uniforms, cfg, top_k, top_p, replace)
