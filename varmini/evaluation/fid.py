"""Sets of pictures against a reference: statistics computed or loaded, and the figures.

The field's protocol is ADM's evaluator: Inception features, statistics of the whole training set,
50,000 samples. Its network comes from torch-fidelity, whose port of the TensorFlow weights is
exact; the formulas are those of `metrics.py`, since ADM takes precision and recall in Inception's
features and the score in parts of 5,000, which no library offers in one piece. Without the network
a classifier of our own judges, and the name of every figure says so (`judges.py`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..data.sets import spread
from ..runtime.files import file_checksum
from ..runtime.machine import device
from . import npz
from .judges import Judge
from .metrics import Moments, check_samples, frechet_between, inception_score, precision_recall

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

    def save(self, path: Path, judge: Judge) -> None:
        """Writes `mu` and `sigma` as pytorch-fid and ADM do, the features kept, and the network."""
        arrays = {"mu": self.mean.numpy(), "sigma": self.covariance.numpy()}
        if self.features is not None:
            arrays["features"] = self.features.numpy()
        npz.write_arrays(
            path, arrays | {"network": np.array(judge.about), "count": np.array(self.count or 0)}
        )


def reference_of(judge: Judge, images: Iterable[Tensor], total: int, about: str) -> Reference:
    """Statistics of `total` images (B, C, H, W) that come in batches, in bounded memory.

    Raises:
        ValueError: when there are fewer images than features.
    """
    check_samples(total, judge.features, f"the reference ({about})")
    moments, kept, seen = Moments(), [], 0
    wanted = spread(total, KEPT)
    for batch in images:
        features, _ = judge(batch)
        moments.add(features)
        rows = wanted[(wanted >= seen) & (wanted < seen + len(batch))] - seen
        kept.append(features[rows])
        seen += len(batch)
    return Reference(about, moments.mean(), moments.covariance(), seen, torch.cat(kept))


def load_reference(path: Path, judge: Judge, batch_size: int = 250) -> Reference:
    """Statistics from a .npz file: `mu` and `sigma` (pytorch-fid, ADM, `Reference.save`), images
    `arr_0` (ADM's batches), or both; images also give precision and recall.

    Raises:
        ValueError: when the file is damaged, holds neither, or was made with another network.
    """
    path, d = Path(path), judge.features
    held = npz.names(path)
    about = f"{path.name}, checksum {file_checksum(path)[:8]}"
    if "network" in held:
        made_by = npz.read_text(path, "network")
        if made_by != judge.about:
            raise ValueError(f"{path} was made with {made_by}, the judge is {judge.about}")
    if "mu" in held and npz.array_shape(path, "mu") != (d,):
        raise ValueError(
            f"{path}: its mu has the shape {npz.array_shape(path, 'mu')}, but {judge.about} gives "
            f"{d} features: name the --classifier that it was made with (2048: inception)"
        )
    result = None
    if "arr_0" in held:
        count = npz.image_shape(path)[0]
        parts = (to_channels_first(part) for part in npz.read_images(path, batch_size))
        if "mu" not in held:
            return reference_of(judge, parts, count, about)
        result = torch.cat([judge(part)[0] for part in parts])[spread(count, KEPT)]
    if not {"mu", "sigma"} <= set(held):
        raise ValueError(f"{path} holds {', '.join(held)}: expected mu and sigma, or images arr_0")
    if "features" in held:
        result = torch.from_numpy(npz.read_array(path, "features", (None, d)).copy())
    mean, covariance = (
        torch.from_numpy(npz.read_array(path, key, shape).astype(np.float64))
        for key, shape in (("mu", (d,)), ("sigma", (d, d)))
    )
    count = int(npz.read_array(path, "count", ())) if "count" in held else None
    return Reference(about, mean, covariance, count or None, result)


def to_channels_first(images: np.ndarray) -> Tensor:
    """Bytes (n, H, W, 3) as a tensor (n, 3, H, W)."""
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy())


def measure(
    judge: Judge,
    images: Iterable[Tensor],
    labels: Tensor,
    reference: Reference,
    *,
    num_classes: int,
    seed: int = 0,
) -> dict:
    """Figures of samples against a reference.

    images: batches (B, C, H, W), bytes or floats in [-1, 1], `len(labels)` in all; labels: (N,).
    num_classes: of the model that drew. seed: decides which features are taken
    for precision and recall, where fewer are wanted than there are.

    Returns n, n_real, n_precision (reference images that precision and recall are taken against);
    where the judge knows the model's classes accuracy, the share of samples that it gives their own
    class, and, up to 100 classes, accuracy_per_class; then frechet, precision, recall and
    inception_score under the judge's names.
    By ADM's conventions all samples meet all kept reference images, and the score is taken in parts
    of 5,000; with our own judges both sides are cut to the same number, since both figures depend
    on it.

    Raises:
        ValueError: when there are fewer samples than features.
    Source: the columns of VAR's table 1 (arXiv:2404.02905) and ADM's evaluator.
    """
    check_samples(len(labels), judge.features, "the draw")
    parts = [judge(batch) for batch in images]
    features, probs = (torch.cat(column) for column in zip(*parts))
    moments = Moments()
    moments.add(features)
    result = {"n": len(features), "n_real": reference.count or "unknown"}
    real, generator = reference.features, torch.Generator().manual_seed(seed)
    if real is not None:
        some = features
        if not judge.adm:
            n = min(len(real), len(features))
            real = real[torch.randperm(len(real), generator=generator)[:n]]
            some = features[torch.randperm(len(features), generator=generator)[:n]]
        result["n_precision"] = len(real)
    if judge.classes == num_classes:
        right = (probs.argmax(1) == labels).double()
        result["accuracy"] = float(right.mean())
        if num_classes <= 100:
            each = [float(right[labels == c].mean()) for c in range(num_classes)]
            result["accuracy_per_class"] = each
    result["frechet"] = frechet_between(
        reference.mean, reference.covariance, moments.mean(), moments.covariance()
    )
    if real is not None:
        result["precision"], result["recall"] = precision_recall(real, some, device=device())
    result["inception_score"] = inception_score(probs, 5000 if judge.adm else None)
    return judge.name_figures(result)
