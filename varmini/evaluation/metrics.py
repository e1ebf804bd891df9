"""The formulas: reconstruction, codebook usage and distances between sets of features.

Features come from a network that the caller chooses (`evaluators.py`): only with Inception's is a
Frechet distance an FID.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

Array = Tensor | np.ndarray
Pyramid = Sequence[Array]


def psnr(a: Array, b: Array) -> Tensor:
    """Peak signal-to-noise ratio in dB, one value an image.

    a, b: float (B, C, H, W) in [-1, 1], so the peak-to-peak range is 2; values outside are clamped
    first, as saving to bytes would do. Returns (B,) = 10 log10(2^2 / MSE); equal images give inf.
    Raises ValueError on different shapes, bytes, or values that cannot be meant as [-1, 1].
    Source: the textbook definition, ITU-T J.340 with a peak of 2.
    """
    a, b = torch.as_tensor(a), torch.as_tensor(b)
    if a.shape != b.shape or a.ndim != 4:
        raise ValueError(
            f"psnr got shapes {tuple(a.shape)} and {tuple(b.shape)}: give two equal (B, C, H, W)"
        )
    for images in (a, b):
        if not images.is_floating_point() or (images.numel() and images.abs().max() > 16):
            raise ValueError(
                f"psnr got {images.dtype} images with values to {images.max().item():g}, expected "
                "floats in [-1, 1]: convert bytes with varmini.data.to_float"
            )
    error = a.double().clamp(-1, 1) - b.double().clamp(-1, 1)
    return (10 * torch.log10(4 / error.square().flatten(1).mean(1))).float()


def codebook_usage(tokens: Pyramid | Iterable[Pyramid], vocab_size: int) -> dict:
    """How many codes are used at each scale and by all scales together.

    tokens: one pyramid (a list of K integer arrays (B, h_k, w_k)) or an iterable of pyramids.
    Returns {"scales": [K entries], "overall": entry}; an entry holds
      used: different codes seen;  allowed: min(vocab_size, tokens seen), the most it could be;
      share: used / allowed in [0, 1];  perplexity: exp of the code entropy, in [1, used].
    Raises ValueError when nothing was given or a token lies outside [0, vocab_size).
    Source: perplexity as logged for VQ-VAE (arXiv:1711.00937); `allowed` because a 1x1 map of B
    images cannot show more than B codes.
    """
    if isinstance(tokens, Sequence) and len(tokens) and isinstance(tokens[0], Array):
        tokens = [tokens]
    counts = torch.zeros(1, vocab_size, dtype=torch.long)
    for pyramid in tokens:
        maps = [torch.as_tensor(level).flatten().cpu().long() for level in pyramid]
        for level in maps:
            if level.numel() and not 0 <= level.min() <= level.max() < vocab_size:
                raise ValueError(
                    f"a token lies in [{level.min()}, {level.max()}], expected [0, {vocab_size}): "
                    "give the vocab_size of the tokenizer that made the tokens"
                )
        if maps:
            counts = counts + torch.stack([m.bincount(minlength=vocab_size) for m in maps])
    if not counts.sum():
        raise ValueError("no tokens to count: give at least one pyramid that is not empty")
    return {"scales": [_usage(row) for row in counts], "overall": _usage(counts.sum(0))}


def _usage(counts: Tensor) -> dict:
    total, used = int(counts.sum()), int((counts > 0).sum())
    allowed = min(len(counts), total)
    p = counts[counts > 0].double() / max(total, 1)
    return {
        "used": used,
        "allowed": allowed,
        "share": used / max(allowed, 1),
        "perplexity": float(torch.exp(-(p * p.log()).sum())),
    }


def _double(features: Array, name: str) -> Tensor:
    """Features (N, D) on the CPU in float64; ValueError on NaN or infinity."""
    features = torch.as_tensor(features)
    if not torch.isfinite(features).all():
        raise ValueError(f"{name} holds NaN or infinity, expected finite numbers: check the model")
    return features.detach().cpu().double()


class Moments:
    """Mean and covariance of features that come in parts, summed in float64.

    Sums are taken about the first part's mean, so that large means cost no digits.
    """

    def __init__(self) -> None:
        self.count = 0

    def add(self, features: Array) -> None:
        """Takes in (B, D) features; ValueError when they are not finite."""
        x = _double(features, "features")
        if not len(x):
            return
        if not self.count:
            self.shift = x.mean(0)
            self.total = torch.zeros_like(self.shift)
            self.products = x.new_zeros(x.shape[1], x.shape[1])
        x = x - self.shift
        self.count += len(x)
        self.total += x.sum(0)
        self.products += x.T @ x

    def mean(self) -> Tensor:
        """(D,) float64."""
        return self.shift + self.total / self.count

    def covariance(self) -> Tensor:
        """(D, D) float64, divided by one less than the count, which is at least 2."""
        mean = self.total / self.count
        return (self.products - self.count * torch.outer(mean, mean)) / (self.count - 1)


def check_samples(count: int, features: int, name: str) -> None:
    """ValueError unless there are as many samples as features, and two: fewer span no space."""
    if count < max(features, 2):
        raise ValueError(
            f"{name} holds {count} samples of {features} features, expected at least "
            f"{max(features, 2)}: draw more samples, or take more images"
        )


def frechet_distance(features_a: Array, features_b: Array) -> float:
    """Squared Frechet distance between Gaussians fitted to two sets of features.

    features_a: (N, D), features_b: (M, D), any float; computed in float64, see `frechet_between`.
    Raises ValueError when either set has fewer samples than D (or than 2): its covariance could
    not be told from a flat one.
    """
    fits = []
    for name, features in (("features_a", features_a), ("features_b", features_b)):
        x = _double(features, name)
        check_samples(len(x), x.shape[1], name)
        fits += [x.mean(0), torch.atleast_2d(torch.cov(x.T))]
    return frechet_between(*fits)


def frechet_between(mean_a: Tensor, cov_a: Tensor, mean_b: Tensor, cov_b: Tensor) -> float:
    """Squared Frechet distance between two Gaussians.

    means: (D,), covariances: (D, D), float64. Returns
    |mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a^1/2 S_b S_a^1/2)^1/2) >= 0; singular covariances (dead
    features) are fine.
    Source: Heusel et al. 2017, arXiv:1706.08500, eq. 6 (FID when D are Inception features).
    """
    values, vectors = torch.linalg.eigh(cov_a)
    root_a = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    product = root_a @ cov_b @ root_a
    # The product is symmetric and positive up to rounding, so real eigenvalues are enough.
    cross = torch.linalg.eigvalsh((product + product.T) / 2).clamp(min=0).sqrt().sum()
    distance = (mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * cross
    return max(float(distance), 0.0)


def precision_recall(
    real_features: Array,
    fake_features: Array,
    k: int = 3,
    chunk: int = 512,
    device: torch.device | str = "cpu",
) -> tuple[float, float]:
    """Improved precision (are fakes realistic?) and recall (is every real reachable?).

    real_features: (N, D), fake_features: (M, D); k: the neighbour whose distance is the radius of
    each ball; chunk: rows of the distance matrix held at once; device: where distances are taken
    (a million million of them and more at the field's 50,000). Returns two shares in [0, 1]:
    precision = share of fakes inside some real's ball, recall = share of reals inside some fake's.
    Raises ValueError when a set has k samples or fewer.
    Source: Kynkaanniemi et al. 2019, arXiv:1904.06991, algorithm 1 (a ball is closed; a sample is
    not its own neighbour).
    """
    real = _double(real_features, "real_features").to(device)
    fake = _double(fake_features, "fake_features").to(device)
    for name, x in (("real_features", real), ("fake_features", fake)):
        if len(x) <= k:
            raise ValueError(f"{name} holds {len(x)} samples, expected more than k = {k}: add some")
    return _covered(fake, real, k, chunk), _covered(real, fake, k, chunk)


def _distances(a: Tensor, b: Tensor) -> Tensor:
    # The matrix-product shortcut loses exact zeros between equal samples.
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def _covered(points: Tensor, centres: Tensor, k: int, chunk: int) -> float:
    """Share of points that lie within the k-th neighbour radius of at least one centre."""
    # The smallest of the k + 1 distances is the sample's own zero.
    radii = torch.cat(
        [_distances(part, centres).kthvalue(k + 1, dim=1).values for part in centres.split(chunk)]
    )
    inside = [(_distances(part, centres) <= radii).any(1) for part in points.split(chunk)]
    return float(torch.cat(inside).double().mean())


def inception_score(probs: Array, part: int | None = None) -> float:
    """exp(mean KL(p(y|x) || p(y))): sure about each picture, varied over the set.

    probs: (N, classes), rows that sum to 1. part: the score is averaged over parts of so many rows
    (ADM's evaluator: 5,000), so every part must hold all classes; None takes all rows together.
    Returns a number in [1, classes], a published IS only with the Inception network's probs.
    Raises ValueError when the rows are no probabilities.
    Source: Salimans et al. 2016, arXiv:1606.03498, section 4.
    """
    p = _double(probs, "probs")
    if not len(p) or (p < 0).any() or (p.sum(1) - 1).abs().max() > 1e-3:
        raise ValueError("probs must be (N, classes), rows >= 0 that sum to 1: apply softmax")
    scores = [
        torch.exp((torch.xlogy(q, q) - torch.xlogy(q, q.mean(0))).sum(1).mean())
        for q in p.split(part or len(p))
    ]
    return float(torch.stack(scores).mean())
