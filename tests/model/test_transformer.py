"""The transformer: causality proven by gradients, cached equals masked, its own backward."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import make_quantizer, make_var, random_tokens, schedules

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
variants = pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS.keys())


def build(sizes=(1, 2, 4), **options):
    return make_var(ScaleSchedule(sizes), **options)


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
    for k, part in enumerate(var.schedule.slices):
        if k:
            x = var.word(teacher[:, part.start - first : part.stop - first])
        rows.append(var.step(k, x, modulations, head, cache))
    return torch.cat(rows, 1)


# ---------------------------------------------------------------------------------------- causality


@variants
def test_gradients_prove_the_block_causal_mask(options):
    var = build(**options)
    labels, teacher = inputs_for(var, batch=1)
    level = var.schedule.level_ids()
    first = var.schedule.tokens_per_scale[0]
    teacher.requires_grad_()
    for query in range(var.schedule.num_tokens):
        logits = var(labels, teacher)
        # `position` is added to every token, so its gradient tells which tokens were looked at.
        at_position, at_input = torch.autograd.grad(
            logits[0, query].square().sum(), [var.position, teacher]
        )
        reached = at_position[0].abs().amax(1)
        assert (reached[level <= level[query]] > 1e-9).all()
        assert not reached[level > level[query]].any()
        assert (at_input[0].abs().amax(1) > 0).equal(reached[first:] > 0)


def test_every_pair_of_scales_by_changing_inputs():
    var = build(sizes=(1, 2, (2, 3), 4))
    labels, teacher = inputs_for(var)
    level, first = var.schedule.level_ids(), 1
    with torch.no_grad():
        before = var(labels, teacher)
        for changed in range(1, 4):
            other = teacher.clone()
            other[:, level[first:] == changed] += 1
            differs = (var(labels, other) - before).abs().amax((0, 2)) > 1e-6
            for seen in range(4):
                assert differs[level == seen].all() == (seen >= changed)
                assert differs[level == seen].any() == (seen >= changed)


# ------------------------------------------------------------------------ cached path = masked path


@variants
@torch.no_grad()
def test_cached_equals_masked(options):
    var = build(**options)
    labels, teacher = inputs_for(var, batch=3)
    masked = var(labels, teacher)
    assert masked.shape == (3, var.schedule.num_tokens, 12) and masked.dtype == torch.float32
    assert masked.std() > 0.1  # something to compare
    torch.testing.assert_close(stepped(var, labels, teacher), masked, rtol=0, atol=1e-5)


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
    var = make_var(
        schedule,
        seed,
        depth=depth,
        heads=heads,
        width=heads * head_width,
        shared_adaln=shared,
        qk_norm=qk_norm,
        vocab_size=vocab,
    )
    labels, teacher = inputs_for(var, batch, seed)
    masked = var(labels, teacher)
    torch.testing.assert_close(stepped(var, labels, teacher), masked, rtol=0, atol=1e-5)
    # Images of a batch do not touch each other.
    single = torch.cat([var(labels[i : i + 1], teacher[i : i + 1]) for i in range(batch)])
    torch.testing.assert_close(single, masked, rtol=0, atol=1e-5)


@torch.no_grad()
def test_real_token_maps_go_the_same_way_through_both_paths():
    schedule = ScaleSchedule((1, 2, 4))
    var, quantizer = make_var(schedule), make_quantizer(schedule)
    tokens = random_tokens(schedule, 2)
    labels = torch.tensor([0, 2])
    masked = var(labels, quantizer.teacher_inputs(tokens))
    x, modulations, head = var.condition(labels)
    cache, f_hats = var.new_cache(2), quantizer.cumulative(tokens)
    for k, part in enumerate(schedule.slices):
        x = x if k == 0 else var.word(quantizer.next_input(f_hats[k - 1], k))
        torch.testing.assert_close(
            var.step(k, x, modulations, head, cache), masked[:, part], rtol=0, atol=1e-5
        )


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.double, torch.bfloat16])
def test_the_stream_keeps_its_type(dtype, var):
    x, modulations, head = var.to(dtype).condition(torch.tensor([0, 1]))
    assert var.hidden(0, x, modulations, head, var.new_cache(2)).dtype == dtype


def test_a_step_is_the_same_where_gradients_are_on(var):
    x, modulations, head = var.condition(torch.tensor([0, 1]))
    logits = var.step(0, x, modulations, head, var.new_cache(2))
    with torch.no_grad():
        assert var.step(0, x, modulations, head, var.new_cache(2)).equal(logits)


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
        return (x - x.mean(-1, keepdim=True)) / (
            x.var(-1, unbiased=False, keepdim=True) + 1e-6
        ).sqrt()

    y = x + g1 * block.attention(norm(x) * (1 + s1) + b1, None)
    hidden = block.fc1(norm(y) * (1 + s2) + b2)
    y = y + g2 * block.fc2(F.gelu(hidden, approximate="tanh"))
    torch.testing.assert_close(block(x, modulation, None), y, rtol=1e-4, atol=1e-5)
    assert block(x, torch.zeros(2, 6, 16), None).equal(x)


@pytest.mark.parametrize("shared", [False, True])
@torch.no_grad()
def test_every_block_has_its_own_modulation(shared):
    var = build(shared_adaln=shared, depth=3)
    labels = torch.tensor([0, 1, 3])
    start, modulations, head = var.condition(labels)
    assert start.shape == (3, 1, 32) and head.shape == (3, 2, 32)
    assert len(modulations) == 3 and modulations[0].shape == (3, 6, 32)
    for i in range(3):
        for j in range(i):
            assert not torch.allclose(modulations[i], modulations[j])  # blocks
            assert not torch.allclose(modulations[:, i], modulations[:, j])  # classes
    assert var.modulation.out_features == 6 * 32 * (1 if shared else 3)
    if shared:  # blocks differ by an offset that no class changes
        apart = modulations[1] - modulations[0]
        torch.testing.assert_close(
            apart, (var.offsets[1] - var.offsets[0]).expand(3, 6, 32), rtol=1e-4, atol=1e-5
        )


@torch.no_grad()
def test_the_class_reaches_every_scale(var):
    _, teacher = inputs_for(var, batch=1)
    drawn = [var(torch.tensor([label]), teacher) for label in range(4)]
    for i in range(4):
        for j in range(i):
            assert ((drawn[i] - drawn[j]).abs().amax((0, 2)) > 1e-4).all()


def test_labels_are_dropped_in_training_only():
    var = build(label_dropout=1.0)
    labels, teacher = torch.tensor([0, 1, 2]), inputs_for(var, batch=3)[1]
    null = torch.full((3,), 3)
    with torch.no_grad():
        kept = var(labels, teacher)
        assert var(labels, teacher).equal(kept)
        var.train()
        assert var(labels, teacher).equal(var(null, teacher))
        var.eval()
        assert var(labels, teacher).equal(kept)
        assert not torch.allclose(kept, var(null, teacher))


@torch.no_grad()
def test_the_share_of_dropped_labels():
    torch.manual_seed(0)
    var = build(label_dropout=0.3, sizes=(1,), depth=1).train()
    labels, teacher = torch.zeros(2000, dtype=torch.long), torch.zeros(2000, 0, 4)
    logits = var(labels, teacher)
    null = build(label_dropout=0.3, sizes=(1,), depth=1)(torch.tensor([3]), teacher[:1])
    dropped = (logits - null).abs().amax((1, 2)) < 1e-4
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
    var.eval()
    assert var(labels, teacher, nothing).equal(plain)  # in evaluation nothing is skipped


# ------------------------------------------------------------------------- parameters and bad input


def test_the_number_of_parameters_is_about_18_d_w_squared():
    width, depth = 64, 3
    var = VAR(
        VARConfig(
            depth=depth,
            width=width,
            heads=4,
            sizes=(1, 2),
            vocab_size=8,
            code_channels=4,
            num_classes=3,
        )
    )
    inside = sum(p.numel() for p in var.blocks.parameters())
    assert inside == depth * (12 * width**2 + 2 * width + width + 4 * width + width + 4)
    modulation = sum(p.numel() for p in var.modulation.parameters())
    assert modulation == depth * 6 * (width**2 + width)


def test_initial_gates_are_small_and_logits_near_uniform():
    torch.manual_seed(0)
    var = VAR(
        VARConfig(
            depth=2,
            width=64,
            heads=2,
            sizes=(1, 2, 4),
            vocab_size=12,
            code_channels=4,
            num_classes=3,
            init_gamma=1e-3,
        )
    ).eval()
    gates = var.modulation.weight.view(2, 6, 64, 64)
    std = math.sqrt(1 / 64 / 3)
    assert gates[:, :2].std().item() == pytest.approx(1e-3 * std, rel=0.1)
    assert gates[:, 2:].std().item() == pytest.approx(0.5 * std, rel=0.1)
    assert var.head.weight.std().item() == pytest.approx(0.02 * std, rel=0.1)
    with torch.no_grad():
        assert var(*inputs_for(var)).abs().max() < 0.1


def test_with_one_adaln_layer_the_blocks_offsets_alone_start_small():
    """As `init_weights` of the official code has it, for the 512-pixel model."""
    torch.manual_seed(0)
    var = VAR(VARConfig(depth=8, width=64, heads=4, sizes=(1, 2), vocab_size=8, code_channels=4,
                        num_classes=3, shared_adaln=True, init_gamma=1e-3))  # fmt: skip
    gates, rest = var.offsets[:, :2].std().item(), var.offsets[:, 2:].std().item()
    assert gates == pytest.approx(1e-3 * 64**-0.5, rel=0.1)
    assert rest == pytest.approx(0.5 * 64**-0.5, rel=0.1)
    parts = var.modulation.weight.view(6, -1).std(1).tolist()
    assert parts == pytest.approx([(1 / 3 / 64) ** 0.5] * 6, rel=0.1)


def test_no_weight_decay_on_embeddings_biases_and_scales():
    var = build(shared_adaln=True)
    decayed = {id(p) for p in decay_groups(var, 0.05)[0]["params"]}
    names = {name for name, p in var.named_parameters() if id(p) in decayed}
    assert names == {
        "word.weight",
        "modulation.weight",
        "head_modulation.weight",
        "head.weight",
    } | {
        f"blocks.{i}.{name}.weight"
        for i in range(2)
        for name in ("attention.qkv", "attention.proj", "fc1", "fc2")
    }


@pytest.mark.parametrize(
    "labels, words",
    [
        (torch.tensor([0, 4]), ["4", "0 to 2", "3"]),
        (torch.tensor([-1, 0]), ["-1"]),
        (torch.tensor([0.0, 1.0]), ["float32", "integers"]),
        (torch.tensor([[0, 1]]), ["(1, 2)", "(B,)"]),
        (["cat", "dog"], ["cat", "integer tensor"]),
    ],
)
def test_bad_labels_are_named(var, labels, words):
    with pytest.raises(ValueError) as error:
        var(labels, inputs_for(var)[1])
    assert all(word in str(error.value) for word in words), error.value
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("shape", [(2, 21, 4), (1, 20, 4), (2, 20, 5), (2, 80)])
def test_bad_teacher_inputs_are_named(var, shape):
    with pytest.raises(ValueError) as error:
        var(torch.tensor([0, 1]), torch.zeros(shape))
    assert str(shape) in str(error.value) and "(2, 20, 4)" in str(error.value)


@pytest.mark.parametrize("width, heads", [(33, 2), (32, 0)])
def test_heads_must_divide_the_width(width, heads):
    with pytest.raises(ValueError, match=f"heads.*{heads}"):
        VAR(VARConfig(width=width, heads=heads))


def test_a_feed_forward_layer_of_no_width_is_refused():
    with pytest.raises(ValueError, match="mlp_ratio is 0.0"):
        VAR(VARConfig(depth=1, width=32, heads=2, mlp_ratio=0.0))
