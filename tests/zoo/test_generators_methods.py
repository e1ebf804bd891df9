"""What each generator's paper promises: training equals drawing, likelihoods, caches, diffusion."""

import importlib
import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from small_generators import LABELS, batch_of, make

from varmini.zoo.generators import generator
from varmini.zoo.generators.causal import CausalTransformer
from varmini.zoo.generators.diffusion_head import DiffusionHead, cosine_levels
from varmini.zoo.generators.family import build
from varmini.zoo.generators.fractal_ar import tamed, to_images, to_values
from varmini.zoo.generators.igpt import Palette, PaletteConfig
from varmini.zoo.parts import combine

LIKELIHOODS = ("igpt", "raster-ar", "factorised-ar", "rq-transformer", "fractal-ar")
CACHED = LIKELIHOODS[:-1]


def log_p(model, name, batch, labels):
    """log p(batch[i] | labels[i]) by teacher forcing, from the loss of each image."""
    terms = batch[0].numel() / (2 if name == "factorised-ar" else 1)
    with torch.no_grad():
        losses = [model.loss(x[None], y[None]).item() for x, y in zip(batch, labels)]
    return -terms * torch.tensor(losses)


@pytest.fixture
def drawing(monkeypatch):
    """drawing(model, **options) -> what is drawn, and its log p as summed up while drawing."""

    def run(model, **options):
        module, total = importlib.import_module(type(model).__module__), []
        module = module if hasattr(module, "draw") else generator  # where `draw_in_order` is
        draw = module.draw

        def listening(logits, uniform):
            tokens = draw(logits, uniform)
            total.append(logits.log_softmax(-1).gather(-1, tokens[..., None])[:, 0, 0])
            return tokens

        with monkeypatch.context() as patch:
            patch.setattr(module, "draw", listening)
            drawn = model.draw(LABELS, **options)
        return drawn, torch.stack(total).sum(0)

    return run


# ------------------------------------------------------------- teacher forcing, likelihoods, caches


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_teacher_forcing_gives_what_was_seen_while_drawing(name, drawing):
    model = make(name)
    drawn, seen = drawing(model, seed=3)
    assert torch.allclose(log_p(model, name, drawn, LABELS), seen, atol=1e-4)


@pytest.mark.parametrize("name", CACHED)
@pytest.mark.parametrize("cfg", [0.0, 1.5])
def test_with_a_cache_equals_without(name, cfg, drawing):
    model, options = make(name), dict(seed=3, cfg=cfg, top_k=4, top_p=0.9)
    drawn, seen = drawing(model, **options)
    plain, slowly = drawing(model, cached=False, **options)
    assert drawn.equal(plain) and torch.allclose(seen, slowly, atol=1e-4)


def everything(shape, *sizes):
    """All batches of one image of that shape, whose last axis has these vocabularies."""
    count = math.prod(shape) // len(sizes)
    return torch.cartesian_prod(*[torch.arange(v) for v in sizes * count]).view(-1, *shape)


SMALLEST = {
    "igpt": (dict(side=2, vocab_size=3), (2, 2), (3,)),
    "raster-ar": (dict(side=2, vocab_size=3), (2, 2), (3,)),
    "factorised-ar": (dict(side=2, vocab_sizes=(2, 2), intra_depth=2), (2, 2, 2), (2, 2)),
    "rq-transformer": (dict(side=2, code_depth=2, vocab_size=2), (2, 2, 2), (2, 2)),
    "fractal-ar": (dict(grids=(2, 1), channels=2, values=2), (2, 2, 2), (2,)),
}


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_the_probabilities_of_all_images_sum_to_one(name):
    options, shape, sizes = SMALLEST[name]
    images = everything(shape, *sizes)
    total = log_p(make(name, **options), name, images, torch.ones(len(images), dtype=torch.long))
    assert total.logsumexp(0).item() == pytest.approx(0, abs=1e-4)
    assert total.exp().std() > 0.1 / len(images)  # far from uniform


