"""Typed configurations of every training run; `presets.py` fills them.

The comment behind a field is what `varmini train ... --help` says of the option.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ..model.tokenizer import TokenizerConfig
from ..model.transformer import VARConfig


@dataclass(frozen=True)
class ClassifierConfig:
    """Shape of a `Classifier`."""

    num_classes: int = 10  # Classes to tell apart.
    image_channels: int = 3  # 3 for colour, 1 for grey.
    widths: tuple[int, ...] = (48, 96, 192, 384)  # Channels of the stages; all but one halve.


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What every training run has."""

    data: str  # Data set: a bed's name or a folder.
    batch_size: int = 128  # Images a step.
    checkpoint_every: int = 500  # Steps between two checkpoints.
    seed: int = 0  # Seed of initialisation, order and augmentation.

    def __post_init__(self) -> None:
        for name in ("images", "epochs", "batch_size", "accumulate", "revive_every", "log_every",
                     "checkpoint_every", "held_out"):  # fmt: skip
            if getattr(self, name, 1) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least 1")
        for name, value in vars(self).items():
            if isinstance(value, float) and not 0 <= value < float("inf"):
                raise ValueError(f"{name} is {value}, expected a finite number of at least 0")
        for name in ("warmup", "decay", "final", "ema", "adversarial_start"):
            if getattr(self, name, 0) > 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected a share of at most 1")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed is {self.seed}, expected 0 to 2^32 - 1")


@dataclass(frozen=True, kw_only=True)
class ClassifierTraining(Recipe):
    """How `varmini train classifier` runs."""

    data: str = "cifar10"  # Data set: a bed's name or a folder.
    model: ClassifierConfig = field(default_factory=ClassifierConfig)  # Shape of the network.
    epochs: int = 12  # Passes over the training set.
    batch_size: int = 256  # Images a step.
    lr: float = 0.2  # Peak learning rate of SGD with Nesterov momentum 0.9.
    weight_decay: float = 5e-4  # Weight decay of kernels and matrices.


@dataclass(frozen=True, kw_only=True)
class StageRecipe(Recipe):
    """What both stages have."""

    images: int  # Training length: images drawn, counting repeats.
    lr: float = 1e-3  # Peak learning rate of AdamW.
    muon_lr: float = 0.0  # Peak learning rate of Muon for inner matrices; 0: AdamW for all.
    warmup: float = 0.02  # Share of the run in which the learning rate rises.
    flip: bool = True  # Mirror half of the images.
    workers: int = 0  # Processes that decode images; sets in memory need none.
    recompute: bool = False  # Less memory, one more forward pass: layers keep their inputs.
    log_every: int = 100  # Steps between two rows of log.csv.


@dataclass(frozen=True, kw_only=True)
class TokenizerTraining(StageRecipe):
    """How `varmini train tokenizer` runs."""

    model: TokenizerConfig  # Shape of the network.
    decoder_of: str = ""  # A finished tokenizer: keep its tokens, and train its decoder on.
    quantizer_lr: float = 1.0  # Learning rate of codebook and phi, which must keep up, in `lr`.
    decay: float = 0.4  # Share of the run in which the learning rate falls linearly.
    final: float = 0.02  # Share of the peak learning rate left at the end.
    weight_decay: float = 0.005  # Weight decay of kernels and matrices.
    clip: float = 1.0  # Gradient norm above which gradients are scaled down.
    ema: float = 0.995  # Decay of the averaged weights, per step.
    l1: float = 0.2  # Weight of the absolute error.
    l2: float = 1.0  # Weight of the squared error.
    vq: float = 1.0  # Weight of the quantizer's loss.
    diversity: float = 0.02  # Weight of the pull towards using all codes at every scale; 0: none.
    perceptual: float = 0.2  # Weight of the perceptual loss.
    perceptual_network: str = "cifar10"  # A classifier's name or folder, "lpips", or "" for none.
    adversarial: float = 0.0  # Weight of the adversarial loss beside the adaptive one; 0: none.
    adversarial_start: float = 0.3  # Share of the run after which the adversarial loss sets in.
    discriminator_layers: int = 2  # Halvings in the discriminator: 2 for 32 pixels, 3 for 256.
    revive_every: int = 20  # Steps between two revivals of dead codes.
    held_out: int = 500  # Test images on which PSNR is logged.


@dataclass(frozen=True, kw_only=True)
class VARTraining(StageRecipe):
    """How `varmini train var` runs."""

    tokenizer: str  # A shipped tokenizer's name, or a run's folder.
    model: VARConfig  # Shape of the network; sizes, codes and classes follow tokenizer and data.
    accumulate: int = 1  # Parts that a batch is cut into to save memory; gradients are added up.
    decay: float = 0.5  # Share of the run in which the learning rate falls linearly.
    final: float = 0.01  # Share of the peak learning rate left at the end.
    weight_decay: float = 0.05  # Weight decay of matrices; none on biases and embeddings.
    final_weight_decay: float | None = None  # At the end, reached by half a cosine; none: constant.
    clip: float = 2.0  # Gradient norm above which gradients are scaled down.
    ema: float = 0.999  # Decay of the averaged weights, per step.
    compile: bool = False  # Fuse the blocks with torch.compile, on a GPU alone.
    parallel: Literal["ddp", "fsdp"] = "ddp"  # Processes hold all weights, or a share each.
    held_out: int = 1000  # Test images on which the loss is logged.
    weights: str = ""  # Where to start: a shipped model's name or a run's folder; none: random.


@dataclass(frozen=True)
class Preset:
    """The runs that belong together: both stages on one data set, and its own classifier if any."""

    tokenizer: TokenizerTraining
    var: VARTraining
    classifier: ClassifierTraining | None = None
