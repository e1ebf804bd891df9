"""Every quantizer of the zoo against plain float64 loops, and what they have in common."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from varmini import ScaleSchedule
from varmini.model.quantizer import MultiScaleQuantizer
from varmini.zoo.tokenizers.bsq import BSQuantizer
from varmini.zoo.tokenizers.fsq import FSQuantizer
from varmini.zoo.tokenizers.ibq import IBQuantizer
from varmini.zoo.tokenizers.lfq import LFQuantizer, entropies, to_signs, to_tokens
from varmini.zoo.tokenizers.multiscale_bsq import MultiScaleBSQuantizer
from varmini.zoo.tokenizers.open_magvit2 import FactorisedLFQuantizer
from varmini.zoo.tokenizers.quantizer import rows
from varmini.zoo.tokenizers.rq_vae import ResidualQuantizer
from varmini.zoo.tokenizers.vit_vqgan import CosineQuantizer
from varmini.zoo.tokenizers.vqgan import VectorQuantizer
from varmini.zoo.tokenizers.vqvae import EPSILON, EMAQuantizer

V, C = 12, 4
MAKE = {
    "vqvae": lambda: EMAQuantizer(V, C),
    "vqgan": lambda: VectorQuantizer(V, C),
    "vit-vqgan": lambda: CosineQuantizer(V, C),
    "rq-vae": lambda: ResidualQuantizer(V, C, depth=3),
    "lfq": lambda: LFQuantizer(C, temperature=2.0),
    "open-magvit2": lambda: FactorisedLFQuantizer(C, 1, temperature=2.0),
    "bsq": lambda: BSQuantizer(C, balance=0.7, sharpness=1.5),
    "fsq": lambda: FSQuantizer((3, 4, 2, 5)),
    "ibq": lambda: IBQuantizer(V, C, entropy_temperature=0.5),
}
each = pytest.mark.parametrize("name", MAKE)


def make(name):
    torch.manual_seed(0)
    return MAKE[name]().double()


def features(batch=3, channels=C, side=2, seed=1):
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(batch, channels, side, side, generator=generator, dtype=torch.float64)
    return z.requires_grad_()


# --------------------------------------------------------------- the formulas, one vector at a time


def closest(x, codes):
    return min(range(len(codes)), key=lambda j: ((x - codes[j]) ** 2).sum().item())


def mean_square(pairs):
    return torch.stack([((a - b) ** 2).mean() for a, b in pairs]).mean()


def entropy(p):
    return -sum(q * q.log() for q in p.flatten() if q > 0)


def by_hand(name, q, xs):
    """Codes, tokens and loss of vectors, from the docstrings' equations; sg is `.detach()`."""
    if name in ("vqvae", "vqgan", "vit-vqgan"):
        book = q.codebook
        if name == "vit-vqgan":
            xs, book = [x / x.norm() for x in xs], torch.stack([e / e.norm() for e in book])
        ks = [closest(x, book) for x in xs]
        loss = 0.25 * mean_square([(x, book[k].detach()) for x, k in zip(xs, ks)])
        if name != "vqvae":
            loss = loss + mean_square([(x.detach(), book[k]) for x, k in zip(xs, ks)])
        return [x + (book[k] - x).detach() for x, k in zip(xs, ks)], ks, loss
    if name == "rq-vae":
        out, tokens, losses = [], [], []
        for x in xs:
            total, ks = torch.zeros_like(x), []
            for _ in range(3):
                ks.append(closest(x - total, q.codebook))
                total = total + q.codebook[ks[-1]]
                losses.append(((x - total) ** 2).mean())
            out.append(x + (total - x).detach())
            tokens.append(ks)
        return out, tokens, 0.25 * torch.stack(losses).mean()
    if name == "ibq":
        out, ks, p_t, terms = [], [], [], []
        for x in xs:
            logits = torch.stack([(x * e).sum() for e in q.codebook])
            p, k = logits.softmax(0), int(logits.argmax())
            index = torch.eye(V, dtype=x.dtype)[k] - p.detach() + p
            z_q = sum(i * e for i, e in zip(index, q.codebook))
            e = q.codebook[k]
            terms.append(
                ((z_q - x) ** 2).mean() + ((e.detach() - x) ** 2).mean()
                + 0.25 * ((e - x.detach()) ** 2).mean()
            )  # fmt: skip
            out.append(z_q)
            ks.append(k)
            p_t.append((logits / 0.5).softmax(0))
        spread = sum(map(entropy, p_t)) / len(xs) - entropy(sum(p_t) / len(xs))
        return out, ks, torch.stack(terms).mean() + 0.05 * spread
    if name == "fsq":
        levels, out, tokens = (3, 4, 2, 5), [], []
        for x in xs:
            code, token, place = [], 0, 1
            for value, n in zip(x, levels):
                half, offset = (n - 1) * 1.001 / 2, 0.5 if n % 2 == 0 else 0.0
                b = torch.tanh(value + math.atanh(offset / half)) * half - offset
                code.append((b + (b.round() - b).detach()) / (n // 2))
                token += (int(b.round()) + n // 2) * place
                place *= n
            out.append(torch.stack(code))
            tokens.append(token)
        return out, tokens, torch.zeros(())
    return bits_by_hand(name, xs)


def bits_by_hand(name, xs):
    """LFQ, Open-MAGVIT2 and BSQ: p(c|z) by its softmax over all codes, not by its factors."""
    codes = [torch.tensor(c, dtype=torch.float64) for c in itertools.product((-1, 1), repeat=C)]
    root = C**0.5 if name == "bsq" else 1.0
    us = [x / x.norm() for x in xs] if name == "bsq" else xs
    sharp = 2 * 1.5 if name == "bsq" else 2 / 2.0
    p = [torch.stack([sharp * (u * c / root).sum() for c in codes]).softmax(0) for u in us]
    mean = sum(p) / len(p)
    together = entropy(mean)
    if name == "bsq":  # of each bit by itself
        ones = [sum(m for m, c in zip(mean, codes) if c[i] > 0) for i in range(C)]
        together = 0.7 * sum(entropy(torch.stack([one, 1 - one])) for one in ones)
    weight = 0.1 / 1.5 if name == "bsq" else 0.1  # w / t
    loss = weight * (sum(map(entropy, p)) / len(p) - together)
    signs = [torch.tensor([1.0 if v > 0 else -1.0 for v in x]).double() for x in xs]
    if name != "bsq":
        loss = loss + 0.25 * mean_square(zip(xs, signs))
    tokens = []
    for s in signs:
        bits = [int(v > 0) for v in s]
        whole = sum(b << i for i, b in enumerate(bits))
        tokens.append([whole & 1, whole >> 1] if name == "open-magvit2" else whole)
    return [(u + (s - u).detach()) / root for u, s in zip(us, signs)], tokens, loss


@each
def test_it_computes_its_equations(name):
    quantizer, z = make(name), features()
    result = quantizer(z)
    codes, tokens, loss = by_hand(name, quantizer, list(rows(z)))
    assert torch.allclose(rows(result.z_q), torch.stack(codes), atol=1e-6)
    assert result.tokens.flatten(0, 2).tolist() == tokens
    assert result.loss.item() == pytest.approx(loss.item(), rel=1e-6)

    seen = torch.tensor(tokens).view(len(tokens), -1).T
    expected = [len(set(t.tolist())) / v for t, v in zip(seen, quantizer.vocab_sizes)]
    assert result.usage.tolist() == pytest.approx(expected)

    # Gradients for the features and for the codebook, of the loss and of what the decoder asks for
    learned = [z, *[p for p in quantizer.parameters() if p.requires_grad]]
    weights = torch.randn(len(codes), C, generator=torch.Generator().manual_seed(2)).double()
    for ours, theirs in (
        (result.loss, loss),
        ((rows(result.z_q) * weights).sum(), (torch.stack(codes) * weights).sum()),
    ):
        if not theirs.requires_grad:
            continue
        options = dict(retain_graph=True, allow_unused=True, materialize_grads=True)
        for a, b in zip(
            torch.autograd.grad(ours, learned, **options),
            torch.autograd.grad(theirs, learned, **options),
        ):
            assert torch.allclose(a, b, atol=1e-6)


@each
def test_tokens_give_back_the_codes(name):
    quantizer, z = make(name), features(batch=5, side=4)
    result = quantizer(z)
    depth = len(quantizer.vocab_sizes)
    assert result.tokens.shape == (5, 4, 4, *([depth] if depth > 1 else []))
    assert torch.allclose(quantizer.embed(result.tokens).double(), result.z_q, atol=1e-6)
    single = make(name).float()(features().float().detach())
    assert single.z_q.dtype == torch.float32 and single.z_q.isfinite().all()
    assert single.loss.isfinite() and single.tokens.dtype == torch.long


# ------------------------------------------------------------------ where one system is another one


def test_vqgan_is_vars_quantizer_with_one_scale():
    ours, z = make("vqgan"), features(side=3)
    vars_ = MultiScaleQuantizer(ScaleSchedule((3,)), V, C, num_phi=0).double()
    vars_.codebook.weight.data.copy_(ours.codebook)
    a, b = ours(z), vars_(z)
    assert a.tokens.equal(b.tokens[0]) and torch.allclose(a.z_q, b.f_hat)
    assert torch.allclose(a.loss, b.loss) and a.usage.equal(b.usage)


def test_rq_at_depth_1_is_vq():
    torch.manual_seed(0)
    rq, vq, z = ResidualQuantizer(V, C, depth=1).double(), make("vqvae"), features()
    for _ in range(3):
        a, b = rq(z), vq(z)
        assert a.tokens.squeeze(-1).equal(b.tokens) and a.usage.equal(b.usage)
        assert torch.allclose(a.z_q, b.z_q) and torch.allclose(a.loss, b.loss)
        for quantizer, result in ((rq, a), (vq, b)):
            torch.manual_seed(3)
            quantizer.update(z.detach(), result.tokens)
        assert torch.allclose(rq.codebook, vq.codebook)


def test_rq_comes_closer_with_every_depth():
    z = features(batch=20)
    quantizer = ResidualQuantizer(64, C, depth=4).double()
    quantizer.codebook.data[0] = 0.0  # a code of zero can never make it worse
    tokens = quantizer(z).tokens
    partial = [quantizer.codes(tokens[..., :d]) for d in range(1, 5)]
    errors = [(rows(z) - p.flatten(0, 2)).square().sum(1) for p in partial]
    assert all((b <= a).all() for a, b in itertools.pairwise(errors))
    assert errors[3].mean() < 0.3 * errors[0].mean()


def test_ibq_at_temperature_0_teaches_the_chosen_codes_as_vq_does():
    ibq, vq, z = make("ibq"), make("vqgan"), features()
    ibq.temperature, ibq.entropy = 1e-9, 0.0
    with torch.no_grad():  # the largest product is the nearest code where all have one length
        ibq.codebook.copy_(F.normalize(ibq.codebook, dim=1))
        vq.codebook.copy_(ibq.codebook)
    a, b = ibq(z), vq(z)
    assert a.tokens.equal(b.tokens) and torch.allclose(a.z_q, b.z_q)
    assert torch.allclose(a.loss, (2 + 0.25) / (1 + 0.25) * b.loss)
    ours = torch.autograd.grad(a.loss, (z, ibq.codebook))
    theirs = torch.autograd.grad(b.loss, (z, vq.codebook))
    # |z_q - z|^2 pulls both ends; beta sits at the other one.
    assert torch.allclose(ours[0], 2 / 0.25 * theirs[0])
    assert torch.allclose(ours[1], (1 + 0.25) * theirs[1])
    wanted = torch.autograd.grad(ibq(z).z_q.sum(), ibq.codebook)[0]
    counts = torch.bincount(a.tokens.flatten(), minlength=V).double()
    assert torch.allclose(wanted, counts[:, None].expand(-1, C))


def test_ibq_teaches_every_code():
    quantizer = make("ibq")
    quantizer.entropy, z = 0.0, features(batch=1, side=1)
    grad = torch.autograd.grad(quantizer(z).z_q.square().sum(), quantizer.codebook)[0]
    assert (grad.abs().sum(1) > 0).all()


# ---------------------------------------------------------------------------------- bits and grids


def test_lfqs_bits_are_signs():
    z = torch.tensor([[-0.3, 0.2, 0.0, 5.0]])
    result = LFQuantizer(4)(z.view(1, 4, 1, 1))
    assert result.tokens.item() == 0b1010
    assert rows(result.z_q).tolist() == [[-1.0, 1.0, -1.0, 1.0]]
    tokens = torch.arange(2**9).view(2, -1)
    assert to_tokens(to_signs(tokens, 9) > 0).equal(tokens)


def test_the_entropy_of_the_batch_is_exact_within_groups_and_bounded_by_them():
    logits = 3 * torch.randn(7, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    codes = torch.tensor(list(itertools.product((0.0, 1.0), repeat=6)), dtype=torch.float64)
    p = (logits.sigmoid() * codes[:, None] + (-logits).sigmoid() * (1 - codes[:, None])).prod(2)
    own, together = entropies(logits, (6,))
    assert own.item() == pytest.approx((sum(map(entropy, p.T)) / 7).item())
    assert together.item() == pytest.approx(entropy(p.mean(1)).item())
    bounds = [entropies(logits, groups)[1].item() for groups in ((6,), (4, 2), (2, 2, 2), [1] * 6)]
    assert bounds == sorted(bounds) and bounds[0] < bounds[-1]


@pytest.mark.parametrize("size", [0.0, 1e-3, 50.0])
def test_entropies_keep_finite_gradients(size):
    for quantizer in (LFQuantizer(9), BSQuantizer(9, sharpness=100.0), IBQuantizer(64, 9)):
        z = (size * torch.randn(8, 9, 2, 2)).requires_grad_()
        quantizer(z).loss.backward()
        assert z.grad.isfinite().all()


def test_bsqs_rows_lie_on_the_sphere():
    z = 30 * features(batch=8)
    z_q = rows(make("bsq")(z).z_q)
    assert torch.allclose(z_q.norm(dim=1), torch.ones(len(z_q), dtype=torch.float64))
    assert ((F.normalize(rows(z), dim=1) - z_q).norm(dim=1) < 2**0.5).all()
    losses = [BSQuantizer(C, group=group)(z).loss.item() for group in (1, 2, 4)]
    assert losses == sorted(losses) and losses[0] < losses[2]


@pytest.mark.parametrize("levels", [(2,), (3,), (8,), (8, 5, 3)])
def test_fsq_has_as_many_levels_as_asked_and_all_can_be_reached(levels):
    quantizer = FSQuantizer(levels)
    grid = torch.cartesian_prod(*[torch.linspace(-6, 6, 90)] * len(levels))
    z = grid.view(-1, len(levels)).T.view(1, len(levels), -1, 1)
    result = quantizer(z)
    assert result.usage.item() == 1 and result.loss == 0
    for channel, count in zip(rows(result.z_q).T, levels):
        assert len(channel.unique()) == count and channel.abs().max() <= 1
    assert torch.allclose(quantizer.bound(torch.zeros(1, len(levels))), torch.zeros(()), atol=1e-6)


# --------------------------------------------------------------------------------- moving codebooks


def test_the_ema_codebook_follows_by_averages():
    quantizer, z = make("vqvae"), features(batch=6).detach()
    quantizer.revive_below = 0.0
    count, total = quantizer.count.tolist(), [t.clone() for t in quantizer.total]
    for _ in range(4):
        tokens = quantizer(z).tokens
        quantizer.update(z, tokens)
        for j in range(V):
            chose = [x for x, t in zip(rows(z), tokens.flatten()) if t == j]
            count[j] = 0.99 * count[j] + 0.01 * len(chose)
            total[j] = 0.99 * total[j] + 0.01 * sum(chose, torch.zeros(C, dtype=z.dtype))
        for j in range(V):
            smooth = (count[j] + EPSILON) / (sum(count) + V * EPSILON) * sum(count)
            assert torch.allclose(quantizer.codebook[j], total[j] / smooth)


def test_rq_moves_its_codes_once_a_depth():
    quantizer, z = make("rq-vae"), features(batch=6).detach()
    quantizer.revive_below = 0.0
    tokens, before = quantizer(z).tokens, quantizer.codebook.clone()
    count, total = quantizer.count.clone(), quantizer.total.clone()
    quantizer.update(z, tokens)
    left = rows(z)
    for chosen in tokens.flatten(0, 2).T:
        hits = F.one_hot(chosen, V).double()
        count = 0.99 * count + 0.01 * hits.sum(0)
        total = 0.99 * total + 0.01 * hits.T @ left
        left = left - before[chosen]
    assert torch.allclose(quantizer.count, count) and torch.allclose(quantizer.total, total)
    assert torch.allclose(quantizer.codebook, total / count[:, None], rtol=1e-3)


@pytest.mark.parametrize("name", ["vqvae", "rq-vae"])
def test_dead_codes_are_revived(name):
    quantizer, z = make(name), features(batch=30).detach()
    quantizer.decay = 0.5
    quantizer.codebook.data[1:] += 100.0  # collapse: the first code takes all
    quantizer.total.copy_(quantizer.codebook)
    assert quantizer(z).usage[0].item() == pytest.approx(1 / V)
    for _ in range(10):
        quantizer.update(z, quantizer(z).tokens)
    assert quantizer(z).usage[0] > 0.7
    asleep = make(name)
    asleep.revive_below, asleep.decay = 0.0, 0.9
    asleep.codebook.data[1:] += 100.0
    asleep.total.copy_(asleep.codebook)
    for _ in range(10):
        asleep.update(z, asleep(z).tokens)
    assert asleep(z).usage[0].item() == pytest.approx(1 / V)


@pytest.mark.parametrize("name", ["vqvae", "vqgan", "vit-vqgan", "rq-vae"])
@pytest.mark.parametrize("batch", [1, 30])
def test_codes_start_on_vectors_of_the_first_batch(name, batch):
    quantizer, z = make(name), features(batch).detach()
    quantizer.start(z)
    vectors = rows(z)
    vectors = F.normalize(vectors, dim=1) if name == "vit-vqgan" else vectors
    far = torch.cdist(quantizer.codebook.data, vectors).amin(1)
    assert far.max() < 1e-6
    assert len(quantizer.codebook.unique(dim=0)) == min(V, len(vectors))


# -------------------------------------------------------------------------------------- multi-scale


def test_multiscale_bsq_telescopes_and_computes_its_equations():
    schedule, z = ScaleSchedule((1, 2, 4)), features(side=4)
    quantizer = MultiScaleBSQuantizer(schedule, C, sharpness=1.5, balance=0.7)
    result = quantizer(z)
    f_hats = quantizer.cumulative(result.tokens)
    residual, loss = z, 0.0
    for k, (tokens, f_hat) in enumerate(zip(result.tokens, f_hats)):
        small = F.adaptive_avg_pool2d(residual, schedule.grids[k])
        codes, expected, terms = bits_by_hand("bsq", list(rows(small)))
        assert tokens.flatten().tolist() == expected and tokens.shape == (3, *schedule.grids[k])
        q = torch.stack(codes).detach().view(3, *schedule.grids[k], C).permute(0, 3, 1, 2)
        residual = residual - F.interpolate(q, (4, 4), mode="bilinear")
        # What is left is what the sum so far lacks.
        assert torch.allclose(residual, z - f_hat, atol=1e-6)
        loss = loss + (terms + 0.25 * residual.square().mean()) / 3
        assert result.usage[k].item() == pytest.approx(len(set(expected)) / 2**C)
    assert torch.allclose(result.loss, loss)
    assert torch.allclose(result.z_q, f_hats[-1].double(), atol=1e-6)
    for ours, theirs in ((result.loss, loss), (result.z_q.square().sum() / 2, None)):
        got = torch.autograd.grad(ours, z, retain_graph=True)[0]
        wanted = result.z_q if theirs is None else torch.autograd.grad(theirs, z)[0]
        assert torch.allclose(got, wanted, atol=1e-6)


def test_multiscale_bsq_with_one_scale_is_bsq():
    z = features(side=3)
    one = MultiScaleBSQuantizer(ScaleSchedule((3,)), C, beta=0.0)
    a, b = one(z), BSQuantizer(C)(z)
    assert a.tokens[0].equal(b.tokens) and torch.allclose(a.loss, b.loss)
    assert torch.allclose(a.z_q, b.z_q) and a.usage.equal(b.usage)
