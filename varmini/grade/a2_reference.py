"""References of assignment 2 in float64: mask, AdaLN, attention and cache, right and wrong."""

from __future__ import annotations

import numpy as np
from numpy import ndarray as Array

from .reference import softmax, wide
from .runner import Call

Wrong = frozenset
Sizes = list[tuple[int, int]]


def level_ids(sizes: Sizes, wrong: Wrong) -> Array:
    """(L,): the map of each token, from 0."""
    counts = [max(h, w) if "one-row-a-map" in wrong else h * w for h, w in sizes]
    return np.repeat(np.arange(len(sizes)) + ("levels-from-one" in wrong), counts)


def block_mask(sizes: Sizes, wrong: Wrong) -> Array:
    """(L, L) bool: True where row i may look at column j."""
    # mask[i, j] = level(i) >= level(j)
    level = level_ids(sizes, wrong)
    query, key = level[:, None], level[None, :]
    if "token-causal" in wrong:
        return np.tri(len(level), dtype=bool)
    if "own-scale-hidden" in wrong:
        return query > key
    if "one-scale-ahead" in wrong:
        return query + 1 >= key
    if "transposed" in wrong:
        return query <= key
    if "inverted" in wrong:
        return query < key
    if "own-scale-only" in wrong:
        return query == key
    return query >= key


