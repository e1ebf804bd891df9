"""Parameter and FLOP counts against the real networks and torch's own counter."""

import math

import pytest
import torch
from hypothesis import given
from tiny import make_tokenizer, make_var, random_images, random_tokens, schedules
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from varmini import VAR, MultiScaleVQVAE, ScaleSchedule, TokenizerConfig, VARConfig, quicken, sample
from varmini.fast import copies
from varmini.fast.attention import rectangles
from varmini.training.flops import (
    computed_pairs,
    decode_flops,
    encode_flops,
    exact_parameters,
    paper_parameters,
    tokenizer_layers,
    tokenizer_training_flops,
    var_flops,
    var_parameters,
    var_sampling_flops,
    var_training_flops,
    vgg_layers,
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
def countable(monkeypatch):
    """Without copies in oneDNN's order, whose products the counter does not know."""
    monkeypatch.setattr(copies, "works", lambda *_: False)


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


def saved_on_a_cpu(config) -> int:
    """FLOPs of one decoder pass that a CPU saves: its upsampling takes 4 products in place of 9."""
    ups = [layer.flops for layer in tokenizer_layers(config)[1] if layer.kind == "up"]
    return sum(ups) * 5 // 9


# --------------------------------------------------------------------------------------- parameters


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


# -------------------------------------------------------------------------------------- transformer


@given(schedules())
def test_visible_pairs_are_those_of_the_mask(schedule) -> None:
    assert visible_pairs(schedule) == int(schedule.mask().sum())


def test_pairs_of_the_paper_schedule() -> None:
    schedule = ScaleSchedule(VARConfig().sizes)
    assert visible_pairs(schedule) == 286_434 and schedule.num_tokens**2 == 462_400


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
def test_scales_that_stand_alone_compute_the_visible_pairs_alone(
    options, large
) -> None:
    """The same model, its attention cut at every scale: what the planner counts."""
    var, batch = quicken(make_var(SCHEDULE, **options)), 2
    labels, inputs = torch.zeros(batch, dtype=torch.long), teacher_inputs(var, batch)
    wanted = var(labels, inputs)
    for block in quicken(var).blocks:
        block.attention.parts = rectangles(SCHEDULE, large)
    torch.testing.assert_close(var(labels, inputs), wanted)
    step = counted(lambda: var(labels, inputs).sum().backward())
    assert step == batch * var_training_flops(var.config)


def test_pairs_that_are_computed() -> None:
    """Of the ten scales at 256 pixels those of 36 tokens and more stand alone."""
    assert computed_pairs(SCHEDULE) == SCHEDULE.num_tokens**2
    schedule = ScaleSchedule(VARConfig().sizes)
    alone = sum(n * n_before for n, n_before in ((36, 91), (64, 155), (100, 255), (169, 424)))
    assert computed_pairs(schedule) == 55**2 + alone + 256 * 680


def test_recomputing_runs_the_blocks_once_more() -> None:
    from torch.utils.checkpoint import checkpoint

    var, batch = quicken(make_var(SCHEDULE)), 2
    labels, inputs = torch.zeros(batch, dtype=torch.long), teacher_inputs(var, batch)
    for block in var.blocks:
        inner = block.forward
        block.forward = lambda *a, inner=inner: checkpoint(
            inner, *a, use_reentrant=False, early_stop=False
        )
    step = counted(lambda: var(labels, inputs).sum().backward())
    assert step == batch * var_training_flops(var.config, computed=True, recompute=True)


# ---------------------------------------------------------------------------------------- tokenizer


@pytest.mark.parametrize("options", TOKENIZERS)
def test_encode_and_decode(options) -> None:
    tok, batch = quicken(make_tokenizer(**options)), 2
    images = random_images(batch, tok.config.image_channels, tok.image_size)
    assert counted(lambda: tok.encode(images)) == batch * encode_flops(tok.config)
    tokens = random_tokens(tok.schedule, batch)
    decoded = decode_flops(tok.config) - saved_on_a_cpu(tok.config)
    assert counted(lambda: tok.decode(tokens)) == batch * decoded


@pytest.mark.parametrize("options", TOKENIZERS)
def test_training_pass_of_the_tokenizer(options) -> None:
    tok, batch = quicken(make_tokenizer(**options)), 2
    images = random_images(batch, tok.config.image_channels, tok.image_size)

    def step() -> None:
        result = tok(images)
        (result.images.square().mean() + result.loss).backward()

    one = tokenizer_training_flops(tok.config) - 3 * saved_on_a_cpu(tok.config)
    with sdpa_kernel(SDPBackend.MATH):  # the fused backward pass computes q k^T again
        assert counted(step) == batch * one


def test_vgg_is_that_of_lpips() -> None:
    """13 convolutions with the 14,714,688 weights and biases of VGG-16; 15.3 G products at 224."""
    layers = vgg_layers((224, 224))
    assert sum(9 * x.inputs * x.outputs + x.outputs for x in layers) == 14_714_688
    assert sum(x.flops for x in layers) == 2 * 15_346_630_656


# ----------------------------------------------------------------------------------------- sampling


@pytest.mark.parametrize("cfg", [0, 1.5])
@pytest.mark.parametrize("options", [{}, {"shared_adaln": True, "depth": 3}])
def test_sampling_with_the_cache(cfg, options) -> None:
    var, tok, batch = make_var(ScaleSchedule((1, 2, 4)), **options), quicken(make_tokenizer()), 2
    # Greedy: float32, whose products the counter knows; those of oneDNN in bf16 it does not.
    drawn = counted(lambda: sample(var, tok, [0, 1], cfg=cfg, top_k=1))
    one = var_sampling_flops(var.config, guided=cfg > 0) + decode_flops(tok.config)
    one -= saved_on_a_cpu(tok.config)
    assert drawn == batch * one


def test_the_official_tokenizer() -> None:
    config = TokenizerConfig()
    with torch.device("meta"):
        tok = MultiScaleVQVAE(config)
        images = torch.empty(1, 3, 256, 256)
        both = counted(lambda: tok.decode_features(tok.features(images)))
    layers = encode_flops(config) + decode_flops(config)
    products = 2 * 680 * 32 * 4096 + 2 * 10 * 2 * 9 * 32 * 32 * 256
    assert both == layers - products
