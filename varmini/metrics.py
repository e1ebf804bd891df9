"""How good is it: reconstruction, codebook usage and distances between sets of pictures.

Images are float (B, C, H, W) in [-1, 1]. Distances between sets are taken in the features of a
classifier of our own, never Inception: compare them with each other, not with published FID.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

Pyramid = Sequence[Tensor]


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, one value an image.

    a, b: float (B, C, H, W) in [-1, 1], so the peak-to-peak range is 2; values outside are clamped
    first, as saving to bytes would do. Returns (B,) = 10 log10(2^2 / MSE); equal images give inf.
    Raises ValueError on different shapes, bytes, or values that cannot be meant as [-1, 1].
    Source: the textbook definition, ITU-T J.340 with a peak of 2.
    """
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

    tokens: one pyramid (a list of K integer tensors (B, h_k, w_k)) or an iterable of pyramids.
    Returns {"scales": [K entries], "overall": entry}; an entry holds
      used: different codes seen;  allowed: min(vocab_size, tokens seen), the most it could be;
      share: used / allowed in [0, 1];  perplexity: exp of the code entropy, in [1, used].
    Raises ValueError when nothing was given or a token lies outside [0, vocab_size).
    Source: perplexity as logged for VQ-VAE (arXiv:1711.00937); `allowed` because a 1x1 map of B
    images cannot show more than B codes.
    """
    if isinstance(tokens, Sequence) and len(tokens) and isinstance(tokens[0], Tensor):
        tokens = [tokens]
    counts: Tensor | None = None
    for pyramid in tokens:
        for level in pyramid:
            if level.numel() and not 0 <= level.min() <= level.max() < vocab_size:
                raise ValueError(
                    f"a token lies in [{level.min()}, {level.max()}], expected [0, {vocab_size}): "
                    "give the vocab_size of the tokenizer that made the tokens"
                )
        rows = [torch.bincount(t.flatten().cpu(), minlength=vocab_size) for t in pyramid]
        new = torch.stack(rows) if rows else torch.zeros(0, vocab_size, dtype=torch.long)
        if counts is not None and counts.shape != new.shape:
            raise ValueError(
                f"pyramids of {len(counts)} and {len(new)} scales: count each tokenizer by itself"
            )
        counts = new if counts is None else counts + new
    if counts is None or not counts.sum():
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


def _features(features: Tensor, name: str) -> Tensor:
    if features.ndim != 2:
        raise ValueError(f"{name} has shape {tuple(features.shape)}, expected (N, D): flatten it")
    if not torch.isfinite(features).all():
        raise ValueError(f"{name} holds NaN or infinity, expected finite numbers: check the model")
    return features.detach().cpu().double()


def frechet_distance(features_a: Tensor, features_b: Tensor) -> float:
    """Squared Frechet distance between Gaussians fitted to two sets of features.

    features_a: (N, D), features_b: (M, D), any float; computed in float64. Returns
    |mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a^1/2 S_b S_a^1/2)^1/2) >= 0; singular covariances (dead
    features) are fine. Raises ValueError when either set has fewer samples than D (or than 2): its
    covariance could not be told from a flat one.
    Source: Heusel et al. 2017, arXiv:1706.08500, eq. 6 (FID when D are Inception features).
    """
    a, b = _features(features_a, "features_a"), _features(features_b, "features_b")
    if a.shape[1] != b.shape[1]:
        raise ValueError(
            f"features of {a.shape[1]} and {b.shape[1]} numbers: use one classifier for both"
        )
    needed = max(a.shape[1], 2)
    for name, x in (("features_a", a), ("features_b", b)):
        if len(x) < needed:
            raise ValueError(
                f"{name} holds {len(x)} samples of {x.shape[1]} features, expected at least "
                f"{needed}: draw more samples"
            )
    cov_a, cov_b = torch.atleast_2d(torch.cov(a.T)), torch.atleast_2d(torch.cov(b.T))
    values, vectors = torch.linalg.eigh(cov_a)
    root_a = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    product = root_a @ cov_b @ root_a
    # The product is symmetric and positive up to rounding, so real eigenvalues are enough.
    cross = torch.linalg.eigvalsh((product + product.T) / 2).clamp(min=0).sqrt().sum()
    distance = (a.mean(0) - b.mean(0)).square().sum() + cov_a.trace() + cov_b.trace() - 2 * cross
    return max(float(distance), 0.0)


def precision_recall(
    real_features: Tensor, fake_features: Tensor, k: int = 3, chunk: int = 512
) -> tuple[float, float]:
    """Improved precision (are fakes realistic?) and recall (is every real reachable?).

    real_features: (N, D), fake_features: (M, D); k: the neighbour whose distance is the radius of
    each ball; chunk: rows of the distance matrix held at once. Returns two shares in [0, 1]:
    precision = share of fakes inside some real's ball, recall = share of reals inside some fake's.
    Raises ValueError when a set has k samples or fewer.
    Source: Kynkaanniemi et al. 2019, arXiv:1904.06991, algorithm 1 (a ball is closed; a sample is
    not its own neighbour).
    """
    real = _features(real_features, "real_features")
    fake = _features(fake_features, "fake_features")
    if k < 1:
        raise ValueError(f"k is {k}, expected at least 1: 3 is usual")
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


def inception_score(probs: Tensor) -> float:
    """exp(mean KL(p(y|x) || p(y))): sure about each picture, varied over the set.

    probs: (N, classes), rows that sum to 1. Returns a number in [1, classes], from one split.
    Raises ValueError when the rows are no probabilities. The classifier is ours, so the number is
    no published IS. Source: Salimans et al. 2016, arXiv:1606.03498, section 4.
    """
    p = _features(probs, "probs")
    if not len(p) or (p < 0).any() or (p.sum(1) - 1).abs().max() > 1e-3:
        raise ValueError("probs must be (N, classes), rows >= 0 that sum to 1: apply softmax")
    return float(torch.exp((torch.xlogy(p, p) - torch.xlogy(p, p.mean(0))).sum(1).mean()))


def _batches(images, batch_size: int) -> Iterator[tuple[Tensor, Tensor | None]]:
    """(float images, labels or None) in order, from a tensor, an ImageSet or a lazy dataset."""
    from .data import to_float

    for start in range(0, len(images), batch_size):
        stop = min(start + batch_size, len(images))
        if isinstance(images, Tensor):
            yield images[start:stop], None
        elif isinstance(getattr(images, "images", None), Tensor):
            yield to_float(images.images[start:stop]), images.labels[start:stop]
        else:
            pairs = [images[i] for i in range(start, stop)]
            yield torch.stack([x for x, _ in pairs]), torch.tensor([int(y) for _, y in pairs])


def _device(module: nn.Module) -> torch.device:
    return next(module.parameters()).device


@torch.inference_mode()
def _classify(classifier: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    features = classifier.features(images.to(_device(classifier)))
    # One pass serves both: our classifier is its head on its features.
    return features.float().cpu(), classifier.head(features).float().softmax(-1).cpu()


def extract(classifier: nn.Module, images, batch_size: int = 500) -> tuple[Tensor, Tensor]:
    """Features and class probabilities of many images, in eval mode, on the CPU.

    classifier: has features(images) -> (B, D) and a head from those to logits, as `Classifier`.
    images: float (N, C, H, W) in [-1, 1] or a dataset of (image, label). Returns features (N, D)
    and probs (N, classes). Source: what frechet_distance and inception_score are defined on.
    """
    if not len(images):
        raise ValueError("extract got no images: give at least one")
    classifier.eval()
    parts = [_classify(classifier, x) for x, _ in _batches(images, batch_size)]
    return torch.cat([f for f, _ in parts]), torch.cat([p for _, p in parts])


@torch.inference_mode()
def evaluate_tokenizer(
    tok: nn.Module, dataset, classifier: nn.Module | None = None, batch_size: int = 250
) -> dict:
    """Encode and decode a whole dataset and measure what survives.

    dataset: (image, label) pairs with the tokenizer's channels and size. Returns n, psnr (mean over
    images, dB), mse, usage (see codebook_usage); with a classifier also accuracy_real,
    accuracy_reconstruction, frechet (real against reconstructed features).
    Source: reconstruction FID and usage as in VQGAN (arXiv:2012.09841) and VAR (arXiv:2404.02905),
    with our classifier in place of Inception.
    """
    if not len(dataset):
        raise ValueError("evaluate_tokenizer got an empty dataset: give at least one image")
    tok.eval()
    values, errors, pyramids, labels = [], [], [], []
    real, fake = [], []
    for images, target in _batches(dataset, batch_size):
        tokens = tok.encode(images.to(_device(tok)))
        decoded = tok.decode(tokens).float().cpu().clamp(-1, 1)
        pyramids.append([t.cpu() for t in tokens])
        values.append(psnr(decoded, images))
        errors.append((decoded - images).square().flatten(1).mean(1))
        labels.append(target)
        if classifier is not None:
            classifier.eval()
            real.append(_classify(classifier, images))
            fake.append(_classify(classifier, decoded))
    result = {
        "n": len(dataset),
        "psnr": float(torch.cat(values).mean()),
        "mse": float(torch.cat(errors).mean()),
        "usage": codebook_usage(pyramids, tok.vocab_size),
    }
    if classifier is not None:
        truth = torch.cat(labels)
        for name, parts in (("real", real), ("reconstruction", fake)):
            predicted = torch.cat([p for _, p in parts]).argmax(1)
            result[f"accuracy_{name}"] = float((predicted == truth).double().mean())
        result["frechet"] = frechet_distance(
            torch.cat([f for f, _ in real]), torch.cat([f for f, _ in fake])
        )
    return result


def evaluate_samples(
    var: nn.Module,
    tok: nn.Module,
    real_dataset,
    classifier: nn.Module,
    *,
    per_class: int = 500,
    cfg: float = 1.5,
    seed: int = 0,
    top_k: int = 900,
    top_p: float = 0.96,
    batch_size: int = 250,
) -> dict:
    """Draw per_class samples of every class and compare them with real images.

    Returns n, n_real, the settings, accuracy (share of samples that the classifier gives their own
    class), accuracy_per_class, frechet, precision, recall (on n_precision random samples of each
    side, since both depend on the number), inception_score. Raises ValueError when there are fewer
    samples than features (see frechet_distance).
    Source: the table columns of VAR (arXiv:2404.02905, table 1), with our classifier in place of
    Inception; class accuracy is CAS's cheap cousin, the sampler judged by a fixed classifier.
    """
    from .sampler import sample

    if per_class < 1:
        raise ValueError(f"per_class is {per_class}, expected at least 1")
    classes = var.config.num_classes
    labels = torch.arange(classes).repeat_interleave(per_class)
    var.eval(), tok.eval()
    images = sample(
        var, tok, labels, cfg=cfg, top_k=top_k, top_p=top_p, seed=seed, batch_size=batch_size
    )
    fake, probs = extract(classifier, images.float().cpu().clamp(-1, 1), batch_size)
    real, _ = extract(classifier, real_dataset, batch_size)
    distance = frechet_distance(real, fake)
    correct = (probs.argmax(1) == labels).double()
    generator = torch.Generator().manual_seed(seed)
    n = min(len(real), len(fake))
    some_real = real[torch.randperm(len(real), generator=generator)[:n]]
    some_fake = fake[torch.randperm(len(fake), generator=generator)[:n]]
    precision, recall = precision_recall(some_real, some_fake)
    return {
        "n": len(fake),
        "n_real": len(real),
        "n_precision": n,
        "cfg": cfg,
        "seed": seed,
        "top_k": top_k,
        "top_p": top_p,
        "accuracy": float(correct.mean()),
        "accuracy_per_class": correct.view(classes, per_class).mean(1).tolist(),
        "frechet": distance,
        "precision": precision,
        "recall": recall,
        "inception_score": inception_score(probs),
    }
