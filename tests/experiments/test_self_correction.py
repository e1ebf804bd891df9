"""The repair experiment of Infinity on tiny random models: what each arm is, and its arithmetic."""

import math

import pytest
import torch
from tiny import redraw

from varmini.evaluation.evaluators import Evaluator
from varmini.evaluation.statistics import holm, welch
from varmini.experiments.zero_shot.self_correction import (
    arms,
    flip_bits,
    measure,
    p_of_mean,
    paired,
    verdicts,
)
from varmini.zoo.generators.infinity import Infinity, InfinityConfig
from varmini.zoo.tokenizers.multiscale_bsq import MultiScaleBSQ, MultiScaleBSQConfig

BITS, SIZES = 6, (1, 2, 4)
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])
LATER = ("seen", "unseen", "redrawn", "informed", "stored", "oracle")


@pytest.fixture(scope="module")
def world():
    torch.manual_seed(0)
    tok = MultiScaleBSQ(MultiScaleBSQConfig(bits=BITS, sizes=SIZES)).eval()
    with torch.no_grad():  # features of the size of the codes
        tok.encoder.conv_out.weight.mul_(8)
    shape = dict(bits=BITS, sizes=SIZES, width=16, heads=2, depth=1, num_classes=3)
    model = redraw(Infinity(InfinityConfig(**shape)), 0, 0.25).eval()
    images = torch.rand(6, 1, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return model, tok, images, tok.features(images).detach()


def same(a, b):
    return all(x.equal(y) for x, y in zip(a, b, strict=True))


def flips_of(scale, share=0.3):
    shape = (6, SIZES[scale - 1], SIZES[scale - 1])
    return flip_bits(torch.zeros(shape).long(), share, BITS, torch.Generator().manual_seed(2))


def test_as_many_bits_flip_as_the_share_says():
    for share, count in ((0.01, 1), (0.3, 8), (1.0, 24)):
        flips = flip_bits(torch.zeros(40, 2, 2).long(), share, BITS, torch.Generator())
        bits = flips[..., None] >> torch.arange(BITS) & 1
        assert (bits.sum((1, 2, 3)) == count).all() and flips.max() < 2**BITS
    with pytest.raises(ValueError, match="expected a share of the bits"):
        flip_bits(torch.zeros(1, 2, 2).long(), 0.0, BITS, torch.Generator())


def test_without_corruption_all_arms_are_the_clean_or_the_own_one(world):
    model, _, _, features = world
    found = arms(model, features, LABELS, torch.zeros(6, 2, 2).long(), 2, seed=1)
    assert all(same(found[name], found["clean"]) for name in ("seen", "unseen", "informed"))
    assert same(found["stored"], found["own"]) and same(found["oracle"], found["own"])
    assert same(found["own"], model.quantizer(features).tokens)


@pytest.mark.parametrize("scale", [1, 2])
def test_all_arms_go_on_from_one_corrupted_start(world, scale):
    model, _, _, features = world
    flips = flips_of(scale)
    found = arms(model, features, LABELS, flips, scale, seed=1)
    own, k = found["own"], scale - 1
    start = [*own[:k], own[k] ^ flips]
    assert all(same(found[name][:scale], start) for name in LATER)
    assert same(found["seen"], model.generate(LABELS, seed=1, forced=start))
    assert same(found["clean"], model.generate(LABELS, seed=1, forced=own[:scale]))
    assert same(found["informed"][scale:], found["clean"][scale:])
    drawn = model.generate(LABELS, seed=1, forced=own[:k])
    assert same(found["redrawn"][scale:], drawn[scale:])
    # Flipped bits are the model's own, all others the image's.
    shift = torch.arange(BITS)
    guess = torch.where((flips[..., None] >> shift & 1).bool(), drawn[k][..., None] >> shift & 1,
                        own[k][..., None] >> shift & 1)  # fmt: skip
    unseen = model.generate(LABELS, seed=1, forced=[*own[:k], (guess << shift).sum(-1)])
    assert same(found["unseen"][scale:], unseen[scale:])


def test_the_unseen_arm_does_not_know_the_true_bits(world):
    """Nor the flipped ones: another image that differs in them alone has the same later maps."""
    model, _, _, features = world
    flips, later = flips_of(2, 0.5), []
    own = model.schedule.unflatten(model.teacher(features)[0])
    for maps in (own, [own[0], own[1] ^ flips, own[2]]):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(model, "teacher", lambda f, flips=None, maps=maps: (
                model.schedule.flatten(maps), None))  # fmt: skip
            later.append(arms(model, features, LABELS, flips, 2, seed=1))
    for name in ("unseen", "redrawn"):
        assert later[0][name][2].equal(later[1][name][2])
    assert not later[0]["informed"][2].equal(later[1]["informed"][2])
    assert not later[0]["seen"][2].equal(later[1]["seen"][2])


def test_measures(world):
    model, tok, images, features = world

    def run(pictures):
        bright = pictures.float().mean((1, 2, 3)) / 255
        return bright[:, None], torch.nn.functional.one_hot((3 * bright).long().clamp(max=2), 3)

    row = measure(model, tok, images, LABELS, Evaluator("tiny", "", 1, run, 3), 1, 0.3, seed=3,
                  batch_size=6, guidance=2.0)  # fmt: skip
    generator = torch.Generator().manual_seed(3)
    flips = flip_bits(torch.zeros(6, 1, 1).long(), 0.3, BITS, generator)
    found = arms(model, features, LABELS, flips, 1, seed=30_021, guidance=2.0)
    errors = {name: (tok.quantizer.embed(maps) - features).square().mean((1, 2, 3))
              for name, maps in found.items()}  # fmt: skip
    for name, values in errors.items():
        assert row[f"features_{name}"] == pytest.approx(values.mean().item(), rel=1e-4)
    assert row["features_oracle"] < row["features_stored"]
    gain = (errors["unseen"] - errors["seen"]).mean().item()
    assert row["gain_features_unseen"] == pytest.approx(gain, abs=1e-6)
    assert row["repair_oracle_features"] > 0 and row["n"] == 6 and row["guidance"] == 2.0
    wrong = row["wrong_redrawn"] - row["wrong_seen"]
    assert row["gain_wrong_redrawn"] == pytest.approx(wrong)


def test_intervals_over_images():
    half = 4.303 / math.sqrt(3)  # t of 95 % with two degrees of freedom, standard deviation 1
    expected = {"gain": 2, "gain_low": 2 - half, "gain_high": 2 + half}
    assert paired(torch.tensor([1.0, 2.0, 3.0]), "gain") == pytest.approx(expected, rel=1e-3)


def test_verdicts_take_five_seeds_and_adjust_all_p_values_together():
    gains = {"infinity": [-0.1, 0.1, 0.0, 0.2, -0.2], "infinity-sc": [1.0, 1.2, 0.9, 1.1, 1.05]}

    def rows(seeds, scales):
        return [{"method": name, "scale": scale, "share": 0.3, "gain_features_unseen": gain / 100,
                 "features_unseen": 0.5, "gain_features_redrawn": 0.1 * gain,
                 "features_redrawn": 2.0}
                for name, values in gains.items() for gain in values[:seeds]
                for scale in scales]  # fmt: skip

    first, second = verdicts(rows(5, (1,)))
    assert (first["control"], second["control"]) == ("unseen", "redrawn")
    assert first["gain_infinity-sc"] == pytest.approx(2.1) and first["more"] == pytest.approx(2.1)
    assert second["gain_infinity-sc"] == pytest.approx(5.25)
    assert first["p_infinity-sc"] < 0.05 and first["p_more"] < 0.05 < first["p_infinity"]
    raw = [p_of_mean(gains["infinity"]), p_of_mean(gains["infinity-sc"]),
           welch(gains["infinity-sc"], gains["infinity"]).p]  # fmt: skip
    names = ("p_infinity", "p_infinity-sc", "p_more")
    told = [row[name] for row in (first, second) for name in names]
    assert told == pytest.approx(holm(raw * 2))
    assert all(row[name] == 1 for row in verdicts(rows(4, (1, 2))) for name in names)
    assert verdicts([row for row in rows(5, (1,)) if row["method"] == "infinity"]) == []
    named = [{k.replace("features", "pixels"): v for k, v in row.items()} for row in rows(5, (1,))]
    assert verdicts(named, "pixels") == [first, second]
