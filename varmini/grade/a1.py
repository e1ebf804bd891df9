"""Assignment 1, the multi-scale quantizer: its random inputs, its checks, the mistakes to know."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from .a1_reference import Reference, Sizes
from .checks import Check
from .reference import clear, normal
from .runner import Call

TITLE = "The multi-scale quantizer"
MINUTES = 120

CLEAR = 5e-5
"""No two codes are about equally near: squared distances differ by more than this."""
LADDERS: list[Sizes] = [[(1, 1), (2, 2), (4, 4)], [(2, 1), (2, 3), (3, 4), (5, 6)]]
"""Square or not, from a single token or from two."""
FEW: Sizes = [(1, 1), (2, 1), (3, 3)]
"""For gradients, whose references take a run for each number."""


def model(rng: Generator, sizes: Sizes, codes: int = 11, channels: int = 3) -> tuple:
    """(codebook, sizes, phis)."""
    shape = (channels, channels, 3, 3)
    phis = [(normal(rng, *shape, scale=0.3), normal(rng, channels, scale=0.3)) for _ in sizes]
    return normal(rng, codes, channels), sizes, phis


def pyramid(rng: Generator, sizes: Sizes, batch: int = 2, count: int | None = None) -> tuple:
    """(tokens, codebook, sizes, phis) with random tokens for the first `count` maps."""
    tokens = [rng.integers(0, 11, (batch, *size)) for size in sizes[:count]]
    return tokens, *model(rng, sizes)


def clear_call(rng: Generator, function: str, sizes: Sizes, *more, **options) -> Call:
    """`function` of features in which no two codes are about equally near, at any scale."""

    def make(r):
        codes, channels = options.get("shape", (11, 3))
        f = normal(r, options.get("batch", 2), channels, *sizes[-1])
        return Call(function, (f, *model(r, sizes, codes, channels), *more))

    return clear(rng, make, Reference, CLEAR)


def cases_phi(rng):
    """Random convolutions with a bias, so that a factor or a bias left out shows."""
    return [(normal(rng, 2, c, 5, 6), normal(rng, c, c, 3, 3), normal(rng, c)) for c in (4, 3)]


def cases_contribution(rng):
    """Up and phi together, so that their order and phi itself show."""
    return [
        (normal(rng, 2, 3, *old), new, normal(rng, 3, 3, 3, 3), normal(rng, 3))
        for old, new in (((2, 2), (6, 6)), ((3, 2), (5, 7)), ((4, 5), (4, 5)))
    ]


def cases_nearest(rng):
    """Codes of many lengths, which tells distance from inner product; more than a byte counts."""

    def make(batch, size, count):
        def one(r):
            z, codebook = normal(r, batch * size[0] * size[1], 4), normal(r, count, 4)
            for row in z[::2]:  # half of them close to the border between two codes
                score = 2 * codebook @ row - (codebook**2).sum(1)
                second, first = score.argsort()[-2:]
                step = codebook[first] - codebook[second]
                gap = score[first] - score[second] - r.uniform(1e-4, 1e-3)
                row -= gap / (2 * step @ step) * step
            return Call("nearest", (z.reshape(batch, *size, 4).transpose(0, 3, 1, 2), codebook))

        return one

    shapes = (2, (3, 5), 15), (3, (9, 15), 600)
    return [clear(rng, make(*shape), Reference, CLEAR) for shape in shapes]


def cases_encode(rng):
    """Algorithm 1 on both ladders: what is subtracted from the residual, and whether."""
    return [
        clear_call(rng, "encode", sizes, batch=batch, shape=(codes, 3))
        for sizes, batch, codes in ((LADDERS[0], 3, 11), (LADDERS[1], 2, 300))
    ]


def cases_quantize(rng):
    """Values of f_hat and of the loss, with two weights of the commitment."""
    return [clear_call(rng, "quantize", sizes, b) for sizes, b in zip(LADDERS, (0.25, 0.6))]


def cases_gradient(rng, output):
    """Gradients of f_hat (output 0) or the loss (1): to f, the codebook and the second phi."""
    call = clear_call(rng, "quantize", FEW, 0.25, shape=(6, 2))
    call.kind, call.output, call.wrt = "gradient", output, [[0], [1], [3, 1, 0], [3, 1, 1]]
    call.weight = np.asarray(normal(rng, *call.args[0].shape) if output == 0 else np.float32(1))
    call.value = output == 0  # else `return f` would earn the gradient's points
    return [call]


def resized(*sizes):
    """Inputs of `down` or `up` for pairs of an old and a new size."""
    return lambda rng: [(normal(rng, 2 + i % 2, 3, *old), new) for i, (old, new) in
                        enumerate(sizes)]  # fmt: skip


CHECKS = [
    Check("down", 1, 2, resized(((8, 8), (2, 2)), ((7, 5), (3, 2)), ((4, 6), (4, 6))), {
        "down-bilinear": "that is bilinear interpolation, which looks at few pixels and skips the "
                         "others; on the way down every pixel of a window counts (mode 'area')",
        "down-nearest": "that picks one pixel of each window; take the mean of all (mode 'area')",
        "down-bicubic": "that is bicubic interpolation, which belongs to the way up; on the way "
                        "down take the mean over each window (mode 'area')",
        "down-antialias": "that is bilinear with antialias, whose windows have soft edges; every "
                          "pixel of a window counts alike (mode 'area')",
    }),
    Check("up", 2, 2, resized(((2, 2), (8, 8)), ((3, 2), (5, 7)), ((4, 6), (4, 6))), {
        "up-bilinear": "that is bilinear interpolation; the way up is bicubic",
        "up-nearest": "that repeats pixels; the way up is bicubic",
        "up-area": "that is 'area', which belongs to the way down; the way up is bicubic",
        "up-corners": "that is align_corners=True; leave it at False, so that cells keep their "
                      "places",
        "up-antialias": "that is antialias=True, which takes another cubic; leave it at False",
    }),
    Check("phi", 3, 1, cases_phi, {
        "phi-left-out": "that returns h as it came; phi mixes in a convolution",
        "phi-conv-alone": "that is the convolution alone; phi(h) is half h and half conv(h)",
        "phi-sum": "that is h + conv(h); both get a factor of one half",
        "phi-without-bias": "the bias of the convolution is missing",
        "phi-bias-whole": "the bias is not halved; it is part of the convolution, which counts "
                          "half",
    }),
    Check("contribution", 3, 2, cases_contribution, {
        "no-phi": "there is no phi in it; it comes after the way up",
        "phi-before-up": "phi was applied before the way up; it must see the full-size map, whose "
                         "interpolation it mends",
    }),
    Check("nearest", 4, 2, cases_nearest, {
        "farthest": "that is the farthest code: argmin of the distance, not argmax",
        "dot-product": "that is the largest inner product, in which long codes win; the nearest "
                       "code minimises |e|^2 - 2 <z, e>",
        "cosine": "that is the largest cosine; the paper's lookup is Euclidean",
        "factor-two-missing": "the product <z, e> is taken once; |z - e|^2 holds it twice: "
                              "|e|^2 - 2 <z, e>",
        "city-block": "that is the least sum of absolute differences; the lookup is Euclidean",
    }),
    Check("encode", 5, 4, cases_encode, {
        "residual-not-subtracted": "every map codes the same features: the residual is not "
                                   "subtracted (rest = rest - h)",
        "residual-without-phi": "the residual loses up(e) without phi: subtract the very h that "
                                "f_hat gains",
        "residual-added": "the share of a map is added to the residual; subtract it",
        "first-phi-everywhere": "every map uses the first phi; map k has its own, phis[k]",
        "residual-twice": "f_hat is subtracted from what is already a residual, so earlier maps "
                          "count twice: either rest = rest - h or rest = f - f_hat",
    }),
    Check("decode", 6, 2, lambda r: [pyramid(r, LADDERS[0], 3), pyramid(r, LADDERS[1])], {
        "last-map-only": "that is the share of the last map alone; add up all of them",
        "no-phi": "phi is missing: each map adds phi(up(e)), as in encode",
        "first-phi-everywhere": "every map uses the first phi; map k has its own, phis[k]",
    }),
    Check("decode_some", 6, 1, lambda r: [
        pyramid(r, LADDERS[0], count=2), pyramid(r, LADDERS[1], count=3),
    ], {
        "last-map-only": "that is the share of the last of the given maps; add up all of them",
        "first-phi-everywhere": "every map uses the first phi; map k has its own, phis[k]",
    }, function="decode"),
    Check("teacher_inputs", 7, 3, lambda r: [pyramid(r, LADDERS[0], 3), pyramid(r, LADDERS[1])], {
        "own-map-only": "block k holds what one map added; the transformer reads the sum f_hat of "
                        "all earlier maps",
        "looks-ahead": "block k holds f_hat with map k in it: that tells the answer; use the maps "
                       "before k",
        "first-block-kept": "there is a block for the first map; it has nothing to read (its input "
                            "is the class), so start with the second",
        "first-token-dropped": "one token is left out in the place of the first map's block, which "
                               "may hold more",
        "column-by-column": "the places run column by column; go row by row (flatten the last two "
                            "dimensions, then move channels last)",
    }),
    Check("quantize", 8, 1, cases_quantize, {
        "returns-f": "the first result has the values of f; its values must be those of f_hat, "
                     "only its gradient that of f",
    }, part=0),
    Check("straight_through", 8, 2, lambda rng: cases_gradient(rng, 0), {
        "no-straight-through": "no gradient reaches f, for argmin has none: return "
                               "f + (f_hat - f).detach()",
        "codebook-leaks": "the picture's gradient leaks into the codebook: detach the whole "
                          "difference, f + (f_hat - f).detach()",
        "all-detached": "no gradient reaches f: detach the difference only, not f itself",
        "values-of-f": "the gradient is that of f, as it should be, but the values are f's, too; "
                       "they must be those of f_hat",
    }, function="quantize"),
    Check("loss", 8, 1, cases_quantize, {
        "loss-of-last-scale": "only the last f_hat is in the loss; take the mean over all scales",
        "loss-summed": "that is the sum over scales; divide by K",
        "commitment-missing": "the commitment term (with beta) is missing",
        "commitment-alone": "the codebook term (without beta) is missing",
    }, function="quantize", part=1),
    Check("loss_gradient", 8, 2, lambda rng: cases_gradient(rng, 1), {
        "nothing-detached": "both terms pull on both sides: detach f in the codebook term and "
                            "f_hat in the commitment term",
        "sides-swapped": "the sides are swapped: the codebook term detaches f, the commitment "
                         "term, which beta weighs, detaches f_hat",
        "loss-summed": "that is the sum over scales; divide by K",
        "phi-detached": "no gradient reaches phi, which learns from the codebook term",
    }, function="quantize"),
]  # fmt: skip
