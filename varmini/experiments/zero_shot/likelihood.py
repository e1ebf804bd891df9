"""What a VAR's likelihood is good for: telling classes, telling strangers, choosing among draws.

A VAR gives each token pyramid a probability under each class, p(tokens | c), the product over
scales and positions of the softmax of its logits (VAR, equation 6 and section 3.2). By Bayes' rule
with equal priors the likeliest class is argmax_c log p(tokens | c): a classifier that nobody
trained as one. Source of the idea for diffusion models: Li et al. 2023, arXiv:2303.16203.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ... import sample
from ...evaluation.evaluators import Evaluator
from ...evaluation.metrics import frechet_distance, precision_recall
from ...fast.quicken import twin
from ...model.filters import draw
from ...model.sampler import Noise
from ...model.tokenizer import MultiScaleVQVAE
from ...model.transformer import VAR
from ...runtime.tables import Row


@torch.no_grad()
def log_likelihood(var: VAR, tok: MultiScaleVQVAE, tokens: list[Tensor], labels: Tensor) -> Tensor:
    """log p(tokens | label) in nats, a scale each: K maps (B, h_k, w_k), (B,) -> (B, K).

    One forward pass of the model, by teacher forcing.
    """
    logits = twin(var)(labels, tok.quantizer.teacher_inputs(tokens))  # (B, L, V)
    chosen = tok.schedule.flatten(tokens)[..., None]
    of_tokens = logits.log_softmax(-1).gather(2, chosen)[..., 0]  # (B, L)
    return torch.stack([of_tokens[:, part].sum(1) for part in tok.schedule.slices], 1)


def class_likelihoods(
    var: VAR, tok: MultiScaleVQVAE, images: Tensor, batch_size: int = 100
) -> Tensor:
    """log p(tokens of an image | class), a class and scale each: (B, C, H, W) -> (B, classes, K).

    Takes as many forward passes as there are classes.
    """
    found = []
    for part in images.split(batch_size):
        with torch.no_grad():
            tokens = tok.encode(part)
        by_class = [
            log_likelihood(var, tok, tokens, torch.full((len(part),), c, device=part.device))
            for c in range(var.config.num_classes)
        ]
        found.append(torch.stack(by_class, 1))
    return torch.cat(found)


def wilson(right: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a share, `right` of n (Wilson 1927)."""
    share, more = right / n, z * z / n
    middle = (share + more / 2) / (1 + more)
    half = z * math.sqrt(share * (1 - share) / n + more / (4 * n)) / (1 + more)
    return middle - half, middle + half


def share_right(scores: Tensor, labels: Tensor) -> Row:
    """How often argmax of scores (n, classes) is the label (n,): share, interval and n."""
    right = int((scores.argmax(1) == labels).sum())
    low, high = wilson(right, len(labels))
    return {"n": len(labels), "accuracy": right / len(labels), "low": low, "high": high}


def by_scale(likelihoods: Tensor, labels: Tensor) -> list[Row]:
    """Accuracy from the likelihood of each scale alone, and of all scales up to each.

    likelihoods: (n, classes, K) of `class_likelihoods`. Two rows a scale.
    """
    sums, rows = {"alone": likelihoods, "up to": likelihoods.cumsum(2)}, []
    for which, values in sums.items():
        for k in range(values.shape[2]):
            rows.append({"which": which, "scale": k + 1} | share_right(values[..., k], labels))
    return rows


def auroc(inside: Tensor, outside: Tensor) -> float:
    """P(a score of `inside` lies above one of `outside`), ties half: 1 is apart, 0.5 is chance.

    The area under the curve of hits over false alarms, (n,) and (m,) -> a number in [0, 1].
    """
    difference = inside.double()[:, None] - outside.double()[None]
    return float((difference > 0).double().mean() + (difference == 0).double().mean() / 2)


def strangers(fashion: Tensor, colour: Tensor, seed: int = 0) -> dict[str, Tensor]:
    """Sets that a model of Fashion-MNIST should find strange, all (n, 1, H, W) in [-1, 1].

    fashion: (n, 1, H, W), turned upside down, or its pixels in a random order; colour:
    (n, 3, H, W), made grey. Noise is uniform.
    """
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(fashion.shape, generator=generator) * 2 - 1
    order = torch.randperm(fashion[0].numel(), generator=generator)
    weights = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    return {
        "upside down": fashion.flip(2),
        "CIFAR-10 in grey": (colour * weights).sum(1, keepdim=True),
        "uniform noise": noise,
        "pixels in another order": fashion.flatten(1)[:, order].view_as(fashion),
    }


def best_of(
    var: VAR,
    tok: MultiScaleVQVAE,
    labels: Tensor,
    n: int,
    classifier: nn.Module,
    *,
    seed: int,
    **options,
) -> dict[str, Tensor]:
    """Draws n images a label and keeps one of each n: {way: images (B, C, H, W)}.

    Ways: "first", no choice; "likelihood", the largest log p(tokens | label); "margin", the largest
    log p(tokens | label) - log p(tokens | no class), what the class explains; "classifier", the
    largest probability of the label that a classifier gives. options: as in `varmini.sample`.
    """
    many = labels.repeat_interleave(n).to(next(var.parameters()).device)
    images, tokens = sample(var, tok, many, seed=seed, return_tokens=True, **options)
    null = torch.full_like(many, var.config.num_classes)
    own, none = (log_likelihood(var, tok, tokens, c).sum(1) for c in (many, null))
    with torch.no_grad():
        sure = classifier(images).log_softmax(1).gather(1, many[:, None])[:, 0]
    first = -torch.arange(len(many), dtype=torch.float, device=many.device)
    scores = {"first": first, "likelihood": own, "margin": own - none, "classifier": sure}
    rows = torch.arange(len(labels), device=many.device) * n
    return {way: images[rows + score.view(-1, n).argmax(1)] for way, score in scores.items()}


