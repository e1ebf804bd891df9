"""The shipped models load, fit each other, stay small, and do on real images what the card says."""

import json

import pytest
import torch

from varmini import VAR, MultiScaleVQVAE, sample
from varmini.data import load_images, to_float
from varmini.evaluation.metrics import codebook_usage
from varmini.runtime.pretrained import SHIPPED
from varmini.training.classifier import Classifier

BEDS = ("cifar10", "fashion")


@pytest.mark.parametrize("bed", BEDS)
def test_a_pair_samples(bed):
    tok, var = MultiScaleVQVAE.from_pretrained(bed), VAR.from_pretrained(bed)
    images = sample(var, tok, [0, 9], seed=0)
    assert images.shape == (2, tok.config.image_channels, 32, 32)
    assert images.isfinite().all() and images.abs().max() <= 1


# Fashion's latent is 4x4, so that both stages train in a lesson on any processor: 30 tokens an
# image instead of 85, for 3 dB.
@pytest.mark.parametrize("bed, floor", [("cifar10", 24.5), ("fashion", 20.7)])
def test_reconstructions_are_as_good_as_stated(bed, floor):
    tok = MultiScaleVQVAE.from_pretrained(bed)
    images = to_float(load_images(f"{bed}-subset", "test", limit=200).images)
    error = (tok.decode(tok.encode(images)) - images).square().mean((1, 2, 3))
    assert (10 * torch.log10(4 / error)).mean() > floor


@pytest.mark.parametrize("bed, floor", [("cifar10", 0.85), ("fashion", 0.85)])
def test_the_classifiers_name_real_images(bed, floor):
    test = load_images(f"{bed}-subset", "test", limit=300)
    with torch.no_grad():
        guess = Classifier.from_pretrained(bed)(to_float(test.images)).argmax(1)
    assert (guess == test.labels).float().mean() > floor


def test_every_model_tells_where_it_comes_from_and_those_of_cifar_fit_into_40_megabytes():
    files = list(SHIPPED.rglob("model.safetensors"))
    for folder in (path.parent for path in files):
        sessions = json.loads((folder / "run.json").read_text())["sessions"]
        assert sessions and all(s["command"] and s["hardware"] and s["date"] for s in sessions)
        assert (folder / "log.csv").stat().st_size > 0
    assert sum(p.stat().st_size for p in files if p.is_relative_to(SHIPPED / "cifar10")) < 40e6


# ------------------------------------------------------------------ what the paper says, on ours


@pytest.fixture(scope="module")
def cifar():
    """The tokenizer, and real images (64, 3, 32, 32)."""
    images = to_float(load_images("cifar10-subset", "test", limit=64).images)
    return MultiScaleVQVAE.from_pretrained("cifar10"), images


def test_every_map_makes_use_of_the_one_codebook(cifar):
    tok, images = cifar
    assert sum(isinstance(m, torch.nn.Embedding) for m in tok.modules()) == 1
    usage = codebook_usage(tok.encode(images), tok.vocab_size)
    # As many even draws of as many codes would show 0.63 of them; a collapsed map shows a few.
    assert all(entry["share"] > 0.3 for entry in usage["scales"])


def test_small_maps_hold_the_outline_and_large_ones_the_detail(cifar):
    """The mean frequency of what a map adds to the picture rises from the first to the last."""
    tok, images = cifar
    tokens = tok.encode(images)
    drawn = [torch.zeros_like(images)]
    drawn += [tok.decode(tokens, num_scales=k + 1) for k in range(len(tokens))]
    periods = torch.fft.fftfreq(32) * 32
    radius = (periods[:, None] ** 2 + periods**2).sqrt()
    means, errors = [], [(x - images).square().mean().item() for x in drawn]
    for (side, _), before, after in zip(tok.schedule.grids, drawn, drawn[1:]):
        power = torch.fft.fft2(after - before).abs().square().mean((0, 1))
        means.append(((power * radius).sum() / power.sum()).item())
        # Most of it are waves that a map of this side can hold.
        assert power[radius < side + 0.5].sum() > 0.7 * power.sum()
    assert means == sorted(means) and means[-1] > 2 * means[0]
    assert errors == sorted(errors, reverse=True)


def test_tokens_depend_on_each_other_in_both_directions(cifar):
    """Features of the first place depend on the last pixels, those of the last on the first."""
    tok, images = cifar
    images = images[:16].clone().requires_grad_()
    features = tok.features(images)
    for place, far in ((0, slice(16, None)), (-1, slice(None, 16))):
        probe = torch.randn(features[:, :, 0, 0].shape, generator=torch.Generator().manual_seed(0))
        value = (features[:, :, place, place] * probe).sum()
        (push,) = torch.autograd.grad(value, images, retain_graph=True)
        heat = push.abs().mean((0, 1))
        assert (heat > 0).float().mean() > 0.99 and heat[far].sum() > 0.02 * heat.sum()


def test_drawn_pictures_show_their_class():
    tok, var = MultiScaleVQVAE.from_pretrained("cifar10"), VAR.from_pretrained("cifar10")
    labels = torch.arange(10).repeat(6)
    images = sample(var, tok, labels, cfg=1.5, seed=0)
    with torch.no_grad():
        guess = Classifier.from_pretrained("cifar10")(images).argmax(1)
    assert (guess == labels).float().mean() > 0.5
