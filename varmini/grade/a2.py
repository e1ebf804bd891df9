"""Assignment 2, the transformer: mask, AdaLN, attention and its cache: references and checks."""

from __future__ import annotations

import numpy as np
from numpy import ndarray as Array
from numpy.random import Generator

from .checks import Check
from .reference import Reference as Base
from .reference import normal, softmax, wide
from .runner import Call

TITLE = "Mask, AdaLN and attention with a cache"
Sizes = list[tuple[int, int]]
LADDERS = [[(1, 1), (2, 2), (3, 3)], [(1, 2), (1, 3), (3, 2)], [(2, 2), (2, 2), (4, 4)]]


class Reference(Base):
    """The functions as the notebook asks for them; `a2.toml` says what mistakes make of them."""

    def level_ids(self, sizes: Sizes) -> Array:
        return np.repeat(np.arange(len(sizes)), [h * w for h, w in sizes])

    def block_mask(self, sizes: Sizes) -> Array:
        level = self.level_ids(sizes)
        return level[:, None] >= level[None, :]

    def layer_norm(self, x: Array) -> Array:
        """Each row by itself to mean 0 and variance 1."""
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)

    def modulate(self, x: Array, scale: Array, shift: Array) -> Array:
        return self.layer_norm(x) * (1 + scale[:, None]) + shift[:, None]

    def attend(self, q: Array, k: Array, v: Array, log_scale: Array, mask: Array | None) -> Array:
        scale = np.exp(np.minimum(log_scale, np.log(100)))
        q, k = unit(q), unit(k)
        scores = np.einsum("bhid,bhjd->bhij", q, k) * scale[:, None, None]
        if mask is not None:
            scores = np.where(mask, scores, -np.inf)
        return softmax(scores) @ v

    def project(self, x: Array, p: dict) -> list[Array]:
        """q, k, v, each (B, heads, l, d)."""
        heads = len(p["log_scale"])
        q, k, v = np.split(x @ p["qkv"].T, 3, axis=-1)
        parts = q + p["q_bias"], k, v + p["v_bias"]
        return [t.reshape(*x.shape[:2], heads, -1).transpose(0, 2, 1, 3) for t in parts]

    def join(self, mixed: Array, p: dict) -> Array:
        """Heads (B, heads, l, d) side by side, then the output projection: (B, l, w)."""
        rows = mixed.transpose(0, 2, 1, 3).reshape(len(mixed), mixed.shape[2], -1)
        return rows @ p["proj"].T + p["proj_bias"]

    def attention(self, x: Array, p: dict, mask: Array | None) -> Array:
        return self.join(self.attend(*self.project(x, p), p["log_scale"], mask), p)

    def block(self, x: Array, condition: Array, p: dict, mask: Array | None) -> Array:
        silu = condition / (1 + np.exp(-condition))
        six = np.split(silu @ p["modulation"].T + p["modulation_bias"], 6, axis=-1)
        gamma1, gamma2, scale1, scale2, shift1, shift2 = six
        x = x + gamma1[:, None] * self.attention(self.modulate(x, scale1, shift1), p, mask)
        hidden = gelu(self.modulate(x, scale2, shift2) @ p["fc1"].T + p["fc1_bias"])
        return x + gamma2[:, None] * (hidden @ p["fc2"].T + p["fc2_bias"])

    def embed(self, start: Array, teacher: Array, p: dict, sizes: Sizes) -> Array:
        words = teacher @ p["word"].T + p["word_bias"]
        x = np.concatenate([start, words], 1)
        return x + p["position"] + p["level"][self.level_ids(sizes)]

    def step_chain(self, call: Call, p: dict) -> list[Array]:
        """`step` scale after scale, the sequences in turn."""
        found = [self.steps(xs, p) for xs in wide(call.steps)]
        return [one for scale in zip(*found) for one in scale]

    def steps(self, xs: list[Array], p: dict) -> list[Array]:
        """One sequence: what attention over all scales gives with the block-causal mask."""
        level = np.repeat(np.arange(len(xs)), [x.shape[1] for x in xs])
        query, key = level[:, None], level[None, :]
        mask = query >= key
        if "attention" in vars(self):  # a student's
            whole = self.attention(np.concatenate(xs, 1), p, mask)
            return [whole[:, level == k] for k in range(len(xs))]
        q, k, v = (np.concatenate(part, 2) for part in zip(*(self.project(x, p) for x in xs)))
        found = []
        for rows in (level == scale for scale in range(len(xs))):
            seen = mask[rows].any(0)
            own = None if mask[rows][:, seen].all() else mask[rows][:, seen]
            mixed = self.attend(q[:, :, rows], k[:, :, seen], v[:, :, seen], p["log_scale"], own)
            found.append(self.join(mixed, p))
        return found


def unit(x: Array) -> Array:
    """Every vector at length 1."""
    return x / np.sqrt((x**2).sum(-1, keepdims=True))


def gelu(x: Array) -> Array:
    """The form with tanh; the tolerance takes the exact one as well."""
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def mask_of(sizes) -> np.ndarray:
    """The right mask of a ladder of sizes."""
    return Reference().block_mask(sizes)


