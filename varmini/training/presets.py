"""Ready-made runs: both stages on every data set, by name."""

from __future__ import annotations

from typing import Any

from ..model.tokenizer import TokenizerConfig
from ..model.transformer import VARConfig
from .configs import ClassifierConfig, ClassifierTraining, Preset, TokenizerTraining, VARTraining

IMAGENET_IMAGES = 1_281_167
"""Training images of ImageNet-1k: an epoch."""


def imagenet_tokenizer(large: bool) -> TokenizerTraining:
    """Stage 1 for the paper's models, one for all depths: 256 pixels, or 512 (`large`).

    The official recipe is not published: lengths, learning rate and adversary follow LlamaGen's
    tokenizer, the other weights the same authors' single-scale one (docs/imagenet.md).
    """
    sizes = (1, 2, 3, 4, 6, 9, 13, 18, 24, 32) if large else (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
    return TokenizerTraining(
        data="imagenet", model=TokenizerConfig(sizes=sizes), images=40 * IMAGENET_IMAGES,
        batch_size=128 if large else 256, lr=5e-5 if large else 1e-4, ema=0.9999,
        perceptual=0.5, perceptual_network="lpips",
        adversarial=0.5, adversarial_start=0.05, discriminator_layers=3,
        recompute=True, workers=8, log_every=500, checkpoint_every=5000,
    )  # fmt: skip


def imagenet(
    depth: int, *, epochs: int, init_gamma: float, final: float, batch_size: int = 768,
    lr_per_256: float = 1e-4, large: bool = False, **others: Any,
) -> Preset:  # fmt: skip
    """A model of the paper by its one dial: width 64 d, d heads, drop path 0.1 d / 24.

    Stage 2 is the official recipe: the training commands in FoundationVision/VAR's README at
    78b9539, its `utils/arg_util.py` and `utils/lr_control.py`; the averaged weights are ours.

    Args:
        epochs: passes over the 1,281,167 training images in stage 2.
        init_gamma: as in `VARConfig`.
        final, batch_size, others: as in `VARTraining`.
        lr_per_256: peak learning rate for every 256 images of a batch.
        large: 512 pixels, and one AdaLN layer for all blocks, instead of 256 pixels.
    """
    first, warmup = imagenet_tokenizer(large), 1 / 50
    model = VARConfig(
        depth=depth, width=64 * depth, heads=depth, sizes=first.model.sizes, shared_adaln=large,
        drop_path=0.1 * depth / 24, label_dropout=0.1, init_gamma=init_gamma,
    )  # fmt: skip
    second = VARTraining(
        data="imagenet", model=model, images=epochs * IMAGENET_IMAGES, batch_size=batch_size,
        tokenizer=f"runs/{'imagenet512-d36' if large else 'imagenet256-d16'}/tokenizer",
        lr=lr_per_256 * batch_size / 256, warmup=warmup, final=final,
        decay=0.95 * (1 - warmup),  # after 5 % of what follows the warm-up
        weight_decay=0.05, clip=2.0, ema=0.9999, flip=False,
        # what eight GPUs of 80 GB need, with `accumulate` (`varmini plan`)
        recompute=depth >= 20, parallel="fsdp" if depth >= 24 else "ddp",
        workers=8, compile=True, log_every=500, checkpoint_every=5000, **others,
    )  # fmt: skip
    return Preset(tokenizer=first, var=second)


PRESETS: dict[str, Preset] = {
    # The live bed: both stages in four minutes on two AVX2 cores in float32
    # (results/timings.csv).
    "fashion": Preset(
        tokenizer=TokenizerTraining(
            data="fashion-subset",
            images=31_200,
            batch_size=48,
            lr=2e-3,
            quantizer_lr=5.0,
            muon_lr=0.02,
            decay=0.6,
            vq=0.25,
            diversity=0.001,
            perceptual=0.15,
            perceptual_network="fashion",
            ema=0.98,
            log_every=100,
            model=TokenizerConfig(
                sizes=(1, 2, 3, 4),
                image_channels=1,
                vocab_size=512,
                code_channels=16,
                width=16,
                multipliers=(1, 2, 4),
                norm_groups=4,
                patch=2,
                num_res_blocks=1,
                attention=False,
            ),
        ),
        var=VARTraining(
            data="fashion-subset",
            tokenizer="fashion",
            images=44_000,
            batch_size=64,
            lr=3e-3,
            muon_lr=0.03,
            decay=0.6,
            ema=0.97,
            held_out=250,
            log_every=100,
            model=VARConfig(depth=4, width=128, heads=4, init_gamma=0.1),
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
            images=300_000, batch_size=32, lr=1e-3, quantizer_lr=5.0,
            vq=0.25, diversity=0.01, perceptual=0.1,
            ema=0.998, log_every=500, checkpoint_every=1000,
            model=TokenizerConfig(
                sizes=(1, 2, 3, 5, 8), vocab_size=1024, code_channels=8, width=64,
                multipliers=(1, 2), norm_groups=8, patch=2, num_res_blocks=1, attention=False,
            ),
        ),
        var=VARTraining(
            data="cifar10",
            tokenizer="cifar10",
            images=240_000, batch_size=64, lr=1.5e-3, muon_lr=0.03, decay=0.4,
            ema=0.998, log_every=125, compile=True,
            model=VARConfig(depth=8, width=192, heads=6, init_gamma=0.1),
        ),
        classifier=ClassifierTraining(),
    ),
    "imagenet256-d16": imagenet(16, epochs=200, init_gamma=1e-3, final=0.1, accumulate=2),
    "imagenet256-d20": imagenet(20, epochs=250, init_gamma=1e-3, final=0.1),
    "imagenet256-d24": imagenet(24, epochs=350, init_gamma=1e-4, final=0.01, lr_per_256=8e-5),
    "imagenet256-d30": imagenet(
        30, epochs=350, init_gamma=1e-5, final=0.01, lr_per_256=8e-5, final_weight_decay=0.08,
        batch_size=1024,
    ),
    "imagenet512-d36": imagenet(
        36, epochs=350, init_gamma=5e-6, final=0.01, lr_per_256=8e-5, final_weight_decay=0.08,
        accumulate=4, large=True,
    ),
}  # fmt: skip
"""Ready-made runs by name."""


def preset(name: str) -> Preset:
    """Looks a preset up; raises a ValueError that lists the known names."""
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}, expected one of: {', '.join(PRESETS)}")
    return PRESETS[name]