def test_the_order_of_the_codes():
    """Logits of code (t, d) depend on exactly the codes before, in the order of drawing."""
    model, tokens = make("rq-transformer"), batch_of("rq-transformer", 1).flatten(1, 2)
    with torch.no_grad():
        before = model(LABELS[:1], tokens).flatten(1, 2)
        for i in range(18):
            other = tokens.flatten(1).clone()
            other[0, i] = (other[0, i] + 1) % 6
            changed = (model(LABELS[:1], other.view(1, 9, 2)).flatten(1, 2) - before).abs().sum(-1)
            assert (changed[0] > 1e-6).tolist() == [j > i for j in range(18)]


def test_rq_transformer_of_depth_one_is_a_raster_transformer():
    rq = make("rq-transformer", depth=2, head_depth=0, code_depth=1)
    gpt = make("igpt")
    with torch.no_grad():
        gpt.body.load_state_dict(rq.spatial.state_dict())
        gpt.class_embedding.weight.copy_(rq.class_embedding.weight)
        gpt.token_embedding.weight.copy_(rq.word(rq.codebook))
        gpt.head.weight.copy_(rq.head.weight)
        # Without blocks there is nothing left of the depth transformer but its norm.
        rq.depth.position.zero_()
        rq.depth.norm = torch.nn.Identity()
        tokens = batch_of("igpt").flatten(1)
        ours = rq(LABELS, tokens[..., None])[:, :, 0]
        assert torch.allclose(ours, gpt(LABELS, tokens[:, :-1]), atol=1e-5)
    assert rq.draw(LABELS, seed=4)[..., 0].equal(gpt.draw(LABELS, seed=4))


def test_a_causal_transformer_goes_on_from_any_position():
    torch.manual_seed(0)
    body, x = CausalTransformer(7, 2, 16, 2), torch.randn(3, 7, 16)
    torch.nn.init.normal_(body.position)
    whole, cache = body(x), body.new_cache()
    pieces = [body(x[:, a:b], cache, a) for a, b in itertools.pairwise((0, 1, 4, 7))]
    assert torch.allclose(torch.cat(pieces, dim=1), whole, atol=1e-5)


# -------------------------------------------------------------------------------------- FractalAR


def test_the_likelihood_of_an_image_is_that_of_its_pixels():
    model = make("fractal-ar", channels=1, values=2, depths=(1, 1, 0), widths=(8, 8, 8))
    images = everything((1, 4, 4), 2)  # all 65,536
    with torch.no_grad():
        parts = [model(torch.ones(len(x), dtype=torch.long), x) for x in images.split(8192)]
    assert torch.cat(parts).logsumexp(0).item() == pytest.approx(0, abs=1e-3)


def test_some_patches_stand_for_all():
    model, images = make("fractal-ar"), batch_of("fractal-ar", 1)
    parent = model.class_embedding(LABELS[:1])
    torch.manual_seed(0)
    with torch.no_grad():
        many = model.level(images.expand(2000, -1, -1, -1), parent.expand(2000, -1), 1)
        whole = model.level(images, parent).item()
    assert many.mean().item() == pytest.approx(whole, abs=5 * many.std().item() / 2000**0.5)


def test_values_and_images():
    x = torch.arange(256).view(1, 1, 16, 16)
    images = to_images(x, 256)
    assert images.min() == -1 and images.max() == 1 and to_values(images, 256).equal(x)


def test_guidance_does_not_revive_what_is_unlikely():
    c, u = torch.tensor([[[0.0, 1.0, -12.0]]]), torch.tensor([[[0.0, 1.0, -30.0]]])
    for offset in (-20.0, 0.0, 20.0):  # softmax is blind to it
        drawn = combine(tamed(torch.cat([c, u + offset])), 3.0).softmax(-1)
        assert torch.allclose(drawn, c.softmax(-1), atol=1e-6)


# ---------------------------------------------------------------------------------- MaskGIT, TiTok


