"""References of assignment 4: counts, power-law fits and their intervals, right and wrong."""

from __future__ import annotations

import numpy as np
from numpy import ndarray as Array

from .reference import Reference as Base

Sizes = list[tuple[int, int]]


class Reference(Base):
    """The eight functions; `wrong` makes mistakes of `a4.CHECKS`."""

    def parameters(self, model: dict) -> int:
        """Weights of the blocks: 18 d w^2."""
        # per block: q, k, v 3 w^2, projection w^2, feed-forward 8 w^2, AdaLN 6 w^2
        d, w = model["depth"], model["width"]
        block = self.choose(
            18, adaln_forgotten=12, feed_forward_once=14, projection_forgotten=17, v_forgotten=16
        )
        count = block * d * w**2
        if self.makes("embeddings-counted"):
            rows = model["classes"] + 1 + sum(tokens(model["sizes"])) + len(model["sizes"])
            count += w * (rows + model["channels"])
        return count + (w * model["vocab"] if self.makes("head-counted") else 0)

    def forward_flops(self, model: dict) -> int:
        """FLOPs of one image: blocks, AdaLN once an image, attention of all pairs, ends."""
        d, w, counts = model["depth"], model["width"], tokens(model["sizes"])
        length = counts[-1] if self.makes("last-map-only") else sum(counts)
        adaln = self.choose(1, adaln_per_token=length, adaln_forgotten=0)
        pairs = self.choose(4, attention_left_out=0, attention_halved=2)
        block = 2 * 12 * w**2 * length + 2 * 6 * w**2 * adaln + pairs * w * length**2
        head = 2 * w * model["vocab"] * length * self.choose(1, head_left_out=0)
        words = self.choose(length - counts[0], word_for_all=length, word_left_out=0)
        total = d * block + head + 2 * model["channels"] * w * words
        return total // 2 if self.makes("multiply-adds") else total

    def training_flops(self, model: dict, images: int) -> int:
        """Forward and backward for all images; the backward pass costs twice the forward pass."""
        return self.choose(3, no_backward=1, backward_as_forward=2) * images * (
            self.forward_flops(model)
        )  # fmt: skip

    def attention_pairs(self, sizes: Sizes) -> tuple[int, int]:
        """Query-key pairs while drawing: (with a cache, without)."""
        n = tokens(sizes)
        seen = np.cumsum(n).tolist()
        cached = self.choose(
            sum(a * s for a, s in zip(n, seen)),
            own_map_only=sum(a**2 for a in n),
            earlier_maps_only=sum(a * (s - a) for a, s in zip(n, seen)),
        )
        last = self.makes("uncached-once")
        uncached = seen[-1] ** 2 if last else sum(s**2 for s in seen)
        pair = (cached, uncached)
        return pair[::-1] if self.makes("pairs-swapped") else pair

    def fit(self, n, loss) -> tuple[float, float]:
        """(alpha, beta) by least squares in logarithms."""
        # L = (beta n)^alpha  <=>  ln L = alpha ln n + alpha ln beta
        x, y = (np.asarray(n), np.asarray(loss))
        x = x if self.makes("raw-values") else np.log(x)
        y = y if self.makes("raw-values", "loss-not-logged") else np.log(y)
        if self.makes("axes-swapped"):
            x, y = y, x
        slope, intercept = line(x, y)
        factor = self.choose(1 / slope, intercept_as_beta=1, base_ten_mixed=1 / slope / np.log(10))
        return slope, np.exp(intercept * factor)

    def scatter(self, n, loss):
        """(x, slope, intercept, spread of x, standard deviation of the errors)."""
        x, y = np.asarray(n), np.asarray(loss)
        if self.makes("raw-values"):
            slope, intercept = line(x, y)
        else:
            x, y = np.log(x), np.log(y)
            slope, beta = self.fit(n, loss)
            intercept = slope * np.log(beta)
        errors = ((y - intercept - slope * x) ** 2).sum()
        freedom = len(x) - self.choose(2, divided_by_n=0, divided_by_n_1=1)
        return x, slope, intercept, ((x - x.mean()) ** 2).sum(), np.sqrt(errors / freedom)

    def interval(self, n, loss, t: float) -> tuple[float, float]:
        """Of the slope: alpha +- t s / sqrt(sum (x - mean)^2)."""
        _, slope, _, spread, deviation = self.scatter(n, loss)
        half = self.choose(t, t_forgotten=1) * deviation
        half /= self.choose(np.sqrt(spread), spread_forgotten=1, spread_not_rooted=spread)
        return (slope + half, slope - half) if self.makes("ends-swapped") else (
            slope - half, slope + half
        )  # fmt: skip

    def predict(self, n, loss, new: float, t: float) -> tuple[float, float, float]:
        """(low, middle, high) loss of a new run, noise of its own included."""
        x, slope, intercept, spread, deviation = self.scatter(n, loss)
        at = new if self.makes("raw-values") else np.log(new)
        own = 0 if self.makes("own-noise-forgotten") else 1
        away = 0 if self.makes("distance-forgotten") else (at - x.mean()) ** 2 / spread
        mean = 0 if self.makes("height-forgotten") else 1 / len(x)
        half = self.choose(t, t_forgotten=1) * deviation * np.sqrt(own + mean + away)
        middle = intercept + slope * at
        if self.makes("raw-values", "not-exponentiated"):
            return middle - half, middle, middle + half
        if self.makes("added-after-exp"):
            return np.exp(middle) - half, np.exp(middle), np.exp(middle) + half
        return np.exp(middle - half), np.exp(middle), np.exp(middle + half)

    def frontier(self, flops, loss) -> Array:
        """True for a run when no run of as much compute or less has a lower loss."""
        flops, loss = np.asarray(flops), np.asarray(loss)
        if self.makes("best-run-only"):
            return loss == loss.min()
        if self.makes("highest-loss"):
            loss = -loss
        if self.makes("ties-in-turn"):  # sorted by cost, each run sees those before it only
            order = np.argsort(flops, kind="stable")
            on = np.empty(len(flops), bool)
            on[order] = loss[order] <= np.minimum.accumulate(loss[order])
            return on
        on = []
        for i, (c, own) in enumerate(zip(flops, loss)):
            before, others = flops[flops < c], np.arange(len(loss)) != i
            if self.makes("neighbour-only"):
                on.append(not len(before) or own < loss[flops == before.max()].min())
            elif self.makes("ties-lose"):
                on.append((loss[(flops <= c) & others] > own).all())
            elif self.makes("same-cost-ignored"):
                on.append((loss[flops < c] >= own).all())
            else:
                rivals = flops >= c if self.makes("more-compute-compared") else flops <= c
                on.append((loss[rivals] >= own).all())
        return np.array(on, bool)


def tokens(sizes: Sizes) -> list[int]:
    """Tokens of each map."""
    return [h * w for h, w in sizes]


def line(x: Array, y: Array) -> tuple[float, float]:
    """Least squares: slope and intercept."""
    slope = ((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum()
    return slope, y.mean() - slope * x.mean()
