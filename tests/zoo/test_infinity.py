"""Infinity: its head, its self-correction against a slow reference, its masks, cache and draws."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from small_generators import LABELS, flat
from tiny import redraw

from varmini import ScaleSchedule, quicken
from varmini.model.transformer import VAR
from varmini.zoo.generators import infinity
from varmini.zoo.generators.infinity import Infinity, InfinityConfig, head_parameters
from varmini.zoo.tokenizers.multiscale_bsq import MultiScaleBSQ, MultiScaleBSQConfig

SIZES, D = (1, 2, 3, 4), 4
SCHEDULE = ScaleSchedule(SIZES)
L = SCHEDULE.num_tokens


def make(seed=0, std=0.25, **options):
    values = dict(width=16, heads=2, depth=2, num_classes=3, sizes=SIZES, bits=D)
    torch.manual_seed(seed)
    return redraw(Infinity(InfinityConfig(**values | options)), seed, std).eval()


def features(count=4, bits=D, seed=1, side=4):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, bits, side, side, generator=generator)


def some_flips(share, count=4, bits=D, seed=2):
    chosen = torch.rand(count, L, bits, generator=torch.Generator().manual_seed(seed)) < share
    return (chosen.long() << torch.arange(bits)).sum(-1)


# --------------------------------------------------------------------------------------------- head


def test_at_one_bit_the_head_of_bits_is_the_head_of_codes():
    torch.manual_seed(0)
    bits = Infinity(InfinityConfig(bits=1, group=1, sizes=(1, 2), width=16, heads=2))
    var = VAR(bits.network.config)
    var.load_state_dict(bits.network.state_dict())  # the same shapes: a softmax over two codes
    tokens, inputs = bits.teacher(features(bits=1, side=2))
    logits = var.eval()(LABELS, inputs)
    assert logits.shape == (4, 5, 2) and logits.equal(bits.network.eval()(LABELS, inputs))
    expected = F.cross_entropy(logits.flatten(0, 1), tokens.flatten(), reduction="none")
    assert torch.allclose(bits.surprise(logits, tokens), expected.view(4, 5), atol=1e-6)
    bits.weights.fill_(1.0)
    loss = bits.loss(features(bits=1, side=2), LABELS)
    assert torch.allclose(loss, expected.mean(), atol=1e-6)


@pytest.mark.parametrize("group", [1, 2, 4])
def test_the_probabilities_of_all_codes_sum_to_one_and_are_products_over_bits(group):
    model = make(group=group)
    logits = model.network(LABELS, model.teacher(features())[1])
    every = [-model.surprise(logits, torch.full((4, L), code)) for code in range(2**D)]
    log_p = torch.stack(every, dim=-1)  # (B, L, 2^d)
    assert torch.allclose(log_p.logsumexp(-1), torch.zeros(4, L), atol=1e-5)
    if group == D:
        assert torch.allclose(log_p, logits.log_softmax(-1), atol=1e-5)
    if group == 1:
        pairs = logits.view(4, L, D, 2).log_softmax(-1)
        for code, bits in enumerate(itertools.product((0, 1), repeat=D)):
            expected = sum(pairs[:, :, D - 1 - i, bit] for i, bit in enumerate(bits))
            assert torch.allclose(log_p[..., code], expected, atol=1e-5)


def test_the_loss_is_a_weighted_mean_over_bits():
    model, f = make(), features()
    tokens, inputs = model.teacher(f)
    surprise = model.surprise(model.network(LABELS, inputs), tokens)
    weights = [4 / side for side in SIZES for _ in range(side**2)]  # sqrt(16 / side^2)
    expected = (surprise * torch.tensor(weights)).sum() / sum(weights) / 4 / D
    assert model.loss(f, LABELS).item() == pytest.approx(expected.item())
    model = make(area_power=0.0)
    assert model.loss(f, LABELS).item() == pytest.approx(surprise.mean().item() / D)


@pytest.mark.parametrize("bits, group", [(4, 1), (4, 4), (8, 2), (9, 9)])
def test_parameters_of_the_head(bits, group):
    head = make(bits=bits, group=group).network.head
    assert head_parameters(16, bits, group) == sum(p.numel() for p in head.parameters())


def test_parameters_of_heads_that_nobody_can_build():
    assert head_parameters(2048, 32) == 131_136  # .13 million
    assert head_parameters(2048, 32, 32) == 2049 * 2**32  # 8.8 trillion
    assert head_parameters(2048, 64) == 2 * 131_136
    assert head_parameters(2048, 64, 64) == 2049 * 2**64
    with pytest.raises(ValueError, match="group is 3, expected a divisor of bits 4"):
        make(group=3)


# ---------------------------------------------------------------------------------- self-correction


def resized(image, size, area):
    """(h, w) float64 to (size, size), pixel by pixel: the mean of an area, or bilinear."""
    n, out = len(image), torch.zeros(size, size, dtype=torch.float64)
    for i, j in itertools.product(range(size), repeat=2):
        if area:
            rows, columns = (range(n * a // size, -(-n * (a + 1) // size)) for a in (i, j))
            out[i, j] = sum(image[y, x] for y in rows for x in columns) / len(rows) / len(columns)
            continue
        (y, v), (x, u) = (math.modf(max(0.0, (a + 0.5) * n / size - 0.5))[::-1] for a in (i, j))
        y, x = int(y), int(x)
        below, right = min(y + 1, n - 1), min(x + 1, n - 1)
        out[i, j] = (1 - v) * ((1 - u) * image[y, x] + u * image[y, right])
        out[i, j] += v * ((1 - u) * image[below, x] + u * image[below, right])
    return out


def by_hand(f, flips):
    """Tokens and inputs of one image, from the docstring's equations: f (d, H, W), flips (L,)."""
    f_hat, tokens, inputs, flips = torch.zeros_like(f), [], [], flips.tolist()
    for k, side in enumerate(SIZES):
        residual = [resized(channel, side, True) for channel in f - f_hat]
        code = torch.zeros(D, side, side, dtype=torch.float64)
        for y, x in itertools.product(range(side), repeat=2):
            bits = [int(channel[y, x] > 0) for channel in residual]
            tokens.append(sum(bit << i for i, bit in enumerate(bits)))
            flip = flips.pop(0)
            for i, bit in enumerate(bits):
                code[i, y, x] = (2 * (bit ^ (flip >> i & 1)) - 1) / D**0.5
        f_hat = f_hat + torch.stack([resized(channel, 4, False) for channel in code])
        if k + 1 < len(SIZES):
            shown = torch.stack([resized(channel, SIZES[k + 1], False) for channel in f_hat])
            inputs += shown.flatten(1).T
    return tokens, torch.stack(inputs)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_targets_and_inputs_are_those_of_the_equations(share):
    f, flips = features().double(), some_flips(share)
    tokens, inputs = make().teacher(f, flips)
    for i in range(len(f)):
        expected_tokens, expected_inputs = by_hand(f[i], flips[i])
        assert tokens[i].tolist() == expected_tokens
        assert torch.allclose(inputs[i], expected_inputs, atol=1e-7)


