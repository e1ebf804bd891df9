"""Algorithms 1 and 2 against loops, gradients of the training pass."""

import functools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import make_quantizer, random_features, random_tokens, schedules

from varmini import ScaleSchedule
from varmini.model.checks import as_pyramid
from varmini.model.quantizer import MultiScaleQuantizer, full_float32

CLOSE = dict(rtol=1e-4, atol=1e-5)
CASES = dict(
    schedule=schedules(),
    batch=st.integers(1, 3),
    channels=st.integers(1, 6),
    vocab=st.integers(1, 20),
    num_phi=st.integers(0, 4),
    lookup=st.sampled_from(["euclidean", "cosine"]),
    seed=st.integers(0, 99),
)


def cases(**changed):
    """Property test over schedules, batch, channels, codebook, phi and lookup."""
    return lambda test: settings(max_examples=25)(given(**CASES | changed)(test))


def plain_contributions(quantizer, tokens):
    """phi_k(up(e)) of every scale, written down from the paper."""
    size = quantizer.schedule.grids[-1]
    for k, map_ in enumerate(tokens):
        h = quantizer.codebook.weight[map_].permute(0, 3, 1, 2)
        h = F.interpolate(h, size=size, mode="bicubic")
        if len(quantizer.phis):
            phi = quantizer.phis[quantizer.phi_index(k)]
            h = 0.5 * h + 0.5 * F.conv2d(h, phi.weight, phi.bias, padding=1)
        yield h


