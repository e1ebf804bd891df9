"""A batch as an object whose every part follows; NumPy for the draw and the redraw."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def guide(cond: Tensor, uncond: Tensor, k: int, num_scales: int, cfg: Tensor, first: Tensor):
    t = cfg * float(np.linspace(0, 1, num_scales)[k])
    t = t.masked_fill(first > k, 0)
    return torch.stack([cond, uncond]).mul(torch.stack([1 + t, -t])[:, :, None, None]).sum(0)


def keep_min_p(logits: Tensor, min_p: float) -> Tensor:
    p = logits.double().softmax(-1)
    return torch.where(p >= min_p * p.max(-1, keepdim=True).values, logits, -torch.inf)


def keep_typical(logits: Tensor, mass: float) -> Tensor:
    told = -logits.double().log_softmax(-1)
    p = (-told).exp()
    entropy = (p * told.masked_fill(p == 0, 0)).sum(-1, keepdim=True)
    order = (told - entropy).abs().sort(dim=-1, stable=True).indices
    before = torch.roll(p.gather(-1, order).cumsum(-1), 1, -1)
    before[..., 0] = 0  # where roll has put the last sum
    keep = before < (mass if mass < 1 else 2)
    out = torch.full_like(logits, -torch.inf)
    return out.scatter(-1, order, logits.gather(-1, order).where(keep, -torch.inf))


def inverse(weights: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    tables = np.cumsum(weights, -1).reshape(-1, weights.shape[-1])
    found = [np.searchsorted(t, u * t[-1], "right") for t, u in zip(tables, uniform.ravel())]
    return np.array(found).reshape(uniform.shape)


def draw(logits: Tensor, uniform: Tensor) -> Tensor:
    return torch.from_numpy(inverse(logits.double().softmax(-1).numpy(), uniform.numpy()))


def redraw(tokens, draft: Tensor, logits: Tensor, accept: Tensor, uniform: Tensor) -> Tensor:
    p, q = (x.double().softmax(-1).numpy() for x in (draft, logits))
    fresh = inverse(np.maximum(q - p, 0), uniform.numpy())
    at = tokens.numpy()[..., None]
    ratio = np.take_along_axis(q, at, -1) / np.take_along_axis(p, at, -1)
    return torch.from_numpy(np.where(accept.numpy() < ratio[..., 0], tokens.numpy(), fresh))


def follow(cache: list[Tensor], index: Tensor) -> list[Tensor]:
    return [e.unflatten(0, (2, -1))[:, index].flatten(0, 1) for e in cache]


def survivors(score: Tensor, n: int, keep: int) -> Tensor:
    rows = torch.arange(len(score)).view(-1, n)
    return rows.gather(1, score.view(-1, n).topk(keep).indices).flatten()


class Batch:
    def __init__(self, model, min_p: float, mass: float, **parts: Tensor) -> None:
        self.model, self.rule, self.parts = model, (min_p, mass), parts
        self.x, self.cache, self.maps = None, None, []

    def predict(self, k: int, uniform: Tensor) -> tuple[Tensor, Tensor]:
        cond, uncond, self.cache = self.model.step(k, self.x, self.cache)
        of = self.parts
        logits = guide(cond, uncond, k, len(self.model.sizes), of["cfg"], of["first"])
        logits = keep_typical(keep_min_p(logits, self.rule[0]), self.rule[1])
        return cond, draw(logits, uniform).unflatten(1, self.model.sizes[k])

    def add(self, k: int, read: Tensor) -> None:
        codes = torch.nn.functional.embedding(read, self.model.codebook).movedim(-1, 1)
        more = self.model.contribution(k, codes)
        self.parts["f_hat"] = more + self.parts.get("f_hat", torch.zeros(()))

    def choose(self, index: Tensor) -> None:
        self.parts = {name: part[index] for name, part in self.parts.items()}
        self.maps, self.cache = [m[index] for m in self.maps], follow(self.cache, index)

    def look(self, k: int) -> None:
        if k + 1 < len(self.model.sizes):
            self.x = self.model.next_input(k + 1, self.parts["f_hat"])


def sample(model, uniforms, counts, cfg, first, min_p, mass):
    batch = Batch(model, min_p, mass, cfg=cfg, first=first, score=torch.zeros(len(cfg)))
    for k, uniform in enumerate(uniforms):
        cond, drawn = batch.predict(k, uniform)
        told = torch.distributions.Categorical(logits=cond).log_prob(drawn.flatten(1))
        batch.parts["score"] = batch.parts["score"] + told.sum(1)
        batch.maps.append(drawn)
        batch.add(k, drawn)
        batch.choose(survivors(batch.parts["score"], *counts[k : k + 2]))
        batch.look(k)
    return batch.maps, batch.parts["f_hat"]


def repair(model, own, start, uniforms, cfg, first, min_p, mass):
    arms = [Batch(model, min_p, mass, cfg=cfg, first=first) for _ in range(2)]
    for k, uniform in enumerate(uniforms):
        for seen, arm in zip((True, False), arms):
            _, read = arm.predict(k, uniform)
            arm.maps.append(start[k] if k < len(start) else read)
            if k < len(start):
                known = torch.full_like(read, seen).bool() | (start[k] == own[k])
                read[known] = start[k][known]
            arm.add(k, read)
            arm.look(k)
    return arms[0].maps, arms[1].maps