def test_later_targets_make_up_for_flips():
    model, f = make(), 0.5 * features(200)
    flips = torch.zeros(200, L, dtype=torch.long)
    flips[:, 0] = 5  # two of four bits of the first map
    clean, corrected = model.teacher(f)[0], model.teacher(f, flips)[0]
    assert clean[:, 0].equal(corrected[:, 0]) and not clean[:, 1:5].equal(corrected[:, 1:5])

    def error(tokens):
        return (model.quantizer.embed(SCHEDULE.unflatten(tokens)) - f).square().mean()

    ignored = error(clean ^ flips)
    assert error(clean) < error(corrected ^ flips) < 0.8 * ignored


def test_flipping_no_bits_is_plain_training_bit_for_bit(monkeypatch):
    f, results = features(), []
    for flips in (0.0, 0.3):
        model = make(flips=flips).train()
        if flips:
            none = some_flips(0.0)
            monkeypatch.setattr(model, "random_flips", lambda count, none=none: none)
        torch.manual_seed(3)
        loss = model.loss(f, LABELS)
        loss.backward()
        results.append([loss, *(p.grad for p in model.parameters())])
    assert all(a.equal(b) for a, b in zip(*results))
    # And plain training is the tokenizer's own tokens, and its own sums as inputs.
    tokens, inputs = model.teacher(f)
    maps = model.quantizer(f).tokens
    assert tokens.equal(SCHEDULE.flatten(maps))
    sums = model.quantizer.cumulative(maps)
    parts = [model.next_input(f_hat, k) for k, f_hat in enumerate(sums[:-1], 1)]
    assert torch.allclose(inputs, torch.cat(parts, dim=1), atol=1e-6)


def test_bits_are_flipped_in_training_alone_and_each_scale_by_its_own_share():
    model, f = make(flips=0.3), features()
    assert model.loss(f, LABELS).equal(make().loss(f, LABELS))
    torch.manual_seed(0)
    flips = model.random_flips(3000)
    bits = (flips[..., None] >> torch.arange(D) & 1).float().mean(2)  # (B, L)
    assert flips.shape == (3000, L) and 0 <= flips.min() and flips.max() < 2**D
    last = bits[:, SCHEDULE.slices[3]].mean(1)
    assert last.mean().item() == pytest.approx(0.15, abs=0.01) and last.max() < 0.55
    none = sum((1 - p / 100) ** (16 * D) for p in range(31)) / 31  # of shares 0, .01, .., .3
    assert (last == 0).float().mean().item() == pytest.approx(none, abs=0.02)
    before = bits[:, SCHEDULE.slices[2]].mean(1)
    assert torch.corrcoef(torch.stack([before, last]))[0, 1].abs() < 0.1
    assert torch.corrcoef(torch.stack([bits[:, 15], bits[:, 29]]))[0, 1] > 0.05  # one map, one p
    with pytest.raises(ValueError, match=r"expected features .* tokenizer.features\(images\)"):
        model.loss(SCHEDULE.unflatten(flips[:4]), LABELS)


