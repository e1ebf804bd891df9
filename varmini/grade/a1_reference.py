"""References of assignment 1 in float64: Algorithms 1 and 2 and their loss, right and wrong."""

from __future__ import annotations

import numpy as np
from numpy import ndarray as Array

from .reference import conv3x3, resize, wide
from .runner import Call

Wrong = frozenset
Phis = list[tuple[Array, Array]]
Sizes = list[tuple[int, int]]


def choose(wrong: Wrong, usual: str, **others: str) -> str:
    """The value of the mistake that is made, else the usual one."""
    return next((v for k, v in others.items() if k.replace("_", "-") in wrong), usual)


def down(f: Array, size: tuple[int, int], wrong: Wrong) -> Array:
    """Area interpolation (B, C, H, W) -> (B, C, h, w), or a wrong kind."""
    kind = choose(
        wrong, "area", down_bilinear="bilinear", down_nearest="nearest", down_bicubic="bicubic"
    )
    return resize(f, size, kind)


def up(codes: Array, size: tuple[int, int], wrong: Wrong) -> Array:
    """Bicubic interpolation (B, C, h, w) -> (B, C, H, W), or a wrong kind."""
    kind = choose(
        wrong,
        "bicubic",
        up_bilinear="bilinear",
        up_nearest="nearest",
        up_area="area",
        up_corners="bicubic-corners",
    )
    return resize(codes, size, kind)


def phi(h: Array, weight: Array, bias: Array, wrong: Wrong) -> Array:
    """phi(h) = h / 2 + conv(h) / 2."""
    if "phi-left-out" in wrong:
        return h
    bias = np.zeros_like(bias) if "phi-without-bias" in wrong else bias
    if "phi-conv-alone" in wrong:
        return conv3x3(h, weight, bias)
    share = 1 if "phi-sum" in wrong else 0.5
    return share * h + share * conv3x3(h, weight, bias)


def contribution(codes: Array, size: tuple[int, int], weight: Array, bias: Array, wrong: Wrong):
    """What one map adds to f_hat: phi(up(codes))."""
    if "no-phi" in wrong:
        return up(codes, size, wrong)
    if "phi-before-up" in wrong:
        return up(phi(codes, weight, bias, wrong), size, wrong)
    return phi(up(codes, size, wrong), weight, bias, wrong)


def nearest(z: Array, codebook: Array, wrong: Wrong, margins: list | None = None) -> Array:
    """Tokens (B, h, w) of the codes with the least distance; `margins` gets the closest call."""
    rows = z.transpose(0, 2, 3, 1)  # (B, h, w, C)
    score = -((rows[..., None, :] - codebook) ** 2).sum(-1)
    if "farthest" in wrong:
        score = -score
    if "dot-product" in wrong:
        score = rows @ codebook.T
    if "cosine" in wrong:
        score = rows @ (codebook / np.linalg.norm(codebook, axis=1, keepdims=True)).T
    if margins is not None:
        best = np.sort(score, -1)
        margins.append((best[..., -1] - best[..., -2]).min())
    return score.argmax(-1)


def look_up(tokens: Array, codebook: Array) -> Array:
    """Tokens (B, h, w) to codes (B, C, h, w)."""
    return codebook[tokens].transpose(0, 3, 1, 2)


def residual_pass(f, codebook, sizes, phis, wrong, margins=None, tokens=None):
    """Algorithm 1: (tokens, f_hat of every scale); with `tokens` given, from those."""
    rest, f_hat = f, np.zeros_like(f)
    found, f_hats = [], []
    for k, (size, pair) in enumerate(zip(sizes, phis)):
        found.append(
            nearest(down(rest, size, wrong), codebook, wrong, margins)
            if tokens is None
            else tokens[k]
        )
        codes = look_up(found[-1], codebook)
        h = contribution(codes, sizes[-1], *pair, wrong)
        f_hat = f_hat + h
        f_hats.append(f_hat)
        if "residual-not-subtracted" in wrong:
            continue
        rest = rest - (
            f_hat
            if "residual-twice" in wrong
            else up(codes, sizes[-1], wrong)
            if "residual-without-phi" in wrong
            else h
        )
    return found, f_hats


def cumulative(tokens, codebook, sizes, phis, wrong):
    """Algorithm 2: f_hat after each of the maps that are given."""
    total, f_hats = 0, []
    for k, map_ in enumerate(tokens):
        pair = phis[0] if "first-phi-everywhere" in wrong else phis[k]
        h = contribution(look_up(map_, codebook), sizes[-1], *pair, wrong)
        total = h if "last-map-only" in wrong else total + h
        f_hats.append(total)
    return f_hats


