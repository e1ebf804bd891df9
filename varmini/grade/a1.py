"""Assignment 1, the multi-scale quantizer: its random inputs, its checks, the mistakes to know."""

from __future__ import annotations

import numpy as np
from numpy import ndarray as Array
from numpy.random import Generator

from .a1_reference import Phis, Sizes, nearest, reference, residual_pass
from .checks import Check
from .reference import normal, wide
from .runner import Call

TITLE = "The multi-scale quantizer"
MINUTES = 120

CHANNELS, CODES = 3, 11


def model(rng: Generator, sizes: Sizes) -> tuple[Array, Phis]:
    """A codebook, and a phi for each scale."""
    phis = [
        (normal(rng, CHANNELS, CHANNELS, 3, 3, scale=0.3), normal(rng, CHANNELS, scale=0.3))
        for _ in sizes
    ]
    return normal(rng, CODES, CHANNELS), phis


def pyramid(rng: Generator, sizes: Sizes, batch: int = 2) -> list[Array]:
    """Random tokens, a map (B, h, w) for each size."""
    return [rng.integers(0, CODES, (batch, *size)) for size in sizes]


def clear_features(rng: Generator, sizes: Sizes):
    """(f, codebook, sizes, phis) in which no two codes are about equally near, at any scale."""
    while True:
        codebook, phis = model(rng, sizes)
        f, margins = normal(rng, 2, CHANNELS, *sizes[-1]), []
        residual_pass(*wide((f, codebook)), sizes, wide(phis), frozenset(), margins)
        if min(margins) > 1e-3:
            return f, codebook, sizes, phis


LADDERS: list[Sizes] = [[(1, 1), (2, 2), (4, 4)], [(1, 1), (2, 1), (3, 4), (5, 6)]]


def cases_down(rng):
    """To a divisor of the size, to no divisor, and to the same size: area or something else."""
    return [
        Call("down", (normal(rng, 2, 3, *old), new))
        for old, new in (((8, 8), (2, 2)), ((7, 5), (3, 2)), ((4, 6), (4, 6)))
    ]


def cases_up(rng):
    """The way up; at the same size every interpolation must leave things as they are."""
    return [
        Call("up", (normal(rng, 2, 3, *old), new))
        for old, new in (((2, 2), (8, 8)), ((3, 2), (5, 7)), ((4, 6), (4, 6)))
    ]


def cases_phi(rng):
    """A random convolution with a bias, so that a factor or a bias left out shows."""
    return [Call("phi", (normal(rng, 2, 4, 5, 6), normal(rng, 4, 4, 3, 3), normal(rng, 4)))]


def cases_contribution(rng):
    """Up and phi together, so that their order and phi itself show."""
    return [
        Call(
            "contribution", (normal(rng, 2, 3, *old), new, normal(rng, 3, 3, 3, 3), normal(rng, 3))
        )
        for old, new in (((2, 2), (6, 6)), ((3, 2), (5, 7)), ((4, 5), (4, 5)))
    ]


def cases_nearest(rng):
    """Codes of many lengths, which tells distance from inner product and from cosine."""
    calls = []
    while len(calls) < 2:
        z, codebook, margins = normal(rng, 2, 4, 3, 5), normal(rng, 15, 4), []
        nearest(*wide((z, codebook)), frozenset(), margins)
        if margins[0] > 1e-3:
            calls.append(Call("nearest", (z, codebook)))
    return calls


def cases_encode(rng):
    """Algorithm 1 on both ladders: what is subtracted from the residual, and whether."""
    return [Call("encode", clear_features(rng, sizes)) for sizes in LADDERS]


def cases_decode(rng):
    """Algorithm 2 on all maps: the sum, and the phi of each map."""
    return [
        Call("decode", (pyramid(rng, sizes), codebook, sizes, phis))
        for sizes in LADDERS
        for codebook, phis in [model(rng, sizes)]
    ]


def cases_decode_some(rng):
    """Algorithm 2 stopped early, which must still reach the size of the last map."""
    return [
        Call("decode", (pyramid(rng, sizes)[:count], codebook, sizes, phis))
        for sizes, count in ((LADDERS[0], 2), (LADDERS[1], 3))
        for codebook, phis in [model(rng, sizes)]
    ]


def cases_teacher(rng):
    """What the transformer reads: which maps, which block first, in which order of places."""
    return [
        Call("teacher_inputs", (pyramid(rng, sizes), codebook, sizes, phis))
        for sizes in LADDERS
        for codebook, phis in [model(rng, sizes)]
    ]


def cases_quantize(rng):
    """Values of f_hat and of the loss, with two weights of the commitment."""
    return [
        Call("quantize", (*clear_features(rng, sizes), beta))
        for sizes, beta in zip(LADDERS, (0.25, 0.6))
    ]


def cases_gradient(rng, output):
    """Gradients of f_hat (output 0) or of the loss (1): to the features and the codebook."""
    f, *rest = clear_features(rng, LADDERS[0])
    weight = normal(rng, *f.shape) if output == 0 else np.float32(1)
    return [
        Call(
            "quantize",
            (f, *rest, 0.25),
            kind="gradient",
            output=output,
            wrt=[[0], [1]],
            weight=np.asarray(weight),
            value=output == 0,  # else `return f` would earn the gradient's points
        )
    ]