@pytest.mark.parametrize("name", ["maskgit", "titok-maskgit"])
def test_training_predicts_what_was_seen_while_drawing(name, monkeypatch):
    model, seen = make(name), []
    forward = model.forward
    with monkeypatch.context() as patch:
        patch.setattr(model, "forward", lambda y, x: seen.append((x, forward(y, x))) or seen[-1][1])
        drawn = model.draw(LABELS, seed=2, rounds=4)
    assert len(seen) == model.steps(rounds=4) == 4
    for x, logits in seen:
        hidden = x == model.mask_id
        monkeypatch.setattr(model, "hide", lambda count, hidden=hidden: hidden)
        expected = F.cross_entropy(logits[hidden], drawn.flatten(1)[hidden])
        assert model.loss(drawn, LABELS).item() == pytest.approx(expected.item(), rel=1e-4)


def test_titok_hides_by_the_arccos_of_a_uniform_number():
    model = make("titok-maskgit")
    torch.manual_seed(0)
    counts = model.hide(4000).sum(1)
    r = (torch.arange(100_000) + 0.5) / 100_000
    expected = torch.ceil(torch.arccos(r) / (math.pi / 2) * 9)
    assert counts.min() >= 1 and counts.max() == 9
    for number in range(1, 10):
        share = (counts == number).float().mean().item()
        assert share == pytest.approx((expected == number).float().mean().item(), abs=0.03)


# --------------------------------------------------------------------------------------------- MAR


def test_mar_predicts_in_training_what_it_saw_while_drawing(monkeypatch):
    model, seen = make("mar"), []
    forward = model.forward
    with monkeypatch.context() as patch:
        patch.setattr(
            model, "forward", lambda *args: seen.append((*args, forward(*args))) or seen[-1][-1]
        )
        drawn = model.draw(LABELS, seed=2, rounds=4, diffusion_steps=3)
    assert [visible for _, _, _, visible, _ in seen] == [0, 1, 3, 6]
    final = drawn.flatten(2).transpose(1, 2)
    for labels, _, order, visible, z in seen:
        with torch.no_grad():
            again = model(labels, final, order, visible)
        assert torch.allclose(again, z, atol=1e-5)  # so no hidden token is looked at either


def test_mar_learns_from_hidden_tokens_alone(monkeypatch):
    model, latents, calls = make("mar"), batch_of("mar"), []
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda *args: calls.append(args) or forward(*args))
    monkeypatch.setattr(model.head, "loss", lambda x, z, noises: calls.append(x) or z.sum())
    model.latent_std.fill_(2.0)
    for seed in range(10):
        torch.manual_seed(seed)
        model.loss(latents, LABELS)
        (_, x, order, visible), hidden = calls[-2:]
        assert math.ceil(0.7 * 9) <= 9 - visible <= 9
        rows = torch.stack([x[i, order[i, visible:]] for i in range(4)])
        assert hidden.equal(rows.flatten(0, 1))
        assert torch.allclose(2 * x, latents.flatten(2).transpose(1, 2))


def test_mar_sees_every_visible_token_and_the_class():
    model, order = make("mar"), torch.arange(9).flip(0)[None]
    x = torch.randn(1, 9, 2, requires_grad=True)
    z = model(LABELS[:1], x, order, 4)
    (grad,) = torch.autograd.grad(z[:, 0].square().sum(), x)
    assert (grad[0].abs().sum(1) > 0).tolist() == [False] * 5 + [True] * 4
    assert not z.allclose(model(LABELS[1:2], x, order, 4), atol=1e-3)


@pytest.mark.parametrize("steps", [1, 3, 25])
def test_the_chain_with_the_true_noise_finds_the_token(steps, monkeypatch):
    head = DiffusionHead(2, 4, 1, 8, 1000)
    truth = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))

    def true_noise(x, t, z):
        abar = head.abar[t][:, None]
        return (x - abar.sqrt() * truth) / (1 - abar).sqrt()

    monkeypatch.setattr(head, "forward", true_noise)
    drawn = head.draw(torch.zeros(50, 4), steps, 1, 1.0, torch.Generator().manual_seed(1))
    assert torch.allclose(drawn, truth, atol=1e-3)


