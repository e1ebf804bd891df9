"""The other systems: masks by gradients, caches, schedules, samplers."""

import copy
import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from tiny import redraw

from varmini import ScaleSchedule, VARConfig, quicken
from varmini.runtime.machine import precision
from varmini.zoo.generators.dit import DiT, DiTConfig
from varmini.zoo.generators.maskgit import MaskGIT, MaskGITConfig, hidden_after
from varmini.zoo.generators.plain_var import PlainVAR
from varmini.zoo.generators.raster_ar import RasterAR, RasterARConfig, rotary_table, rotate
from varmini.zoo.parts import drop_labels, guided
from varmini.zoo.tokenizers.kl import KLAutoencoder, KLConfig

SHAPE = dict(depth=2, width=32, heads=2, side=3, num_classes=3)
LABELS = torch.tensor([0, 2, 3, 1])


@pytest.fixture(autouse=True)
def float32(monkeypatch):
    monkeypatch.setenv("VARMINI_PRECISION", "float32")
    precision.cache_clear()
    yield
    precision.cache_clear()


@pytest.fixture
def ar():
    return redraw(RasterAR(RasterARConfig(**SHAPE, vocab_size=12)), 0, 0.25).eval()


@pytest.fixture
def maskgit():
    model = redraw(MaskGIT(MaskGITConfig(**SHAPE, vocab_size=12)), 0, 0.25).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm):  # post-norm: small gains would hide the class
            module.reset_parameters()
    return model


@pytest.fixture
def dit():
    return redraw(DiT(DiTConfig(**SHAPE, channels=2)), 0, 0.25).eval()


@pytest.mark.parametrize("name", ["ar", "maskgit", "dit"])
def test_a_quick_copy_computes_the_same(name, request):
    model = request.getfixturevalue(name)
    quick = quicken(copy.deepcopy(model))
    x = (torch.randn(4, 2, 3, 3), torch.arange(4)) if name == "dit" else (tokens().flatten(1),)
    short = slice(-1) if name == "ar" else slice(None)
    args = (*x, LABELS) if name == "dit" else (LABELS, x[0][:, short])
    with torch.no_grad():
        exact = model(*args)
        assert torch.allclose(quick(*args), exact, atol=1e-5)
        with torch.autocast("cpu", torch.bfloat16):
            error = (model(*args) - exact).abs().mean()
            assert error > 0 and (quick(*args) - exact).abs().mean() < 2 * error


