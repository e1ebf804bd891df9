"""Reconstructions and samples measured: a reference computed or loaded, and the figures.

The field's protocol is ADM's evaluator: Inception features, statistics of the whole training set,
50,000 samples. Its network comes from torch-fidelity, whose port of the TensorFlow weights is
exact; the formulas are those of `metrics.py`, since ADM takes precision and recall in Inception's
features and the score in parts of 5,000, which no library offers in one piece. Without the network
a classifier of our own is the evaluator, and every figure's name says so (`evaluators.py`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import quicken
from ..data import in_order, spread
from ..model.tokenizer import MultiScaleVQVAE
from ..runtime.files import file_checksum
from ..runtime.machine import device
from . import metrics, npz
from .evaluators import Evaluator

KEPT = 10_000
"""Reference images whose features are kept for precision and recall, as in ADM's reference."""


@dataclass
class Reference:
    """What samples are compared with."""

    about: str
    """Where it comes from, in words."""
    mean: Tensor
    """(D,) float64."""
    covariance: Tensor
    """(D, D) float64."""
    count: int | None = None
    """Images behind the statistics; None when the file does not say."""
    features: Tensor | None = None
    """(M, D) of at most KEPT images, for precision and recall; None when there are none."""


def reference_of(
    evaluator: Evaluator, images: Iterable[Tensor], total: int, about: str
) -> Reference:
    """Statistics of `total` images (B, C, H, W) that come in batches, in bounded memory.

    Raises ValueError when there are fewer images than features.
    """
    metrics.check_samples(total, evaluator.features, f"the reference ({about})")
    moments, kept, seen = metrics.Moments(), [], 0
    wanted = spread(total, KEPT)
    for batch in images:
        features, _ = evaluator(batch)
        moments.add(features)
        rows = wanted[(wanted >= seen) & (wanted < seen + len(batch))] - seen
        kept.append(features[rows])
        seen += len(batch)
    return Reference(about, moments.mean(), moments.covariance(), seen, torch.cat(kept))


def load_reference(path: Path, evaluator: Evaluator, batch_size: int = 250) -> Reference:
    """Statistics from a .npz file: `mu` and `sigma` (pytorch-fid, ADM), images `arr_0` (ADM's
    batches), or both; images also give precision and recall.

    Raises ValueError when the file is damaged, holds neither, or features of another length.
    """
    path, d = Path(path), evaluator.features
    held = npz.names(path)
    about = f"{path.name}, checksum {file_checksum(path)[:8]}"
    features = None
    if "arr_0" in held:
        count = npz.image_shape(path)[0]
        parts = (to_channels_first(part) for part in npz.read_images(path, batch_size))
        if "mu" not in held:
            return reference_of(evaluator, parts, count, about)
        features = evaluator.all_of(parts)[0][spread(count, KEPT)]
    if not {"mu", "sigma"} <= set(held):
        raise ValueError(f"{path} holds {', '.join(held)}: expected mu and sigma, or images arr_0")
    mu = npz.read_array(path, "mu", (None,))
    if len(mu) != d:
        raise ValueError(
            f"{path} holds the mean of {len(mu)} features, but {evaluator.about} gives {d} "
            f"features: name the --classifier that it was made with (2048: inception)"
        )
    sigma = npz.read_array(path, "sigma", (d, d))
    moments = (torch.from_numpy(x.astype(np.float64)) for x in (mu, sigma))
    return Reference(about, *moments, features=features)


def to_channels_first(images: np.ndarray) -> Tensor:
    """Bytes (n, H, W, 3) as a tensor (n, 3, H, W)."""
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy())