def test_the_chain_draws_a_gaussian(monkeypatch):
    """For tokens N(0, s^2) the best guess of eps is known; the chain must give s back."""
    head, s = DiffusionHead(1, 4, 1, 8, 1000), 0.5

    def best(x, t, z):
        abar = head.abar[t][:, None]
        return x * (1 - abar).sqrt() / (abar * s**2 + 1 - abar)

    monkeypatch.setattr(head, "forward", best)
    z = torch.zeros(4000, 4)
    drawn = head.draw(z, 250, 1, 1.0, torch.Generator().manual_seed(1))
    assert drawn.std().item() == pytest.approx(s, abs=0.03)
    cold = head.draw(z, 250, 1, 0.5, torch.Generator().manual_seed(1))
    assert cold.std() < 0.8 * drawn.std()


def test_the_cosine_levels():
    abar = cosine_levels(1000)
    assert (abar.diff() < 0).all() and abar[0] > 0.999 and abar[-1] < 1e-4
    assert abar[499].item() == pytest.approx(0.49, abs=0.01)
    assert (abar[1:] / abar[:-1]).min() >= 0.001 - 1e-6


def test_a_new_diffusion_head_predicts_no_noise():
    torch.manual_seed(0)
    head = DiffusionHead(2, 4, 2, 8, 1000)
    x, t, z = torch.randn(5, 2), torch.arange(5), torch.randn(5, 4)
    assert (head(x, t, z) == 0).all()
    assert head.loss(torch.randn(500, 2), torch.randn(500, 4), 4).item() == pytest.approx(
        1, abs=0.1
    )


# ------------------------------------------------------------------------------------------- iGPT


def test_a_palette_finds_the_colours_and_shrinks():
    palette = Palette(PaletteConfig(colours=3, side=4, image_size=8, image_channels=3))
    colours = torch.tensor([[-1.0, 0.0, 1.0], [0.5, 0.5, 0.5], [1.0, -1.0, 0.0]])
    torch.manual_seed(0)
    small = colours[torch.randint(3, (5, 4, 4))].permute(0, 3, 1, 2)
    images = small.repeat_interleave(2, 2).repeat_interleave(2, 3)
    palette.fit(images)
    assert torch.cdist(colours, palette.palette).min(1).values.max() < 1e-6
    tokens = palette.encode(images)
    assert tokens.shape == (5, 4, 4)
    assert torch.allclose(palette.palette[tokens].permute(0, 3, 1, 2), small)
    assert palette.decode(tokens).shape == images.shape


def test_a_border_is_left_out_and_put_back_black():
    """The same picture as without one, where the images are black all round."""
    images = torch.full((3, 1, 32, 32), -1.0)
    images[..., 2:-2, 2:-2] = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    whole, inner = Palette(PaletteConfig(colours=8)), Palette(PaletteConfig(colours=8, border=1))
    inner.fit(images)
    whole.palette.copy_(torch.cat([torch.tensor([[-1.0]]), inner.palette[1:]]))
    inner.palette.copy_(whole.palette)
    tokens = inner.encode(images)
    assert tokens.shape == (3, 14, 14)
    assert tokens.equal(whole.encode(images)[:, 1:-1, 1:-1])
    assert inner.decode(tokens).equal(whole.decode(whole.encode(images)))
    assert build("igpt", inner, depth=1, width=16, heads=2).steps() == 14 * 14


def test_more_rounds_of_k_means_fit_better():
    images = torch.rand(4, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    errors = []
    for rounds in (0, 3, 20):
        torch.manual_seed(0)
        palette = Palette(PaletteConfig(colours=8))
        palette.fit(images, rounds)
        pixels = palette.shrunk(images)[:, 0]
        errors.append((palette.palette[palette.encode(images)][..., 0] - pixels).square().mean())
    assert errors[0] > errors[1] >= errors[2]
