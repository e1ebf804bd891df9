"""Assignment 2, packed pictures: masks and leaks, rotary attention, a cache: references, checks."""

from __future__ import annotations

import numpy as np
from numpy import ndarray as Array
from numpy.random import Generator

from .checks import Check
from .reference import Reference as Base
from .reference import normal, softmax, wide
from .runner import Call

TITLE = "Packed pictures: masks that leak, rotary attention and a cache"
Schedule = list[tuple[int, int]]
PACKS: list[list[Schedule]] = [  # sides do not all grow, and sizes repeat
    [[(1, 1), (2, 3), (3, 2)], [(2, 1), (2, 2)]],
    [[(2, 2), (1, 3)], [(1, 1), (1, 1), (3, 1)], [(1, 2), (2, 2)]],
]


class Reference(Base):
    """The functions as the notebook asks for them; `a2.toml` says what mistakes make of them."""

    def token_table(self, schedules: list[Schedule]) -> Array:
        rows: list[tuple[int, ...]] = []
        for picture, sizes in enumerate(schedules):
            for level, (h, w) in enumerate(sizes):
                rows += [(picture, level, i // w, i % w) for i in range(h * w)]
        return np.array(rows)

    def packed_mask(self, table: Array) -> Array:
        picture, level = table[:, 0], table[:, 1]
        return (picture[:, None] == picture) & (level[:, None] >= level)

    def reach(self, masks: list[Array]) -> Array:
        found = np.eye(len(masks[0]), dtype=bool)
        for mask in masks:
            found = found | mask @ found
        return found

    def leaks(self, network: dict, x: Array, table: Array) -> Array:
        seen = self.reach([mask for _, mask in network["net"]])
        return seen & ~self.packed_mask(table)

    def modulate(self, x: Array, scale: Array, shift: Array, picture: Array) -> Array:
        centred = x - x.mean(-1, keepdims=True)
        normed = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
        return normed * (1 + scale[picture]) + shift[picture]

    def rotate(self, x: Array, at: Array) -> Array:
        d = x.shape[-1]
        speed = 100.0 ** (-4 * np.arange(d // 4) / d)
        angle = np.concatenate([at[:, :1] * speed, at[:, 1:] * speed], -1)  # (L, d / 2)
        a, b = x[..., 0::2], x[..., 1::2]
        turned = a * np.cos(angle) - b * np.sin(angle), a * np.sin(angle) + b * np.cos(angle)
        return np.stack(turned, -1).reshape(x.shape)

    def attention(self, x: Array, p: dict, at: Array, mask: Array | None) -> Array:
        return self.mix(*self.parts(x, p, at), p, mask)

    def parts(self, x: Array, p: dict, at: Array) -> tuple[Array, Array, Array]:
        heads = len(p["log_scale"])
        d = x.shape[-1] // heads
        rows = x @ p["qkv"].T
        q, (k, v) = rows[..., : heads * d], np.split(rows[..., heads * d :], 2, axis=-1)
        parts = q + p["q_bias"], k, v + p["v_bias"]
        q, k, v = (t.reshape(*t.shape[:-1], -1, d).swapaxes(-2, -3) for t in parts)
        k, v = (np.repeat(t, heads // t.shape[-3], axis=-3) for t in (k, v))
        q, k = unit(q), unit(k)
        q, k = self.rotate(q, at), self.rotate(k, at)
        return q, k, v

    def mix(self, q: Array, k: Array, v: Array, p: dict, mask: Array | None) -> Array:
        scale = np.exp(np.minimum(p["log_scale"], np.log(100)))
        scores = q @ k.swapaxes(-1, -2) * scale[:, None, None]
        if mask is not None:
            scores = np.where(mask, scores, -np.inf)
        rows = (softmax(scores) @ v).swapaxes(-2, -3)
        rows = rows.reshape(*rows.shape[:-2], -1)
        return rows @ p["proj"].T + p["proj_bias"]

    def block(self, x: Array, shared: Array, p: dict, at: Array, picture: Array, mask) -> Array:
        six = shared + p["offset"]
        gamma1, gamma2, scale1, scale2, shift1, shift2 = six.swapaxes(0, 1)
        h = self.modulate(x, scale1, shift1, picture)
        x = x + gamma1[picture] * self.attention(h, p, at, mask)
        hidden = gelu(self.modulate(x, scale2, shift2, picture) @ p["fc1"].T + p["fc1_bias"])
        return x + gamma2[picture] * (hidden @ p["fc2"].T + p["fc2_bias"])

    def step_chain(self, call: Call, p: dict) -> list[Array]:  # map after map, batches in turn
        found = [self.steps(wide(inputs), p) for inputs in call.steps]
        return [one for scale in zip(*found) for one in scale]

    def steps(self, inputs: list[tuple], p: dict) -> list[Array]:
        made, past, mask = [], None, None
        for x, keep, at in inputs:
            new = x, at[None].repeat(len(x), 0), *self.parts(x, p, at)
            n, old = x.shape[1], [] if past is None else [part[keep] for part in past]
            past = [np.concatenate(two, -2) for two in zip(old, new)] if old else new
            xs, ats, _, k, v = past
            own = "attention" in vars(self) and self.attention(xs, p, ats[0], mask)[:, -n:]
            made.append(self.mix(new[2], k, v, p, mask) if own is False else own)  # a student's
        return made


def unit(x: Array) -> Array:
    """x / |x| over the last dimension."""
    return x / np.sqrt((x**2).sum(-1, keepdims=True))


def gelu(x: Array) -> Array:
    """GELU by tanh; the tolerance takes the exact one as well."""
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def right(pack: list[Schedule]) -> tuple[Array, Array]:
    """Table (L, 4) and mask (L, L) of a pack."""
    table = Reference().token_table(pack)
    return table, Reference().packed_mask(table)


def weights(rng: Generator, heads: int, groups: int, w: int) -> dict:
    """Of a block of width w, none small."""
    h, kv = 4 * w, groups * w // heads
    shapes = {
        "qkv": (w + 2 * kv, w), "q_bias": (w,), "v_bias": (kv,), "proj": (w, w), "proj_bias": (w,),
        "offset": (6, w), "fc1": (h, w), "fc1_bias": (h,), "fc2": (w, h), "fc2_bias": (w,),
    }  # fmt: skip
    p = {name: normal(rng, *shape, scale=0.5) for name, shape in shapes.items()}
    return p | {"log_scale": normal(rng, heads, scale=0.3) + np.float32(np.log(4))}


def places(rng: Generator, count: int) -> Array:
    """(count, 2): rows and columns on a common grid."""
    return rng.uniform(0, 8, (count, 2)).astype(np.float32)


def random_packs(rng: Generator) -> list[tuple]:
    """Two fixed packs and a random one."""
    sizes = [rng.integers(1, 4, (rng.integers(2, 5), 2)).tolist() for _ in range(3)]
    return [(pack,) for pack in (*PACKS, [[tuple(size) for size in one] for one in sizes])]


def cases_leaks(rng):
    """Masks with mistakes: in one or two layers some pairs are seen, in all some are hidden."""
    calls = []
    for pack, leaky in zip(PACKS, ((0, 2), (1,))):
        layers = []
        for layer in range(3):
            table, mask = right(pack)
            if layer in leaky:
                mask[tuple(rng.permutation(np.argwhere(~mask))[:3].T)] = True
            hidden = rng.permutation(np.argwhere(mask & ~np.eye(len(mask), dtype=bool)))[:5]
            mask[tuple(hidden.T)] = False
            layers.append((normal(rng, 6, 6, scale=0.03), mask))
        calls.append(({"net": layers}, normal(rng, len(table), 6), table))
    return calls


SHAPES = (4, 2, 16), (2, 2, 8), (6, 2, 24)  # (heads, groups of keys and values, width)


def cases_attention(rng, masked=False):
    """The whole layer: parts, biases, groups, rotation, temperature, projection."""
    cases = zip(SHAPES, map(right, (*PACKS, PACKS[0])), ((), (2,), ()))
    return [
        (normal(rng, *lead, len(mask), w), weights(rng, heads, groups, w), places(rng, len(mask)),
         mask if masked else None)
        for (heads, groups, w), (_, mask), lead in cases
    ]  # fmt: skip


def cases_step(rng):
    """Two batches in turn, each with its cache; pictures leave, change places and are doubled."""
    calls = []
    plans = [[0, 1, 2], [2, 0], [1, 0]], [[0, 1, 2, 3], [2, 0, 2, 1], [3, 1, 0]]
    for heads, groups, w in SHAPES[:2]:
        call = Call("step", (weights(rng, heads, groups, w),), kind="chain")
        for keeps, counts in zip(plans, ((1, 6, 4), (2, 2, 3))):
            call.steps.append([(normal(rng, len(keep), n, w), np.array(keep), places(rng, n))
                               for keep, n in zip(keeps, counts)])  # fmt: skip
        calls.append(call)
    return calls


CHECKS = [
    Check("token_table", 1, 2, random_packs),
    Check("packed_mask", 1, 2, lambda rng: [
        (rng.permutation(right(pack)[0]),) for (pack,) in random_packs(rng)
    ]),
    Check("reach", 2, 2, lambda rng: [  # sparse masks, with their own tokens or without
        ([rng.random((n, n)) < share for _ in range(count)],)
        for n, count, share in ((7, 3, 0.15), (9, 2, 0.2), (6, 4, 0.12), (5, 1, 0.3))
    ]),
    Check("leaks", 2, 3, cases_leaks),
    # Rows with a mean of their own, and rows of so small a variance that the 1e-6 shows.
    Check("modulate", 3, 2, lambda rng: [
        (normal(rng, n, w, scale=s) + normal(rng, n, 1, scale=own), normal(rng, 3, w),
         normal(rng, 3, w), rng.permutation([0, 1, 2, 2, 1, 0, 2][:n]))
        for n, w, s, own in ((5, 8, 2, 1), (7, 12, 2e-3, 0))
    ]),
    Check("rotate", 4, 3, lambda rng: [
        (normal(rng, *shape), places(rng, shape[-2])) for shape in ((2, 5, 8), (3, 2, 4, 12))
    ]),
    Check("attention", 5, 2, cases_attention),
    Check("attention_mask", 5, 1, lambda rng: cases_attention(rng, True), function="attention"),
    # Temperatures above the limit, and tokens that nearly agree: else exp(6) is as good as 100.
    Check("attention_clamp", 5, 1, lambda rng: [
        (normal(rng, 1, 8) + normal(rng, 7, 8, scale=0.05),
         weights(rng, 2, 1, 8) | {"log_scale": np.array([6.0, 7.0], np.float32)},
         0 * places(rng, 7), None)
    ], function="attention"),
    Check("block", 6, 3, lambda rng: [
        (normal(rng, len(table), w), normal(rng, table[-1, 0] + 1, 6, w),
         weights(rng, heads, groups, w), places(rng, len(table)), table[:, 0], mask)
        for (heads, groups, w), (table, mask) in zip(SHAPES, map(right, PACKS))
    ], tolerance=2e-3),
    Check("step", 7, 4, cases_step),
]  # fmt: skip
