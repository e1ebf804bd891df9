"""Everything position by position, in Python loops."""

import itertools
import math

import torch
import torch.nn.functional as F


def windows(old, new):
    return [range(math.floor(i * old / new), math.ceil((i + 1) * old / new)) for i in range(new)]


def down(f, size, known):
    out = torch.zeros(*f.shape[:2], *size)
    for b in range(len(f)):
        for i, rows in enumerate(windows(f.shape[2], size[0])):
            for j, columns in enumerate(windows(f.shape[3], size[1])):
                seen = [(r, c) for r in rows for c in columns if known[b, r, c]]
                if seen:
                    out[b, :, i, j] = sum(f[b, :, r, c] for r, c in seen) / len(seen)
    return out


def to_tokens(z, levels, span):
    out = torch.zeros(len(z), *z.shape[2:], dtype=torch.long)
    for b, i, j in itertools.product(*map(range, out.shape)):
        for c, count in enumerate(levels):
            steps = torch.linspace(-float(span[c]), float(span[c]), count)
            out[b, i, j] = out[b, i, j] * count + (steps - z[b, c, i, j]).abs().argmin()
    return out


def to_codes(tokens, levels, span):
    planes = []
    for c, count in enumerate(levels):
        number = tokens // math.prod(levels[c + 1 :]) % count
        planes.append(number * (2 * span[c] / (count - 1)) - span[c])
    return torch.stack(planes, 1)


def decode(tokens, size, levels, spans):
    codes = [to_codes(part, levels, spans[k]) for k, part in enumerate(tokens)]
    return sum(F.interpolate(one, size, mode="bicubic") for one in codes)


def encode(f, known, sizes, levels, spans, gain):
    tokens = []
    for k in range(len(sizes)):
        tokens.append(torch.full((len(f), *sizes[k]), math.prod(levels) // 2))
    for b in range(len(f)):
        residual, seen = f[b : b + 1].clone(), known[b : b + 1]
        for k in range(len(sizes)):
            found = to_tokens(down(residual, sizes[k], seen), levels, spans[k])
            after = residual - decode([found], f.shape[2:], levels, spans[k : k + 1])
            errors = [float((x[0, :, seen[0]] ** 2).sum()) for x in (residual, after)]
            if 1 - errors[1] / errors[0] > gain:
                tokens[k][b], residual = found[0], after
    return tokens


def teacher_inputs(tokens, known, sizes, levels, spans):
    size, found = known.shape[1:], []
    for b in range(len(known)):
        rows = []
        for k in range(1, len(sizes)):
            f_hat = decode([t[b : b + 1] for t in tokens[:k]], size, levels, spans)
            small = down(f_hat, sizes[k], known[b : b + 1])
            for i, h in enumerate(windows(size[0], sizes[k][0])):
                for j, w in enumerate(windows(size[1], sizes[k][1])):
                    if any(known[b, r, c] for r in h for c in w):
                        rows.append(small[0, :, i, j])
        found.append(torch.stack(rows))
    return found


def quantize(f, known, sizes, levels, spans, gain, beta):
    with torch.no_grad():
        tokens = encode(f, known, sizes, levels, spans, gain)
    at, losses = known[:, None].expand_as(f), []
    for k in range(len(sizes)):
        f_hat = decode(tokens[: k + 1], f.shape[2:], levels, spans)
        losses.append(F.mse_loss(f_hat[at], f.detach()[at]))
        losses.append(beta * F.mse_loss(f[at], f_hat.detach()[at]))
    return f_hat.detach() + f - f.detach(), sum(losses) / len(sizes)
