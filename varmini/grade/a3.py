"""Assignment 3, the sampler: guidance, filters, redrawing, a cache that follows, a repair test."""

from __future__ import annotations

import numpy as np
from numpy import ndarray as Array
from numpy.random import Generator

from .checks import Check
from .reference import Reference as Base
from .reference import clear, normal, resize, softmax
from .runner import Call
from .toy import ToyModel

TITLE = "The sampler"
CLEAR = 2e-5  # no decision of the reference may be closer than this, so that float32 decides alike
LADDERS = [[(1, 1), (2, 2), (3, 4), (5, 6)], [(2, 1), (2, 3), (4, 4), (6, 5)]]
CODES = 20


class Reference(Base):
    """The functions as the notebook asks for them; `a3.toml` says what mistakes make of them."""

    def guide(self, cond: Array, uncond: Array, k: int, scales: int, cfg: Array, first: Array):
        t = np.where(k >= first, cfg * k / (scales - 1), 0)[:, None, None]
        return (1 + t) * cond - t * uncond

    def rule_out(self, logits: Array, keep: Array) -> Array:
        return np.where(keep, logits, -np.inf)

    def keep_min_p(self, logits: Array, min_p: float) -> Array:
        p = softmax(logits)
        top = p.max(-1, keepdims=True)
        apart = np.abs(p - min_p * top) / top
        self.margins.append(apart[(p < top) & (p > 0)].min(initial=1))
        return self.rule_out(logits, p >= min_p * top)

    def keep_typical(self, logits: Array, mass: float) -> Array:
        if not mass < 1:
            return logits
        p = softmax(logits)
        told = -np.log(np.where(p > 0, p, 1))  # nats
        entropy = (p * told).sum(-1, keepdims=True)
        odd = np.where(p > 0, np.abs(told - entropy), np.inf)
        order = np.argsort(odd, -1, kind="stable")
        p, gaps = (np.take_along_axis(x, order, -1) for x in (p, odd))
        before = p.cumsum(-1) - p  # of all that are more typical
        self.margins.append(np.abs(before[..., 1:] - mass).min())
        with np.errstate(invalid="ignore"):
            gaps = np.diff(gaps)
        self.margins.append(4 * gaps[np.isfinite(gaps)].min(initial=1))
        keep = np.zeros(p.shape, bool)
        np.put_along_axis(keep, order, before < mass, -1)
        return self.rule_out(logits, keep & np.isfinite(logits))

    def draw(self, logits: Array, uniform: Array) -> Array:
        p = softmax(logits)
        cumulative = p.cumsum(-1)
        edges = np.where(p > 0, np.abs(cumulative - uniform[..., None]), 1)[..., :-1]
        self.margins.append(edges[(cumulative < 1 - 1e-9)[..., :-1]].min(initial=1))
        return (cumulative <= uniform[..., None]).sum(-1)

    def redraw(self, tokens: Array, draft: Array, logits: Array, accept: Array, uniform: Array):
        p, q = softmax(draft), softmax(logits)
        old, new = (np.take_along_axis(x, tokens[..., None], -1)[..., 0] for x in (p, q))
        kept, left = accept * old < new, np.maximum(q - p, 0)
        cumulative = left.cumsum(-1)
        u = uniform[..., None] * cumulative[..., -1:]
        drawn = (cumulative <= u).sum(-1)
        edges = np.abs(cumulative - u)[~kept]
        self.margins += [np.abs(accept * old - new).min(), edges.min(initial=1)]
        return np.where(kept, tokens, drawn)

    def follow(self, cache: list[Array], index: Array) -> list[Array]:
        half = len(cache[0]) // 2
        rows = np.concatenate([index, index + half])
        return [entry[rows] for entry in cache]

    def survivors(self, score: Array, n: int, keep: int) -> Array:
        groups = score.reshape(-1, n)
        self.margins.append(0.1 * np.diff(np.sort(groups)).min(initial=1))
        order = np.argsort(-groups, -1)[:, :keep]
        return (order + n * np.arange(len(groups))[:, None]).reshape(-1)

    def both(self, logits: Array, min_p: float, mass: float) -> Array:
        return self.keep_typical(self.keep_min_p(logits, min_p), mass)

    def one(self, toy, k, x, cache, uniforms, cfg, first, min_p, mass):
        """A map drawn (B, h, w), the logits with the class, and the new cache."""
        cond, uncond, cache = toy.step(k, x, cache)
        guided = self.guide(cond, uncond, k, len(uniforms), cfg, first)
        drawn = self.draw(self.both(guided, min_p, mass), uniforms[k])
        return drawn.reshape(-1, *toy.sizes[k]), cond, cache

    def add(self, toy, k, f_hat, used):
        """f_hat with this map, and the next input."""
        h_k = toy.contribution(k, toy.codebook[used].transpose(0, 3, 1, 2))
        f_hat = f_hat + h_k
        return f_hat, toy.next_input(k + 1, f_hat) if k + 1 < len(toy.sizes) else f_hat

    def likelihood(self, logits: Array, drawn: Array) -> Array:
        at = drawn.reshape(len(drawn), -1, 1)
        return np.log(np.take_along_axis(softmax(logits), at, -1)).sum((1, 2))

    def sample(self, model, uniforms, counts, cfg, first, min_p, mass):
        toy, x, cache, f_hat, score = ToyModel(resize, **model["toy"]), None, None, 0.0, 0.0
        tokens: list[Array] = []
        for k in range(len(uniforms)):
            drawn, cond, cache = self.one(toy, k, x, cache, uniforms, cfg, first, min_p, mass)
            score = score + self.likelihood(cond, drawn)
            f_hat, x = self.add(toy, k, f_hat, drawn)
            tokens.append(drawn)
            index = self.survivors(score, counts[k], counts[k + 1])
            x, score, cache = x[index], score[index], self.follow(cache, index)
            tokens, f_hat = [part[index] for part in tokens], f_hat[index]
            cfg, first = cfg[index], first[index]
        return tokens, f_hat

    def repair(self, model, own, start, uniforms, *rule):
        first = self.arm(model, own, start, start, uniforms, *rule)
        return first, self.arm(model, own, start, None, uniforms, *rule)

    def arm(self, model, own, start, read, uniforms, *rule):
        """All maps, of which the first are `start`; the model reads `read`, or what it may know."""
        toy, x, cache, f_hat, maps = ToyModel(resize, **model["toy"]), None, None, 0.0, []
        for k in range(len(uniforms)):
            used, _, cache = self.one(toy, k, x, cache, uniforms, *rule)
            maps.append(used)
            if k < len(start):
                used = np.where(start[k] == own[k], own[k], used) if read is None else read[k]
                maps[k] = start[k]
            f_hat, x = self.add(toy, k, f_hat, used)
        return maps