def weights(rng: Generator, heads: int = 2, w: int = 8) -> dict:
    """Of one block; none is small, so that nothing hides behind a gate near zero."""
    h = 4 * w
    shapes = {
        "qkv": (3 * w, w), "q_bias": (w,), "v_bias": (w,), "proj": (w, w), "proj_bias": (w,),
        "modulation": (6 * w, w), "modulation_bias": (6 * w,), "fc1": (h, w), "fc1_bias": (h,),
        "fc2": (w, h), "fc2_bias": (w,),
    }  # fmt: skip
    p = {name: normal(rng, *shape, scale=0.5) for name, shape in shapes.items()}
    return p | {"log_scale": normal(rng, heads, scale=0.3) + np.float32(np.log(4))}


def ladders(rng: Generator) -> list[tuple]:
    """Three fixed ladders, of which one repeats a size, and two random ones, coarse to fine."""

    def random():
        sides = np.sort(rng.integers(1, 5, (rng.integers(3, 6), 2)), axis=0)
        sides[-1] += 1
        return [tuple(size) for size in sides.tolist()]

    return [(sizes,) for sizes in (*LADDERS, random(), random())]


def heads(rng: Generator, length: int, scale: float = 1.0, batch: int = 2, count: int = 2):
    """Random queries, keys or values (batch, count, length, 4)."""
    return normal(rng, batch, count, length, 4, scale=scale)


def cases_attend_mask(rng):
    """With a mask: where it acts, and with which sign."""
    calls = []
    for sizes, batch, count in zip(LADDERS, (2, 3, 1), (2, 2, 3)):
        mask = mask_of(sizes)
        qkv = [heads(rng, len(mask), 1.0, batch, count) for _ in range(3)]
        calls.append((*qkv, np.linspace(1.2, 1.5, count, dtype=np.float32), mask))
    return calls


SHAPES = (2, 2, 8), (3, 4, 12)  # (batch, heads, width)


def cases_attention(rng):
    """The whole layer, with a mask and without: parts, biases, heads, projection."""
    masks = mask_of(LADDERS[0]), None
    return [
        (normal(rng, batch, 5 if mask is None else len(mask), w), weights(rng, count, w), mask)
        for (batch, count, w), mask in zip(SHAPES, masks)
    ]


def cases_embed(rng):
    """Words, positions and levels of three ladders."""
    calls = []
    for sizes, batch, w in zip(LADDERS, (2, 3, 2), (8, 6, 8)):
        first, length = sizes[0][0] * sizes[0][1], len(mask_of(sizes))
        p = {"word": normal(rng, w, 3), "word_bias": normal(rng, w)}
        p |= {"position": normal(rng, 1, length, w), "level": normal(rng, len(sizes), w)}
        start = normal(rng, batch, first, w)
        calls.append((start, normal(rng, batch, length - first, 3), p, sizes))
    return calls


def cases_step(rng):
    """Two sequences in turn, each with its cache; the second ladder repeats a size."""
    calls = []
    for batch, count, w in SHAPES:
        call = Call("step", (weights(rng, count, w),), kind="chain")
        for sizes, size in (LADDERS[0], 2), (LADDERS[2], batch):
            call.steps.append([normal(rng, size, h * v, w) for h, v in sizes])
        calls.append(call)
    return calls


CHECKS = [
    Check("level_ids", 1, 1, ladders),
    Check("block_mask", 1, 3, ladders),
    # Rows with a mean of their own, and rows of so small a variance that the 1e-6 shows.
    Check("modulate", 2, 2, lambda rng: [
        (normal(rng, b, n, w, scale=s) + normal(rng, b, n, 1, scale=own), normal(rng, b, w),
         normal(rng, b, w))
        for b, n, w, s, own in ((2, 5, 8, 2, 1), (3, 4, 12, 2e-3, 0))
    ]),
    # No mask; queries long and keys short, so that a norm left out shows; low temperatures.
    Check("attend", 3, 2, lambda rng: [
        (*(heads(rng, length, s, batch, count) for length, s in ((3, 2.0), (6, 0.5), (6, 1.0))),
         normal(rng, count, scale=0.3) + np.float32(sigma), None)
        for batch, count, sigma in ((2, 2, 1.5), (3, 4, 1.0), (1, 3, -1.0))
    ]),
    Check("attend_mask", 3, 2, cases_attend_mask, function="attend"),
    # Temperatures above the limit, with keys that nearly agree: between 100 and exp(6) times their
    # difference lies a lot.
    Check("attend_clamp", 3, 1, lambda rng: [
        (heads(rng, 3), heads(rng, 1) + heads(rng, 6, 0.02), heads(rng, 6),
         np.array([6.0, 7.0], np.float32), None)
    ], function="attend"),
    Check("attention", 4, 3, cases_attention),
    Check("block", 5, 4, lambda rng: [
        (normal(rng, batch, 14, w), normal(rng, batch, w), weights(rng, count, w),
         mask_of(LADDERS[0]))
        for batch, count, w in SHAPES
    ], tolerance=2e-3),
    Check("embed", 6, 3, cases_embed),
    Check("step", 7, 4, cases_step),
]  # fmt: skip