Score = Callable[[Tensor, Tensor, Tensor], Tensor]
"""score(log p of the tokens so far (B,), f_hat (B, C, H, W), labels (B,)) -> (B,), large: good."""


def likeliest(log_p: Tensor, f_hat: Tensor, labels: Tensor) -> Tensor:
    """The model's own likelihood of what is drawn so far: (B,) nats, as it comes."""
    return log_p


def surest(tok: MultiScaleVQVAE, classifier: nn.Module) -> Score:
    """A classifier's log-probability of the label, from the picture decoded so far."""

    def score(log_p: Tensor, f_hat: Tensor, labels: Tensor) -> Tensor:
        images = tok.decode_features(f_hat).clamp(-1, 1)
        return classifier(images).log_softmax(1).gather(1, labels[:, None])[:, 0]

    return score


@torch.no_grad()
def beam(
    var: VAR,
    tok: MultiScaleVQVAE,
    labels: Tensor,
    draws: Sequence[int],
    keep: Sequence[int],
    score: Score = likeliest,
    *,
    seed: int,
) -> tuple[Tensor, list[Tensor]]:
    """Draws with a beam over scales: images (B, C, H, W), one a label (B,), and their tokens.

    At scale k there are draws[k] candidates a label, drawn from the model's own distribution; the
    keep[k] with the best scores go on, and share the candidates of the next scale evenly. Draws and
    keep of 1 everywhere are plain drawing; n draws of which n are kept, up to the last scale, are
    best of n.

    Raises:
        ValueError: when draws and keep are not one number a scale, or do not follow on each other.
    """
    grids, most, follow = tok.schedule.grids, max(draws), [*draws[1:], keep[-1]]
    fits = len(draws) == len(keep) == len(grids) and keep[-1] == 1
    if not fits or any(k > d or n % k for d, k, n in zip(draws, keep, follow)):
        raise ValueError(
            f"draws are {draws} and keep {keep}, expected one a scale ({len(grids)}), keep at most "
            "draws and a divisor of the next draws, and 1 in the end"
        )
    labels = labels.to(var.head.weight.device)
    count, cache = len(labels), var.new_cache(len(labels))
    noise = Noise(seed, 0, count * most, labels.device)
    rows = torch.arange(count, device=labels.device).repeat_interleave(draws[0])  # who goes on
    f_hat = tok.quantizer.codebook.weight.new_zeros(count, tok.quantizer.channels, *grids[-1])
    log_p, drawn = f_hat.new_zeros(count), [rows.unique()]  # whose they are, and their maps
    for k, (h, w) in enumerate(grids):
        f_hat, log_p, drawn = f_hat[rows], log_p[rows], [part[rows] for part in drawn]
        for held in (cache.keys, cache.values):
            held.update({block: part[rows] for block, part in held.items()})
        start, modulations, head = var.condition(labels[drawn[0]])
        x = var.word(tok.quantizer.next_input(f_hat, k)) if k else start
        logits = var.step(k, x, modulations, head, cache)  # (B draws[k], h w, V)
        uniform = noise.uniform(h * w).view(count, most, -1)[:, : draws[k]].flatten(0, 1)
        tokens = draw(logits, uniform)
        log_p = log_p + logits.log_softmax(-1).gather(2, tokens[..., None]).sum((1, 2))
        drawn.append(tokens.unflatten(1, (h, w)))
        f_hat = f_hat + tok.quantizer.contribution(k, tok.quantizer.embed(drawn[-1]))
        if keep[k] < draws[k]:
            scores = score(log_p, f_hat, labels[drawn[0]]).view(count, draws[k])
            best = scores.topk(keep[k], 1).indices
        else:
            best = torch.arange(draws[k], device=labels.device).expand(count, -1)
        first = torch.arange(count, device=labels.device)[:, None] * draws[k]
        rows = (first + best).flatten().repeat_interleave(follow[k] // keep[k])
    return tok.decode_features(f_hat[rows]).clamp(-1, 1), [part[rows] for part in drawn[1:]]


def spread(features: Tensor, labels: Tensor) -> float:
    """Mean distance between two images of a class, in features (B, D), averaged over classes."""
    return torch.stack([
        torch.pdist(features[labels == c].double()).mean() for c in labels.unique()
    ]).mean().item()  # fmt: skip


def measures(images: Tensor, labels: Tensor, evaluator: Evaluator, real: Tensor) -> Row:
    """Own class, Frechet distance, precision, recall and `spread` of drawn images.

    real: features (m, D) of the evaluator on real images; the first B count for precision and
    recall, as many as are drawn.
    """
    features, probs = evaluator(images)
    precision, recall = precision_recall(real[: len(features)], features)
    agree = (probs.argmax(1) == labels.cpu()).float().mean().item()
    return {"accuracy": agree, "frechet": frechet_distance(real, features), "precision": precision,
            "recall": recall, "spread": spread(features, labels.cpu())}  # fmt: skip
