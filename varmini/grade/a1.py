"""Assignment 1, a residual pyramid of finite scalars, on rectangles: references and checks."""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy import ndarray as Array
from numpy.random import Generator

from .checks import Check
from .reference import Reference as Base
from .reference import clear, normal, resize, wide
from .runner import Call

TITLE = "A multi-scale quantizer without a codebook"
Sizes = list[tuple[int, int]]
CLEAR = 5e-5  # no number is about halfway between two levels, no map about as good as it must be
LADDERS: list[Sizes] = [[(1, 1), (2, 3), (3, 5), (4, 4)], [(2, 1), (1, 3), (4, 2), (5, 4)]]
"""Odd ones: sides that do not all grow, and a last map of another size than the features."""
FULL = (5, 6), (6, 4)  # of the features
FEW: Sizes = [(1, 1), (2, 1), (2, 3)]  # for gradients, whose references take a run for each number


class Reference(Base):
    """The functions as the notebook asks for them; `a1.toml` says what mistakes make of them."""

    def down(self, f: Array, size: tuple[int, int], known: Array) -> Array:
        weight = known[:, None] * np.ones_like(f)
        total, share = resize(weight * f, size, "area"), resize(weight, size, "area")
        return np.divide(total, share, out=0 * total, where=share > 0)

    def to_tokens(self, z: Array, levels: list[int], span: Array) -> Array:
        top = column(levels) - 1
        at = (np.clip(z / column(span), -1, 1) + 1) / 2 * top
        self.margins.append(np.abs(at % 1 - 0.5).min())
        tokens = 0
        for number, count in zip(np.rint(at).astype(int).swapaxes(0, 1), levels):
            tokens = tokens * count + number
        return tokens

    def to_codes(self, tokens: Array, levels: list[int], span: Array) -> Array:
        digits = []
        for count in levels[::-1]:
            digits.append(tokens % count)
            tokens = tokens // count
        number = np.stack(digits[::-1], 1)
        return (2 * number / (column(levels) - 1) - 1) * column(span)

    def energy(self, x: Array, known: Array) -> Array:  # (B,)
        return (x**2 * known[:, None]).sum((1, 2, 3))

    def encode(self, f: Array, known, sizes: Sizes, levels, spans, gain: float) -> list[Array]:
        residual, tokens = f, []
        empty = np.prod(levels) // 2  # all numbers in the middle: nothing is added
        for size, span in zip(sizes, spans):
            found = self.to_tokens(self.down(residual, size, known), levels, span)
            h = self.decode([found], f.shape[2:], levels, span[None])
            before, after = self.energy(residual, known), self.energy(residual - h, known)
            saved = 1 - after / before
            self.margins.append(np.abs(saved - gain).min())
            good = (saved > gain)[:, None, None]
            tokens.append(np.where(good, found, empty))
            residual = residual - h * good[:, None]
        return tokens

    def decode(self, tokens: list[Array], size, levels: list[int], spans) -> Array:
        total = 0
        for one, span in zip(tokens, spans):
            total = total + resize(self.to_codes(one, levels, span), size, "bicubic")
        return total

    def cumulative(self, tokens, *given) -> list[Array]:
        """f_hat after each of the maps."""
        return [self.decode(tokens[: k + 1], *given) for k in range(len(tokens))]

    def teacher_inputs(self, tokens, known, sizes, levels, spans) -> list[Array]:
        f_hats, ones = self.cumulative(tokens, known.shape[1:], levels, spans), known[:, None] * 1.0
        rows, held = [], []
        for f_hat, size in zip(f_hats, sizes[1:]):
            block = self.down(f_hat, size, known)
            rows.append(block.reshape(*block.shape[:2], -1).transpose(0, 2, 1))
            held.append(resize(ones, size, "area").reshape(len(known), -1) > 0)
        rows, held = np.concatenate(rows, 1), np.concatenate(held, 1)
        return [block[seen] for block, seen in zip(rows, held)]

    def error(self, x: Array, known: Array) -> float:
        return self.energy(x, known).sum() / (known.sum() * x.shape[1])

    def loss(self, f, live_f, still, moved, known, beta) -> float:
        """Equation 5. f, still: constants; live_f, moved: what the gradient is taken through."""
        terms = [self.error(b - f, known) + beta * self.error(a - live_f, known)
                 for a, b in zip(still, moved)]  # fmt: skip
        return sum(terms) / len(terms)

    def quantize(self, f, known, sizes, levels, spans, gain, beta) -> tuple[Array, float]:
        tokens = self.encode(f, known, sizes, levels, spans, gain)
        f_hats = self.cumulative(tokens, f.shape[2:], levels, spans)
        return f_hats[-1], self.loss(f, f, f_hats, f_hats, known, beta)

    def quantize_gradient(self, call: Call, f, known, sizes, levels, spans, gain, beta) -> list:
        """Gradients to f and the spans; with those of f_hat its values."""
        tokens = self.encode(f, known, sizes, levels, spans, gain)
        moved = partial(self.cumulative, tokens, f.shape[2:], levels)
        still, weight = moved(spans), wide(call.weight)
        if call.output == 0:
            return [weight, 0 * spans, still[-1]]
        of_f = slope(lambda x: self.loss(f, x, still, still, known, beta), f)
        return [of_f, slope(lambda x: self.loss(f, f, still, moved(x), known, beta), spans)]


