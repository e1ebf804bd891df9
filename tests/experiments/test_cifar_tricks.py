"""The short runs of changed CIFAR-10 transformers and tokenizers."""

import sys
from pathlib import Path

import pytest
import torch
from tiny import make_tokenizer

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts" / "evidence"))
import cifar_tricks
import tokenizer_tricks
import tricks


@pytest.fixture(scope="module")
def small():
    """run(name): a variant of 256 images on a tiny bed, trained two or more steps."""
    tok = make_tokenizer()
    tok.quantizer.codebook.weight.data.normal_()
    features = torch.randn(2, 256, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    tokens = tok.schedule.flatten(tok.quantizer.encode(features.flatten(0, 1)))
    labels = torch.arange(256) % 10
    bed = cifar_tricks.Bed(tok, features, tokens.view(2, 256, -1), labels,
                           (tokens[:20], features[0, :20], labels[:20]))  # fmt: skip

    def run(name):
        variant = tricks.VARIANTS[name]
        shape = {"depth": 2, "width": 32, "heads": 2} | dict(variant.shape)
        made = cifar_tricks.Run(variant._replace(shape=shape), bed, 256, 0)
        made.images = 256  # so few weights would get more
        return made

    return run


@pytest.mark.parametrize("name", tricks.VARIANTS)
def test_each_variant_learns_what_is_finite_and_is_not_the_base(small, name):
    run, base = small(name), small("base")
    for one in (run, base):
        one.train()
    found, known = run.losses(), base.losses()
    assert all(0 < x < 10 for x in found.values())
    assert (found == known) == (name == "base")


def test_a_round_of_images_is_the_same_for_all_and_mirrored_in_turn(small):
    of = {name: small(name) for name in tricks.VARIANTS}
    rows, kinds = of["alternating"].order()
    a, b = (kinds[i * 64 : i * 64 + 64][rows[i * 64 : i * 64 + 64].argsort()] for i in (0, 1))
    assert torch.equal(a, 1 - b) and torch.equal(rows[:64].sort()[0], rows[64:128].sort()[0])
    assert all(torch.equal(run.order()[0][:64], rows[:64]) for run in of.values())
    assert sum(of["batches"].batches(256)) == 256 == sum(of["base"].batches(256))


@pytest.mark.parametrize("name", tokenizer_tricks.VARIANTS)
def test_each_change_of_the_tokenizer_gives_the_decoder_what_it_says(name, monkeypatch):
    monkeypatch.setattr(tokenizer_tricks, "FIRST", 1)
    monkeypatch.setattr(tokenizer_tricks, "NEAR", 4)
    tok = make_tokenizer()
    tok.quantizer.codebook.weight.data.normal_()
    f = torch.randn(200, 4, 4, 4, requires_grad=True)
    plain = tok.quantizer(f)
    torch.manual_seed(0)
    with tokenizer_tricks.reading(tokenizer_tricks.VARIANTS[name].read):
        found = tok.quantizer(f)
    differ = (found.f_hat - plain.f_hat).abs().amax((1, 2, 3)) > 1e-4
    chosen = name in ("later scales dropped", "codes perturbed")  # a tenth of the images
    assert 0.05 < differ.float().mean() < 0.17 if chosen else not differ.any()
    wanted = torch.randn(f.shape)
    (grad,) = torch.autograd.grad(found.f_hat, f, wanted)
    if name != "rotation trick":
        assert torch.equal(grad, wanted)
    else:  # turned, and scaled by |f_hat| / |f|, in every place
        scale = (plain.f_hat.norm(dim=1) / f.norm(dim=1)).detach()
        torch.testing.assert_close(grad.norm(dim=1), scale * wanted.norm(dim=1))
        assert not torch.allclose(grad, wanted, atol=0.1)
    assert torch.equal(tok.quantizer(f).f_hat, plain.f_hat)  # and outside all is as before
