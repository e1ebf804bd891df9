"""Sampling: filters and guidance against loops, seeds, batch splits, smoothing, in-painting."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tiny import make_tokenizer, make_var, random_images, random_tokens, schedules

from varmini import VAR, ScaleSchedule, VARConfig, inpaint, sample
from varmini.fast.drawing import arithmetic
from varmini.fast.filters import filter_logits as quick_filter
from varmini.fast.quicken import twin
from varmini.model import sampler
from varmini.model.sampler import RULES, draw, filter_logits, guide, kept_tokens, smoothed
from varmini.runtime import machine

LABELS = torch.tensor([0, 1, 2, 3, 0])  # 3 is the null class
NEAR = dict(rtol=1e-4, atol=1e-4)


def same(a, b):
    """Whether two pyramids are equal."""
    return len(a) == len(b) and all(x.equal(y) for x, y in zip(a, b))


def drawn(var, tok, labels=LABELS, **options):
    """The token pyramid of a sample."""
    options = dict(seed=7, top_k=0, top_p=0.0) | options
    return sample(var, tok, labels, return_tokens=True, **options)[1]


# ----------------------------------------------------------------------------------- filters, draws


def kept_by_force(row, top_k, top_p):
    """Top-k, then top-p of what is left, token by token; returns (kept, how close a call)."""
    kept, close = set(range(len(row))), math.inf
    if 0 < top_k < len(row):
        least = sorted(row, reverse=True)[top_k - 1]
        kept = {i for i in kept if row[i] >= least}
    if 0 < top_p < 1:
        weights = {i: math.exp(row[i] - max(row)) for i in kept}
        whole, mass, nucleus = sum(weights.values()), 0.0, set()
        for i in sorted(kept, key=lambda i: row[i], reverse=True):
            close = min(close, abs(mass / whole - top_p)) if nucleus else close
            if nucleus and mass / whole >= top_p:
                break
            nucleus.add(i)
            mass += weights[i]
        kept = nucleus
    return kept, close


@settings(max_examples=60)
@given(
    vocab=st.integers(1, 12),
    top_k=st.integers(0, 14),
    top_p=st.floats(0, 1),
    spread=st.sampled_from([0.1, 1.0, 5.0]),
    seed=st.integers(0, 999),
)
def test_filters_against_brute_force(vocab, top_k, top_p, spread, seed):
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.normal(size=(2, 3, vocab)) * spread).float()
    filtered = filter_logits(logits, top_k, top_p)
    for row, result in zip(logits.view(-1, vocab).tolist(), filtered.view(-1, vocab).tolist()):
        kept, close = kept_by_force(row, top_k, top_p)
        assume(close > 1e-5)  # float32 may decide a tie otherwise
        assert {i for i in range(vocab) if result[i] > -math.inf} == kept
        assert all(result[i] == row[i] for i in kept)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("filtering", [filter_logits, quick_filter])
@pytest.mark.parametrize(
    "top_k, top_p, count",
    [(1, 0.0, 1), (2, 0.0, 2), (9, 0.0, 4), (0, 0.0, 4), (0, 1.0, 4), (0, 1e-9, 1), (0, 0.4, 1),
     (0, 0.51, 2), (0, 0.76, 3), (0, 0.85, 3), (0, 0.99, 4), (0, 0.999, 4),
     (3, 0.8, 2)],  # top-p is of what top-k leaves: 0.56, 0.28, 0.17
)  # fmt: skip
def test_filters_by_hand(top_k, top_p, count, filtering, dtype):
    logits = torch.tensor([0.5, 0.25, 0.15, 0.1]).log().to(dtype)
    filtered = filtering(logits, top_k, top_p)
    assert filtered.dtype == dtype and filtered[:count].equal(logits[:count])
    assert filtered[count:].tolist() == [-math.inf] * (4 - count)


def test_ties_with_the_last_of_the_top_k_stay_and_the_input_is_kept():
    logits = torch.tensor([[1.0, 0.0, 1.0, 1.0]])
    kept = logits.clone()
    assert filter_logits(logits, 2).isfinite().tolist() == [[True, False, True, True]]
    filter_logits(logits, 1, 0.5)
    assert logits.equal(kept)
    halves = torch.tensor([0.5, 0.25, 0.25]).log()
    assert filter_logits(halves, 0, 0.5).isfinite().tolist() == [True, False, False]


@settings(max_examples=40)
@given(vocab=st.integers(1, 9), seed=st.integers(0, 999), out=st.integers(0, 8))
def test_draw_inverts_the_cumulative_distribution(vocab, seed, out):
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.normal(size=(2, 3, vocab)) * 2).float()
    if out < vocab - 1:
        logits[..., out] = -math.inf
    uniform = torch.from_numpy(rng.random((2, 3))).float()
    rows = zip(logits.view(-1, vocab).double(), uniform.flatten(), draw(logits, uniform).flatten())
    for row, u, token in rows:
        edges = row.softmax(0).cumsum(0).tolist()
        assume(min(abs(edge - u) for edge in edges) > 1e-5)
        assert token == next(i for i, edge in enumerate(edges) if edge > u)
        assert math.isfinite(row[token])


def test_the_ends_of_the_unit_interval_never_hit_a_token_ruled_out():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(500, 40, 50, generator=generator) * 3
    logits[..., [0, 1, 20, 48, 49]] = -math.inf
    for u in (0.0, 1 - 2**-24):
        tokens = draw(logits, torch.full((500, 40), u))
        assert logits.gather(2, tokens[..., None]).isfinite().all()
        assert (tokens == (2 if u == 0 else 47)).float().mean() > 0.99


# ------------------------------------------------------------------ guidance, greedy and true draws


@pytest.mark.parametrize("k, scales, t", [(0, 5, 0.0), (1, 5, 0.75), (4, 5, 3.0), (0, 1, 0.0)])
def test_guidance_is_the_ramp_of_the_paper(k, scales, t):
    conditional, unconditional = torch.tensor([1.0, 2.0]), torch.tensor([0.5, 3.0])
    wanted = (1 + t) * conditional - t * unconditional
    torch.testing.assert_close(guide(conditional, unconditional, k, scales, 3.0), wanted)
    assert guide(conditional, unconditional, k, scales, 0.0).equal(conditional)


def test_guidance_0_is_the_conditional_model(var, tok):
    plain = drawn(var, tok, cfg=0.0)
    assert same(plain, drawn(var, tok, cfg=1e-30))  # the guided path, doubled batch
    strong = drawn(var, tok, cfg=5.0)
    assert strong[0].equal(plain[0])  # the ramp starts at 0
    assert not same(strong, plain)
    null = torch.tensor([3, 3])
    assert same(drawn(var, tok, null, cfg=4.0), drawn(var, tok, null, cfg=0.0))
    with torch.no_grad():
        var.class_embedding.weight[3].normal_()
    assert same([t[:3] for t in plain], drawn(var, tok, LABELS[:3], cfg=0.0))
    assert not same([t[:3] for t in strong], drawn(var, tok, LABELS[:3], cfg=5.0))


@settings(max_examples=12)
@given(
    schedule=schedules(max_scales=3, max_side=3),
    cfg=st.sampled_from([0.0, 1.5, 4.0]),
    shared=st.booleans(),
    qk_norm=st.booleans(),
    num_phi=st.integers(0, 4),
    batch=st.integers(1, 3),
    seed=st.integers(0, 99),
)
@torch.no_grad()
def test_greedy_samples_are_the_best_tokens_of_the_masked_path(
    schedule, cfg, shared, qk_norm, num_phi, batch, seed
):
    """Cache, next input and guidance together, against `forward` on the finished token maps."""
    assume(schedule.grids[-1] != (1, 1))
    tok = make_tokenizer(seed, sizes=schedule.sizes, num_phi=num_phi)
    var = make_var(schedule, seed, shared_adaln=shared, qk_norm=qk_norm)
    labels = torch.arange(batch) % 3
    images, tokens = sample(var, tok, labels, cfg=cfg, top_k=1, top_p=0.0, return_tokens=True)
    assert images.equal(twin(tok).decode(tokens))
    inputs = tok.quantizer.teacher_inputs(tokens)
    conditional, null = var(labels, inputs), var(torch.full_like(labels, 3), inputs)
    for k, (at, map_) in enumerate(zip(schedule.slices, tokens)):
        t = cfg * k / max(1, len(schedule) - 1)
        logits = (1 + t) * conditional[:, at] - t * null[:, at]
        chosen = logits.gather(2, map_.flatten(1)[..., None]).squeeze(2)
        assert (chosen >= logits.amax(2) - 1e-4).all()


@torch.no_grad()
def test_samples_follow_the_model():
    """One token of 12: the shares of 4,000 samples against the softmax."""
    tok, var = make_tokenizer(sizes=(1, 2)), make_var(ScaleSchedule((1, 2)), depth=1)
    labels = torch.full((4000,), 1)
    tokens = drawn(var, tok, labels, cfg=0.0)[0].flatten()
    wanted = var(labels[:1], torch.zeros(1, 4, 4))[0, 0].softmax(0)
    shares = torch.bincount(tokens, minlength=12) / 4000
    torch.testing.assert_close(shares, wanted, rtol=0, atol=0.03)
    filtered = drawn(var, tok, labels, cfg=0.0, top_k=3)[0].unique()
    assert set(filtered.tolist()) == set(wanted.topk(3).indices.tolist())


@torch.no_grad()
def test_the_argmax_of_teacher_forcing_is_no_sample(var, tok):
    """It sees the true coarser maps; even a greedy sample sees those that it drew itself."""
    forced = var(LABELS, tok.quantizer.teacher_inputs(random_tokens(tok.schedule, 5))).argmax(2)
    greedy = tok.schedule.flatten(drawn(var, tok, cfg=0.0, top_k=1))
    assert forced[:, 0].equal(greedy[:, 0])  # nothing comes before the first map
    assert (forced != greedy).any(1).all() and "argmax is not a sample" in VAR.forward.__doc__


def test_ten_images_learned_by_heart_come_back(tok):
    """A VAR that overfits ten images, one a class, draws each of them greedily."""
    torch.manual_seed(0)
    var = VAR(VARConfig(depth=2, width=32, heads=2, sizes=(1, 2, 4), vocab_size=12,
                        code_channels=4, num_classes=10, init_gamma=0.1))  # fmt: skip
    tokens, labels = tok.encode(random_images(10)), torch.arange(10)
    inputs, targets = tok.quantizer.teacher_inputs(tokens), tok.schedule.flatten(tokens)
    optimizer = torch.optim.Adam(var.parameters(), lr=0.01)
    for _ in range(100):
        F.cross_entropy(var(labels, inputs).flatten(0, 1), targets.flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert same(drawn(var.eval(), tok, labels, cfg=0.0, top_k=1), tokens)


# --------------------------------------------------------------------------- seeds and batch splits


def test_seeds_reproduce(var, tok):
    images, tokens = sample(var, tok, LABELS, seed=1, return_tokens=True)
    again = sample(var, tok, LABELS, seed=1, return_tokens=True)
    assert images.equal(again[0]) and same(tokens, again[1])
    assert sample(var, tok, LABELS, seed=1).equal(images)
    assert not same(tokens, sample(var, tok, LABELS, seed=2, return_tokens=True)[1])
    assert not same(drawn(var, tok, seed=None), drawn(var, tok, seed=None))
    of_one_class = tok.schedule.flatten(drawn(var, tok, [0] * 6))
    assert len(of_one_class.unique(dim=0)) == 6


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("cfg", [0.0, 2.0])
def test_a_batch_may_be_split_in_any_way(var, tok, cfg, smooth):
    options = dict(cfg=cfg, seed=3, smooth=smooth, return_tokens=True)
    images, tokens = sample(var, tok, LABELS, **options)
    for size in (1, 2, 3, 5, 99):
        split, others = sample(var, tok, LABELS, batch_size=size, **options)
        assert same(tokens, others)
        torch.testing.assert_close(split, images, **NEAR)
    two, others = sample(var, tok, LABELS[:2], **options)
    assert same([t[:2] for t in tokens], others)  # image i depends on (seed, i) alone
    torch.testing.assert_close(two, images[:2], **NEAR)


@pytest.mark.parametrize("seed", [5, None])
def test_sampling_leaves_the_global_random_numbers_repeatable(var, tok, seed):
    def after():
        torch.manual_seed(0)
        sample(var, tok, LABELS[:1], seed=seed)
        return torch.rand(3)

    assert after().equal(after())


@torch.no_grad()
@pytest.mark.parametrize("autocast", [False, True])
def test_images_are_what_their_tokens_decode_to(var, tok, autocast):
    labels, before = LABELS.clone(), {k: v.clone() for k, v in var.state_dict().items()}
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        images, tokens = sample(var, tok, labels, seed=0, return_tokens=True)
    # f_hat is summed up in float32 also under autocast, as Algorithm 2 has it.
    same = torch.autocast("cpu", torch.bfloat16) if autocast else arithmetic(var, greedy=False)
    with same:
        assert images.equal(twin(tok).decode(tokens))
    assert images.shape == (5, 1, 16, 16) and images.dtype == torch.float32
    assert images.min() >= -1 and images.max() <= 1 and not images.requires_grad
    assert labels.equal(LABELS) and all(v.equal(before[k]) for k, v in var.state_dict().items())


def test_a_batch_that_memory_does_not_hold_is_refused_with_one_that_fits(var, tok, monkeypatch):
    # 4 bytes x 2 (keys, values) x 2 (guidance) x 2 layers x 32 channels x 21 tokens, and logits
    image = 4 * 2 * 2 * 2 * 32 * 21 + 24 * 16 * 12
    monkeypatch.setattr(machine, "free_memory", lambda: 2.5 * image)
    with pytest.raises(ValueError, match="3 images at a time need .*: batch_size 2 would fit"):
        sample(var, tok, LABELS, batch_size=3)
    assert len(sample(var, tok, LABELS, batch_size=2)) == 5


# ---------------------------------------------------------------------------------------- smoothing


@pytest.mark.parametrize("k, scales", [(0, 4), (1, 4), (3, 4), (0, 1)])
def test_smoothing_is_the_formula(k, scales):
    rng = np.random.default_rng(0)
    logits, noise = rng.normal(size=(2, 3, 5)), rng.gumbel(size=(2, 3, 5))
    codebook = rng.normal(size=(5, 4))
    rho = k / max(1, scales - 1)
    weights = np.exp((logits * (1 + rho) + noise) / max(0.27 * (1 - 0.95 * rho), 0.005))
    wanted = weights / weights.sum(-1, keepdims=True) @ codebook
    found = smoothed(*(torch.from_numpy(a) for a in (logits, noise, codebook)), k, scales)
    torch.testing.assert_close(found, torch.from_numpy(wanted))


def test_gumbel_numbers_are_gumbel():
    noise = sampler.Noise(0, 0, 2, torch.device("cpu")).gumbel(20_000)
    assert noise.isfinite().all()
    assert noise.mean().item() == pytest.approx(0.5772, abs=0.02)
    assert noise.var().item() == pytest.approx(math.pi**2 / 6, abs=0.05)


@pytest.mark.parametrize("top_k", [900, 1])
def test_smooth_samples_are_softer_and_agree_where_there_is_no_choice(var, tok, top_k):
    hard, soft, again = (
        sample(var, tok, LABELS, seed=1, top_k=top_k, smooth=smooth)
        for smooth in (False, True, True)
    )
    assert torch.allclose(hard, soft) == (top_k == 1) and soft.equal(again)


# -------------------------------------------------------------------------------------- in-painting


@pytest.fixture
def recorded(tok, monkeypatch):
    """The codes that each scale of the next sampling adds, after those of encoding."""
    scales, add, encode = [], tok.quantizer.contribution, tok.encode

    def watch(k, codes):
        scales.append(codes)
        return add(k, codes)

    def forget(images):
        tokens = encode(images)
        scales.clear()
        return tokens

    monkeypatch.setattr(tok.quantizer, "contribution", watch)
    monkeypatch.setattr(tok, "encode", forget)
    return scales


def test_nothing_to_draw_gives_the_reconstruction(var, tok):
    images, mask = random_images(2), torch.zeros(16, 16, dtype=torch.bool)
    tokens = tok.encode(images)
    with arithmetic(var, greedy=False):
        assert inpaint(var, tok, images, mask, seed=0).equal(twin(tok).decode(tokens))


@pytest.mark.parametrize("options", [dict(top_k=1), dict(cfg=2.0), dict(smooth=True)])
def test_a_mask_of_everything_is_sampling(var, tok, options):
    images, mask = random_images(2), torch.ones(16, 16, dtype=torch.bool)
    for rule in ("painted", "touched"):
        drawn = inpaint(var, tok, images, mask, LABELS[:2], seed=0, rule=rule, **options)
        assert drawn.equal(sample(var, tok, LABELS[:2], seed=0, **options))


def cells(size, grid):  # pixels of every token's cell, as (top, bottom, left, right)
    (height, width), (h, w) = size, grid
    return {(i, j): (i * height // h, -(-(i + 1) * height // h),
                     j * width // w, -(-(j + 1) * width // w))
            for i in range(h) for j in range(w)}  # fmt: skip


GRIDS = ((1, 1), (2, 1), (2, 2), (3, 3), (5, 4), (8, 8))


@pytest.mark.parametrize("seed", range(6))
def test_the_rules_by_their_definitions(seed):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(16, 12, generator=generator) < (0.02, 0.3, 0.5, 0.7, 0.0, 1.1)[seed]
    painted, touched = (kept_tokens(mask[None, None], GRIDS, rule) for rule in RULES[:2])
    for k, grid in enumerate(GRIDS):
        for (i, j), (top, bottom, left, right) in cells((16, 12), grid).items():
            cell = mask[top:bottom, left:right].double()
            assert touched[k][0, 0, i, j] == (not cell.any())
            least = 1 if k < 2 else 0.5  # maps of up to three tokens
            draws = cell.any() if k == 5 else cell.mean() >= least
            assert painted[k][0, 0, i, j] == (not draws)


def test_one_pixel_anywhere_draws_a_token_of_the_last_map():
    pixels = torch.eye(16 * 16, dtype=torch.bool).view(-1, 1, 16, 16)
    for rule in ("painted", "touched"):
        drawn = ~kept_tokens(pixels, GRIDS, rule)[-1]
        assert drawn.flatten(1).sum(1).eq(1).all()
        assert drawn.repeat_interleave(2, 2).repeat_interleave(2, 3)[pixels].all()
    assert kept_tokens(pixels, GRIDS, "paper")[-1].all()  # the trap


def test_the_papers_rule_scales_the_mask_down_and_keeps_the_first_maps():
    mask = torch.zeros(1, 1, 16, 16, dtype=torch.bool)
    mask[..., 8:] = True
    for k, (keep, (h, w)) in enumerate(zip(kept_tokens(mask, GRIDS, "paper"), GRIDS)):
        scaled = F.interpolate((~mask).float(), size=(h, w), mode="bilinear")
        assert keep.equal(scaled > 0.5) if k >= 2 else keep.all()


@torch.no_grad()
def test_kept_codes_are_forced_and_the_others_drawn(var, tok, recorded):
    images, mask = random_images(3), torch.zeros(3, 16, 16, dtype=torch.bool)
    mask[0, :, 8:], mask[1, :8] = True, True  # right half, upper half, nothing
    inpaint(var, tok, images, mask, torch.tensor([0, 1, 2]), seed=0, top_k=1, cfg=3.0)
    codes, own = list(recorded), [tok.quantizer.embed(t) for t in tok.encode(images)]
    assert codes[0].equal(own[0])  # up to three tokens: forced entirely
    for k, half in ((1, 1), (2, 2)):
        assert codes[k][0, :, :, :half].equal(own[k][0, :, :, :half])
        assert codes[k][1, :, half:].equal(own[k][1, :, half:])
        assert codes[k][2].equal(own[k][2])
        rows = codes[k].permute(0, 2, 3, 1).reshape(-1, 1, 4)
        assert (rows == tok.quantizer.codebook.weight).all(2).any(1).all()
    assert not codes[2].equal(own[2])


@torch.no_grad()
def test_the_drawn_part_sees_the_kept_part(var, tok, recorded):
    """Greedy tokens of the drawn half against `forward` on the mixed maps."""
    label, right = torch.tensor([0, 1]), torch.arange(16).expand(16, 16) >= 8
    inpaint(var, tok, random_images(2), right, label, seed=0, top_k=1, cfg=0.0)
    rows = [c.permute(0, 2, 3, 1)[..., None, :] == tok.quantizer.codebook.weight for c in recorded]
    tokens = [row.all(-1).float().argmax(-1) for row in rows]
    logits = var(label, tok.quantizer.teacher_inputs(tokens))
    for k, half in ((1, 1), (2, 2)):
        best = logits[:, tok.schedule.slices[k]].argmax(2).view(tokens[k].shape)
        assert best[:, :, half:].equal(tokens[k][:, :, half:])


def test_inpaint_defaults_to_the_null_class_and_may_be_split(var, tok):
    images = random_images(4)
    mask = torch.rand(4, 16, 16, generator=torch.Generator().manual_seed(0)) < 0.6
    plain = inpaint(var, tok, images, mask, seed=1)
    assert plain.equal(inpaint(var, tok, images, mask, [3] * 4, seed=1))
    assert not torch.allclose(plain, inpaint(var, tok, images, mask, [0] * 4, seed=1))
    for size in (1, 3):
        split = inpaint(var, tok, images, mask, seed=1, batch_size=size)
        torch.testing.assert_close(split, plain, **NEAR)
    for i in range(4):
        one_for_all = inpaint(var, tok, images, mask[i], seed=1)
        torch.testing.assert_close(one_for_all[i], plain[i], **NEAR)