CHECKS = [
    Check("down", 1, 2, cases_down, reference, {
        "down-bilinear": "that is bilinear interpolation, which looks at few pixels and skips the "
                         "others; on the way down every pixel of a window counts (mode 'area')",
        "down-nearest": "that picks one pixel of each window; take the mean of all (mode 'area')",
        "down-bicubic": "that is bicubic interpolation, which belongs to the way up; on the way "
                        "down take the mean over each window (mode 'area')",
    }),
    Check("up", 2, 2, cases_up, reference, {
        "up-bilinear": "that is bilinear interpolation; the way up is bicubic",
        "up-nearest": "that repeats pixels; the way up is bicubic",
        "up-area": "that is 'area', which belongs to the way down; the way up is bicubic",
        "up-corners": "that is align_corners=True; leave it at False, so that cells keep their "
                      "places",
    }),
    Check("phi", 3, 1, cases_phi, reference, {
        "phi-left-out": "that returns h as it came; phi mixes in a convolution",
        "phi-conv-alone": "that is the convolution alone; phi(h) is half h and half conv(h)",
        "phi-sum": "that is h + conv(h); both get a factor of one half",
        "phi-without-bias": "the bias of the convolution is missing",
    }),
    Check("contribution", 3, 2, cases_contribution, reference, {
        "no-phi": "there is no phi in it; it comes after the way up",
        "phi-before-up": "phi was applied before the way up; it must see the full-size map, whose "
                         "interpolation it mends",
    }),
    Check("nearest", 4, 2, cases_nearest, reference, {
        "farthest": "that is the farthest code: argmin of the distance, not argmax",
        "dot-product": "that is the largest inner product, in which long codes win; the nearest "
                       "code minimises |e|^2 - 2 <z, e>",
        "cosine": "that is the largest cosine; the paper's lookup is Euclidean",
    }),
    Check("encode", 5, 4, cases_encode, reference, {
        "residual-not-subtracted": "every map codes the same features: the residual is not "
                                   "subtracted (rest = rest - h)",
        "residual-without-phi": "the residual loses up(e) without phi: subtract the very h that "
                                "f_hat gains",
        "residual-twice": "f_hat is subtracted from what is already a residual, so earlier maps "
                          "count twice: either rest = rest - h or rest = f - f_hat",
    }),
    Check("decode", 6, 2, cases_decode, reference, {
        "last-map-only": "that is the share of the last map alone; add up all of them",
        "no-phi": "phi is missing: each map adds phi(up(e)), as in encode",
        "first-phi-everywhere": "every map uses the first phi; map k has its own, phis[k]",
    }),
    Check("decode_some", 6, 1, cases_decode_some, reference, {
        "last-map-only": "that is the share of the last of the given maps; add up all of them",
        "first-phi-everywhere": "every map uses the first phi; map k has its own, phis[k]",
    }),
    Check("teacher_inputs", 7, 3, cases_teacher, reference, {
        "own-map-only": "block k holds what one map added; the transformer reads the sum f_hat of "
                        "all earlier maps",
        "looks-ahead": "block k holds f_hat with map k in it: that tells the answer; use the maps "
                       "before k",
        "first-block-kept": "there is a block for the first map; it has nothing to read (its input "
                            "is the class), so start with the second",
        "column-by-column": "the places run column by column; go row by row (flatten the last two "
                            "dimensions, then move channels last)",
    }),
    Check("quantize", 8, 1, cases_quantize, reference, {
        "returns-f": "the first result has the values of f; its values must be those of f_hat, "
                     "only its gradient that of f",
    }, part=0),
    Check("straight_through", 8, 2, lambda rng: cases_gradient(rng, 0), reference, {
        "no-straight-through": "no gradient reaches f, for argmin has none: return "
                               "f + (f_hat - f).detach()",
        "codebook-leaks": "the picture's gradient leaks into the codebook: detach the whole "
                          "difference, f + (f_hat - f).detach()",
        "all-detached": "no gradient reaches f: detach the difference only, not f itself",
        "values-of-f": "the gradient is that of f, as it should be, but the values are f's, too; "
                       "they must be those of f_hat",
    }),
    Check("loss", 8, 1, cases_quantize, reference, {
        "loss-of-last-scale": "only the last f_hat is in the loss; take the mean over all scales",
        "loss-summed": "that is the sum over scales; divide by K",
        "commitment-missing": "the commitment term (with beta) is missing",
    }, part=1),
    Check("loss_gradient", 8, 2, lambda rng: cases_gradient(rng, 1), reference, {
        "nothing-detached": "both terms pull on both sides: detach f in the codebook term and "
                            "f_hat in the commitment term",
        "sides-swapped": "the sides are swapped: the codebook term detaches f, the commitment "
                         "term, which beta weighs, detaches f_hat",
        "loss-summed": "that is the sum over scales; divide by K",
    }),
]  # fmt: skip
