"""Parameter and FLOP counts against the real networks and torch's own counter."""

import math

import pytest
import torch
from hypothesis import given
from tiny import make_tokenizer, make_var, random_images, random_tokens, schedules
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from varmini import VAR, ScaleSchedule, quicken, sample
from varmini.fast.attention import rectangles
from varmini.fast.copies import without_copies
from varmini.training.flops import (
    VGG_FLOPS,
    decode_flops,
    encode_flops,
    exact_parameters,
    paper_parameters,
    tokenizer_training_flops,
    var_flops,
    var_parameters,
    var_sampling_flops,
    var_training_flops,
    visible_pairs,
)
from varmini.training.presets import PRESETS

SCHEDULE = ScaleSchedule((1, 2, (2, 3)))
SHAPES = [
    {},
    {"depth": 3, "width": 48, "heads": 3, "mlp_ratio": 2.5, "num_classes": 7},
    {"shared_adaln": True, "depth": 3, "vocab_size": 20, "code_channels": 3},
    {"qk_norm": False},
]
TOKENIZERS = [
    {},
    {"attention": True, "multipliers": (1, 2), "num_res_blocks": 2, "sizes": (1, 2, 3)},
    {"multipliers": (1, 1, 2), "patch": 1, "width": 32, "num_phi": 0, "sizes": (2, 4)},
    {"image_channels": 3, "multipliers": (2,), "sizes": ((1, 2), (2, 3)), "num_phi": 2},
]


@pytest.fixture(autouse=True)
def countable():
    """Without copies in oneDNN's order, whose products the counter does not know."""
    with without_copies():
        yield


def counted(work) -> int:
    """FLOPs that torch counts while `work` runs; it does not know the CPU's fused attention."""
    fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu

    def attention_flops(q, k, v, *_, **__) -> int:
        return sdpa_flop_count(q, k, v)

    with FlopCounterMode(display=False, custom_mapping={fused: attention_flops}) as counter:
        work()
    return counter.get_total_flops()


def teacher_inputs(var, batch):
    first = var.schedule.tokens_per_scale[0]
    return torch.randn(batch, var.schedule.num_tokens - first, var.config.code_channels)


@pytest.mark.parametrize("options", SHAPES)
def test_the_formula_counts_every_parameter(options) -> None:
    config = quicken(make_var(SCHEDULE, **options)).config
    assert sum(var_parameters(config).values()) == exact_parameters(config)


PUBLISHED = {
    "imagenet256-d16": (310_283_520, "310M"),
    "imagenet256-d20": (600_917_136, "600M"),
    "imagenet256-d24": (1_033_399_360, "1.0B"),
    "imagenet256-d30": (2_010_020_356, "2.0B"),
    "imagenet512-d36": (2_353_893_904, "2.3B"),
}
"""Exact count, and the paper's (table 1 and README; the last one is cut, not rounded)."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_presets_have_the_published_sizes(name) -> None:
    exact, published = PUBLISHED[name]
    config = PRESETS[name].var.model
    assert exact_parameters(config) == exact
    unit = {"M": 1e6, "B": 1e9}[published[-1]]
    assert abs(exact / unit / float(published[:-1]) - 1) < 0.04
    assert sum(var_parameters(config).values()) == exact
    factor = 12 if config.shared_adaln else 18
    formula = paper_parameters(config.depth, config.shared_adaln)
    assert formula == factor * config.depth * config.width**2
    assert formula == {12: 49_152, 18: 73_728}[factor] * config.depth**3
    # Equation 7, one dial:
    assert (config.width, config.heads) == (64 * config.depth, config.depth)
    assert config.drop_path == pytest.approx(0.1 * config.depth / 24)
    # The paper's formula counts the matrices of the blocks, AdaLN's included.
    with torch.device("meta"):
        named = list(VAR(config).named_parameters())
    parts = ("blocks.",) if config.shared_adaln else ("blocks.", "modulation.")
    assert formula == sum(p.numel() for n, p in named if n.startswith(parts) and p.ndim == 2)


@given(schedules())
def test_visible_pairs_are_those_of_the_mask(schedule) -> None:
    assert visible_pairs(schedule) == int(schedule.mask().sum())


def test_doubling_maps_take_log_n_steps_and_n_to_the_fourth_pairs() -> None:
    schedules = [ScaleSchedule([2**i for i in range(p + 1)]) for p in range(9)]
    assert [len(s) for s in schedules] == [1 + math.log2(s.grids[-1][0]) for s in schedules]
    # Lemma D.2 computes each step anew, without a cache.
    anew = [sum(part.stop**2 for part in s.slices) for s in schedules]
    for pairs in (anew, [visible_pairs(s) for s in schedules]):
        assert pairs[-1] / pairs[-2] == pytest.approx(2**4, rel=0.01)


@pytest.mark.parametrize("options", SHAPES)
def test_forward_and_backward(options) -> None:
    """The small scales' rectangle holds hidden pairs too, and the counter counts them."""
    var, batch = quicken(make_var(SCHEDULE, **options)), 3
    labels, inputs = torch.zeros(batch, dtype=torch.long), teacher_inputs(var, batch)
    forward = counted(lambda: var(labels, inputs))
    assert forward == batch * sum(var_flops(var.config, computed=True).values())
    step = counted(lambda: var(labels, inputs).sum().backward())
    assert step == batch * var_training_flops(var.config, computed=True)


