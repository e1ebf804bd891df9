"""All pairs of exponents at once, by batched linear algebra; the optimum by a search."""

import numpy as np


def parameters(model):
    w, d = model["width"], model["depth"]
    shapes = [(w, 3 * w), (w, w), (w, model["hidden"]), (model["hidden"], w)] * d
    shapes += [(w, 6 * w)] * (1 if model["shared"] else d)
    return sum(rows * columns for rows, columns in shapes)


def products(model):
    """(in the blocks, outside): (times, rows, columns) of every product of matrices."""
    w, d, n = model["width"], model["depth"], np.prod(model["sizes"], axis=1)
    length, seen = int(n.sum()), int(n @ np.tri(len(n), dtype=int) @ n)
    inside = [(d * length, w, 4 * w + 2 * model["hidden"]), (2 * d * seen, 1, w)]
    outside = [(1 if model["shared"] else d, w, 6 * w), (1, w, 2 * w)]
    word = [(length - int(n[0]), model["channels"], w)]
    return inside, outside + word + [(length, w, model["vocab"])], word


def flops(parts):
    return 2 * sum(times * rows * columns for times, rows, columns in parts)


def forward_flops(model):
    inside, outside, _ = products(model)
    return flops(inside + outside)


def training_flops(model, images, recompute):
    inside, outside, word = products(model)
    once = 3 * flops(inside + outside) - flops(word)
    return images * (once + flops(inside) if recompute else once)


def fit(n, d, loss, alphas, betas):
    a, b = (grid.ravel() for grid in np.meshgrid(alphas, betas, indexing="ij"))
    design = np.stack([np.ones((len(a), len(n))), n ** -a[:, None], d ** -b[:, None]], 2)
    gram, right = design.mT @ design, design.mT @ loss
    found = np.linalg.solve(gram, right[..., None])[..., 0]
    errors = ((np.einsum("gnc,gc->gn", design, found) - loss) ** 2).sum(1)
    best = np.where((found >= 0).all(1), errors, np.inf).argmin()
    return [*found[best].tolist(), a[best], b[best]]


def at(law, n, d):
    return law[:3] @ np.stack([np.ones_like(n), n ** -law[3], d ** -law[4]])


def optimum(law, budget, cost):
    law, total = np.array(law), budget / cost
    low, high = -40.0, 40.0  # of ln N
    for _ in range(200):
        one, other = low + (high - low) / 3, high - (high - low) / 3
        left, right = (at(law, n, total / n) for n in (np.exp(one), np.exp(other)))
        low, high = (low, other) if left < right else (one, high)
    size = np.exp((low + high) / 2)
    return size, total / size, at(law, size, total / size)


def interval(n, d, loss, alphas, betas, draws, new_n, new_d, level):
    number = np.unique(n, return_inverse=True)[1]
    predicted = []
    for draw in draws:
        rows = np.repeat(np.arange(len(n)), np.bincount(draw, minlength=number.max() + 1)[number])
        law = np.array(fit(n[rows], d[rows], loss[rows], alphas, betas))
        predicted.append(at(law, np.float64(new_n), np.float64(new_d)))
    return tuple(np.percentile(predicted, [50 - 50 * level, 50 + 50 * level]))


def held_out(n, d, loss, alphas, betas):
    sizes, number = np.unique(n, return_inverse=True)
    errors = np.zeros(len(sizes))
    for i in range(len(sizes)):
        law = np.array(fit(*(v[number != i] for v in (n, d, loss)), alphas, betas))
        errors[i] = np.log(at(law, n[number == i], d[number == i]) / loss[number == i]).mean()
    return errors