def uniform(rng: Generator, *shape: int) -> np.ndarray:
    """Random numbers in [0, 1), float32."""
    return rng.random(shape).astype(np.float32)


def strengths(rng: Generator, count: int, scales: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """For each picture a strength, and the scale at which its guidance begins; all are different.

    Scales begin anew where there are more pictures.
    """
    cfg = rng.uniform(0.5, 2.5, count).astype(np.float32)
    return cfg, rng.permutation(np.arange(count) % (scales - 1))


def cases_guide(rng):
    """As many pictures as tokens and codes: a strength that lands on the wrong axis fits, too."""
    for k, scales, n in ((0, 4, 3), (1, 4, 4), (2, 4, 3), (3, 4, 4), (2, 6, 5)):
        yield normal(rng, n, n, n), normal(rng, n, n, n), k, scales, *strengths(rng, n, scales)


def cases_filter(rng, function, thresholds):
    """Wide and narrow sets, codes ruled out before, and the values at the ends."""

    def case(threshold, scale, gone):
        def make(r):
            values = normal(r, 3, 4, 9, scale=scale)
            values[..., gone] = -np.inf  # ruled out before, as another filter does
            return Call(function, (values, threshold))

        return clear(rng, make, Reference, CLEAR)

    calls = [case(*m) for m in zip(thresholds, (1.0, 2.0, 1.5, 1.0), ([], [], [], [2, 5]))]
    # All are kept at one end, though one code alone has all the probability in float32.
    scale, first = (10, 0.0) if function == "keep_min_p" else (100, 1.0)
    return calls + [(normal(rng, 2, 3, 9, scale=scale), first), (normal(rng, 2, 3, 9), 1.0)]


def cases_redraw(rng):
    """Other logits, logits with codes ruled out, and a position where nothing has changed."""

    def case(length, codes, gone):
        def make(r):
            draft, logits = (normal(r, 3, length, codes, scale=1.2) for _ in range(2))
            logits[..., gone], logits[:, 0] = -np.inf, draft[:, 0]
            tokens = Reference().draw(draft, uniform(r, 3, length))
            chances = uniform(r, 2, 3, length)
            return Call("redraw", (tokens, draft, logits, *chances))

        return clear(rng, make, Reference, CLEAR)

    return [case(5, 6, []), case(20, 8, [0, 3, 7]), case(12, 5, [4])]


def cases_follow(rng):
    """Another order, fewer, and more than there were; entries of other shapes."""
    for count in (4, 2, 7):
        shapes = [(8, 3, 2), (8, 2, 3, 2), (8, 5)]
        yield [normal(rng, *shape) for shape in shapes], rng.integers(0, 4, count)


def cases_survivors(rng):
    """Groups of several sizes, of which some or all go on."""
    for groups, n, keep in ((3, 4, 2), (2, 5, 1), (4, 3, 3), (2, 6, 4)):
        yield normal(rng, groups * n, scale=5), n, keep


def toy(rng: Generator, sizes, batch: int, channels: int = 4) -> dict:
    """A small model by its weights: what `ToyModel` is made from."""
    return {"toy": {
        "sizes": sizes, "codebook": normal(rng, CODES, channels),
        "start": normal(rng, 2 * batch, sizes[0][0] * sizes[0][1], channels),
        "weight": normal(rng, channels, CODES, scale=0.5),
        "null": normal(rng, channels, CODES, scale=0.3),
        "bias": normal(rng, len(sizes), 1, CODES, scale=0.5),
    }}  # fmt: skip


def loop_case(rng: Generator, function, sizes, counts, rule, groups=2, forced=0) -> Call:
    """A clear call of a loop, with a toy model."""

    def make(r):
        numbers = [uniform(r, groups * n, h * w) for n, (h, w) in zip(counts, sizes)]
        batch, more = groups * counts[0], (numbers, list(counts))
        if function == "repair":
            own = [r.integers(0, CODES, (batch, *size)) for size in sizes[:forced]]
            wrong = [(m + (r.random(m.shape) < 0.5) * r.integers(1, CODES, m.shape)) % CODES
                     for m in own]  # fmt: skip
            more = (own, wrong, numbers)
        return Call(function, (toy(r, sizes, batch), *more, *strengths(r, batch), *rule))

    return clear(rng, make, Reference, CLEAR)


RULES = [(0.1, 0.8), (0.04, 0.7), (0.15, 0.9), (0.02, 0.6)]
"""(min_p, mass); in all of them both filters rule out something."""
FEWER = [[4, 3, 2, 2, 1], [3, 3, 1, 1, 1]]


CHECKS = [
    Check("guide", 1, 3, lambda rng: list(cases_guide(rng))),
    Check("keep_min_p", 2, 2, lambda rng: cases_filter(rng, "keep_min_p", (0.3, 0.05, 0.1, 0.4))),
    Check("keep_typical", 3, 3, lambda rng: (
        cases_filter(rng, "keep_typical", (0.6, 0.9, 0.2, 0.5)))),
    Check("redraw", 4, 4, cases_redraw),
    Check("follow", 5, 2, lambda rng: list(cases_follow(rng))),
    Check("survivors", 6, 2, lambda rng: list(cases_survivors(rng))),
    # All go on, in another order: what does not follow fits, and is wrong. Then fewer and fewer.
    Check("sample", 7, 3, lambda rng: [
        loop_case(rng, "sample", LADDERS[i % 2], [3] * 5, rule) for i, rule in enumerate(RULES)
    ], known=("sample", "loop")),
    Check("sample_fewer", 7, 2, lambda rng: [
        loop_case(rng, "sample", LADDERS[i], FEWER[i], RULES[i], groups=3) for i in range(2)
    ], "sample", known=("fewer",)),
    Check("repair", 8, 4, lambda rng: [
        loop_case(rng, "repair", LADDERS[i % 2], [1] * 5, rule, groups=3, forced=forced)
        for i, (rule, forced) in enumerate(zip(RULES, (1, 2, 3, 2)))
    ], known=("repair", "loop")),
]  # fmt: skip