@pytest.mark.parametrize("large", [1, 3])
@pytest.mark.parametrize("options", SHAPES)
def test_scales_that_stand_alone_compute_the_visible_pairs_alone(options, large) -> None:
    """The same model, its attention cut at every scale: what the planner counts."""
    var, batch = quicken(make_var(SCHEDULE, **options)), 2
    labels, inputs = torch.zeros(batch, dtype=torch.long), teacher_inputs(var, batch)
    wanted = var(labels, inputs)
    for block in quicken(var).blocks:
        block.attention.parts = rectangles(SCHEDULE, large)
    torch.testing.assert_close(var(labels, inputs), wanted)
    step = counted(lambda: var(labels, inputs).sum().backward())
    assert step == batch * var_training_flops(var.config)


def test_recomputing_runs_the_blocks_once_more() -> None:
    var, batch = quicken(make_var(SCHEDULE)), 2
    labels, inputs = torch.zeros(batch, dtype=torch.long), teacher_inputs(var, batch)
    for block in var.blocks:
        inner = block.forward
        block.forward = lambda *a, inner=inner: checkpoint(
            inner, *a, use_reentrant=False, early_stop=False
        )
    step = counted(lambda: var(labels, inputs).sum().backward())
    assert step == batch * var_training_flops(var.config, computed=True, recompute=True)


@pytest.mark.parametrize("options", TOKENIZERS)
def test_tokenizer(options) -> None:
    """The plain network's; a quick one saves in its upsampling and in attention's backward pass."""
    tok, batch = make_tokenizer(**options), 2
    images = random_images(batch, tok.config.image_channels, tok.image_size)
    tokens = random_tokens(tok.schedule, batch)

    def step() -> None:
        result = tok(images)
        (result.images.square().mean() + result.loss).backward()

    with torch.inference_mode():  # as a notebook may have it
        one = tokenizer_training_flops(tok.config)
    with sdpa_kernel(SDPBackend.MATH):
        assert counted(lambda: tok.encode(images)) == batch * encode_flops(tok.config)
        assert counted(lambda: tok.decode(tokens)) == batch * decode_flops(tok.config)
        assert counted(step) == batch * one
    both = counted(lambda: tok.decode_features(tok.features(images)))
    assert tokenizer_training_flops(tok.config, recompute=True) == one + both / batch


def test_vgg_is_that_of_lpips() -> None:
    """VGG-16's 13 convolutions with 3x3 kernels; every group of them halves the image before it."""
    groups, inputs, flops = ((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3), 3, 0
    for level, outputs in ((level, n) for level, group in enumerate(groups) for n in group):
        flops += 2 * 9 * inputs * outputs / 4**level
        inputs = outputs
    assert flops == VGG_FLOPS


@pytest.mark.parametrize("cfg", [0, 1.5])
@pytest.mark.parametrize("options", [{}, {"shared_adaln": True, "depth": 3}])
def test_sampling_with_the_cache(cfg, options) -> None:
    var, batch = make_var(ScaleSchedule((1, 2, 4)), **options), 2
    tok = make_tokenizer(multipliers=(1,))  # nothing to double, which a quick form does for less
    # Greedy: float32, whose products the counter knows; those of oneDNN in bf16 it does not.
    drawn = counted(lambda: sample(var, tok, [0, 1], cfg=cfg, top_k=1))
    one = var_sampling_flops(var.config, guided=cfg > 0) + decode_flops(tok.config)
    assert drawn == batch * one
