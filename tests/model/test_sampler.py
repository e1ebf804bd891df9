"""Sampling: filters and guidance against loops, seeds, batch splits, smoothing, in-painting."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tiny import make_tokenizer, make_var, random_images, schedules

from varmini import MultiScaleVQVAE, ScaleSchedule, TokenizerConfig, inpaint, sample
from varmini.fast.drawing import arithmetic
from varmini.fast.quicken import twin
from varmini.model import sampler
from varmini.model.sampler import draw, filter_logits, guide, smoothed
from varmini.runtime import machine

LABELS = torch.tensor([0, 1, 2, 3, 0])  # 3 is the null class


def pyramid_equal(a, b):
    return len(a) == len(b) and all(x.equal(y) for x, y in zip(a, b))


def drawn(var, tok, labels=LABELS, **options):
    """The token pyramid of a sample."""
    return sample(
        var, tok, labels, **dict(seed=7, top_k=0, top_p=0.0, return_tokens=True) | options
    )[1]


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


def test_filters_by_hand():
    logits = torch.tensor([0.5, 0.25, 0.15, 0.1]).log()
    cases = [
        ((1, 0.0), 1),
        ((2, 0.0), 2),
        ((0, 0.5), 1),
        ((0, 0.51), 2),
        ((0, 0.76), 3),
        ((0, 0.999), 4),
        ((0, 0.0), 4),
        ((0, 1.0), 4),
        ((9, 0.0), 4),
        ((0, 1e-9), 1),
        ((3, 0.8), 2),
    ]  # after top-k 3 the shares are 0.56, 0.28, 0.17
    for options, count in cases:
        assert torch.isfinite(filter_logits(logits, *options)).tolist() == [True] * count + [
            False
        ] * (4 - count), options


def test_ties_with_the_last_of_the_top_k_stay_and_the_input_is_kept():
    logits = torch.tensor([[1.0, 0.0, 1.0, 1.0]])
    kept = logits.clone()
    assert torch.isfinite(filter_logits(logits, 2)).tolist() == [[True, False, True, True]]
    filter_logits(logits, 1, 0.5)
    assert logits.equal(kept)


@settings(max_examples=40)
@given(vocab=st.integers(1, 9), seed=st.integers(0, 999), out=st.integers(0, 8))
def test_draw_inverts_the_cumulative_distribution(vocab, seed, out):
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.normal(size=(2, 3, vocab)) * 2).float()
    if out < vocab - 1:
        logits[..., out] = -math.inf
    uniform = torch.from_numpy(rng.random((2, 3))).float()
    tokens = draw(logits, uniform)
    for row, u, token in zip(
        logits.view(-1, vocab).double(), uniform.flatten().tolist(), tokens.flatten().tolist()
    ):
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
        assert torch.isfinite(logits.gather(2, tokens[..., None])).all()
        assert (tokens == (2 if u == 0 else 47)).float().mean() > 0.99


def test_draws_follow_the_distribution():
    logits = torch.tensor([0.5, 0.3, 0.0, 0.2]).log()
    uniform = torch.rand(1, 40_000, generator=torch.Generator().manual_seed(0))
    tokens = draw(logits.expand(1, 40_000, 4), uniform)
    shares = torch.bincount(tokens.flatten(), minlength=4) / 40_000
    assert shares.tolist() == pytest.approx([0.5, 0.3, 0, 0.2], abs=0.01)
    assert shares[2] == 0


# ----------------------------------------------------------------------------------------- guidance


def test_guidance_is_the_ramp_of_the_paper():
    conditional, unconditional = torch.tensor([1.0, 2.0]), torch.tensor([0.5, 3.0])
    assert guide(conditional, unconditional, 0, 5, 3.0).equal(conditional)
    torch.testing.assert_close(
        guide(conditional, unconditional, 4, 5, 3.0), 4 * conditional - 3 * unconditional
    )
    torch.testing.assert_close(
        guide(conditional, unconditional, 1, 5, 3.0), 1.75 * conditional - 0.75 * unconditional
    )
    assert guide(conditional, unconditional, 0, 1, 3.0).equal(conditional)  # one scale: t = 0
    assert guide(conditional, unconditional, 2, 5, 0.0).equal(conditional)


def test_guidance_0_is_the_conditional_model(var, tok):
    plain = drawn(var, tok, cfg=0.0)
    assert pyramid_equal(plain, drawn(var, tok, cfg=1e-30))  # the guided path, doubled batch
    strong = drawn(var, tok, cfg=5.0)
    assert strong[0].equal(plain[0])  # the ramp starts at 0
    assert not pyramid_equal(strong, plain)
    with torch.no_grad():
        var.class_embedding.weight[3].normal_()
    labels = torch.tensor([0, 1, 2])
    assert pyramid_equal([t[:3] for t in plain], drawn(var, tok, labels, cfg=0.0))
    assert not pyramid_equal([t[:3] for t in strong], drawn(var, tok, labels, cfg=5.0))


def test_guiding_the_null_class_changes_nothing(var, tok):
    null = torch.tensor([3, 3])
    assert pyramid_equal(drawn(var, tok, null, cfg=4.0), drawn(var, tok, null, cfg=0.0))


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
    last = len(schedule) - 1
    for k, (part, map_) in enumerate(zip(schedule.slices, tokens)):
        t = cfg * k / last if last else 0.0
        logits = (1 + t) * conditional[:, part] - t * null[:, part]
        chosen = logits.gather(2, map_.flatten(1)[..., None]).squeeze(2)
        assert (chosen >= logits.amax(2) - 1e-4).all()


@torch.no_grad()
def test_samples_follow_the_model():
    """One token of 12: the shares of 4,000 samples against the softmax."""
    schedule = ScaleSchedule((1, 2))
    tok, var = make_tokenizer(sizes=(1, 2)), make_var(schedule, depth=1)
    labels = torch.full((4000,), 1)
    tokens = drawn(var, tok, labels, cfg=0.0)[0].flatten()
    wanted = var(labels[:1], torch.zeros(1, 4, 4))[0, 0].softmax(0)
    shares = torch.bincount(tokens, minlength=12) / 4000
    torch.testing.assert_close(shares, wanted, rtol=0, atol=0.03)
    filtered = drawn(var, tok, labels, cfg=0.0, top_k=3)[0].unique()
    assert set(filtered.tolist()) == set(wanted.topk(3).indices.tolist())


# --------------------------------------------------------------------------- seeds and batch splits


def test_seeds_reproduce(var, tok):
    one = sample(var, tok, LABELS, seed=1, return_tokens=True)
    again = sample(var, tok, LABELS, seed=1, return_tokens=True)
    assert one[0].equal(again[0]) and pyramid_equal(one[1], again[1])
    assert not pyramid_equal(one[1], sample(var, tok, LABELS, seed=2, return_tokens=True)[1])
    assert sample(var, tok, LABELS, seed=1).equal(one[0])
    assert sample(var, tok, LABELS.tolist(), seed=1).equal(one[0])


def test_images_of_one_class_differ(var, tok):
    tokens = drawn(var, tok, torch.zeros(6, dtype=torch.long))
    rows = tok.schedule.flatten(tokens)
    assert len(rows.unique(dim=0)) == 6


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("cfg", [0.0, 2.0])
def test_a_batch_may_be_split_in_any_way(var, tok, cfg, smooth):
    images, tokens = sample(var, tok, LABELS, cfg=cfg, seed=3, smooth=smooth, return_tokens=True)
    for size in (1, 2, 3, 5, 99):
        split, others = sample(
            var, tok, LABELS, cfg=cfg, seed=3, smooth=smooth, batch_size=size, return_tokens=True
        )
        assert pyramid_equal(tokens, others)
        torch.testing.assert_close(split, images, rtol=1e-4, atol=1e-4)
    first, others = sample(var, tok, LABELS[:2], cfg=cfg, seed=3, smooth=smooth, return_tokens=True)
    assert pyramid_equal([t[:2] for t in tokens], others)  # image i depends on (seed, i) alone
    torch.testing.assert_close(first, images[:2], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("seed", [5, None])
def test_sampling_leaves_the_global_random_numbers_repeatable(var, tok, seed):
    def after():
        torch.manual_seed(0)
        sample(var, tok, LABELS[:1], seed=seed)
        return torch.rand(3)

    assert after().equal(after())


def test_without_a_seed_pictures_are_fresh(var, tok):
    many = torch.zeros(4, dtype=torch.long)
    assert not pyramid_equal(drawn(var, tok, many, seed=None), drawn(var, tok, many, seed=None))


def test_no_two_seeds_in_the_allowed_range_are_the_same(var, tok):
    one = drawn(var, tok, seed=0)
    for seed in (2**31, 2**32 - 1, 2**32, 2**39):
        try:
            other = drawn(var, tok, seed=seed)
        except ValueError as error:
            assert str(seed) in str(error)
        else:
            assert not pyramid_equal(one, other), seed


def test_weights_and_labels_are_not_touched(var, tok):
    labels, before = LABELS.clone(), {k: v.clone() for k, v in var.state_dict().items()}
    images = sample(var, tok, labels, seed=0)
    assert not images.requires_grad and labels.equal(LABELS)
    assert all(v.equal(before[k]) for k, v in var.state_dict().items())


def test_no_labels_give_no_images(var, tok):
    images, tokens = sample(var, tok, [], seed=0, return_tokens=True)
    assert images.shape == (0, 1, 16, 16)
    assert [t.shape for t in tokens] == [(0, 1, 1), (0, 2, 2), (0, 4, 4)]


@torch.no_grad()
@pytest.mark.parametrize("autocast", [False, True])
def test_images_are_what_their_tokens_decode_to(var, tok, autocast):
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        images, tokens = sample(var, tok, LABELS, seed=0, return_tokens=True)
    with arithmetic(var, greedy=False):  # without autocast too
        # f_hat is summed up in float32 also under autocast, as Algorithm 2 has it.
        assert images.equal(twin(tok).decode(tokens))
    assert images.shape == (5, 1, 16, 16) and images.dtype == torch.float32
    assert images.min() >= -1 and images.max() <= 1


# ---------------------------------------------------------------------------------------- smoothing


@pytest.mark.parametrize("k", [0, 1, 3])
def test_smoothing_is_the_formula(k):
    rng = np.random.default_rng(0)
    logits, noise, codebook = (
        rng.normal(size=(2, 3, 5)),
        rng.gumbel(size=(2, 3, 5)),
        rng.normal(size=(5, 4)),
    )
    rho = k / 3
    tau = max(0.27 * (1 - 0.95 * rho), 0.005)
    weights = np.exp((logits * (1 + rho) + noise) / tau)
    wanted = weights / weights.sum(-1, keepdims=True) @ codebook
    given_ = smoothed(*(torch.from_numpy(a) for a in (logits, noise, codebook)), k, 4)
    torch.testing.assert_close(given_, torch.from_numpy(wanted))
    assert smoothed(*(torch.from_numpy(a) for a in (logits, noise, codebook)), 0, 1).shape == (
        2,
        3,
        4,
    )


def test_gumbel_numbers_are_gumbel():
    noise = sampler.Noise(0, 0, 2, torch.device("cpu")).gumbel(20_000)
    assert torch.isfinite(noise).all()
    assert noise.mean().item() == pytest.approx(0.5772, abs=0.02)
    assert noise.var().item() == pytest.approx(math.pi**2 / 6, abs=0.05)


def test_smooth_samples_are_softer_and_agree_where_there_is_no_choice(var, tok):
    hard, soft = (sample(var, tok, LABELS, seed=1, smooth=smooth) for smooth in (False, True))
    assert not torch.allclose(hard, soft)
    assert soft.equal(sample(var, tok, LABELS, seed=1, smooth=True))
    hard, soft = (
        sample(var, tok, LABELS, seed=1, top_k=1, smooth=smooth) for smooth in (False, True)
    )
    torch.testing.assert_close(hard, soft)


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


def own_codes(tok, images):
    return [tok.quantizer.embed(t) for t in tok.encode(images)]


def test_nothing_to_draw_gives_the_reconstruction(var, tok):
    images = random_images(2)
    mask = torch.zeros(16, 16, dtype=torch.bool)
    tokens = tok.encode(images)
    with arithmetic(var, greedy=False):
        assert inpaint(var, tok, images, mask, seed=0).equal(twin(tok).decode(tokens))


@torch.no_grad()
def test_kept_codes_are_forced_and_the_others_drawn(var, tok, recorded):
    images = random_images(3)
    mask = torch.zeros(3, 16, 16, dtype=torch.bool)
    mask[0, :, 8:], mask[1, :8] = True, True  # right half, upper half, nothing
    inpaint(var, tok, images, mask, torch.tensor([0, 1, 2]), seed=0, top_k=1, cfg=3.0)
    recorded = list(recorded)
    own = own_codes(tok, images)
    assert recorded[0].equal(own[0])  # up to three tokens: forced entirely
    for k, side in ((1, 2), (2, 4)):
        half = side // 2
        assert recorded[k][0, :, :, :half].equal(own[k][0, :, :, :half])
        assert recorded[k][1, :, half:].equal(own[k][1, :, half:])
        assert recorded[k][2].equal(own[k][2])
        codes = recorded[k].permute(0, 2, 3, 1).reshape(-1, 1, 4)
        assert (codes == tok.quantizer.codebook.weight).all(2).any(1).all()
    assert not recorded[2].equal(own[2])


@torch.no_grad()
def test_the_drawn_part_sees_the_kept_part(var, tok, recorded):
    """Greedy tokens of the drawn half against `forward` on the mixed maps."""
    images, label = random_images(2), torch.tensor([0, 1])
    mask = torch.zeros(16, 16, dtype=torch.bool)
    mask[:, 8:] = True
    inpaint(var, tok, images, mask, label, seed=0, top_k=1, cfg=0.0)
    rows = [
        codes.permute(0, 2, 3, 1)[..., None, :] == tok.quantizer.codebook.weight
        for codes in list(recorded)
    ]
    tokens = [row.all(-1).float().argmax(-1) for row in rows]
    logits = var(label, tok.quantizer.teacher_inputs(tokens))
    for k in (1, 2):
        best = logits[:, tok.schedule.slices[k]].argmax(2).view(tokens[k].shape)
        half = best.shape[2] // 2
        assert best[:, :, half:].equal(tokens[k][:, :, half:])


def test_inpaint_defaults_to_the_null_class_and_may_be_split(var, tok):
    images = random_images(4)
    mask = torch.rand(4, 16, 16, generator=torch.Generator().manual_seed(0)) < 0.6
    plain = inpaint(var, tok, images, mask, seed=1)
    assert plain.equal(inpaint(var, tok, images, mask, [3] * 4, seed=1))
    assert not torch.allclose(plain, inpaint(var, tok, images, mask, [0] * 4, seed=1))
    for size in (1, 3):
        torch.testing.assert_close(
            inpaint(var, tok, images, mask, seed=1, batch_size=size), plain, rtol=1e-4, atol=1e-4
        )
    for i in range(4):
        single = mask[i].expand(4, 16, 16)
        torch.testing.assert_close(
            inpaint(var, tok, images, single, seed=1)[i], plain[i], rtol=1e-4, atol=1e-4
        )
        assert inpaint(var, tok, images, mask[i], seed=1).equal(
            inpaint(var, tok, images, single, seed=1)
        )


# ---------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "options, words",
    [
        (dict(cfg=-1.0), ["cfg", "-1.0"]),
        (dict(cfg=math.inf), ["cfg", "inf"]),
        (dict(cfg=math.nan), ["cfg", "nan"]),
        (dict(top_k=-1), ["top_k", "-1"]),
        (dict(top_p=1.5), ["top_p", "1.5"]),
        (dict(top_p=-0.1), ["top_p", "-0.1"]),
        (dict(top_p=math.nan), ["top_p", "nan"]),
        (dict(seed=-1), ["seed", "-1"]),
        (dict(batch_size=0), ["batch_size", "0"]),
        (dict(labels=[0, 4]), ["label 4", "0 to 2"]),
        (dict(labels=[-1]), ["label -1"]),
        (dict(labels=torch.zeros(2, 2, dtype=torch.long)), ["(2, 2)"]),
        (dict(labels=torch.tensor(1)), ["integers of shape (B,)"]),
        (dict(labels=[0.7]), ["label"]),
    ],
)
def test_bad_arguments_are_named(var, tok, options, words):
    options = dict(options)
    labels = options.pop("labels", [0, 1])
    with pytest.raises(ValueError) as error:
        sample(var, tok, labels, **options)
    assert all(word in str(error.value) for word in words), error.value
    assert "\n" not in str(error.value)


def test_a_batch_that_memory_does_not_hold_is_refused_with_one_that_fits(var, tok, monkeypatch):
    # 4 bytes x 2 (keys, values) x 2 (guidance) x 2 layers x 32 channels x 21 tokens, and logits
    image = 4 * 2 * 2 * 2 * 32 * 21 + 24 * 16 * 12
    monkeypatch.setattr(machine, "free_memory", lambda: 2.5 * image)
    with pytest.raises(ValueError, match="3 images at a time need .*: batch_size 2 would fit"):
        sample(var, tok, LABELS, batch_size=3)
    assert len(sample(var, tok, LABELS, batch_size=2)) == 5


@pytest.mark.parametrize("other", [dict(sizes=(1, 2)), dict(vocab_size=13), dict(code_channels=8)])
def test_models_that_do_not_fit_are_refused(var, other):
    with pytest.raises(ValueError, match="trained together"):
        sample(var, make_tokenizer(**other), [0])


def test_training_mode_is_refused(var, tok):
    for model in (var, tok):
        model.train()
        with pytest.raises(ValueError, match=r"\.eval\(\)"):
            sample(var, tok, [0])
        model.eval()
    assert MultiScaleVQVAE(TokenizerConfig(width=32, multipliers=(1,))).training


@pytest.mark.parametrize(
    "mask, labels, words",
    [
        (torch.zeros(16, 16), None, ["float32", "bool"]),
        (torch.zeros(8, 8, dtype=torch.bool), None, ["(8, 8)", "(16, 16)"]),
        (torch.zeros(3, 16, 16, dtype=torch.bool), None, ["(3, 16, 16)", "(2, 16, 16)"]),
        (torch.zeros(16, 16, dtype=torch.bool), [0], ["1 labels", "2 images"]),
        (torch.zeros(16, 16, dtype=torch.bool), [0, 9], ["label 9"]),
    ],
)
def test_bad_masks_are_named(var, tok, mask, labels, words):
    with pytest.raises(ValueError) as error:
        inpaint(var, tok, random_images(2), mask, labels)
    assert all(word in str(error.value) for word in words), error.value


def test_bad_images_to_paint_in_are_named(var, tok):
    with pytest.raises(ValueError, match="255"):
        inpaint(var, tok, torch.full((2, 1, 16, 16), 255.0), torch.zeros(16, 16, dtype=torch.bool))
