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


def cases(test):
    """Property test over schedules, batch, channels, codebook, phi and lookup."""
    return settings(max_examples=25)(given(**CASES)(test))


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


@cases
def test_algorithm_1_follows_the_paper(schedule, batch, channels, vocab, num_phi, lookup, seed):
    quantizer = make_quantizer(schedule, vocab, channels, seed, num_phi=num_phi, lookup=lookup)
    f = random_features(schedule, batch, channels, seed)
    tokens, residual = quantizer.encode(f), f.clone()
    as_pyramid(tokens, schedule, vocab)
    added, looked_up = plain_contributions(quantizer, tokens), quantizer.residuals(f)
    for k, ((h, w), contribution) in enumerate(zip(schedule.grids, added)):
        z = plain_mean(residual, h, w).permute(0, 2, 3, 1).reshape(-1, channels)
        torch.testing.assert_close(looked_up[k], z, **CLOSE)
        away = distances(quantizer, z)
        chosen = away.gather(1, tokens[k].view(-1, 1)).squeeze(1)
        # No code lies nearer than the chosen one, up to rounding.
        assert (chosen <= away.amin(1) + 1e-4 * (1 + away.amin(1))).all()
        residual = residual - contribution
    alone = [quantizer.encode(part) for part in f.split(1)]  # images do not touch each other
    assert all(t.equal(torch.cat(single)) for t, single in zip(tokens, zip(*alone)))


@cases
def test_algorithm_2_and_teacher_inputs_are_the_picture_so_far(
    schedule, batch, channels, vocab, num_phi, lookup, seed
):
    quantizer = make_quantizer(schedule, vocab, channels, seed, num_phi=num_phi, lookup=lookup)
    f = random_features(schedule, batch, channels, seed)
    tokens, result = quantizer.encode(f), quantizer(f)
    assert all(a.equal(b) for a, b in zip(tokens, result.tokens))
    torch.testing.assert_close(quantizer.decode(tokens), result.f_hat, **CLOSE)
    f_hats, inputs = quantizer.cumulative(tokens), quantizer.teacher_inputs(tokens)
    first, expected = schedule.tokens_per_scale[0], torch.zeros_like(f)
    assert len(f_hats) == len(schedule)
    assert inputs.shape == (batch, schedule.num_tokens - first, channels)
    for k, h in enumerate(plain_contributions(quantizer, tokens)):
        if k > 0:
            at = slice(schedule.slices[k].start - first, schedule.slices[k].stop - first)
            wanted = plain_mean(expected, *schedule.grids[k]).flatten(2).transpose(1, 2)
            torch.testing.assert_close(inputs[:, at], wanted, **CLOSE)
            torch.testing.assert_close(quantizer.next_input(expected, k), wanted, **CLOSE)
        expected = expected + h
        torch.testing.assert_close(f_hats[k], expected, **CLOSE)
        torch.testing.assert_close(quantizer.decode(tokens, k + 1), expected, **CLOSE)
        torch.testing.assert_close(quantizer.decode(tokens[: k + 1]), expected, **CLOSE)


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
    shares = [len(t.unique()) / 12 for t in result.tokens]
    assert result.usage.tolist() == pytest.approx(shares)
    f_hats = quantizer.cumulative(result.tokens)
    wanted = sum((1 + beta) * (f_hat - f).square().mean() for f_hat in f_hats) / 3
    torch.testing.assert_close(result.loss, wanted, **CLOSE)
    # The encoder feels the commitment term alone, the codebook the other alone.
    weights = [quantizer.codebook.weight, *quantizer.phis[0].parameters()]
    grads = torch.autograd.grad(result.loss, [f, *weights])
    commitment = sum(2 * beta * (f - f_hat) / f.numel() for f_hat in f_hats) / 3
    torch.testing.assert_close(grads[0], commitment.detach(), **CLOSE)
    codebook = sum((f_hat - f.detach()).square().mean() for f_hat in f_hats) / 3
    torch.testing.assert_close(grads[1:], torch.autograd.grad(codebook, weights), **CLOSE)


@pytest.mark.parametrize("num_phi", range(1, 9))
def test_any_number_of_phis_is_used_from_coarse_to_fine(num_phi):
    for scales in range(1, 20):
        quantizer = MultiScaleQuantizer(ScaleSchedule(range(1, scales + 1)), 4, 2, num_phi=num_phi)
        served = [quantizer.phi_index(k) for k in range(scales)]
        assert served == sorted(served) and served[0] == 0
        assert served[-1] == (num_phi - 1 if scales > 1 else 0)


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
