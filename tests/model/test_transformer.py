"""The transformer: causality proven by gradients, cached equals masked, every layer's formula."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import make_var, schedules

from varmini import VAR, ScaleSchedule, VARConfig
from varmini.model.transformer import Attention, Block
from varmini.training.optim import decay_groups

VARIANTS = {
    "plain": {},
    "shared AdaLN": dict(shared_adaln=True),
    "without q/k norm": dict(qk_norm=False),
    "one scale": dict(sizes=(3,)),
    "non-square": dict(sizes=(1, (1, 2), (3, 2), (3, 5))),
    "first map of many tokens": dict(sizes=((2, 3), 4)),
    "repeated sizes": dict(sizes=(1, 2, 2, 3, 3)),
    "depth 1": dict(depth=1),
    "four heads": dict(heads=4),
}
CLOSE = dict(rtol=1e-4, atol=1e-5)


def build(sizes=(1, 2, 4), **options):
    return make_var(ScaleSchedule(sizes), **options)


def as_initialised(**options):
    """A transformer with the weights that it starts its training with."""
    torch.manual_seed(0)
    values = dict(sizes=(1, 2), vocab_size=8, code_channels=4, num_classes=3, width=64, heads=4)
    return VAR(VARConfig(**values | options)).eval()


def inputs_for(var, batch=2, seed=0):
    """Random labels (the null class among them) and teacher inputs."""
    generator = torch.Generator().manual_seed(seed)
    c, s = var.config, var.schedule
    labels = torch.randint(c.num_classes + 1, (batch,), generator=generator)
    shape = batch, s.num_tokens - s.tokens_per_scale[0], c.code_channels
    return labels, torch.randn(shape, generator=generator)


def stepped(var, labels, teacher):
    """Logits of all scales by the cached path, one scale at a time."""
    x, modulations, head = var.condition(labels)
    cache = var.new_cache(len(labels))
    first, rows = var.schedule.tokens_per_scale[0], []
    for k, at in enumerate(var.schedule.slices):
        if k:
            x = var.word(teacher[:, at.start - first : at.stop - first])
        rows.append(var.step(k, x, modulations, head, cache))
    return torch.cat(rows, 1)


# --------------------------------------------------------------------- causality, cache and batches


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS.keys())
def test_gradients_prove_the_block_causal_mask_and_cached_equals_masked(options):
    var = build(**options)
    labels, teacher = inputs_for(var)
    level, first = var.schedule.level_ids(), var.schedule.tokens_per_scale[0]
    teacher.requires_grad_()
    masked = var(labels, teacher)
    assert masked.shape == (2, len(level), 12) and masked.dtype == torch.float32
    assert masked.std() > 0.1  # something to compare
    torch.testing.assert_close(stepped(var, labels, teacher), masked, rtol=0, atol=1e-5)
    for query in range(len(level)):
        # `position` is added to every token, so its gradient tells which tokens were looked at.
        at_position, at_input = torch.autograd.grad(
            masked[0, query].square().sum(), [var.position, teacher], retain_graph=True
        )
        reached = at_position[0].abs().amax(1)
        assert (reached[level <= level[query]] > 1e-9).all()
        assert not reached[level > level[query]].any()
        assert (at_input[0].abs().amax(1) > 0).equal(reached[first:] > 0)
        assert not at_input[1].any()  # nor does the other image


@settings(max_examples=15)
@given(
    schedule=schedules(),
    batch=st.integers(1, 3),
    depth=st.integers(1, 3),
    heads=st.sampled_from([1, 2, 4]),
    head_width=st.sampled_from([4, 8]),
    shared=st.booleans(),
    qk_norm=st.booleans(),
    vocab=st.integers(1, 9),
    seed=st.integers(0, 99),
)
@torch.no_grad()
def test_cached_equals_masked_for_any_shape(
    schedule, batch, depth, heads, head_width, shared, qk_norm, vocab, seed
):
    width = heads * head_width
    var = make_var(schedule, seed, depth=depth, heads=heads, width=width, shared_adaln=shared,
                   qk_norm=qk_norm, vocab_size=vocab)  # fmt: skip
    labels, teacher = inputs_for(var, batch, seed)
    masked = var(labels, teacher)
    torch.testing.assert_close(stepped(var, labels, teacher), masked, rtol=0, atol=1e-5)
    single = torch.cat([var(labels[i : i + 1], teacher[i : i + 1]) for i in range(batch)])
    torch.testing.assert_close(single, masked, rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.double, torch.bfloat16])
def test_the_stream_keeps_its_type(dtype, var):
    x, modulations, head = var.to(dtype).condition(torch.tensor([0, 1]))
    assert var.hidden(0, x, modulations, head, var.new_cache(2)).dtype == dtype


# ---------------------------------------------------------------------------------------- attention


def test_queries_and_keys_have_unit_length_and_a_clamped_scale():
    torch.manual_seed(0)
    attention = Attention(16, 2, qk_norm=True)
    assert attention.log_scale.flatten().tolist() == pytest.approx([math.log(4)] * 2)
    x = torch.randn(2, 5, 16)
    q, k, v = F.linear(x, attention.qkv.weight).unflatten(2, (3, 2, 8)).permute(2, 0, 3, 1, 4)

    def expected(scale):
        scores = scale * F.cosine_similarity(q[:, :, :, None], k[:, :, None], dim=-1)
        return attention.proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))

    torch.testing.assert_close(attention(x, None), expected(4.0))
    with torch.no_grad():
        attention.log_scale.fill_(math.log(100))
        at_limit = attention(x, None)
        attention.log_scale.fill_(9.0)
    torch.testing.assert_close(attention(x, None), at_limit)
    torch.testing.assert_close(at_limit, expected(100.0), rtol=1e-4, atol=1e-4)


def test_keys_have_no_bias_queries_and_values_have():
    torch.manual_seed(0)
    attention = Attention(16, 2, qk_norm=False)
    names = {name for name, _ in attention.named_parameters()}
    assert names == {"qkv.weight", "q_bias", "v_bias", "proj.weight", "proj.bias"}
    x = torch.randn(1, 3, 16)
    before = attention(x, None)
    with torch.no_grad():
        attention.v_bias.normal_()
        # Softmax weights add up to one, so the bias of v comes through unchanged.
        shifted = before + F.linear(attention.v_bias, attention.proj.weight)
        torch.testing.assert_close(attention(x, None), shifted)
        attention.q_bias.normal_(std=9)
        assert not torch.allclose(attention(x, None), shifted, atol=1e-3)


# ------------------------------------------------------------------------ block, head, conditioning


@torch.no_grad()
def test_a_block_is_the_formula():
    torch.manual_seed(0)
    block = Block(VARConfig(width=16, heads=2, depth=1))
    x, modulation = torch.randn(2, 5, 16), torch.randn(2, 6, 16)
    g1, g2, s1, s2, b1, b2 = (modulation[:, i, None] for i in range(6))

    def norm(x):
        variance, mean = torch.var_mean(x, -1, correction=0, keepdim=True)
        return (x - mean) / (variance + 1e-6).sqrt()

    y = x + g1 * block.attention(norm(x) * (1 + s1) + b1, None)
    hidden = block.fc1(norm(y) * (1 + s2) + b2)
    y = y + g2 * block.fc2(F.gelu(hidden, approximate="tanh"))
    torch.testing.assert_close(block(x, modulation, None), y, **CLOSE)
    assert block(x, torch.zeros(2, 6, 16), None).equal(x)


@pytest.mark.parametrize("shared", [False, True])
@torch.no_grad()
def test_every_block_has_its_own_modulation(shared):
    var = build(shared_adaln=shared, depth=3)
    start, modulations, head = var.condition(torch.tensor([0, 1, 3]))
    assert start.shape == (3, 1, 32) and head.shape == (3, 2, 32)
    assert modulations.shape == (3, 3, 6, 32)
    for i in range(3):
        for j in range(i):
            assert not torch.allclose(modulations[i], modulations[j])  # blocks
            assert not torch.allclose(modulations[:, i], modulations[:, j])  # classes
    assert var.modulation.out_features == 6 * 32 * (1 if shared else 3)
    if shared:  # blocks differ by an offset that no class changes
        apart = (var.offsets[1] - var.offsets[0]).expand(3, 6, 32)
        torch.testing.assert_close(modulations[1] - modulations[0], apart, **CLOSE)


@torch.no_grad()
def test_the_class_reaches_every_scale_and_is_dropped_in_training_only():
    var = build(label_dropout=1.0)
    teacher = inputs_for(var, batch=1)[1]
    drawn = [var([label], teacher) for label in range(4)]
    for i in range(4):
        for j in range(i):
            assert ((drawn[i] - drawn[j]).abs().amax((0, 2)) > 1e-4).all()
    assert var.train()([0], teacher).equal(drawn[3]) and var.eval()([0], teacher).equal(drawn[0])


@torch.no_grad()
def test_the_share_of_dropped_labels():
    torch.manual_seed(0)
    var, teacher = build(label_dropout=0.3, sizes=(1,), depth=1), torch.zeros(2000, 0, 4)
    null = var([3], teacher[:1])
    dropped = (var.train()([0] * 2000, teacher) - null).abs().amax((1, 2)) < 1e-4
    assert dropped.float().mean().item() == pytest.approx(0.3, abs=0.04)


@torch.no_grad()
def test_drop_path_skips_branches_in_training_and_keeps_the_mean():
    var = build(depth=5, drop_path=0.2)
    generator = torch.Generator().manual_seed(0)
    modulations, draws = torch.ones(5, 4000, 6, 1), torch.rand(4000, 10, generator=generator)
    out = var.skip_branches(modulations, draws)
    assert out[:, :, 2:].equal(modulations[:, :, 2:])
    for rate, gates in zip((0, 0.05, 0.1, 0.15, 0.2), out[:, :, :2]):
        open_gate = pytest.approx(1 / (1 - rate))
        assert gates.unique().tolist() == ([0.0, open_gate] if rate else [1.0])
        assert gates.mean().item() == pytest.approx(1, abs=0.02)
        assert rate == 0 or (gates[:, 0] != gates[:, 1]).any()  # a branch is skipped by itself
    labels, teacher = torch.tensor([0, 1, 2]), inputs_for(var, batch=3)[1]
    plain = var(labels, teacher)
    nothing, everything = torch.full((3, 11), 0.9999), torch.zeros(3, 11)
    everything[:, 0] = 0.9999  # the labels stay
    var.train()
    assert var(labels, teacher, everything).allclose(var(labels, teacher, everything))
    assert not var(labels, teacher, nothing).allclose(var(labels, teacher, everything))
    assert var.eval()(labels, teacher, nothing).equal(plain)  # in evaluation nothing is skipped


# --------------------------------------------------------------------------------------- parameters


def test_the_number_of_parameters_is_about_18_d_w_squared():
    var, w = as_initialised(depth=3), 64
    inside = sum(p.numel() for p in var.blocks.parameters())
    assert inside == 3 * (12 * w**2 + 2 * w + w + 4 * w + w + 4)
    assert sum(p.numel() for p in var.modulation.parameters()) == 3 * 6 * (w**2 + w)


@pytest.mark.parametrize("shared", [False, True])
def test_initial_gates_are_small_and_logits_near_uniform(shared):
    """With one AdaLN layer the blocks' offsets alone start small, as in `init_weights`."""
    var, std = as_initialised(depth=8, shared_adaln=shared), math.sqrt(1 / 64 / 3)
    near = dict(rel=0.1)
    if shared:
        gates, own = var.offsets, 64**-0.5
        parts = var.modulation.weight.view(6, -1).std(1).tolist()
        assert parts == pytest.approx([std] * 6, **near)
    else:
        gates, own = var.modulation.weight.view(8, 6, 64, 64), std
    assert gates[:, :2].std().item() == pytest.approx(1e-3 * own, **near)
    assert gates[:, 2:].std().item() == pytest.approx(0.5 * own, **near)
    assert var.head.weight.std().item() == pytest.approx(0.02 * std, **near)
    with torch.no_grad():
        assert var(*inputs_for(var)).abs().max() < 0.1


def test_no_weight_decay_on_embeddings_biases_and_scales():
    var = build(shared_adaln=True)
    decayed = {id(p) for p in decay_groups(var, 0.05)[0]["params"]}
    names = {name for name, p in var.named_parameters() if id(p) in decayed}
    inside = ("attention.qkv", "attention.proj", "fc1", "fc2")
    wanted = ["word", "modulation", "head_modulation", "head"]
    wanted += [f"blocks.{i}.{name}" for i in range(2) for name in inside]
    assert names == {f"{name}.weight" for name in wanted}
