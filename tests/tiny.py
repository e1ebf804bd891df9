"""Tiny models with random weights, and the hypothesis strategies that several tests share."""

import torch
from hypothesis import strategies as st

from varmini import VAR, MultiScaleVQVAE, ScaleSchedule, TokenizerConfig, VARConfig
from varmini.model.quantizer import MultiScaleQuantizer


@st.composite
def schedules(draw, max_scales=4, max_side=5):
    """Schedules of 1 to `max_scales` scales; square, non-square and repeated sizes."""
    count = draw(st.integers(1, max_scales))
    sides = [
        sorted(draw(st.lists(st.integers(1, max_side), min_size=count, max_size=count)))
        for _ in range(2)
    ]
    return ScaleSchedule(zip(*sides))


def redraw(module, seed, std):
    """Random weights everywhere: small initial gates would hide what a test looks for."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)
    return module


def make_quantizer(schedule, vocab=12, channels=4, seed=0, **options):
    """A quantizer whose codebook and phi are of the size of unit-variance features."""
    quantizer = MultiScaleQuantizer(schedule, vocab, channels, **options)
    redraw(quantizer, seed, 0.3)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        quantizer.codebook.weight.copy_(torch.randn(vocab, channels, generator=generator))
    return quantizer


def make_tokenizer(seed=0, **options):
    """A tokenizer of width 32 in evaluation mode."""
    values = dict(
        sizes=(1, 2, 4), image_channels=1, vocab_size=12, code_channels=4, width=32,
        multipliers=(1, 1), num_res_blocks=1, attention=False, patch=2,
    )  # fmt: skip
    torch.manual_seed(seed)
    return MultiScaleVQVAE(TokenizerConfig(**values | options)).eval()


def make_var(schedule, seed=0, std=0.25, **options):
    """A transformer of width 32 in evaluation mode, all weights drawn at random."""
    values = dict(
        depth=2, width=32, heads=2, sizes=schedule.sizes, vocab_size=12, code_channels=4,
        num_classes=3,
    )  # fmt: skip
    return redraw(VAR(VARConfig(**values | options)), seed, std).eval()


def random_tokens(schedule, batch, vocab=12, seed=0):
    """A token pyramid drawn uniformly."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(vocab, (batch, h, w), generator=generator) for h, w in schedule.grids]


def random_features(schedule, batch, channels=4, seed=0):
    """Unit-variance features of the size of the last scale."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, channels, *schedule.grids[-1], generator=generator)


def random_images(batch, channels=1, size=(16, 16), seed=0):
    """Images uniform in [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, channels, *size, generator=generator) * 2 - 1
