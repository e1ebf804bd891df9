"""Plain Python: loops and the math module, Cramer's rule for the three unknowns."""

import math


def parameters(model):
    w, total = model["width"], 0
    for _ in range(model["depth"]):
        total += 3 * w * w + w * w + w * model["hidden"] + model["hidden"] * w
        total += 0 if model["shared"] else w * 6 * w
    return total + (w * 6 * w if model["shared"] else 0)


def parts(model):
    w, blocks, outside, seen, word = model["width"], 0, 0, 0, 0
    for k, (h, v) in enumerate(model["sizes"]):
        count = h * v
        seen += count
        blocks += model["depth"] * count * (8 * w * w + 4 * w * model["hidden"] + 4 * w * seen)
        word += 2 * model["channels"] * w * count if k else 0
        outside += 2 * w * model["vocab"] * count
    for _ in range(1 if model["shared"] else model["depth"]):
        outside += 2 * w * 6 * w
    return blocks, word, outside + 2 * w * 2 * w


def forward_flops(model):
    return sum(parts(model))


def training_flops(model, images, recompute):
    blocks, word, outside = parts(model)
    return images * ((4 if recompute else 3) * blocks + 2 * word + 3 * outside)


def determinant(m):
    (a, b, c), (d, e, f), (g, h, i) = m
    return a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)


def fit(n, d, loss, alphas, betas):
    best = None
    for alpha in alphas:
        for beta in betas:
            columns = [[1.0] * len(n), [x**-alpha for x in n], [x**-beta for x in d]]
            gram = [[sum(x * y for x, y in zip(u, v)) for v in columns] for u in columns]
            right = [sum(x * y for x, y in zip(u, loss)) for u in columns]
            found = []
            for i in range(3):
                changed = [[*row[:i], r, *row[i + 1 :]] for row, r in zip(gram, right)]
                found.append(determinant(changed) / determinant(gram))
            error = sum((sum(c * u for c, u in zip(found, row)) - y) ** 2
                        for row, y in zip(zip(*columns), loss))  # fmt: skip
            if min(found) >= 0 and (best is None or error < best[0]):
                best = error, (*found, alpha, beta)
    return best[1]


def predicted(law, n, d):
    return law[0] + law[1] * n ** -law[3] + law[2] * d ** -law[4]


def optimum(law, budget, cost):
    _, a, b, alpha, beta = law
    log_m = math.log(budget / cost)
    log_n = (math.log(alpha * a) - math.log(beta * b) + beta * log_m) / (alpha + beta)
    n, d = math.exp(log_n), math.exp(log_m - log_n)
    return n, d, predicted(law, n, d)


def percentile(values, share):
    values, at = sorted(values), share * (len(values) - 1)
    low = min(int(at), len(values) - 2)
    return values[low] + (at - low) * (values[low + 1] - values[low])


def interval(n, d, loss, alphas, betas, draws, new_n, new_d, level):
    sizes, found = sorted(set(n)), []
    for draw in draws:
        rows = [j for i in draw for j in range(len(n)) if n[j] == sizes[i]]
        law = fit(*([v[j] for j in rows] for v in (n, d, loss)), alphas, betas)
        found.append(predicted(law, new_n, new_d))
    return percentile(found, (1 - level) / 2), percentile(found, (1 + level) / 2)


def held_out(n, d, loss, alphas, betas):
    errors = []
    for size in sorted(set(n)):
        runs = list(zip(n, d, loss))
        law = fit(*zip(*(run for run in runs if run[0] != size)), alphas, betas)
        each = [math.log(predicted(law, x, y) / z) for x, y, z in runs if x == size]
        errors.append(sum(each) / len(each))
    return errors
