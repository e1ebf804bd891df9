"""References of assignment 2 in float64: mask, AdaLN, attention and cache, right and wrong."""

from __future__ import annotations

import numpy as np
from numpy import ndarray as Array

from .reference import Reference as Base
from .reference import softmax, wide
from .runner import Call

Sizes = list[tuple[int, int]]


class Reference(Base):
    """The eight functions; `wrong` makes mistakes of `a2.CHECKS`."""

    def level_ids(self, sizes: Sizes) -> Array:
        """(L,): the map of each token, from 0."""
        counts = [max(h, w) if self.makes("one-row-a-map") else h * w for h, w in sizes]
        return np.repeat(np.arange(len(sizes)) + self.makes("levels-from-one"), counts)

    def block_mask(self, sizes: Sizes) -> Array:
        """(L, L) bool: True where row i may look at column j."""
        level = self.level_ids(sizes)
        query, key = level[:, None], level[None, :]
        if self.makes("token-causal"):
            return np.tri(len(level), dtype=bool)
        return self.choose(
            query >= key,
            own_scale_hidden=query > key,
            one_scale_ahead=query + 1 >= key,
            transposed=query <= key,
            inverted=query < key,
            own_scale_only=query == key,
        )

    def layer_norm(self, x: Array) -> Array:
        """Each row by itself to mean 0 and variance 1."""
        mean = 0 if self.makes("mean-not-subtracted") else x.mean(-1, keepdims=True)
        variance = ((x - mean) ** 2).mean(-1, keepdims=True)
        if self.makes("unbiased-variance"):
            variance = variance * x.shape[-1] / (x.shape[-1] - 1)
        if self.makes("eps-on-deviation"):
            return (x - mean) / (np.sqrt(variance) + 1e-6)
        return (x - mean) / np.sqrt(variance + self.choose(1e-6, eps_missing=0, eps_too_large=1e-5))

    def modulate(self, x: Array, scale: Array, shift: Array) -> Array:
        """LN(x) (1 + scale) + shift: x (B, l, w), scale and shift (B, w)."""
        scale, shift = scale[:, None], shift[:, None]
        if self.makes("scale-and-shift-swapped"):
            scale, shift = shift, scale
        if self.makes("norm-last"):
            return self.layer_norm(x * (1 + scale) + shift)
        normed = x if self.makes("no-layer-norm") else self.layer_norm(x)
        return normed * (scale + (not self.makes("scale-without-one"))) + shift

    def attend(self, q: Array, k: Array, v: Array, log_scale: Array, mask: Array | None) -> Array:
        """softmax(exp(min(sigma, ln 100)) <q/|q|, k/|k|>) v for q, k, v (B, heads, l, d)."""
        limit = np.log(100)
        clamped = self.choose(
            np.minimum(log_scale, limit),
            clamp_missing=log_scale,
            clamp_below=np.clip(log_scale, 0, limit),
        )
        scale = self.choose(
            np.exp(clamped), scale_not_exponentiated=clamped, temperature_ignored=clamped**0
        )
        q = q if self.makes("qk-norm-missing", "q-not-normalised") else unit(q)
        k = k if self.makes("qk-norm-missing", "k-not-normalised") else unit(k)
        if self.makes("divided-by-root-d"):
            scale = scale / np.sqrt(q.shape[-1])
        scores = np.einsum("bhid,bhjd->bhij", q, k) * scale[:, None, None]
        axis = -2 if self.makes("softmax-over-queries") else -1
        if mask is None or self.makes("mask-ignored"):
            return softmax(scores, axis) @ v
        if self.makes("mask-added"):
            return softmax(scores + mask, axis) @ v
        if self.makes("mask-after-softmax"):
            return (softmax(scores, axis) * mask) @ v
        allowed = ~mask if self.makes("mask-inverted") else mask
        hidden = self.choose(-np.inf, zero_for_minus_infinity=0.0)
        return softmax(np.where(allowed, scores, hidden), axis) @ v

    def project(self, x: Array, p: dict) -> list[Array]:
        """q, k, v, each (B, heads, l, d)."""
        heads = len(p["log_scale"])
        q, k, v = np.split(x @ p["qkv"].T, 3, axis=-1)
        if self.makes("qkv-order"):
            q, k = k, q
        q = q + p["q_bias"] * self.choose(1, q_bias_missing=0)
        v = v + p["v_bias"] * self.choose(1, v_bias_missing=0)
        k = k + p["q_bias"] * self.choose(0, k_bias_added=1)
        if self.makes("heads-not-moved"):
            return [t.reshape(len(x), heads, x.shape[1], -1) for t in (q, k, v)]
        if self.makes("heads-last"):
            return [t.reshape(*x.shape[:2], -1, heads).transpose(0, 3, 1, 2) for t in (q, k, v)]
        return [t.reshape(*x.shape[:2], heads, -1).transpose(0, 2, 1, 3) for t in (q, k, v)]

    def join(self, mixed: Array, p: dict) -> Array:
        """Heads (B, heads, l, d) side by side, then the output projection: (B, l, w)."""
        rows = mixed.transpose(0, 2, 1, 3).reshape(len(mixed), mixed.shape[2], -1)
        if self.makes("heads-joined-unmoved"):
            rows = mixed.reshape(rows.shape)
        bias = p["proj_bias"] * self.choose(1, projection_bias_missing=0)
        return rows if self.makes("no-output-projection") else rows @ p["proj"].T + bias

    def attention(self, x: Array, p: dict, mask: Array | None) -> Array:
        """The whole layer on x (B, l, w)."""
        return self.join(self.attend(*self.project(x, p), p["log_scale"], mask), p)

    def block(self, x: Array, condition: Array, p: dict, mask: Array | None) -> Array:
        """Attention and feed-forward with AdaLN: (B, l, w)."""
        # x <- x + gamma_1 Attn(LN(x) (1 + s_1) + b_1);  x <- x + gamma_2 FFN(LN(x) (1 + s_2) + b_2)
        c = condition if self.makes("silu-missing") else condition / (1 + np.exp(-condition))
        six = np.split(c @ p["modulation"].T + p["modulation_bias"], 6, axis=-1)
        gamma1, gamma2, scale1, scale2, shift1, shift2 = six
        if self.makes("modulation-order"):  # DiT's: shift, scale, gate, twice
            shift1, scale1, gamma1, shift2, scale2, gamma2 = six
        if self.makes("gates-missing"):
            gamma1, gamma2 = np.ones_like(gamma1), np.ones_like(gamma2)
        keep = 0 if self.makes("residual-missing") else 1
        y = keep * x + gamma1[:, None] * self.attention(self.modulate(x, scale1, shift1), p, mask)
        source = x if self.makes("branches-in-parallel") else y
        hidden = self.modulate(source, scale2, shift2) @ p["fc1"].T + p["fc1_bias"]
        hidden = np.maximum(hidden, 0) if self.makes("relu") else gelu(hidden)
        return keep * y + gamma2[:, None] * (hidden @ p["fc2"].T + p["fc2_bias"])

    def embed(self, start: Array, teacher: Array, p: dict, sizes: Sizes) -> Array:
        """What enters the first block: class, then words, plus position and level."""
        words = teacher @ p["word"].T + (0 if self.makes("word-bias-missing") else p["word_bias"])
        x = np.concatenate([words, start] if self.makes("start-last") else [start, words], 1)
        ids = self.level_ids(sizes)
        ids = np.minimum(ids + 1, len(sizes) - 1) if self.makes("next-level") else ids
        x = x + p["position"] * self.choose(1, position_missing=0)
        return x + p["level"][ids] * self.choose(1, level_missing=0)

    def step_chain(self, call: Call, p: dict) -> list[Array]:
        """`step` scale after scale, the sequences in turn."""
        found = [self.steps(xs, p) for xs in wide(call.steps)]
        return [one for scale in zip(*found) for one in scale]

    def steps(self, xs: list[Array], p: dict) -> list[Array]:
        """One sequence: what attention over all scales gives with the block-causal mask."""
        level = np.repeat(np.arange(len(xs)), [x.shape[1] for x in xs])
        query, key = level[:, None], level[None, :]
        mask = self.choose(
            query >= key,
            cache_not_appended=query == key,
            cache_of_one_scale=(query >= key) & (query - key <= 1),
            own_scale_not_seen=(query > key) | (query + key == 0),
            token_causal_inside=np.tri(len(level), dtype=bool),
        )
        if "attention" in vars(self):  # a student's
            whole = self.attention(np.concatenate(xs, 1), p, mask)
            return [whole[:, level == k] for k in range(len(xs))]
        q, k, v = (np.concatenate(part, 2) for part in zip(*(self.project(x, p) for x in xs)))
        found = []
        for rows in (level == scale for scale in range(len(xs))):
            seen = mask[rows].any(0)
            own = None if mask[rows][:, seen].all() else mask[rows][:, seen]
            parts = q[:, :, rows], k[:, :, seen], v[:, :, seen]
            found.append(self.join(self.attend(*parts, p["log_scale"], own), p))
        return found


def unit(x: Array) -> Array:
    """Every vector at length 1."""
    return x / np.sqrt((x**2).sum(-1, keepdims=True))


def gelu(x: Array) -> Array:
    """The form with tanh; the tolerance takes the exact one as well."""
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