def teacher_inputs(tokens, codebook, sizes, phis, wrong):
    """(B, L - h_1 w_1, C): f_hat before each map but the first, down at its size."""
    f_hats = cumulative(tokens, codebook, sizes, phis, wrong)
    if "own-map-only" in wrong:  # h_k instead of f_hat_k
        f_hats = [b - a for a, b in zip([0, *f_hats], f_hats)]
    blocks = []
    for k in range(0 if "first-block-kept" in wrong else 1, len(sizes)):
        source = np.zeros_like(f_hats[0]) if k == 0 else f_hats[k - 1]
        source = f_hats[k] if "looks-ahead" in wrong else source
        small = down(source, sizes[k], wrong)
        if "column-by-column" in wrong:
            small = small.transpose(0, 1, 3, 2)
        blocks.append(small.reshape(*small.shape[:2], -1).transpose(0, 2, 1))
    return np.concatenate(blocks, 1)


def loss_value(f, live_f, still, moved, beta, wrong):
    """The loss where a gradient sees only `live_f` and `moved` change.

    L = 1/K sum_k |f_hat_k - sg(f)|^2 + beta |sg(f_hat_k) - f|^2 (section 3.1, equation 5).

    Args:
        still, moved: f_hat of every scale, as a constant and as a function of the codebook.
    """
    total = 0.0
    for k, (a, b) in enumerate(zip(still, moved)):
        if "loss-of-last-scale" in wrong and k < len(still) - 1:
            continue
        codebook_term, commitment = ((b - f) ** 2).mean(), ((a - live_f) ** 2).mean()
        if "nothing-detached" in wrong:
            codebook_term = commitment = ((b - live_f) ** 2).mean()
        if "sides-swapped" in wrong:
            codebook_term, commitment = commitment, codebook_term
        total += codebook_term + (0 if "commitment-missing" in wrong else beta) * commitment
    return total / (1 if wrong & {"loss-of-last-scale", "loss-summed"} else len(still))


def quantize(f, codebook, sizes, phis, beta, wrong):
    """f_hat of all maps and the loss, as values."""
    tokens, _ = residual_pass(f, codebook, sizes, phis, wrong)
    f_hats = cumulative(tokens, codebook, sizes, phis, wrong)
    loss = loss_value(f, f, f_hats, f_hats, beta, wrong)
    return f_hats[-1] if "returns-f" not in wrong else f, loss


def slope(function, at: Array, step: float = 1e-4) -> Array:
    """Central differences, exact for the quadratic functions here up to rounding."""
    grad = np.zeros_like(at)
    for i in np.ndindex(at.shape):
        change = np.zeros_like(at)
        change[i] = step
        grad[i] = (function(at + change) - function(at - change)) / (2 * step)
    return grad


def loss_gradients(f, codebook, sizes, phis, beta, wrong):
    """Of the loss to f and to the codebook, by central differences."""
    tokens, _ = residual_pass(f, codebook, sizes, phis, wrong)
    still = cumulative(tokens, codebook, sizes, phis, wrong)

    def of_codebook(live):
        moved = cumulative(tokens, live, sizes, phis, wrong)
        return loss_value(f, f, still, moved, beta, wrong)

    of_f = slope(lambda live: loss_value(f, live, still, still, beta, wrong), f)
    return [of_f, slope(of_codebook, codebook)]


def straight_gradients(call, f, codebook, sizes, phis, beta, wrong):
    """Of sum(weight f_hat): weight for f, nothing for the codebook; and f_hat."""
    weight = call.weight.astype(np.float64)
    tokens, _ = residual_pass(f, codebook, sizes, phis, wrong)
    f_hat = f if "values-of-f" in wrong else cumulative(tokens, codebook, sizes, phis, wrong)[-1]
    if wrong & {"no-straight-through", "codebook-leaks"}:
        through = slope(
            lambda x: (weight * cumulative(tokens, x, sizes, phis, wrong)[-1]).sum(), codebook
        )
        return [np.zeros_like(f) if "no-straight-through" in wrong else weight, through, f_hat]
    of_f = np.zeros_like(f) if "all-detached" in wrong else weight
    return [of_f, np.zeros_like(codebook), f_hat]


def reference(call: Call, wrong: Wrong):
    """The expected answer to a call, with the mistakes in `wrong` made."""
    args = wide(call.args)
    if call.kind == "gradient":
        if call.output == 0:
            return straight_gradients(call, *args, wrong)
        return loss_gradients(*args, wrong)
    return {
        "down": down, "up": up, "phi": phi, "contribution": contribution, "nearest": nearest,
        "encode": lambda *a: residual_pass(*a)[0], "decode": lambda *a: cumulative(*a)[-1],
        "teacher_inputs": teacher_inputs, "quantize": quantize,
    }[call.function](*args, wrong)  # fmt: skip