def tokens(batch=4, side=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(12, (batch, side, side), generator=generator)


def reached(model, embedding, run):
    """(out, in) bool: which outputs run(model)[0, out] depend on which input embeddings."""
    seen = []
    hook = embedding.register_forward_hook(
        lambda module, inputs, output: seen.append(output.requires_grad_().retain_grad() or output)
    )
    out = run()
    hook.remove()
    rows = []
    for i in range(out.shape[1]):
        grad = torch.autograd.grad(out[0, i].square().sum(), seen[-1], retain_graph=True)[0][0]
        rows.append(grad.abs().sum(-1) > 0)
    return torch.stack(rows)


def test_guidance_is_the_standard_formula():
    def network(x, labels):
        return 10.0 * labels[:, None] + x

    x, labels = torch.tensor([[1.0], [2.0]]), torch.tensor([4, 5])
    assert guided(network, x, labels, 9, 1.0).tolist() == [[41.0], [52.0]]
    assert guided(network, x, labels, 9, 2.0).tolist() == [[-9.0], [12.0]]  # u + 2 (c - u)


def test_labels_are_dropped_as_often_as_asked():
    torch.manual_seed(0)
    labels = torch.zeros(4000, dtype=torch.long)
    assert drop_labels(labels, 0.0, 3).sum() == 0
    assert (drop_labels(labels, 1.0, 3) == 3).all()
    assert (drop_labels(labels, 0.1, 3) == 3).float().mean().item() == pytest.approx(0.1, abs=0.02)


# ---------------------------------------------------------------------------------------- raster AR


def test_raster_ar_sees_exactly_the_tokens_before(ar):
    flat = tokens(1).flatten(1)
    seen = reached(ar, ar.token_embedding, lambda: ar(LABELS[:1], flat[:, :-1]))
    # Output i predicts token i from tokens 0 .. i - 1.
    assert seen.equal(torch.ones(9, 8).tril(-1).bool())
    by_class = reached(ar, ar.class_embedding, lambda: ar(LABELS[:1], flat[:, :-1])[:, 1:])
    assert by_class.all()


def test_raster_ar_loss_is_the_product_of_its_steps(ar):
    grid, total = tokens(), 0.0
    flat = grid.flatten(1)
    for i in range(9):
        logp = ar(LABELS, flat[:, :i])[:, -1].log_softmax(-1)
        total -= logp.gather(1, flat[:, i : i + 1]).mean().item()
    assert ar.training_loss(grid, LABELS).item() == pytest.approx(total / 9, rel=1e-5)


def test_raster_ar_with_a_cache_equals_without(ar):
    flat = tokens().flatten(1)
    cache = [[], []]
    with torch.no_grad():
        steps = torch.stack([ar.step(LABELS, flat[:, :i], cache) for i in range(9)], dim=1)
        whole = ar(LABELS, flat[:, :-1])
    assert torch.allclose(steps, whole, atol=1e-5)
    for guidance in (1.0, 2.5):
        options = dict(guidance=guidance, top_k=6, top_p=0.9, seed=3)
        assert ar.generate(LABELS, **options).equal(ar.generate(LABELS, **options, cached=False))


def test_rotary_attention_depends_on_offsets_alone():
    side, dim = 4, 16
    cos, sin = rotary_table(side, dim)
    torch.manual_seed(0)
    q, k = torch.randn(2, 1, 1, 1, dim).expand(-1, 1, 1, 1 + side**2, dim)
    scores = (rotate(q, cos, sin) @ rotate(k, cos, sin).transpose(2, 3))[0, 0]
    assert (scores[0] == 0).all() and (scores[:, 0] == 0).all()  # the class is looked at with 0
    at = [(r, c) for r in range(side) for c in range(side)]
    by_offset = {}
    for (i, (r, c)), (j, (s, d)) in itertools.product(enumerate(at, 1), repeat=2):
        by_offset.setdefault((r - s, c - d), []).append(scores[i, j].item())
    assert all(max(values) - min(values) < 1e-4 for values in by_offset.values())
    assert len({round(v[0], 3) for v in by_offset.values()}) > 30
    assert torch.allclose(rotate(q, cos, sin)[0, 0, 1:].norm(dim=1), q[0, 0, 1:].norm(dim=1))


# ------------------------------------------------------------------------------------------ MaskGIT


def test_the_cosine_schedule_reveals_what_the_paper_does():
    def revealed(count, rounds):
        left = [count]
        for t in range(1, rounds + 1):
            left.append(hidden_after(t, rounds, count, left[-1]))
        return [a - b for a, b in itertools.pairwise(left)]

    assert revealed(64, 8) == [2, 3, 6, 8, 10, 11, 12, 12]
    assert revealed(256, 8) == [5, 15, 24, 31, 39, 45, 48, 49]
    for count, rounds in ((9, 9), (9, 1), (64, 60)):
        assert min(revealed(count, rounds)) >= 1 and sum(revealed(count, rounds)) == count


def test_maskgit_sees_everything(maskgit):
    flat = tokens(1).flatten(1)
    seen = reached(maskgit, maskgit.embedding, lambda: maskgit(LABELS[:1], flat))
    assert seen.shape == (9, 10) and seen.all()


def test_maskgit_hides_by_the_cosine_of_a_uniform_number(maskgit):
    torch.manual_seed(0)
    hidden = maskgit.hide(3000)
    counts = hidden.sum(1)
    assert counts.min() >= 1 and counts.max() == 9
    # E ceil(9 cos(pi r / 2)) by numbers
    r = torch.linspace(0, 1, 100_001)[:-1]
    expected = torch.ceil(9 * torch.cos(math.pi / 2 * r)).mean().item()
    assert counts.float().mean().item() == pytest.approx(expected, abs=0.15)
    assert hidden.float().mean(0).std() < 0.02  # no position is preferred


def test_maskgit_learns_from_hidden_tokens_alone(maskgit, monkeypatch):
    hidden = torch.rand(4, 9, generator=torch.Generator().manual_seed(0)) < 0.5
    monkeypatch.setattr(maskgit, "hide", lambda count: hidden)
    flat = tokens().flatten(1)
    logits = maskgit(LABELS, flat.masked_fill(hidden, maskgit.mask_id))
    expected = F.cross_entropy(logits[hidden], flat[hidden])
    assert maskgit.training_loss(tokens(), LABELS).item() == pytest.approx(expected.item())


@pytest.mark.parametrize("rounds", [1, 4, 9])
def test_maskgit_keeps_what_it_has_revealed(maskgit, monkeypatch, rounds):
    inputs = []
    forward = maskgit.forward
    monkeypatch.setattr(
        maskgit, "forward", lambda labels, x: inputs.append(x.clone()) or forward(labels, x)
    )
    drawn = maskgit.generate(LABELS, rounds=rounds, seed=1).flatten(1)
    assert len(inputs) == rounds and (inputs[0] == maskgit.mask_id).all()
    assert (drawn < 12).all()
    for before, after in itertools.pairwise([*inputs, drawn]):
        known = before != maskgit.mask_id
        assert (after[known] == before[known]).all()
        assert ((after != maskgit.mask_id).sum(1) > known.sum(1)).all()


def test_maskgit_without_noise_reveals_the_most_confident_first(maskgit, monkeypatch):
    # At position i, 9 - i codes are equally likely: whichever is drawn, position 8 is the surest.
    logits = torch.full((4, 9, 12), -1e9)
    for i in range(9):
        logits[:, i, : 9 - i] = 0.0
    inputs = []
    monkeypatch.setattr(maskgit, "forward", lambda y, x: inputs.append(x.clone()) or logits)
    maskgit.generate(LABELS, rounds=3, temperature=0.0)
    left = [(x == maskgit.mask_id)[0].tolist() for x in inputs]
    assert left == [[True] * 9, [True] * 7 + [False] * 2, [True] * 4 + [False] * 5]


# ---------------------------------------------------------------------------------------------- DiT


def test_a_new_dit_is_the_identity_and_predicts_no_noise():
    torch.manual_seed(0)
    model = DiT(DiTConfig(**SHAPE, channels=2))
    z, t = torch.randn(4, 2, 3, 3), torch.tensor([0, 10, 500, 999])
    assert (model(z, t, LABELS) == 0).all()
    x = torch.randn(4, 9, 32)
    assert model.blocks[0](x, torch.randn(4, 32)).equal(x)
    many = torch.randn(200, 2, 3, 3)
    loss = model.training_loss(many, torch.zeros(200, dtype=torch.long)).item()
    assert loss == pytest.approx(1, abs=0.1)  # E |epsilon|^2


@pytest.mark.parametrize("steps", [1, 3, 25])
def test_ddim_with_the_true_noise_finds_the_image(dit, monkeypatch, steps):
    truth = torch.randn(4, 2, 3, 3, generator=torch.Generator().manual_seed(0))

    def true_noise(z, t, labels):
        abar = dit.abar[t].view(-1, 1, 1, 1)
        whole = truth.repeat(len(z) // 4, 1, 1, 1)
        return (z - abar.sqrt() * whole) / (1 - abar).sqrt()

    monkeypatch.setattr(dit, "forward", true_noise)
    dit.latent_std.fill_(2.0)
    drawn = dit.generate(LABELS, steps=steps, guidance=1.5, seed=1)
    assert torch.allclose(drawn, 2 * truth, atol=1e-2)


def test_dit_divides_latents_by_their_spread(dit):
    torch.manual_seed(0)
    z = torch.randn(4, 2, 3, 3)
    torch.manual_seed(1)
    plain = dit.training_loss(z, LABELS)
    dit.latent_std.fill_(5.0)
    torch.manual_seed(1)
    assert dit.training_loss(5 * z, LABELS).item() == pytest.approx(plain.item(), rel=1e-4)


# ------------------------------------------------------------------ KL autoencoder, VAR unmodulated


def test_the_kl_term_is_that_of_gaussians():
    torch.manual_seed(0)
    kl = KLAutoencoder(KLConfig(side=3, latent_channels=2, width=8, norm_groups=4, attention=False))
    images = torch.rand(2, 3, 12, 12) * 2 - 1
    mean, std = kl.moments(images)
    assert mean.shape == (2, 2, 3, 3) and (std > 0).all()
    torch.manual_seed(1)
    plain = kl(images).loss.item()
    p, q = torch.distributions.Normal(mean, std), torch.distributions.Normal(0.0, 1.0)
    expected = torch.distributions.kl_divergence(p, q).flatten(1).sum(1).mean().item()
    assert plain == pytest.approx(1e-6 * expected, rel=1e-4)
    assert kl.encode(images).equal(mean) and kl.decode(mean).abs().max() <= 1


def test_plain_var_is_not_modulated_by_the_class():
    shape = ScaleSchedule((1, 2))
    config = VARConfig(depth=2, width=16, heads=2, sizes=shape.sizes, vocab_size=8,
                       code_channels=4, num_classes=3, qk_norm=False)  # fmt: skip
    torch.manual_seed(0)
    model = PlainVAR(config).eval()
    start, modulations, head = model.condition(LABELS)
    assert modulations.shape == (2, 4, 6, 16) and head.shape == (4, 2, 16)
    assert not start[0].equal(start[1])
    assert (modulations == modulations[:, :1]).all() and (head == head[:1]).all()
    assert (modulations[:, :, :2] == 1).all() and (modulations[:, :, 2:] == 0).all()
    redraw(model, 0, 0.3)
    logits = model(LABELS, torch.randn(4, 4, 4))
    assert logits.shape == (4, 5, 8) and not logits[0, 1:].equal(logits[3, 1:])
    model.train()
    model(LABELS, torch.randn(4, 4, 4)).sum().backward()
    assert model.modulation.gain_and_bias.grad.abs().sum() > 0


@pytest.mark.parametrize("name", ["ar", "maskgit", "dit"])
def test_each_draws_by_seed_and_class(name, request):
    model = request.getfixturevalue(name)
    options = {"steps": 5} if name == "dit" else {}
    drawn = model.generate(LABELS, seed=1, **options)
    torch.manual_seed(9)
    assert drawn.equal(model.generate(LABELS, seed=1, **options))
    assert not drawn.equal(model.generate(LABELS, seed=2, **options))
    assert not drawn.equal(model.generate((LABELS + 1) % 4, seed=1, **options))
    assert not drawn.equal(model.generate(LABELS, seed=1, guidance=4.0, **options))
    # Guidance away from the null class towards the null class changes nothing.
    null = torch.full((4,), 3)
    both = model.generate(null, guidance=3.0, **options)
    assert torch.allclose(both, model.generate(null, **options), rtol=1e-3, atol=1e-3)


def test_a_greedy_raster_takes_the_likeliest_token(ar):
    greedy = ar.generate(LABELS, top_k=1, seed=5)
    assert greedy.equal(ar.generate(LABELS, top_k=1, seed=6))
    assert greedy.flatten(1)[:, 0].equal(ar(LABELS, LABELS.new_empty(4, 0))[:, 0].argmax(-1))