def measure(
    evaluator: Evaluator,
    images: Iterable[Tensor],
    labels: Tensor,
    reference: Reference,
    *,
    num_classes: int,
    seed: int = 0,
) -> dict:
    """Figures of samples against a reference.

    images: batches (B, C, H, W), bytes or floats in [-1, 1], `len(labels)` in all; labels: (N,).
    num_classes: of the model that drew. seed: of the choice of features for precision and recall.

    Returns n, n_real, n_precision (reference images that precision and recall are taken against);
    where the evaluator knows the model's classes accuracy, the share of samples that it gives their
    own class, and, up to 100 classes, accuracy_per_class; then frechet, precision, recall and
    inception_score under the evaluator's names.
    By ADM's conventions all samples meet all kept reference images, and the score is taken in parts
    of 5,000; with our own both sides are cut to the same number, since both figures depend on it.

    Raises:
        ValueError: when there are fewer samples than features.
    Source: the columns of VAR's table 1 (arXiv:2404.02905) and ADM's evaluator.
    """
    metrics.check_samples(len(labels), evaluator.features, "the draw")
    features, probs = evaluator.all_of(images)
    moments = metrics.Moments()
    moments.add(features)
    result = {"n": len(features), "n_real": reference.count or "unknown"}
    real, generator = reference.features, torch.Generator().manual_seed(seed)
    if real is not None:
        some = features
        if not evaluator.adm:
            n = min(len(real), len(features))
            real = real[torch.randperm(len(real), generator=generator)[:n]]
            some = features[torch.randperm(len(features), generator=generator)[:n]]
        result["n_precision"] = len(real)
    if evaluator.classes == num_classes:
        right = (probs.argmax(1) == labels).double()
        result["accuracy"] = float(right.mean())
        if num_classes <= 100:
            each = [float(right[labels == c].mean()) for c in range(num_classes)]
            result["accuracy_per_class"] = each
    drawn = moments.mean(), moments.covariance()
    result["frechet"] = metrics.frechet_between(reference.mean, reference.covariance, *drawn)
    if real is not None:
        both = metrics.precision_recall(real, some, device=device())
        result["precision"], result["recall"] = both
    result["inception_score"] = metrics.inception_score(probs, 5000 if evaluator.adm else None)
    return evaluator.name_figures(result)


@torch.inference_mode()
def evaluate_tokenizer(
    tok: MultiScaleVQVAE,
    dataset: Any,
    evaluator: Evaluator | None = None,
    batch_size: int = 250,
    workers: int = 0,
) -> dict:
    """Encodes and decodes a whole data set and measures what survives.

    dataset: of `load_images`, with the tokenizer's channels and size. Returns n, psnr (mean over
    images, dB), psnr_of_mean_mse (of the error over all images: smaller), mse, usage (see
    `codebook_usage`); with an evaluator also its frechet (real against reconstructed features)
    and, if its classes are the data set's, accuracy_real and accuracy_reconstruction.
    Source: reconstruction FID and usage as in VQGAN (arXiv:2012.09841) and VAR (arXiv:2404.02905),
    both in Inception's features.
    """
    tok = quicken(tok.eval())
    values, errors, pyramids, real, fake, right = [], [], [], [], [], []
    for images, target in in_order(dataset, batch_size, workers):
        tokens = tok.encode(images.to(device()))
        decoded = tok.decode(tokens).float().cpu().clamp(-1, 1)
        pyramids.append([t.cpu() for t in tokens])
        values.append(metrics.psnr(decoded, images))
        errors.append((decoded - images).square().flatten(1).mean(1))
        if evaluator is not None:
            (seen, probs), (drawn, drawn_probs) = evaluator(images), evaluator(decoded)
            real.append(seen)
            fake.append(drawn)
            right.append(torch.stack([p.argmax(1) == target for p in (probs, drawn_probs)]))
    mse = float(torch.cat(errors).double().mean())
    result = {
        "n": len(dataset),
        "psnr": float(torch.cat(values).mean()),
        "psnr_of_mean_mse": 10 * math.log10(4 / mse) if mse else math.inf,
        "mse": mse,
        "usage": metrics.codebook_usage(pyramids, tok.vocab_size),
    }
    if evaluator is None:
        return result
    if evaluator.classes == len(dataset.classes):
        shares = torch.cat(right, 1).double().mean(1).tolist()
        result |= zip(("accuracy_real", "accuracy_reconstruction"), shares)
    result["frechet"] = metrics.frechet_distance(torch.cat(real), torch.cat(fake))
    return evaluator.name_figures(result)