# ------------------------------------------------------------------------------ masks, cache, draws


def test_a_scale_sees_coarser_scales_alone():
    model = make()
    inputs = model.teacher(features())[1].requires_grad_()
    for k, part in enumerate(SCHEDULE.slices):
        logits = model.network(LABELS, inputs)[:, part]
        (seen,) = torch.autograd.grad(logits.square().sum(), inputs)
        touched = seen.abs().sum((0, 2)) > 0
        assert touched[: part.stop - 1].all() and not touched[part.stop - 1 :].any(), k


@pytest.mark.parametrize("cfg", [0.0, 2.0])
@pytest.mark.parametrize("group", [1, 2])
def test_with_a_cache_equals_without_and_the_quick_form_equals_the_plain(cfg, group, monkeypatch):
    model, seen = make(group=group), []
    keep = infinity.filter_logits
    monkeypatch.setattr(
        infinity, "filter_logits", lambda *args: seen.append(args[0]) or keep(*args)
    )
    kept = model.draw(LABELS, seed=1, cfg=cfg)
    anew = model.draw(LABELS, seed=1, cfg=cfg, cached=False)
    quick = quicken(model).draw(LABELS, seed=1, cfg=cfg)
    assert model.network.blocks[0].attention.parts  # the network inside is quick, too
    assert flat(kept).equal(flat(anew)) and flat(kept).equal(flat(quick))
    for a, b, c in zip(seen[:4], seen[4:8], seen[8:]):
        assert torch.allclose(a, b, atol=1e-4) and torch.allclose(a, c, atol=1e-4)
    if cfg == 0:  # and what is drawn has the likelihood that teacher forcing gives it
        inputs = model.quantizer.cumulative(kept)
        parts = [model.next_input(f_hat, k) for k, f_hat in enumerate(inputs[:-1], 1)]
        logits = model.network(LABELS, torch.cat(parts, dim=1))
        for part, a in zip(SCHEDULE.slices, seen):
            assert torch.allclose(logits[:, part].reshape(a.shape), a, atol=1e-4)


def test_draws_follow_the_bits_probabilities_and_the_filters():
    model, labels = make(), torch.zeros(4000, dtype=torch.long)
    first = model.draw(labels, seed=0, top_p=0.0)[0].flatten()
    logits = model.network(labels[:1], model.teacher(features(1))[1])[0, 0].view(D, 2)
    for tau in (1.0, 0.5):
        first = model.draw(labels, seed=0, top_p=0.0, tau=tau)[0].flatten()
        ones = (first[:, None] >> torch.arange(D) & 1).float().mean(0)
        assert torch.allclose(ones, (logits / tau).softmax(1)[:, 1], atol=0.03)
    likeliest = sum(int(bit) << i for i, bit in enumerate(logits.argmax(1)))
    assert (model.draw(labels[:50], seed=0, top_p=1e-6)[0] == likeliest).all()
    assert (model.draw(labels[:50], seed=0, top_k=1)[0] == likeliest).all()
    for tau in (0, -1.0, math.nan):
        with pytest.raises(ValueError, match="tau is .*, expected above 0: top_k=1"):
            model.draw(labels[:2], tau=tau)


def test_an_image_depends_on_its_own_number_alone_and_forced_maps_stay():
    model = make()
    drawn = model.draw(LABELS, seed=1)
    assert all(a[:2].equal(b) for a, b in zip(drawn, model.draw(LABELS[:2], seed=1)))
    again = model.draw(LABELS, seed=1, forced=drawn[:2])
    assert flat(again).equal(flat(drawn))  # the random numbers do not move
    wrong = [drawn[0], drawn[1] ^ 3]
    other = model.draw(LABELS, seed=1, forced=wrong)
    assert all(a.equal(b) for a, b in zip(other, wrong)) and not other[2].equal(drawn[2])


def test_its_tokenizer_decodes_what_it_draws():
    torch.manual_seed(0)
    tok = MultiScaleBSQ(MultiScaleBSQConfig(bits=D)).eval()
    images = torch.rand(4, 1, 32, 32) * 2 - 1
    model = make().train()
    assert model.loss(tok.features(images), LABELS).isfinite()
    drawn = tok.decode(model.eval().draw(LABELS, seed=0, cfg=1.0))
    assert drawn.shape == images.shape and drawn.abs().max() <= 1
    # With all maps forced, the picture is the tokenizer's.
    maps = model.draw(LABELS, forced=tok.encode(images))
    assert tok.decode(maps).equal(tok.decode(tok.encode(images)))
