"""The likelihood as a classifier: sums of what the model says, intervals, ranks and choices."""

import pytest
import torch
from tiny import random_images, random_tokens
from torch import nn

from varmini import ScaleSchedule
from varmini.experiments.zero_shot import likelihood as lh
from varmini.model import sampler

SCHEDULE = ScaleSchedule((1, 2, 4))
LABELS = torch.tensor([0, 1, 2, 0, 1])


def test_the_likelihood_is_minus_the_cross_entropy(tok, var):
    tokens = random_tokens(SCHEDULE, 5, seed=1)
    found = lh.log_likelihood(var, tok, tokens, LABELS)
    logits = var(LABELS, tok.quantizer.teacher_inputs(tokens)).detach()
    loss = nn.functional.cross_entropy(
        logits.transpose(1, 2), tok.schedule.flatten(tokens), reduction="none"
    )
    assert found.shape == (5, 3)
    for k, part in enumerate(SCHEDULE.slices):
        torch.testing.assert_close(found[:, k], -loss[:, part].sum(1), rtol=1e-4, atol=1e-4)


def test_probabilities_of_the_first_map_sum_to_one(tok, var):
    """Over all tokens of the 1 x 1 map, whatever the later maps are."""
    vocab = tok.vocab_size
    tokens = random_tokens(SCHEDULE, 1, seed=1)
    tokens = [torch.arange(vocab).view(-1, 1, 1), *(t.repeat(vocab, 1, 1) for t in tokens[1:])]
    first = lh.log_likelihood(var, tok, tokens, torch.zeros(vocab).long())[:, 0]
    assert first.exp().sum().item() == pytest.approx(1, rel=1e-4)


def test_all_classes_and_scales_are_asked(tok, var):
    images = random_images(5)
    found = lh.class_likelihoods(var, tok, images, batch_size=2)
    assert found.shape == (5, var.config.num_classes, 3)
    own = lh.log_likelihood(var, tok, tok.encode(images), LABELS)
    torch.testing.assert_close(found[torch.arange(5), LABELS], own, rtol=1e-4, atol=1e-4)


def test_accuracy_by_scale_alone_and_up_to_it():
    likelihoods = torch.zeros(4, 2, 2)  # two classes, two scales
    labels = torch.tensor([0, 0, 1, 1])
    likelihoods[:, 0, 0] = torch.tensor([1.0, -1, -1, -1])  # scale 1: wrong about the second
    likelihoods[:, 0, 1] = torch.tensor([-0.5, 3, 3, 3])  # scale 2: right about the second alone
    rows = {(r["which"], r["scale"]): r["accuracy"] for r in lh.by_scale(likelihoods, labels)}
    assert rows == {("alone", 1): 0.75, ("alone", 2): 0.25, ("up to", 1): 0.75, ("up to", 2): 0.5}


def test_wilsons_interval():
    low, high = lh.wilson(61, 100)
    assert (low, high) == pytest.approx((0.5120, 0.6997), abs=1e-3)  # a textbook's numbers
    assert lh.wilson(0, 10)[0] == pytest.approx(0, abs=1e-12) and lh.wilson(0, 10)[1] > 0.2
    assert lh.wilson(6100, 10000)[1] - lh.wilson(6100, 10000)[0] < 0.02


def test_auroc_counts_pairs():
    a, b = torch.tensor([3.0, 4, 5]), torch.tensor([1.0, 2, 4])
    pairs = [(x > y) + 0.5 * (x == y) for x in a.tolist() for y in b.tolist()]
    assert lh.auroc(a, b) == pytest.approx(sum(pairs) / 9)
    assert lh.auroc(b, a) == pytest.approx(1 - lh.auroc(a, b))
    assert lh.auroc(a, a) == 0.5 and lh.auroc(a + 9, b) == 1


def test_strangers_have_the_form_of_the_known():
    grey, colour = random_images(3), torch.rand(3, 3, 16, 16) * 2 - 1
    sets = lh.strangers(grey[:, :1], colour)
    assert len(sets) == 4 and all(x.shape == (3, 1, 16, 16) for x in sets.values())
    assert all(x.min() >= -1.001 and x.max() <= 1.001 for x in sets.values())
    mixed = sets["pixels in another order"]
    assert mixed.flatten(1).sort(1).values.equal(grey[:, :1].flatten(1).sort(1).values)


