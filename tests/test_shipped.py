"""The shipped models load, fit each other, stay small, and do on real images what the card says."""

import json

import pytest
import torch

from varmini import VAR, MultiScaleVQVAE, sample
from varmini.classifier import Classifier
from varmini.data import load_images, to_float
from varmini.pretrained import SHIPPED

BEDS = ("cifar10", "fashion")


@pytest.mark.parametrize("bed", BEDS)
def test_a_pair_samples(bed):
    tok, var = MultiScaleVQVAE.from_pretrained(bed), VAR.from_pretrained(bed)
    images = sample(var, tok, [0, 9], seed=0)
    assert images.shape == (2, tok.config.image_channels, 32, 32)
    assert images.isfinite().all() and images.abs().max() <= 1


@pytest.mark.parametrize("bed, floor", [("cifar10", 24.5), ("fashion", 24.0)])
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


def test_every_model_tells_where_it_comes_from():
    for folder in (p.parent for p in SHIPPED.rglob("model.safetensors")):
        sessions = json.loads((folder / "run.json").read_text())["sessions"]
        assert sessions and all(s["command"] and s["hardware"] and s["date"] for s in sessions)
        assert (folder / "log.csv").stat().st_size > 0


def test_the_cifar_models_fit_into_40_megabytes():
    assert sum(p.stat().st_size for p in (SHIPPED / "cifar10").rglob("*.safetensors")) < 40e6