def layer_norm(x: Array, wrong: Wrong) -> Array:
    """Each row by itself to mean 0 and variance 1."""
    mean = 0 if "mean-not-subtracted" in wrong else x.mean(-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(-1, keepdims=True)
    if "unbiased-variance" in wrong:
        variance = variance * x.shape[-1] / (x.shape[-1] - 1)
    return (x - mean) / np.sqrt(variance + 1e-6)


def modulate(x: Array, scale: Array, shift: Array, wrong: Wrong) -> Array:
    """The norm of x (B, l, w), scaled and shifted by (B, w)."""
    # LN(x) (1 + scale) + shift
    scale, shift = scale[:, None], shift[:, None]
    if "scale-without-one" in wrong:
        return layer_norm(x, wrong) * scale + shift
    if "no-layer-norm" in wrong:
        return x * (1 + scale) + shift
    if "norm-last" in wrong:
        return layer_norm(x * (1 + scale) + shift, wrong)
    if "scale-and-shift-swapped" in wrong:
        scale, shift = shift, scale
    return layer_norm(x, wrong) * (1 + scale) + shift


def unit(x: Array) -> Array:
    """Every vector at length 1."""
    return x / np.sqrt((x**2).sum(-1, keepdims=True))


def attend(q, k, v, log_scale, mask, wrong):
    """Attention of q, k, v (B, heads, l, d) with the norm, temperature and mask of VAR."""
    # softmax(exp(min(sigma, ln 100)) <q/|q|, k/|k|>) v
    scale = np.exp(log_scale if "clamp-missing" in wrong else np.minimum(log_scale, np.log(100)))
    if "scale-not-exponentiated" in wrong:
        scale = log_scale
    if "temperature-ignored" in wrong:
        scale = np.ones_like(log_scale)
    if "qk-norm-missing" not in wrong:
        q = q if "q-not-normalised" in wrong else unit(q)
        k = k if "k-not-normalised" in wrong else unit(k)
    if "divided-by-root-d" in wrong:
        scale = scale / np.sqrt(q.shape[-1])
    scores = np.einsum("bhid,bhjd->bhij", q, k) * scale[:, None, None]
    if mask is None or "mask-ignored" in wrong:
        return softmax(scores) @ v
    if "mask-added" in wrong:
        return softmax(scores + mask) @ v
    if "mask-after-softmax" in wrong:
        return (softmax(scores) * mask) @ v
    allowed = ~mask if "mask-inverted" in wrong else mask
    return softmax(np.where(allowed, scores, -np.inf)) @ v


def project(x: Array, p: dict, wrong: Wrong) -> tuple[Array, Array, Array]:
    """q, k, v, each (B, heads, l, d)."""
    width, heads = x.shape[-1], len(p["log_scale"])
    q, k, v = np.split(x @ p["qkv"].T, 3, axis=-1)
    q = q if "q-bias-missing" in wrong else q + p["q_bias"]
    v = v if "v-bias-missing" in wrong else v + p["v_bias"]
    if "qkv-order" in wrong:
        q, k, v = k + p["q_bias"], q - p["q_bias"], v
    if "heads-not-moved" in wrong:
        return tuple(t.reshape(len(x), heads, -1, width // heads) for t in (q, k, v))
    return tuple(
        t.reshape(*x.shape[:2], heads, width // heads).transpose(0, 2, 1, 3) for t in (q, k, v)
    )


def join(mixed: Array, p: dict, wrong: Wrong) -> Array:
    """Heads (B, heads, l, d) side by side, then the output projection: (B, l, w)."""
    rows = mixed.transpose(0, 2, 1, 3).reshape(len(mixed), mixed.shape[2], -1)
    return rows if "no-output-projection" in wrong else rows @ p["proj"].T + p["proj_bias"]


def attention(x: Array, p: dict, mask: Array | None, wrong: Wrong) -> Array:
    """The whole layer on x (B, l, w)."""
    return join(attend(*project(x, p, wrong), p["log_scale"], mask, wrong), p, wrong)


def gelu(x: Array) -> Array:
    """The form with tanh; the tolerance takes the exact one as well."""
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def block(x: Array, condition: Array, p: dict, mask: Array | None, wrong: Wrong) -> Array:
    """Attention and feed-forward with AdaLN: (B, l, w)."""
    # x <- x + gamma_1 Attn(LN(x) (1 + s_1) + b_1);  x <- x + gamma_2 FFN(LN(x) (1 + s_2) + b_2)
    gate = condition if "silu-missing" in wrong else condition / (1 + np.exp(-condition))
    six = np.split(gate @ p["modulation"].T + p["modulation_bias"], 6, axis=-1)
    gamma1, gamma2, scale1, scale2, shift1, shift2 = six
    if "modulation-order" in wrong:  # DiT's: shift, scale, gate, twice
        shift1, scale1, gamma1, shift2, scale2, gamma2 = six
    if "gates-missing" in wrong:
        gamma1, gamma2 = np.ones_like(gamma1), np.ones_like(gamma2)
    gates = [gamma1[:, None], gamma2[:, None]]
    keep = 0 if "residual-missing" in wrong else 1
    y = keep * x + gates[0] * attention(modulate(x, scale1, shift1, wrong), p, mask, wrong)
    source = x if "branches-in-parallel" in wrong else y
    hidden = modulate(source, scale2, shift2, wrong) @ p["fc1"].T + p["fc1_bias"]
    hidden = np.maximum(hidden, 0) if "relu" in wrong else gelu(hidden)
    return keep * y + gates[1] * (hidden @ p["fc2"].T + p["fc2_bias"])


def embed(start: Array, teacher: Array, p: dict, sizes: Sizes, wrong: Wrong) -> Array:
    """What enters the first block: class, then words, plus position and level."""
    words = teacher @ p["word"].T + (0 if "word-bias-missing" in wrong else p["word_bias"])
    x = np.concatenate([start, words], 1)
    if "position-missing" not in wrong:
        x = x + p["position"]
    if "level-missing" not in wrong:
        ids = level_ids(sizes, wrong)
        ids = np.minimum(ids + 1, len(sizes) - 1) if "next-level" in wrong else ids
        x = x + p["level"][ids]
    return x


def steps(xs: list[Array], p: dict, wrong: Wrong) -> list[Array]:
    """`step` scale after scale: what the masked attention over all scales gives."""
    out, keys, values = [], None, None
    for x in xs:
        q, k, v = project(x, p, wrong)
        if keys is not None and "cache-not-appended" not in wrong:
            k, v = np.concatenate([keys, k], 2), np.concatenate([values, v], 2)
        seen = (k, v)
        if "own-scale-not-seen" in wrong and keys is not None:
            seen = (keys, values)
        mask = None
        if "token-causal-inside" in wrong:
            old = k.shape[2] - x.shape[1]
            mask = np.concatenate(
                [np.ones((x.shape[1], old), bool), np.tri(x.shape[1], dtype=bool)], 1
            )
        out.append(join(attend(q, *seen, p["log_scale"], mask, wrong), p, wrong))
        one = x.shape[1]
        last = "cache-of-one-scale" in wrong
        keys, values = (k[:, :, -one:], v[:, :, -one:]) if last else (k, v)
    return out


def reference(call: Call, wrong: Wrong):
    """The expected answer to a call, with the mistakes in `wrong` made."""
    if call.kind == "chain":
        return steps(wide(call.steps), *wide(call.args), wrong)
    functions = {
        "level_ids": level_ids, "block_mask": block_mask, "modulate": modulate, "attend": attend,
        "attention": attention, "block": block, "embed": embed,
    }  # fmt: skip
    return functions[call.function](*wide(call.args), wrong)
