"""A sampler class; in-painting by forcing codes, as the official demo does; NumPy for the draw."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass
class Filter:
    top_k: int
    top_p: float

    def __call__(self, logits: Tensor) -> Tensor:
        return keep_top_p(keep_top_k(logits, self.top_k), self.top_p)


def guide(cond: Tensor, uncond: Tensor, k: int, num_scales: int, cfg: float) -> Tensor:
    t = float(np.linspace(0, cfg, num_scales)[k])
    return torch.stack([cond, uncond]).mul(torch.tensor([1 + t, -t]).view(2, 1, 1, 1)).sum(0)


def keep_top_k(logits: Tensor, top_k: int) -> Tensor:
    v = logits.shape[-1]
    least = logits.kthvalue(v - (min(top_k, v) or v) + 1, dim=-1, keepdim=True).values
    return torch.where(logits >= least, logits, -torch.inf)


def keep_top_p(logits: Tensor, top_p: float) -> Tensor:
    p, order = logits.softmax(-1).sort(dim=-1, descending=True, stable=True)
    keep = torch.roll(p.cumsum(-1), 1, -1) < (top_p if 0 < top_p < 1 else 2)
    keep[..., 0] = True  # where roll has put the last sum
    out = torch.full_like(logits, -torch.inf)
    return out.scatter(-1, order, logits.gather(-1, order).where(keep, -torch.inf))


def draw(logits: Tensor, uniform: Tensor) -> Tensor:
    p = logits.double().softmax(-1).numpy()
    tables = np.cumsum(p, -1).reshape(-1, p.shape[-1])
    found = [np.searchsorted(t, u, "right") for t, u in zip(tables, uniform.numpy().ravel())]
    return torch.from_numpy(np.array(found)).view(uniform.shape)


def smooth(logits: Tensor, noise: Tensor, codebook: Tensor, k: int, num_scales: int) -> Tensor:
    rho = k / (num_scales - 1)
    scaled = (logits * (1 + rho) + noise) / max(0.27 * (1 - 0.95 * rho), 0.005)
    weights = (scaled - scaled.logsumexp(-1, keepdim=True)).exp()
    return (weights.unsqueeze(-1) * codebook).sum(-2)


class Sampler:
    def __init__(self, model, cfg: float, rule: Filter) -> None:
        self.model, self.cfg, self.rule, self.x = model, cfg, rule, None
        self.f_hat = torch.zeros(())

    def predict(self, k: int, uniform: Tensor) -> Tensor:
        logits = guide(*self.model.logits(k, self.x), k, len(self.model.sizes), self.cfg)
        return draw(self.rule(logits), uniform).view(-1, *self.model.sizes[k])

    def add(self, k: int, codes: Tensor) -> None:
        self.f_hat = self.f_hat + self.model.contribution(k, codes.permute(0, 3, 1, 2))
        if k + 1 < len(self.model.sizes):
            self.x = self.model.next_input(k + 1, self.f_hat)


def sample(model, uniforms: list[Tensor], cfg: float, top_k: int, top_p: float):
    sampler, tokens = Sampler(model, cfg, Filter(top_k, top_p)), []
    for k, uniform in enumerate(uniforms):
        tokens.append(sampler.predict(k, uniform))
        sampler.add(k, model.codebook[tokens[-1]])
    return tokens, sampler.f_hat


def keep_maps(mask: Tensor, sizes) -> list[Tensor]:
    resize = torch.nn.functional.interpolate
    keep = torch.ones(mask.shape).masked_fill(mask, 0).expand(1, 1, -1, -1)
    return [
        resize(keep, size, mode="bilinear", align_corners=False).squeeze((0, 1)) > 0.5
        if size[0] * size[1] > 3
        else torch.full(tuple(size), True)
        for size in sizes
    ]


def inpaint(model, tokens, mask: Tensor, uniforms, cfg: float, top_k: int, top_p: float):
    sampler, mixed = Sampler(model, cfg, Filter(top_k, top_p)), []
    for k, keep in enumerate(keep_maps(mask, model.sizes)):
        drawn = sampler.predict(k, uniforms[k])
        codes = model.codebook[drawn]
        codes[:, keep] = model.codebook[tokens[k]][:, keep]
        drawn[:, keep] = tokens[k][:, keep]
        mixed.append(drawn)
        sampler.add(k, codes)
    return mixed, sampler.f_hat
