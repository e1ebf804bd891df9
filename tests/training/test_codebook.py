"""Our two cures of codebook collapse: the entropy term and the revival of dead codes."""

import math

import pytest
import torch
import torch.nn.functional as F
from tiny import make_quantizer, random_features, random_tokens

from varmini import ScaleSchedule, quicken
from varmini.evaluation.metrics import codebook_usage
from varmini.training.codebook import CodeRevival, code_diversity


@pytest.mark.parametrize("lookup", ["euclidean", "cosine"])
@pytest.mark.parametrize("sizes", [(1,), (1, 2, 3), ((1, 2), (2, 3))])
def test_diversity_is_the_missing_entropy(sizes, lookup):
    schedule, vocab = ScaleSchedule(sizes), 7
    quantizer = make_quantizer(schedule, vocab, lookup=lookup)
    f = random_features(schedule, 3)
    codes, total = quantizer.codebook.weight.double(), 0.0
    weights = [1 / n for n in schedule.tokens_per_scale]
    for z, weight in zip(quantizer.residuals(f), weights):
        pair = z.double(), codes
        pair = [F.normalize(x, dim=1) for x in pair] if lookup == "cosine" else pair
        away = torch.cdist(*pair).square()
        p = (-2 * away / away.amin(1).mean()).softmax(1).mean(0)
        total += weight / sum(weights) * (math.log(vocab) + (p * p.log()).sum().item())
    value = code_diversity(quantizer, f, quantizer.encode(f)).item()
    assert value == pytest.approx(total, rel=1e-3) and 0 < value < math.log(vocab)


def test_diversity_pulls_features_apart_and_leaves_the_codes():
    schedule = ScaleSchedule((1, 2))
    quantizer = make_quantizer(schedule, num_phi=0)
    f = (random_features(schedule, 8) * 0.1).requires_grad_()
    optimizer = torch.optim.SGD([f], lr=1.0)
    values = []
    for _ in range(30):
        value = code_diversity(quantizer, f, quantizer.encode(f))
        values.append(value.item())
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    assert values[-1] < 0.8 * values[0]
    assert quantizer.codebook.weight.grad is None


def collapsed(vocab=16):
    """A quantizer of which one code takes everything, and features far from all others."""
    quantizer = make_quantizer(ScaleSchedule((1, 2, 4)), vocab)
    with torch.no_grad():
        quantizer.codebook.weight[1:] += 1000
    return quantizer, random_features(quantizer.schedule, 8)


def is_row_of(vector, rows):
    return bool((rows == vector).all(1).any())


def test_revival_moves_dead_codes_onto_live_vectors_and_leaves_live_codes():
    torch.manual_seed(0)
    quantizer, f = collapsed()
    revival = CodeRevival(quantizer, decay=0.1)
    before = quantizer.codebook.weight.clone()
    for _ in range(3):
        revival.update(quantizer.encode(f))
    rows = torch.cat(quantizer.residuals(f))
    assert revival.revive(f) == 15
    assert quantizer.codebook.weight[0].equal(before[0])
    assert all(is_row_of(code, rows) for code in quantizer.codebook.weight[1:])
    assert revival.revive(f) == 0  # a revived code gets time to prove itself
    used = torch.cat([t.flatten() for t in quantizer.encode(f)]).unique()
    assert len(used) > 8


@pytest.mark.parametrize("lookup", ["euclidean", "cosine"])
@pytest.mark.parametrize("fast", [False, True])
def test_revival_between_forward_and_backward_leaves_the_gradients(lookup, fast):
    def gradients(moving):
        quantizer = make_quantizer(ScaleSchedule((1, 2, 4)), 64, lookup=lookup).train()
        f = random_features(quantizer.schedule, 4).requires_grad_()
        result = (quicken(quantizer) if fast else quantizer)(f)
        loss = result.loss + result.f_hat.square().mean()
        loss = loss + code_diversity(quantizer, f, result.tokens)
        if moving:
            revival = CodeRevival(quantizer, decay=0.0)
            revival.update(result.tokens)
            assert revival.revive(f.detach()) > 0
        loss.backward()
        return [f.grad, *(p.grad for p in quantizer.parameters() if p.grad is not None)]

    moved, still = gradients(True), gradients(False)
    assert len(moved) == len(still) > 2 and all(a.equal(b) for a, b in zip(moved, still))


@pytest.mark.parametrize("batch", [1, 3, 12])
def test_the_usage_of_some_images_does_not_depend_on_the_batches_they_came_in(batch):
    quantizer = make_quantizer(ScaleSchedule((1, 2, 4)), 64)
    tokens = quantizer.encode(random_features(quantizer.schedule, 12))
    parts = [[t[i : i + batch] for t in tokens] for i in range(0, 12, batch)]
    revival = CodeRevival(quantizer)
    for part in parts:
        revival.update(part)
    found, counted = revival.usage(12), codebook_usage(parts, 64)
    assert counted == codebook_usage(tokens, 64)
    shares = [scale["share"] for scale in counted["scales"]]
    assert found == (pytest.approx(shares), counted["overall"]["share"])


def test_a_code_that_one_scale_uses_is_alive():
    quantizer, f = collapsed(vocab=2)
    revival = CodeRevival(quantizer, decay=0.0)
    tokens = [torch.zeros(8, h, w, dtype=torch.long) for h, w in quantizer.schedule.grids]
    tokens[0][0] = 1  # 1 of 8 tokens of the first scale, 1 of 168 in all
    revival.update(tokens)
    assert revival.revive(f) == 0
    revival.update([torch.zeros_like(t) for t in tokens])
    assert revival.revive(f) == 1


def test_the_count_is_an_average_per_scale_and_travels_in_the_checkpoint():
    quantizer, _ = collapsed(vocab=4)
    revival = CodeRevival(quantizer, decay=0.75)
    tokens = random_tokens(quantizer.schedule, 2, 4)
    revival.update(tokens)
    for k, map_ in enumerate(tokens):
        share = [0.75 / 4 + 0.25 * (map_ == code).double().mean().item() for code in range(4)]
        assert revival.share[k].tolist() == pytest.approx(share)
    other = CodeRevival(quantizer, decay=0.75)
    other.load_state_dict(revival.state_dict())
    assert other.share.equal(revival.share)
    revival.update(tokens)
    assert not other.share.equal(revival.share)  # a copy, not the same memory


def test_start_places_every_code_on_the_data():
    torch.manual_seed(0)
    quantizer, f = collapsed()
    CodeRevival(quantizer).start(f)
    assert quantizer.codebook.weight.abs().max() < 100
    assert is_row_of(quantizer.codebook.weight[0], quantizer.residuals(f)[0])
    assert len(torch.cat([t.flatten() for t in quantizer.encode(f)]).unique()) > 4
