"""References of assignment 1 in float64: Algorithms 1 and 2 and their loss, right and wrong."""

from __future__ import annotations

import numpy as np
from numpy import ndarray as Array

from .reference import Reference as Base
from .reference import conv3x3, resize
from .runner import Call

Phis = list[tuple[Array, Array]]
Sizes = list[tuple[int, int]]


class Reference(Base):
    """The nine functions; `wrong` makes mistakes of `a1.CHECKS`."""

    def down(self, f: Array, size: tuple[int, int]) -> Array:
        """Area interpolation (B, C, H, W) -> (B, C, h, w)."""
        kind = self.choose(
            "area",
            down_bilinear="bilinear",
            down_nearest="nearest",
            down_bicubic="bicubic",
            down_antialias="bilinear-antialias",
        )
        return resize(f, size, kind)

    def up(self, codes: Array, size: tuple[int, int]) -> Array:
        """Bicubic interpolation (B, C, h, w) -> (B, C, H, W)."""
        kind = self.choose(
            "bicubic",
            up_bilinear="bilinear",
            up_nearest="nearest",
            up_area="area",
            up_corners="bicubic-corners",
            up_antialias="bicubic-antialias",
        )
        return resize(codes, size, kind)

    def phi(self, h: Array, weight: Array, bias: Array) -> Array:
        """phi(h) = h / 2 + conv(h) / 2."""
        bias = bias * self.choose(1, phi_without_bias=0, phi_bias_whole=2)
        own = self.choose(0.5, phi_left_out=1, phi_conv_alone=0, phi_sum=1)
        mixed = self.choose(0.5, phi_left_out=0, phi_conv_alone=1, phi_sum=1)
        return own * h + mixed * conv3x3(h, weight, bias)

    def contribution(self, codes: Array, size, weight: Array, bias: Array) -> Array:
        """What one map adds to f_hat: phi(up(codes))."""
        if self.makes("phi-before-up"):
            return self.up(self.phi(codes, weight, bias), size)
        h = self.up(codes, size)
        return h if self.makes("no-phi") else self.phi(h, weight, bias)

    def nearest(self, z: Array, codebook: Array) -> Array:
        """Tokens (B, h, w) of the codes with the least distance."""
        rows = z.transpose(0, 2, 3, 1)  # (B, h, w, C)
        product, square = rows @ codebook.T, (codebook**2).sum(1)
        score = 2 * product - square
        if self.makes("farthest"):
            score = -score
        if self.makes("dot-product"):
            score = product
        if self.makes("cosine"):
            score = product / np.sqrt(square)
        if self.makes("factor-two-missing"):
            score = product - square
        if self.makes("city-block"):
            score = -np.abs(rows[..., None, :] - codebook).sum(-1)
        best = np.partition(score, -2)
        self.margins.append((best[..., -1] - best[..., -2]).min())
        return score.argmax(-1)

    def encode(self, f: Array, codebook: Array, sizes: Sizes, phis: Phis) -> list[Array]:
        """Algorithm 1: the tokens of every scale."""
        residual, f_hat, tokens = f, 0, []
        for size, pair in zip(sizes, phis):
            tokens.append(self.nearest(self.down(residual, size), codebook))
            codes = look_up(tokens[-1], codebook)
            h = self.contribution(
                codes, sizes[-1], *(phis[0] if self.makes("first-phi-everywhere") else pair)
            )
            f_hat = f_hat + h
            if self.makes("residual-without-phi"):
                h = self.up(codes, sizes[-1])
            lost = f_hat if self.makes("residual-twice") else h
            sign = self.choose(1, residual_not_subtracted=0, residual_added=-1)
            residual = residual - sign * lost
        return tokens

    def decode(self, tokens: list[Array], codebook: Array, sizes: Sizes, phis: Phis) -> Array:
        """Algorithm 2: f_hat of the maps that are given."""
        total = 0
        for k, map_ in enumerate(tokens):
            pair = phis[0] if self.makes("first-phi-everywhere") else phis[k]
            h = self.contribution(look_up(map_, codebook), sizes[-1], *pair)
            total = h if self.makes("last-map-only") else total + h
        return total

    def cumulative(self, tokens, codebook, sizes, phis) -> list[Array]:
        """f_hat after each of the maps."""
        return [
            self.decode(tokens[:k], codebook, sizes, phis) for k in range(1, len(tokens) + 1)
        ]

    def teacher_inputs(self, tokens, codebook, sizes, phis) -> Array:
        """(B, L - h_1 w_1, C): f_hat before each map but the first, down at its size."""
        f_hats = self.cumulative(tokens, codebook, sizes, phis)
        if self.makes("own-map-only"):  # h_k instead of f_hat_k
            f_hats = [b - a for a, b in zip([0, *f_hats], f_hats)]
        blocks = []
        first = 0 if self.makes("first-block-kept", "first-token-dropped") else 1
        for k in range(first, len(sizes)):
            source = np.zeros_like(f_hats[0]) if k == 0 else f_hats[k - 1]
            small = self.down(f_hats[k] if self.makes("looks-ahead") else source, sizes[k])
            if self.makes("column-by-column"):
                small = small.transpose(0, 1, 3, 2)
            blocks.append(small.reshape(*small.shape[:2], -1).transpose(0, 2, 1))
        return np.concatenate(blocks, 1)[:, 1 if self.makes("first-token-dropped") else 0 :]

    def loss(self, f, live_f, still, moved, beta) -> float:
        """The loss where a gradient sees only `live_f` and `moved` change.

        L = 1/K sum_k |f_hat_k - sg(f)|^2 + beta |sg(f_hat_k) - f|^2 (section 3.1, equation 5).

        Args:
            still, moved: f_hat of every scale, as a constant and as a function of the weights.
        """
        total = 0.0
        for k, (a, b) in enumerate(zip(still, moved)):
            if self.makes("loss-of-last-scale") and k < len(still) - 1:
                continue
            codebook_term, commitment = ((b - f) ** 2).mean(), ((a - live_f) ** 2).mean()
            if self.makes("nothing-detached"):
                codebook_term = commitment = ((b - live_f) ** 2).mean()
            if self.makes("sides-swapped"):
                codebook_term, commitment = commitment, codebook_term
            total += codebook_term * (not self.makes("commitment-alone"))
            total += commitment * (not self.makes("commitment-missing")) * beta
        return total / (1 if self.makes("loss-of-last-scale", "loss-summed") else len(still))

    def quantize(self, f, codebook, sizes, phis, beta) -> tuple[Array, float]:
        """f_hat of all maps and the loss, as values."""
        f_hats = self.cumulative(self.encode(f, codebook, sizes, phis), codebook, sizes, phis)
        return f if self.makes("returns-f") else f_hats[-1], self.loss(f, f, f_hats, f_hats, beta)

    def quantize_gradient(self, call: Call, f, codebook, sizes, phis, beta) -> list[Array]:
        """Gradients to f, codebook, and one phi's weight and bias; of f_hat with its values."""
        tokens = self.encode(f, codebook, sizes, phis)
        still = self.cumulative(tokens, codebook, sizes, phis)
        at = call.wrt[2][1]  # the scale whose phi is asked for
        weight = call.weight.astype(np.float64)
        of_f_hat = call.output == 0

        def value(live_f, *live):
            moved = self.cumulative(
                tokens, live[0], sizes, [*phis[:at], live[1:], *phis[at + 1 :]]
            )
            if of_f_hat:
                return (weight * moved[-1]).sum()
            return self.loss(f, live_f, still, moved, beta)

        weights = [codebook, *phis[at]]
        if of_f_hat and not self.makes("no-straight-through", "codebook-leaks"):
            grads = [np.zeros_like(part) for part in weights]
        else:
            grads = [
                slope(lambda x, i=i: value(f, *weights[:i], x, *weights[i + 1 :]), part)
                for i, part in enumerate(weights)
            ]
        if self.makes("phi-detached"):
            grads[1:] = [np.zeros_like(part) for part in grads[1:]]
        if of_f_hat:
            to_f = 0 * weight if self.makes("no-straight-through", "all-detached") else weight
            return [to_f, *grads, f if self.makes("values-of-f") else still[-1]]
        return [slope(lambda x: self.loss(f, x, still, still, beta), f), *grads]


def look_up(tokens: Array, codebook: Array) -> Array:
    """Tokens (B, h, w) to codes (B, C, h, w)."""
    return codebook[tokens].transpose(0, 3, 1, 2)


def slope(function, at: Array, step: float = 1e-3) -> Array:
    """Central differences, exact for quadratic functions up to rounding."""
    grad = np.zeros_like(at)
    for i in np.ndindex(at.shape):
        change = np.zeros_like(at)
        change[i] = step
        grad[i] = (function(at + change) - function(at - change)) / (2 * step)
    return grad
