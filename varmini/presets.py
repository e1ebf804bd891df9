"""Typed configurations of every training run, and the presets that fill them."""

from __future__ import annotations

from dataclasses import dataclass, field

from .classifier import ClassifierConfig
from .tokenizer import TokenizerConfig
from .transformer import VARConfig


class _Checked:
    """Checks that what counts something is at least 1."""

    def __post_init__(self) -> None:
        for name in (
            "images",
            "epochs",
            "batch_size",
            "accumulate",
            "revive_every",
            "log_every",
            "checkpoint_every",
            "held_out",
        ):
            if getattr(self, name, 1) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least 1")


@dataclass(frozen=True)
class ClassifierTraining(_Checked):
    """How `varmini train classifier` runs."""

    data: str = "cifar10"
    """Data set: a bed's name or a folder."""
    model: ClassifierConfig = field(default_factory=ClassifierConfig)
    """Shape of the network."""
    epochs: int = 12
    """Passes over the training set."""
    batch_size: int = 256
    """Images a step."""
    lr: float = 0.2
    """Peak learning rate of SGD with Nesterov momentum 0.9."""
    weight_decay: float = 5e-4
    """Weight decay of kernels and matrices."""
    seed: int = 0
    """Seed of initialisation, order and augmentation."""


@dataclass(frozen=True)
class TokenizerTraining(_Checked):
    """How `varmini train tokenizer` runs."""

    data: str
    """Data set: a bed's name or a folder."""
    model: TokenizerConfig
    """Shape of the network."""
    images: int
    """Training length: images drawn, counting repeats."""
    decoder_of: str = ""
    """A finished tokenizer: keep its encoder and codes, so its tokens, and train on the decoder."""
    batch_size: int = 128
    """Images a step."""
    lr: float = 1e-3
    """Peak learning rate of AdamW (0.9, 0.99)."""
    quantizer_lr: float = 1.0
    """Learning rate of codebook and phi, in units of `lr`: codes must follow moving features."""
    warmup: float = 0.02
    """Share of the run in which the learning rate rises."""
    decay: float = 0.4
    """Share of the run in which it falls linearly."""
    final: float = 0.02
    """Share of the peak left at the end."""
    weight_decay: float = 0.005
    """Weight decay of kernels and matrices."""
    clip: float = 1.0
    """Gradient norm above which gradients are scaled down."""
    ema: float = 0.995
    """Decay of the averaged weights, per step."""
    l1: float = 0.2
    """Weight of the absolute error."""
    l2: float = 1.0
    """Weight of the squared error."""
    vq: float = 1.0
    """Weight of the quantizer's loss."""
    diversity: float = 0.02
    """Weight of the pull towards using all codes at every scale; 0 leaves it out."""
    perceptual: float = 0.2
    """Weight of the perceptual loss."""
    perceptual_network: str = "cifar10"
    """Its network: a classifier's name or folder, "lpips", or "" for none."""
    adversarial: float = 0.0
    """Weight of the adversarial loss on top of the adaptive one; 0 leaves it out."""
    adversarial_start: float = 0.3
    """Share of the run after which the adversarial loss sets in."""
    flip: bool = True
    """Mirror half of the images."""
    workers: int = 0
    """Processes that decode images; sets in memory need none."""
    revive_every: int = 20
    """Steps between two revivals of dead codes."""
    held_out: int = 500
    """Test images on which PSNR is logged."""
    log_every: int = 100
    """Steps between two rows of log.csv."""
    checkpoint_every: int = 500
    """Steps between two checkpoints."""
    seed: int = 0
    """Seed of initialisation and order."""