def column(numbers) -> Array:
    """(C,) as (C, 1, 1), to stand beside (B, C, h, w)."""
    return np.asarray(numbers)[:, None, None]


def slope(function, at: Array, step: float = 1e-3) -> Array:
    """Central differences, exact for quadratic functions up to rounding."""
    grad = np.zeros_like(at)
    for i in np.ndindex(at.shape):
        change = np.zeros_like(at)
        change[i] = step
        grad[i] = (function(at + change) - function(at - change)) / (2 * step)
    return grad


def spans_of(rng: Generator, *shape: int) -> Array:
    """Spans of that shape, so small that some numbers lie outside."""
    return rng.uniform(0.6, 1.8, shape).astype(np.float32)


def shapes(rng: Generator, batch: int, size: tuple[int, int]) -> Array:
    """`known` of pictures in the upper left corners of a batch, the first one full."""
    known = np.zeros((batch, *size), bool)
    for i, one in enumerate(known):
        h, w = (rng.integers(side // 3, side) for side in size) if i else size
        one[:h, :w] = True
    return known


def clear_call(rng, function: str, sizes: Sizes, full, levels, gain, *more, batch=3) -> Call:
    """`function` of features and ranges that leave no decision to rounding."""

    def make(r):
        f, spans = normal(r, batch, len(levels), *full), spans_of(r, len(sizes), len(levels))
        return Call(function, (f, shapes(r, batch, full), sizes, levels, spans, gain, *more))

    return clear(rng, make, Reference, CLEAR)


def cases_down(rng):
    """Holes anywhere, and windows of nothing but holes."""
    calls = []
    for old, new, batch in (((8, 8), (2, 2), 2), ((7, 5), (3, 2), 3), ((4, 6), (4, 6), 2)):
        known = rng.random((batch, *old)) < 0.6
        known[-1, : old[0] // 2 + 1] = False
        calls.append((normal(rng, batch, 3, *old), new, known))
    return calls


def cases_tokens(rng):
    """Odd and even numbers of levels; many numbers outside the range."""

    def make(r, size, levels):
        z, span = normal(r, 2, len(levels), *size), spans_of(r, len(levels))
        return Call("to_tokens", (z, levels, span))

    both = ((3, 5), [3, 5, 4]), ((9, 7), [7, 2, 5, 9])
    return [clear(rng, lambda r, g=given: make(r, *g), Reference, CLEAR) for given in both]


def cases_decode(rng, missing=0):
    """Token maps of two schedules, or the first few of them."""
    calls = []
    for sizes, full, levels in zip(LADDERS, FULL, ([3, 5, 4], [7, 2, 5])):
        tokens = [rng.integers(0, np.prod(levels), (3, *size)) for size in sizes]
        calls.append((tokens[: len(sizes) - missing], full, levels, spans_of(rng, len(sizes), 3)))
    return calls


def cases_quantize(rng):
    """Values of f_hat and of the loss, with two weights of the commitment."""
    given = zip(LADDERS, FULL, ([3, 7, 3], [5, 3]), (0.2, 0.05), (0.25, 0.6))
    return [clear_call(rng, "quantize", *one) for one in given]


def cases_gradient(rng, output):
    """Gradients of f_hat (output 0) or the loss (1): to f and the spans."""
    call = clear_call(rng, "quantize", FEW, (3, 4), [3, 5], 0.1, 0.25, batch=2)
    call.kind, call.output, call.wrt = "gradient", output, [[0], [4]]
    call.weight = np.asarray(normal(rng, *call.args[0].shape) if output == 0 else np.float32(1))
    call.value = output == 0  # else `return f` would earn the gradient's points
    return [call]


CHECKS = [
    Check("down", 1, 3, cases_down),
    Check("to_tokens", 2, 3, cases_tokens),
    Check("to_codes", 2, 2, lambda rng: [
        (rng.integers(0, np.prod(levels), (2, *size)), levels, spans_of(rng, len(levels)))
        for levels, size in (([3, 5, 4], (2, 3)), ([7, 2, 5, 9], (5, 3)))
    ]),
    Check("decode", 3, 2, cases_decode),
    Check("decode_some", 3, 1, lambda rng: cases_decode(rng, 2), function="decode"),
    Check("encode", 4, 5, lambda rng: [clear_call(rng, "encode", *one) for one in zip(
        LADDERS, FULL, ([3, 5, 3], [9, 5]), (0.1, 0.25))]),
    Check("teacher_inputs", 5, 3, lambda rng: [
        (tokens, shapes(rng, 3, full), sizes, *more)
        for (tokens, full, *more), sizes in zip(cases_decode(rng), LADDERS)
    ]),
    Check("quantize", 6, 1, cases_quantize, part=0),
    Check("straight_through", 6, 2, lambda rng: cases_gradient(rng, 0), function="quantize"),
    Check("loss", 6, 1, cases_quantize, function="quantize", part=1),
    Check("loss_gradient", 6, 2, lambda rng: cases_gradient(rng, 1), function="quantize"),
]  # fmt: skip
