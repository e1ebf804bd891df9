"""The networks in whose features sets of pictures are compared, and what their figures are called.

Only figures in Inception's features bear the published names. Any other network's carry its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..data import to_float, to_uint8
from ..runtime.files import file_checksum
from ..runtime.machine import device
from ..runtime.pretrained import SHIPPED, resolve_folder
from ..training.classifier import Classifier
from .resnet import ResNet

WEIGHTS_SUM = "6726825d"
WEIGHTS = f"weights-inception-2015-12-05-{WEIGHTS_SUM}.pth"
WEIGHTS_URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{WEIGHTS}"
FIGURES = ("frechet", "precision", "recall", "inception_score")


@dataclass(frozen=True)
class Evaluator:
    """A network that turns pictures into features and class probabilities."""

    name: str
    """Stands in the names of its figures: letters, digits and underscores."""
    about: str
    """Which weights these are, in words."""
    features: int
    """Length of a feature vector."""
    run: Callable[[Tensor], tuple[Tensor, Tensor]]
    """uint8 (B, 3, H, W) to features (B, D) and probabilities (B, classes), float32."""
    classes: int = 0
    """Number of its classes, where they are the labels of a data set; 0: they are no one's."""
    adm: bool = False
    """ADM's conventions, and so the published names: fid, inception_score, precision, recall."""

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, D) and probabilities (B, classes) on the CPU.

        images: (B, 1 or 3, H, W), bytes, or floats in [-1, 1], which are rounded as saving would.
        """
        if images.dtype != torch.uint8:
            images = to_uint8(images)
        # Figures are taken in float32, whatever precision the models run in.
        with torch.autocast(device().type, enabled=False):
            features, probs = self.run(images.expand(-1, 3, -1, -1))
        return features.float().cpu(), probs.float().cpu()

    def all_of(self, batches: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
        """Features (N, D) and probabilities (N, classes) of images that come in batches."""
        features, probs = zip(*(self(batch) for batch in batches))
        return torch.cat(features), torch.cat(probs)

    def name_figures(self, results: dict) -> dict:
        """Distances and scores under names that nobody can take for those of another network."""
        published = {"frechet": "fid"}
        ours = {k: f"{k}_{self.name}" for k in FIGURES}
        return {(published if self.adm else ours).get(k, k): v for k, v in results.items()}


def classifier_evaluator(name: str, kind: str = Classifier.kind) -> Evaluator:
    """One of our networks: shipped ("cifar10", "fashion") or a folder.

    kind: "classifier", whose features the tokenizers' perceptual loss uses, or "evaluator", which
    takes part in no training. Raises ValueError when there is none, or it is damaged.
    """
    folder = resolve_folder(name, kind)
    build = ResNet if kind == ResNet.kind else Classifier
    network = build.from_pretrained(folder).to(device()).eval()

    def run(images: Tensor) -> tuple[Tensor, Tensor]:
        pixels = to_float(images[:, : network.config.image_channels].to(device()))
        features = network.features(pixels)
        return features, network.head(features).softmax(-1)

    weights = file_checksum(folder / "model.safetensors")[:8]
    bed = folder.parent.name if folder.is_relative_to(SHIPPED) else "own"
    about, config = f"varmini's {bed} {kind}, weights {weights}", network.config
    return Evaluator(f"{bed}_{kind}", about, config.widths[-1], run, config.num_classes)


def inception_evaluator() -> Evaluator:
    """Inception v3 as FID is defined on it, from torch-fidelity.

    Raises ValueError when the package is missing, or its weights neither here nor to be had.
    """
    cached = Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS
    path = Path(os.environ.get("VARMINI_INCEPTION") or cached)
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(WEIGHTS_URL, str(path), WEIGHTS_SUM)
        found = file_checksum(path)[:8]
        if found != WEIGHTS_SUM:  # torch-fidelity unpickles what it is given
            raise OSError(f"checksum {found}, expected {WEIGHTS_SUM}")
        outputs, given = ["2048", "logits_unbiased"], {"feature_extractor_weights_path": str(path)}
        network = FeatureExtractorInceptionV3("inception-v3-compat", outputs, **given)
    except Exception as error:  # no package, no network, other weights: many kinds
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"Inception cannot be loaded ({reason}): FID needs pip install "
            f"'varmini[metrics]' and {WEIGHTS_URL} at {path}; or name a --classifier, whose "
            f"distances are no FID"
        ) from None
    network = network.to(device()).eval()

    def run(images: Tensor) -> tuple[Tensor, Tensor]:
        # ADM's score also leaves out the bias of the last layer.
        features, logits = network(images.to(device()))
        return features, logits.softmax(-1)

    about = f"Inception v3 of torch-fidelity, weights {found}"
    return Evaluator("inception", about, 2048, run, adm=True)


EVALUATORS: dict[str, Callable[[], Evaluator]] = {"inception": inception_evaluator}
"""Evaluators by name, besides our classifiers; add another to have it known by the command."""


def load_evaluator(name: str | None, channels: int, size: int) -> tuple[Evaluator, str]:
    """The evaluator of that name, and a line for the user where the choice needs one.

    name: "inception", any other of EVALUATORS, a shipped classifier, or a folder. None:
    "inception" for colour pictures above 64 pixels if it can be loaded, else the bed's evaluator,
    which took part in no training.

    Raises ValueError when the named one cannot be loaded or does not read that many channels.
    """
    if name in EVALUATORS:
        return EVALUATORS[name](), ""
    bed, line = "cifar10" if channels == 3 else "fashion", ""
    if name is None and channels == 3 and size > 64:
        try:
            return EVALUATORS["inception"](), ""
        except ValueError as error:
            line = f"no FID: {error}. The shipped {bed} evaluator measures instead."
    if name is None:
        return classifier_evaluator(bed, ResNet.kind), line
    reads = Classifier.from_pretrained(name).config.image_channels
    if reads != channels:
        raise ValueError(
            f"classifier {name!r} reads {reads} channels, the tokenizer draws {channels}: "
            f"name a fitting --classifier"
        )
    return classifier_evaluator(name), line
