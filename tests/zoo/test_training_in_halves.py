"""Every system on two halves of a batch at once: the same loss and gradients as on the whole."""

import copy

import pytest
import torch
from small_generators import FEATURES, LABELS, SHAPES, SMALL, V, new
from tiny import random_images, redraw

from varmini import quicken
from varmini.fast import halves
from varmini.fast.halves import divide
from varmini.zoo.generators.infinity_star import InfinityStar, InfinityStarConfig
from varmini.zoo.generators.magvit import MAGVIT, MAGVITConfig
from varmini.zoo.generators.parti import Parti, PartiConfig
from varmini.zoo.generators.text_infinity import TextInfinity, TextInfinityConfig
from varmini.zoo.text.grammar import encode
from varmini.zoo.tokenizers.family import TOKENIZERS
from varmini.zoo.tokenizers.kl import KLAutoencoder, KLConfig

pytestmark = pytest.mark.usefixtures("two_threads")


def compared(model, step, monkeypatch):
    """Losses and gradients of both ways, and how often a part ran in halves."""
    found, calls = [], []
    at_once = halves.both
    monkeypatch.setattr(halves, "both", lambda work: calls.append(1) or at_once(work))
    for in_halves in (False, True):
        ours = quicken(copy.deepcopy(model), in_halves=in_halves).train()
        if in_halves:
            divide(ours)
            ours = copy.deepcopy(ours)  # its parts must be its own
        torch.manual_seed(3)
        loss = step(ours)
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in ours.parameters())])
        assert in_halves or not calls
    for ours, whole in zip(*found, strict=True):
        assert (ours is None) == (whole is None)
        if whole is not None:
            torch.testing.assert_close(ours, whole, rtol=1e-3, atol=1e-5)
    return len(calls)


@pytest.mark.parametrize("name", SMALL)
def test_a_generator_learns_the_same_in_halves(name, monkeypatch):
    model = redraw(new(name), 0, 0.25)
    shape = (4, *SHAPES.get(name, (3, 3)))
    batch = torch.randn(shape) if name in FEATURES else torch.randint(V, shape)
    assert compared(model, lambda m: m.loss(batch, LABELS % 3), monkeypatch)


@pytest.mark.parametrize("cls", [InfinityStar, MAGVIT])
def test_a_generator_of_videos_learns_the_same_in_halves(cls, monkeypatch):
    shape = {InfinityStar: InfinityStarConfig, MAGVIT: MAGVITConfig}[cls]
    model = redraw(cls(shape(width=16, heads=2, depth=2, num_classes=3, bits=4)), 0, 0.25)
    batch = torch.randn(4, 4, 7, 4, 4) if cls is InfinityStar else torch.randint(16, (4, 7, 4, 4))
    assert compared(model, lambda m: m.loss(batch, LABELS % 3), monkeypatch) == 2


@pytest.mark.parametrize("cls", [Parti, TextInfinity])
def test_a_generator_with_words_learns_the_same_in_halves(cls, monkeypatch):
    net = dict(width=16, heads=2, depth=2, text_depth=1)
    config = (PartiConfig(**net, grid=(2, 4), vocab_size=6) if cls is Parti
              else TextInfinityConfig(**net, sizes=((1, 2), (2, 4)), bits=2))  # fmt: skip
    model = redraw(cls(config), 0, 0.25)
    (model if cls is Parti else model.network).text.requires_grad_(False)  # as it is trained
    batch = torch.randint(6, (4, 2, 4)) if cls is Parti else torch.randn(4, 2, 2, 4)
    captions = encode(["a coat left of a bag", "two boots", "", "a bag right of a coat"])
    assert compared(model, lambda m: m.loss(batch, captions), monkeypatch) == 2


@pytest.mark.parametrize("name", [*TOKENIZERS, "kl"])
def test_a_tokenizer_learns_the_same_in_halves(name, monkeypatch):
    if name == "kl":
        model = KLAutoencoder(KLConfig(side=4, image_channels=1, width=8, norm_groups=4,
                                       multipliers=(1, 2, 4), attention=False))  # fmt: skip
    else:
        model = TOKENIZERS[name](TOKENIZERS[name].config_class())
    images = random_images(3, size=(32, 32))
    model.start(images)

    def step(share):
        def loss(m):
            m.before_step(share)
            result = m(images)
            return result.loss + (result.images - images).square().mean()

        return loss

    for share in (0.0, 0.9):  # of which TiTok's second stage is one
        assert compared(model, step(share), monkeypatch) >= 2
        monkeypatch.undo()
        monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")


def test_titok_learns_its_first_stage_without_its_images():
    torch.manual_seed(0)
    model = TOKENIZERS["titok"](TOKENIZERS["titok"].config_class())
    images, found = random_images(2, size=(32, 32)), []
    for shown in (True, False):
        model.before_step(0.0, shown=shown)
        result = model(images)
        assert (result.images is None) != shown
        wanted = [*model.encoder.parameters(), *model.decoder.parameters()]
        found.append([result.loss.detach(), *torch.autograd.grad(result.loss, wanted)])
    assert all(map(torch.equal, *found))
    model.before_step(0.6, shown=False)
    assert model(images).images is not None  # what the second stage learns from