@dataclass(frozen=True)
class VARTraining(_Checked):
    """How `varmini train var` runs."""

    data: str
    """Data set: a bed's name or a folder."""
    tokenizer: str
    """A shipped tokenizer's name, or a run's folder."""
    model: VARConfig
    """Shape of the network; sizes, vocabulary and classes follow the tokenizer and the data."""
    images: int
    """Training length: images drawn, counting repeats."""
    batch_size: int = 128
    """Images a step."""
    accumulate: int = 1
    """Parts that a batch is cut into to save memory; gradients are added up."""
    lr: float = 1e-3
    """Peak learning rate of AdamW (0.9, 0.95)."""
    warmup: float = 0.02
    """Share of the run in which the learning rate rises."""
    decay: float = 0.5
    """Share of the run in which it falls linearly."""
    final: float = 0.01
    """Share of the peak left at the end."""
    muon_lr: float = 0.0
    """Peak learning rate of Muon for the blocks' matrices; 0: AdamW for all, as in the paper."""
    weight_decay: float = 0.05
    """Weight decay of matrices; none on biases and embeddings."""
    clip: float = 2.0
    """Gradient norm above which gradients are scaled down."""
    ema: float = 0.999
    """Decay of the averaged weights, per step."""
    flip: bool = True
    """Also learn from the mirror images."""
    workers: int = 0
    """Processes that decode images for the token maps; sets in memory need none."""
    compile: bool = False
    """Fuse the blocks with torch.compile where it can; pays in long runs, not in short ones."""
    held_out: int = 1000
    """Test images on which the loss is logged."""
    log_every: int = 100
    """Steps between two rows of log.csv."""
    checkpoint_every: int = 500
    """Steps between two checkpoints."""
    seed: int = 0
    """Seed of initialisation and order."""


@dataclass(frozen=True)
class Preset:
    """The runs that belong together: stage 1 and stage 2 on one data set."""

    tokenizer: TokenizerTraining
    """Stage 1."""
    var: VARTraining
    """Stage 2."""
    classifier: ClassifierTraining | None = None
    """The network for perceptual features and toy metrics, where the preset has its own."""


PRESETS: dict[str, Preset] = {
    "fashion": Preset(
        tokenizer=TokenizerTraining(
            data="fashion-subset",
            images=60_000,
            batch_size=32,
            lr=2e-3,
            quantizer_lr=5.0,
            vq=0.25,
            diversity=0.001,
            perceptual=0.05,
            perceptual_network="fashion",
            ema=0.99,
            log_every=250,
            checkpoint_every=1000,
            model=TokenizerConfig(
                sizes=(1, 2, 4, 8),
                image_channels=1,
                vocab_size=256,
                code_channels=16,
                width=32,
                multipliers=(1, 2),
                norm_groups=8,
                patch=2,
                num_res_blocks=1,
                attention=False,
            ),
        ),
        var=VARTraining(
            data="fashion-subset",
            tokenizer="fashion",
            images=40_000,
            batch_size=32,
            lr=2e-3,
            ema=0.99,
            held_out=250,
            log_every=200,
            model=VARConfig(depth=4, width=192, heads=6, init_gamma=0.1),
        ),
        classifier=ClassifierTraining(
            data="fashion",
            model=ClassifierConfig(image_channels=1, widths=(24, 48, 96)),
            epochs=5,
            seed=1,
        ),
    ),
    "cifar10": Preset(
        tokenizer=TokenizerTraining(
            data="cifar10",
            images=300_000,
            batch_size=32,
            lr=1e-3,
            quantizer_lr=5.0,
            vq=0.25,
            diversity=0.01,
            perceptual=0.1,
            ema=0.998,
            log_every=500,
            checkpoint_every=1000,
            model=TokenizerConfig(
                sizes=(1, 2, 3, 5, 8),
                vocab_size=1024,
                code_channels=8,
                width=64,
                multipliers=(1, 2),
                norm_groups=8,
                patch=2,
                num_res_blocks=1,
                attention=False,
            ),
        ),
        var=VARTraining(
            data="cifar10",
            tokenizer="cifar10",
            images=320_000,
            batch_size=64,
            lr=1.5e-3,
            muon_lr=0.03,
            decay=0.4,
            ema=0.998,
            log_every=125,
            compile=True,
            model=VARConfig(depth=8, width=192, heads=6, init_gamma=0.1),
        ),
        classifier=ClassifierTraining(),
    ),
}
"""Ready-made runs by name."""


def preset(name: str) -> Preset:
    """Looks a preset up; raises a ValueError that lists the known names."""
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}, expected one of: {', '.join(PRESETS)}")
    return PRESETS[name]