def plain_mean(f, height, width):
    """Average pooling with loops: cell i covers floor(iH/h) to ceil((i+1)H/h)."""
    size, sizes = f.shape[2], f.shape[3]
    rows = [slice(i * size // height, -(-(i + 1) * size // height)) for i in range(height)]
    columns = [slice(j * sizes // width, -(-(j + 1) * sizes // width)) for j in range(width)]
    return torch.stack(
        [torch.stack([f[:, :, r, c].mean((2, 3)) for c in columns], -1) for r in rows], -2
    )


def distances(quantizer, z):
    """(N, V): what the lookup has to minimise, in float64."""
    z, codes = z.double(), quantizer.codebook.weight.double()
    if quantizer.lookup == "cosine":
        z, codes = F.normalize(z, dim=1), F.normalize(codes, dim=1)
    return (z[:, None] - codes[None]).square().sum(2)


@cases()
def test_algorithm_1_follows_the_paper(schedule, batch, channels, vocab, num_phi, lookup, seed):
    quantizer = make_quantizer(schedule, vocab, channels, seed, num_phi=num_phi, lookup=lookup)
    f = random_features(schedule, batch, channels, seed)
    tokens = quantizer.encode(f)
    as_pyramid(tokens, schedule, vocab)
    rest = f.clone()
    rows = quantizer.residuals(f)
    for k, (h, w) in enumerate(schedule.grids):
        z = plain_mean(rest, h, w).permute(0, 2, 3, 1).reshape(-1, channels)
        torch.testing.assert_close(rows[k], z, **CLOSE)
        away = distances(quantizer, z)
        chosen = away.gather(1, tokens[k].view(-1, 1)).squeeze(1)
        # No code lies nearer than the chosen one, up to rounding.
        assert (chosen <= away.amin(1) + 1e-4 * (1 + away.amin(1))).all()
        rest = rest - list(plain_contributions(quantizer, tokens))[k]


@cases()
def test_algorithm_2_after_1_gives_f_hat_and_the_residual_telescopes(
    schedule, batch, channels, vocab, num_phi, lookup, seed
):
    quantizer = make_quantizer(schedule, vocab, channels, seed, num_phi=num_phi, lookup=lookup)
    f = random_features(schedule, batch, channels, seed)
    tokens = quantizer.encode(f)
    result = quantizer(f)
    assert all(a.equal(b) for a, b in zip(tokens, result.tokens))
    f_hats = quantizer.cumulative(tokens)
    assert len(f_hats) == len(schedule)
    torch.testing.assert_close(quantizer.decode(tokens), result.f_hat, **CLOSE)
    expected = torch.zeros_like(f)
    for k, h in enumerate(plain_contributions(quantizer, tokens)):
        expected = expected + h
        torch.testing.assert_close(f_hats[k], expected, **CLOSE)
        torch.testing.assert_close(quantizer.decode(tokens, k + 1), expected, **CLOSE)
        torch.testing.assert_close(quantizer.decode(tokens[: k + 1]), expected, **CLOSE)
        if k + 1 < len(schedule):
            # f = f_hat_k + R_k: what the next scale looks up is f less all that was added.
            rest = quantizer.down(f - expected, k + 1).permute(0, 2, 3, 1).reshape(-1, channels)
            torch.testing.assert_close(quantizer.residuals(f)[k + 1], rest, **CLOSE)


@cases()
def test_images_of_a_batch_do_not_touch_each_other(
    schedule, batch, channels, vocab, num_phi, lookup, seed
):
    quantizer = make_quantizer(schedule, vocab, channels, seed, num_phi=num_phi, lookup=lookup)
    f = random_features(schedule, batch, channels, seed)
    single = [quantizer.encode(part) for part in f.split(1)]
    for k, map_ in enumerate(quantizer.encode(f)):
        assert map_.equal(torch.cat([tokens[k] for tokens in single]))


@cases()
def test_teacher_inputs_are_the_picture_so_far(
    schedule, batch, channels, vocab, num_phi, lookup, seed
):
    quantizer = make_quantizer(schedule, vocab, channels, seed, num_phi=num_phi, lookup=lookup)
    tokens = random_tokens(schedule, batch, vocab, seed)
    inputs = quantizer.teacher_inputs(tokens)
    first = schedule.tokens_per_scale[0]
    assert inputs.shape == (batch, schedule.num_tokens - first, channels)
    f_hat = 0
    for k, h in enumerate(plain_contributions(quantizer, tokens)):
        if k > 0:
            part = inputs[:, schedule.slices[k].start - first : schedule.slices[k].stop - first]
            wanted = plain_mean(f_hat, *schedule.grids[k]).flatten(2).transpose(1, 2)
            torch.testing.assert_close(part, wanted, **CLOSE)
            torch.testing.assert_close(quantizer.next_input(f_hat, k), wanted, **CLOSE)
        f_hat = f_hat + h


def test_teacher_inputs_never_tell_the_future():
    schedule = ScaleSchedule((1, (2, 3), 3, (4, 5)))
    quantizer = make_quantizer(schedule)
    tokens = random_tokens(schedule, 2)
    before = quantizer.teacher_inputs(tokens)
    for k in range(len(schedule)):
        changed = [(t + 1) % 12 if i == k else t for i, t in enumerate(tokens)]
        differs = (quantizer.teacher_inputs(changed) != before).any(2).any(0)
        level = schedule.level_ids()[1:]
        assert not differs[level <= k].any()
        assert all(differs[level == later].any() for later in range(k + 1, len(schedule)))


@given(
    grid=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    vocab=st.integers(1, 30),
    seed=st.integers(0, 99),
)
@settings(max_examples=25)
def test_one_scale_without_phi_is_a_plain_vq(grid, vocab, seed):
    schedule = ScaleSchedule([grid])
    quantizer = make_quantizer(schedule, vocab, seed=seed, num_phi=0)
    f = random_features(schedule, 2, seed=seed).requires_grad_()
    rows = f.permute(0, 2, 3, 1).reshape(-1, 4)
    nearest = torch.cdist(rows.double(), quantizer.codebook.weight.double()).argmin(1)
    codes = quantizer.codebook.weight[nearest].view(2, *grid, 4).permute(0, 3, 1, 2)
    result = quantizer(f)
    assert len(result.tokens) == 1 and result.tokens[0].flatten().equal(nearest)
    torch.testing.assert_close(result.f_hat, codes, **CLOSE)
    torch.testing.assert_close(result.loss, 1.25 * F.mse_loss(codes, f), **CLOSE)
    assert result.usage.tolist() == pytest.approx([len(nearest.unique()) / vocab])
    assert quantizer.teacher_inputs(result.tokens).shape == (2, 0, 4)


def test_only_the_vq_loss_reaches_codebook_and_phi():
    schedule = ScaleSchedule((1, 2, (3, 4)))
    quantizer = make_quantizer(schedule)
    f = random_features(schedule, 2).requires_grad_()
    weights = torch.randn(f.shape)
    (quantizer(f).f_hat * weights).sum().backward()
    assert f.grad.equal(weights)  # straight through: as if quantization were not there
    assert all(p.grad is None for p in quantizer.parameters())

    f.grad = None
    result = quantizer(f)
    result.loss.backward()
    used = torch.cat([t.flatten() for t in result.tokens]).unique()
    moved = quantizer.codebook.weight.grad.abs().sum(1) > 0
    assert moved.nonzero().flatten().equal(used)
    indices = {quantizer.phi_index(k) for k in range(len(schedule))}
    for i, phi in enumerate(quantizer.phis):
        assert (phi.weight.grad is not None and bool(phi.weight.grad.any())) == (i in indices)


@pytest.mark.parametrize("beta", [0.0, 0.25, 2.0])
def test_the_loss_and_its_gradient_are_those_of_the_formula(beta):
    schedule = ScaleSchedule((1, 2, 4))
    quantizer = make_quantizer(schedule, beta=beta)
    f = random_features(schedule, 2).requires_grad_()
    result = quantizer(f)
    f_hats = quantizer.cumulative(result.tokens)
    wanted = sum((1 + beta) * (f_hat - f).square().mean() for f_hat in f_hats) / 3
    torch.testing.assert_close(result.loss, wanted, **CLOSE)
    # The encoder feels the commitment term alone, the codebook the other alone.
    grads = torch.autograd.grad(
        result.loss, [f, quantizer.codebook.weight, *quantizer.phis[0].parameters()]
    )
    commitment = sum(2 * beta * (f - f_hat) / f.numel() for f_hat in f_hats) / 3
    torch.testing.assert_close(grads[0], commitment.detach(), **CLOSE)
    codebook = sum((f_hat - f.detach()).square().mean() for f_hat in f_hats) / 3
    wanted = torch.autograd.grad(
        codebook, [quantizer.codebook.weight, *quantizer.phis[0].parameters()]
    )
    for given_, expected in zip(grads[1:], wanted):
        torch.testing.assert_close(given_, expected, **CLOSE)


@pytest.mark.parametrize(
    "scales, wanted",
    [
        (10, [0, 0, 1, 1, 1, 2, 2, 3, 3, 3]),
        (8, [0, 0, 1, 1, 2, 2, 3, 3]),
        (6, [0, 0, 1, 2, 3, 3]),
        (4, [0, 1, 2, 3]),
        (1, [0]),
    ],
)
def test_four_phis_are_shared_as_in_the_paper(scales, wanted):
    quantizer = MultiScaleQuantizer(ScaleSchedule(range(1, scales + 1)), 4, 2)
    assert [quantizer.phi_index(k) for k in range(scales)] == wanted


@pytest.mark.parametrize("num_phi", range(1, 9))
def test_any_number_of_phis_is_used_from_coarse_to_fine(num_phi):
    for scales in range(1, 20):
        quantizer = MultiScaleQuantizer(ScaleSchedule(range(1, scales + 1)), 4, 2, num_phi=num_phi)
        served = [quantizer.phi_index(k) for k in range(scales)]
        assert served == sorted(served) and served[0] == 0
        assert served[-1] == (num_phi - 1 if scales > 1 else 0)


def test_cosine_lookup_does_not_see_lengths():
    quantizer = make_quantizer(ScaleSchedule((3,)), lookup="cosine")
    z = torch.randn(50, 4)
    lengths = torch.rand(50, 1) * 9 + 0.1
    tokens = quantizer.lookup_tokens(z)
    assert quantizer.lookup_tokens(z * lengths).equal(tokens)
    with torch.no_grad():
        quantizer.codebook.weight.mul_(torch.rand(12, 1) * 9 + 0.1)
    assert quantizer.lookup_tokens(z).equal(tokens)


def test_arithmetic_is_float32_under_autocast():
    schedule = ScaleSchedule((1, 2, 4, 5))
    quantizer = make_quantizer(schedule, vocab=64)
    f = random_features(schedule, 4)
    plain = quantizer(f)
    decoded, inputs = quantizer.decode(plain.tokens), quantizer.teacher_inputs(plain.tokens)
    with torch.autocast("cpu", torch.bfloat16):
        result = quantizer(f)
        assert all(a.equal(b) for a, b in zip(result.tokens, plain.tokens))
        assert result.f_hat.equal(plain.f_hat) and result.loss.equal(plain.loss)
        assert quantizer.decode(plain.tokens).equal(decoded)
        assert quantizer.teacher_inputs(plain.tokens).equal(inputs)


def test_usage_counts_the_codes_of_each_scale():
    schedule = ScaleSchedule((1, 2, 4))
    quantizer = make_quantizer(schedule, vocab=9)
    result = quantizer(random_features(schedule, 3))
    wanted = [len(set(t.flatten().tolist())) / 9 for t in result.tokens]
    assert result.usage.tolist() == pytest.approx(wanted)


@pytest.mark.parametrize(
    "options, words",
    [
        (dict(lookup="manhattan"), "'manhattan'"),
    ],
)
def test_bad_options_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        make_quantizer(ScaleSchedule((1, 2)), **options)


@pytest.mark.parametrize(
    "call, words",
    [
        (
            lambda q, t: q.encode(torch.zeros(2, 4, 3, 4)),
            ["(2, 4, 3, 4)", "(B, 4, 4, 4)", "schedule"],
        ),
        (lambda q, t: q(torch.zeros(4, 4, 4)), ["(4, 4, 4)"]),
        (lambda q, t: q.decode(t, 0), ["num_scales", "0", "1 to 3"]),
        (lambda q, t: q.decode(t, 4), ["num_scales", "4", "1 to 3"]),
        (lambda q, t: q.decode(t[:1], 2), ["1 maps", "2 maps"]),
        (lambda q, t: q.decode([t[0], t[1] + 12]), ["map 2", "[0, 12)"]),
        (lambda q, t: q.decode([t[0][:1], t[1], t[2]]), ["map"]),  # would broadcast over the batch
        (lambda q, t: q.teacher_inputs(t[:2]), ["2 maps", "3 maps"]),
    ],
)
def test_bad_input_is_named(call, words):
    schedule = ScaleSchedule((1, 2, 4))
    with pytest.raises(ValueError) as error:
        call(make_quantizer(schedule), random_tokens(schedule, 2))
    assert all(word in str(error.value) for word in words), error.value
    assert "\n" not in str(error.value)


# ------------------------------------------------------------------------------------------ revival


def test_phi_never_runs_in_tf32(monkeypatch):
    """Which cuDNN takes for float32 convolutions unless it is told not to."""
    as_on_a_gpu = functools.partial(full_float32, "cuda")
    monkeypatch.setattr("varmini.model.quantizer.full_float32", lambda device: as_on_a_gpu())
    quantizer = make_quantizer(ScaleSchedule((1, 2, 4)), 16)
    convolutions, seen = torch.backends.cudnn.conv, []
    before = convolutions.fp32_precision
    for phi in quantizer.phis:
        phi.register_forward_hook(lambda *_: seen.append(convolutions.fp32_precision))
    quantizer.decode(quantizer.encode(random_features(quantizer.schedule, 2)))
    assert seen == ["ieee"] * 6 and convolutions.fp32_precision == before
