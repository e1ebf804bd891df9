"""Plain Python: loops and the math module."""

import math


def parameters(model):
    total = 0
    for _ in range(model["depth"]):
        w = model["width"]
        total += 3 * w * w + w * w + w * 4 * w + 4 * w * w + w * 6 * w
    return total


def product(a, b):
    return 2 * a * b


def forward_flops(model):
    w, total, length = model["width"], 0, 0
    for k, (h, v) in enumerate(model["sizes"]):
        length += h * v
        if k:
            total += h * v * product(model["channels"], w)
    for _ in range(model["depth"]):
        total += product(w, 6 * w)
        for _ in range(length):
            total += product(w, 3 * w) + product(w, w) + 2 * product(w, 4 * w)
            total += product(w, length) + product(length, w)
    return total + length * product(w, model["vocab"])


def training_flops(model, images):
    once = forward_flops(model)
    return images * (once + 2 * once)


def attention_pairs(sizes):
    seen = cached = uncached = 0
    for h, w in sizes:
        seen += h * w
        cached += h * w * seen
        uncached += seen * seen
    return cached, uncached


def line(n, loss):
    xs, ys = [math.log(v) for v in n], [math.log(v) for v in loss]
    mx, my = sum(xs) / len(xs), sum(ys) / len(ys)
    spread = sum((x - mx) ** 2 for x in xs)
    slope = sum((x - mx) * (y - my) for x, y in zip(xs, ys)) / spread
    intercept = my - slope * mx
    errors = sum((y - intercept - slope * x) ** 2 for x, y in zip(xs, ys))
    return slope, intercept, math.sqrt(errors / (len(xs) - 2)), mx, spread


def fit(n, loss):
    slope, intercept, *_ = line(n, loss)
    return slope, math.exp(intercept / slope)


def interval(n, loss, t):
    slope, _, s, _, spread = line(n, loss)
    return slope - t * s / math.sqrt(spread), slope + t * s / math.sqrt(spread)


def predict(n, loss, new, t):
    slope, intercept, s, mx, spread = line(n, loss)
    x = math.log(new)
    half = t * s * math.sqrt(1 + 1 / len(n) + (x - mx) ** 2 / spread)
    return tuple(math.exp(intercept + slope * x + sign * half) for sign in (-1, 0, 1))


def frontier(flops, loss):
    runs = list(zip(flops, loss))
    return [not any(c <= cost and other < own for c, other in runs) for cost, own in runs]
