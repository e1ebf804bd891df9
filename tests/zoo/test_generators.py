"""Every generator of the zoo: its protocol, one step of training, guidance, seeds, tokenizers."""

import pytest
import torch
from small_generators import LABELS, SHAPES, SHORT, SMALL, V, batch_of, flat, make, new

from varmini.training.optim import decay_groups
from varmini.zoo.generators.family import GENERATORS, build
from varmini.zoo.generators.igpt import Palette, PaletteConfig
from varmini.zoo.tokenizers.family import TOKENIZERS
from varmini.zoo.tokenizers.kl import KLAutoencoder, KLConfig

each = pytest.mark.parametrize("name", SMALL)
STEPS = {"factorised-ar": 18, "rq-transformer": 18, "maskgit": 8, "titok-maskgit": 8,
         "mar": 16 * 25, "fractal-ar": 32, "dit": 50, "infinity": 3}  # fmt: skip
PYRAMID = torch.zeros(4, 1 + 4 + 9, dtype=torch.long)
"""What "infinity" draws, as `flat` has it."""


@each
def test_the_protocol(name, tmp_path):
    model, batch = make(name), batch_of(name)
    assert model.loss(batch, LABELS).isfinite()
    assert model.steps() == STEPS.get(name, 9)
    drawn = flat(model.draw(LABELS, seed=1, **SHORT.get(name, {})))
    like = PYRAMID if name == "infinity" else batch
    assert drawn.shape == like.shape and drawn.dtype == like.dtype
    if drawn.dtype == torch.long:
        assert 0 <= drawn.min() and drawn.max() < V + 2 * (name == "factorised-ar")
    again = type(model).from_pretrained(model.save_pretrained(tmp_path))
    assert drawn.equal(flat(again.draw(LABELS, seed=1, **SHORT.get(name, {}))))


@each
def test_one_step_lowers_the_loss(name):
    model, batch = new(name), batch_of(name)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)

    def loss():
        torch.manual_seed(5)  # the same labels dropped, the same tokens hidden
        return model.loss(batch, LABELS.clamp(max=2))

    before = loss()
    before.backward()
    optimizer.step()
    assert loss().item() < before.item()


@each
def test_embeddings_do_not_decay(name):
    model = new(name)
    decayed = {id(p) for p in decay_groups(model, 0.1)[0]["params"]}
    tables = [m.weight for m in model.modules() if isinstance(m, torch.nn.Embedding)]
    assert tables and decayed and not decayed & {id(table) for table in tables}


@each
def test_seeds_and_classes(name):
    model, options = make(name), SHORT.get(name, {})
    drawn = flat(model.draw(LABELS, seed=1, **options))
    torch.manual_seed(9)
    assert drawn.equal(flat(model.draw(LABELS, seed=1, **options)))
    assert not drawn.equal(flat(model.draw(LABELS, seed=2, **options)))
    assert not drawn.equal(flat(model.draw((LABELS + 1) % 4, seed=1, **options)))


@each
def test_guidance(name):
    model, options = make(name), SHORT.get(name, {}) | {"seed": 1}

    def draw(labels, **guided):
        return flat(model.draw(labels, **guided, **options))

    drawn = draw(LABELS)
    assert drawn.equal(draw(LABELS, cfg=0.0))
    # Both halves run, and their sum is the class's half but for rounding.
    assert torch.allclose(drawn, draw(LABELS, cfg=1e-6), rtol=1e-3, atol=1e-3)
    assert not drawn.equal(draw(LABELS, cfg=3.0))
    # Guidance away from the null class towards the null class changes nothing.
    null = torch.full((4,), 3)
    assert torch.allclose(draw(null, cfg=3.0), draw(null), rtol=1e-3, atol=1e-3)


def test_bad_input_meets_a_clear_message():
    model = make("igpt")
    with pytest.raises(ValueError, match="cfg is -1, expected 0"):
        model.draw(LABELS, cfg=-1)
    with pytest.raises(ValueError, match="label 4 is outside the classes"):
        model.draw(LABELS + 1)


def tokenizer_of(name):
    """A tokenizer of the live bed with random weights; the generator itself where it has none."""
    torch.manual_seed(0)
    if name == "palette":
        return Palette(PaletteConfig())
    if name == "kl":
        return KLAutoencoder(KLConfig(image_channels=1, width=16, norm_groups=4, attention=False))
    return TOKENIZERS[name](TOKENIZERS[name].config_class()).eval()


def test_every_member_is_tested_here():
    assert {m.cls for m in GENERATORS.values()} == {cls for cls, _ in SMALL.values()}
    assert set(SHAPES) <= set(SMALL)


@pytest.mark.parametrize("name", GENERATORS)
def test_each_draws_what_its_tokenizer_decodes(name):
    if name == "fractal-ar":
        model = build(name, None, grids=(4, 8), widths=(16,) * 3, depths=(1,) * 3)
        tokenizer = model
    else:
        tokenizer = tokenizer_of(GENERATORS[name].tokenizer)
        model = build(name, tokenizer, depth=1, width=16, heads=2)
    images = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    if name == "igpt":
        tokenizer.fit(images)
    batch = getattr(tokenizer, GENERATORS[name].learns)(images)
    assert model.loss(batch, torch.tensor([0, 9])).isfinite()
    drawn = model.draw([0, 9], **SHORT.get(name, {}))
    assert flat(drawn).shape == flat(tokenizer.encode(images)).shape
    decoded = tokenizer.decode(drawn)
    assert decoded.shape == images.shape and decoded.abs().max() <= 1
    if name == "rq-transformer":
        assert model.codebook.equal(tokenizer.quantizer.codebook)


def test_what_does_not_fit_a_generator_is_named():
    kl = KLAutoencoder(KLConfig(image_channels=1, width=16, norm_groups=4, attention=False))
    for name, tokenizer, words in (
        ("igtp", None, "no generator named 'igtp', expected one of: igpt, "),
        ("igpt", None, "the tokenizer is a NoneType, expected 'palette' for 'igpt'"),
        ("raster-ar", kl, "the tokenizer is a KLAutoencoder, expected 'vqgan' for 'raster-ar'"),
    ):
        with pytest.raises(ValueError, match=words):
            build(name, tokenizer)
    mar = build("mar", kl, depth=1, width=32, heads=2)
    for options in ({"rounds": 0}, {"rounds": 65}, {"rounds": 2, "diffusion_steps": 0}):
        with pytest.raises(ValueError, match="expected 1 to 64, and 1 to 1000"):
            mar.draw([1], **options)