def test_the_best_of_n_is_the_best_of_its_own_draws(tok, var):
    class Bright(nn.Module):
        def forward(self, images):
            return images.mean((1, 2, 3))[:, None] * torch.tensor([1.0, 0.0, -1.0])

    labels, options = LABELS[:2], dict(cfg=0, top_k=0, top_p=0)
    ways = lh.best_of(var, tok, labels, 3, Bright(), seed=4, **options)
    assert set(ways) == {"first", "likelihood", "margin", "classifier"}
    one = lh.best_of(var, tok, labels, 1, Bright(), seed=4, **options)
    assert all(images.equal(one["first"]) for images in one.values())
    drawn = {way: lh.log_likelihood(var, tok, tok.encode(x), labels).sum(1).shape
             for way, x in ways.items()}  # fmt: skip
    assert all(shape == (2,) for shape in drawn.values())
    light = Bright()(ways["classifier"]).gather(1, labels[:, None])[0]
    assert light >= Bright()(ways["first"]).gather(1, labels[:, None])[0]


def test_a_beam_of_one_is_plain_drawing(tok, var):
    images, maps = lh.beam(var, tok, LABELS, (1, 1, 1), (1, 1, 1), seed=4)
    options = dict(cfg=0, top_k=0, top_p=0, seed=4, return_tokens=True)
    plain, tokens = sampler.sample(var, tok, LABELS, **options)
    assert all(a.equal(b) for a, b in zip(maps, tokens, strict=True))
    torch.testing.assert_close(images, plain)


def test_a_beam_that_chooses_in_the_end_alone_is_the_best_of_n(tok, var):
    _, maps = lh.beam(var, tok, LABELS, (3, 3, 3), (3, 3, 1), seed=4)
    many = LABELS.repeat_interleave(3)
    options = dict(cfg=0, top_k=0, top_p=0, seed=4, return_tokens=True)
    _, tokens = sampler.sample(var, tok, many, **options)
    own = lh.log_likelihood(var, tok, tokens, many).sum(1).view(5, 3).argmax(1)
    assert all(a.equal(b[torch.arange(5) * 3 + own]) for a, b in zip(maps, tokens, strict=True))


def test_a_beams_cache_goes_with_the_candidates_that_are_kept(tok, var):
    """What the cached steps said of the tokens is what the model says by teacher forcing."""
    told = []

    def score(log_p, f_hat, labels):
        told.append(log_p)
        return log_p

    images, maps = lh.beam(var, tok, LABELS, (4, 6, 2), (2, 2, 1), score, seed=4)
    assert [len(log_p) for log_p in told] == [20, 30, 10]
    found = lh.log_likelihood(var, tok, maps, LABELS).sum(1)
    torch.testing.assert_close(told[-1].view(5, 2).amax(1), found, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(images, tok.decode(maps), rtol=1e-4, atol=1e-4)


def test_the_surest_candidate_is_the_one_a_classifier_likes(tok, var):
    light = lambda x: x.mean((1, 2, 3))[:, None] * torch.tensor([1.0, 0.0, -1.0])  # noqa: E731
    score, labels = lh.surest(tok, light), torch.tensor([0, 2])
    f_hat = torch.stack([torch.zeros(4, 4, 4), torch.ones(4, 4, 4)])
    both = light(tok.decode_features(f_hat).clamp(-1, 1)).log_softmax(1)
    assert score(torch.zeros(2), f_hat, labels).tolist() == [both[0, 0], both[1, 2]]


@pytest.mark.parametrize(
    "draws, keep",
    [((2, 2), (1, 1)), ((2, 3, 2), (2, 1, 1)), ((1, 1, 1), (1, 2, 1)), ((2, 2, 2), (2, 2, 2))],
)
def test_a_beam_that_cannot_be_is_refused(tok, var, draws, keep):
    with pytest.raises(ValueError, match="expected one a scale"):
        lh.beam(var, tok, LABELS, draws, keep, seed=4)


def test_the_spread_is_within_classes():
    features = torch.tensor([[0.0], [2.0], [10.0], [14.0]])
    assert lh.spread(features, torch.tensor([0, 0, 1, 1])) == pytest.approx(3)
    assert lh.spread(features[:, [0, 0]], torch.tensor([0, 0, 1, 1])) == pytest.approx(18**0.5)
