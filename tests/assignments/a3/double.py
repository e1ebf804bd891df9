"""All arithmetic in float64 wherever numbers are compared; softmax written out."""

import torch
import torch.nn.functional as F


def guide(cond, uncond, k, num_scales, cfg):
    t = cfg * (k / (num_scales - 1))
    return cond.double() * (1 + t) - uncond.double() * t


def keep_top_k(logits, top_k):
    if not top_k or top_k >= logits.shape[-1]:
        return logits.double()
    rank = logits.argsort(-1, descending=True).argsort(-1)
    return logits.double().masked_fill(rank >= top_k, -torch.inf)


def probabilities(logits):
    e = torch.exp(logits.double() - logits.double().amax(-1, keepdim=True))
    return e / e.sum(-1, keepdim=True)


def keep_top_p(logits, top_p):
    if top_p == 0 or top_p == 1:
        return logits.double()
    p = probabilities(logits)
    # The probability of all that are likelier, without any sorting.
    likelier = (p[..., None, :] > p[..., :, None]).double()
    before = (likelier * p[..., None, :]).sum(-1)
    return logits.double().masked_fill((before >= top_p) | (p == 0), -torch.inf)


def draw(logits, uniform):
    above = probabilities(logits).cumsum(-1) > uniform.double().unsqueeze(-1)
    return above.int().argmax(-1)


def smooth(logits, noise, codebook, k, num_scales):
    rho = k / (num_scales - 1)
    tau = max(0.27 - 0.27 * 0.95 * rho, 0.005)
    return probabilities((logits.double() * (1 + rho) + noise) / tau) @ codebook.double()


def next_tokens(model, k, x, uniform, cfg, top_k, top_p):
    cond, uncond = model.logits(k, x)
    logits = guide(cond, uncond, k, len(model.sizes), cfg)
    return draw(keep_top_p(keep_top_k(logits, top_k), top_p), uniform).view(-1, *model.sizes[k])


def sample(model, uniforms, cfg, top_k, top_p):
    nothing = [None] * len(model.sizes)
    return paint(model, nothing, nothing, uniforms, cfg, top_k, top_p)


def paint(model, own, keep, uniforms, cfg, top_k, top_p):
    x, f_hat, tokens = None, 0, []
    for k in range(len(model.sizes)):
        drawn = next_tokens(model, k, x, uniforms[k], cfg, top_k, top_p)
        if own[k] is not None:
            drawn = drawn * ~keep[k] + own[k] * keep[k]
        tokens.append(drawn)
        codes = torch.stack([model.codebook[one].permute(2, 0, 1) for one in drawn])
        f_hat = model.contribution(k, codes) + f_hat
        x = model.next_input(k + 1, f_hat) if k + 1 < len(model.sizes) else None
    return tuple(tokens), f_hat.double()


def keep_maps(mask, sizes):
    maps = []
    for h, w in sizes:
        drawn = F.interpolate(mask.double()[None, None], size=(h, w), mode="bilinear")[0, 0]
        maps.append((drawn < 0.5) | (h * w <= 3))
    return maps


def inpaint(model, tokens, mask, uniforms, cfg, top_k, top_p):
    return paint(model, tokens, keep_maps(mask, model.sizes), uniforms, cfg, top_k, top_p)
