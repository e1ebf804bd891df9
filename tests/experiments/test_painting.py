"""Zero-shot measures on tiny random models: what is forced stays, and errors are what they say."""

import pytest
import torch
from tiny import make_tokenizer, make_var, random_images, random_tokens
from torch import nn

from varmini import ScaleSchedule
from varmini.cli import main as cli
from varmini.experiments.zero_shot.painting import (
    DRAWN,
    TASKS,
    corrupt,
    draw_with,
    kept_error,
    painting,
    seam_error,
    super_resolution,
    task_mask,
)
from varmini.experiments.zero_shot.repair import reencode, repair, repaired
from varmini.model.sampler import RULES, kept_tokens
from varmini.runtime.tables import read_cells
from varmini.training.classifier import Classifier, ClassifierConfig

SCHEDULE = ScaleSchedule((1, 2, 4))
DRAW = dict(cfg=1.5, top_k=0, top_p=0.0, seed=0)
LABELS = torch.tensor([0, 1, 2, 0, 1])


class Brightness(nn.Module):
    """Says class 0 for dark, 1 for middling, 2 for bright images."""

    def forward(self, images):
        mean = images.mean((1, 2, 3))
        return -(mean[:, None] - torch.tensor([-1.0, 0.0, 1.0])).square()


CLASSIFIER = Brightness()


@pytest.fixture
def images():
    return random_images(5)


def test_the_tasks_draw_the_middle_or_all_around_it():
    middle = task_mask("in-painting", (8, 12))
    assert middle.sum() == 4 * 6 and middle[2:6, 3:9].all()
    assert task_mask("editing", (8, 12)).equal(middle)
    assert task_mask("out-painting", (8, 12)).equal(~middle)
    line = task_mask("line", (8, 12))
    assert line.sum() == 8 and line[:, 4].all()


def test_the_kept_error_does_not_look_at_what_was_drawn():
    mask = task_mask("in-painting", (4, 4))
    a, b = torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4)
    b[:, :, mask] = 9.0
    assert kept_error(a, b, mask).tolist() == [0, 0]
    b[0, 0, 0, 0] = 6.0  # one of 3 channels, one of 12 kept pixels
    assert kept_error(a, b, mask)[0].item() == pytest.approx(36 / 3 / 12)


def test_the_seam_is_the_step_across_the_edge():
    mask = task_mask("in-painting", (4, 4))  # a square of side 2 has 8 pairs across its edge
    images = torch.where(mask, 0.5, 0.0).expand(1, 3, 4, 4)
    assert seam_error(images, mask).item() == pytest.approx(0.5)
    assert seam_error(images, ~mask).item() == pytest.approx(0.5)
    assert seam_error(torch.full((1, 3, 4, 4), 0.7), mask).item() == 0
    one = torch.zeros(1, 1, 4, 4)
    one[0, 0, 1, 1] = 1.0  # a corner of the square: two of the eight pairs
    assert seam_error(one, mask).item() == pytest.approx(2 / 8)
    inside, half = torch.zeros(1, 1, 6, 6), torch.arange(6).expand(6, 6) < 3
    inside[..., 0] = 5.0  # far from the edge: not seen
    assert seam_error(inside, half).item() == 0


def test_repair_is_the_share_of_the_damage_that_is_gone():
    clean = torch.tensor([1.0, 2.0, 3.0])
    ignored = clean + torch.tensor([2.0, 4.0, 6.0])
    assert repaired(clean, ignored, clean, "a")["repair_a"] == 1
    none = repaired(clean, ignored, ignored, "a")
    assert none == pytest.approx({"repair_a": 0, "repair_a_se": 0})
    uneven = clean + torch.tensor([0.0, 0.0, 6.0])
    found = repaired(clean, ignored, uneven, "a")
    assert found["repair_a"] == pytest.approx(0.5)
    # sd of (left - ratio damage) = sd of (-1, -2, 3), over sqrt(3) and the mean damage of 4
    assert found["repair_a_se"] == pytest.approx(7**0.5 / 3**0.5 / 4)


@pytest.mark.parametrize("known", [0, 1, 2, 3])
def test_what_is_forced_stays_and_the_rest_is_drawn(tok, var, known):
    own = random_tokens(SCHEDULE, 5, seed=1)
    drawn = draw_with(var, tok, LABELS, own[:known], **DRAW)
    assert [t.shape for t in drawn] == [t.shape for t in own]
    assert all(a.equal(b) for a, b in zip(drawn, own[:known]))
    other = draw_with(var, tok, LABELS, own[:known], **DRAW | {"seed": 1})
    assert all(not a.equal(b) for a, b in zip(drawn[known:], other[known:]))
    if 0 < known < 3:  # later maps answer to what was forced
        changed = [*own[: known - 1], (own[known - 1] + 1) % 12]
        assert not draw_with(var, tok, LABELS, changed, **DRAW)[known].equal(drawn[known])


def test_corruption_changes_as_many_tokens_as_it_says():
    generator = torch.Generator().manual_seed(0)
    tokens = random_tokens(SCHEDULE, 50)[2]
    for share, count in ((0.01, 1), (0.25, 4), (0.3, 5), (1.0, 16)):
        wrong = corrupt(tokens, share, 12, generator)
        assert wrong.shape == tokens.shape and 0 <= wrong.min() <= wrong.max() < 12
        assert ((wrong != tokens).flatten(1).sum(1) == count).all()
    hit = (corrupt(tokens, 0.25, 12, generator) != tokens).float().mean(0)
    assert hit.min() > 0  # over fifty images every position is hit
    for share in (0.0, 1.5, float("nan")):
        with pytest.raises(ValueError, match="expected a share"):
            corrupt(tokens, share, 12, generator)


def test_reencoding_is_encoding_and_mends_what_it_can(tok, images):
    features, own = tok.features(images), tok.encode(images)
    for known in range(4):
        again = reencode(tok, features, own[:known])
        assert all(a.equal(b) for a, b in zip(again, own))
    wrong = [own[0], corrupt(own[1], 1.0, 12, torch.Generator().manual_seed(0))]
    mended, ignored = reencode(tok, features, wrong), [*wrong, own[2]]
    errors = [(tok.quantizer.decode(t) - features).square().mean() for t in (mended, ignored)]
    assert mended[1].equal(wrong[1]) and errors[0] < errors[1]


def test_a_thin_line_is_drawn(tok, var, images):
    for rule in ("painted", "touched"):
        row, _ = painting(var, tok, images, LABELS, CLASSIFIER, "line", rule=rule)
        assert row["moved"] > 1e-4 and row["rule"] == rule
    grids = ((1, 1), (2, 2), (3, 3), (5, 5), (8, 8))  # those of the shipped CIFAR-10 models
    line = task_mask("line", (32, 32))[None, None]
    assert all(keep.all() for keep in kept_tokens(line, grids, "paper"))


@pytest.mark.parametrize("task", TASKS)
def test_painting_measures_three_arms(tok, var, images, task):
    row, painted = painting(var, tok, images, LABELS, CLASSIFIER, task, batch_size=2)
    assert painted.shape == images.shape and row["n"] == 5 and row["task"] == task
    mask, own = task_mask(task, (16, 16)), tok.decode(tok.encode(images))
    assert row["kept_tokenizer"] == pytest.approx(kept_error(own, images, mask).mean().item())
    # Where nothing is drawn, the control is the tokenizer's picture itself.
    assert row["kept_pasted"] == row["kept_tokenizer"]
    assert row["kept_painted"] == pytest.approx(kept_error(painted, images, mask).mean().item())
    assert row["seam_original"] == pytest.approx(seam_error(images, mask).mean().item())
    assert row["seam_painted"] != row["seam_pasted"]
    spread = seam_error(images, mask).double().std().item() / 5**0.5
    assert row["seam_original_se"] == pytest.approx(spread)
    assert 0 <= row["accuracy_own_painted"] <= 1
    assert ("accuracy_target_painted" in row) == (task == "editing")
    again, _ = painting(var, tok, images, LABELS, CLASSIFIER, task, batch_size=5)
    assert again["kept_painted"] == pytest.approx(row["kept_painted"], rel=1e-4)


def test_super_resolution_from_all_maps_is_the_tokenizer(tok, var, images):
    row, drawn = super_resolution(var, tok, images, LABELS, CLASSIFIER, 3, batch_size=2)
    assert drawn.equal(tok.decode(tok.encode(images)))
    assert row["mse_drawn"] == row["mse_tokenizer"] == row["mse_coarse"]
    row, drawn = super_resolution(var, tok, images, LABELS, CLASSIFIER, 1)
    coarse = tok.decode(tok.encode(images), num_scales=1)
    assert row["mse_coarse"] == pytest.approx((coarse - images).square().mean().item())
    assert row["mse_drawn"] != row["mse_coarse"]
    assert "mse_coarse" not in super_resolution(var, tok, images, LABELS, CLASSIFIER, 0)[0]


def test_repair_compares_its_arms(tok, var, images):
    row = repair(var, tok, images, LABELS, CLASSIFIER, 2, 0.5, batch_size=2)
    assert row["changed"] == 0.5 and row["n"] == 5
    for space in ("features", "pixels"):
        for best, worst, arm in (("clean", "ignored", "corrected"), ("own", "stored", "oracle")):
            least, most, found = (row[f"{space}_{name}"] for name in (best, worst, arm))
            expected = 1 - (found - least) / (most - least)
            assert row[f"repair_{arm}_{space}"] == pytest.approx(expected, rel=1e-4)
    assert row["features_oracle"] < row["features_stored"]
    # The fair control knows the true tokens that were not touched, and draws the others itself.
    own, options = tok.encode(images), DRAWN | {"batch_size": 2}
    wrong = corrupt(own[1], 0.5, tok.vocab_size, torch.Generator().manual_seed(0))
    guess = draw_with(var, tok, LABELS, own[:1], **options)[1]
    start = [own[0], torch.where(wrong == own[1], own[1], guess)]
    unseen = [own[0], wrong, *draw_with(var, tok, LABELS, start, **options)[2:]]
    features = tok.features(images)
    error = (tok.quantizer.decode(unseen) - features).square().mean().item()
    assert row["features_unseen"] == pytest.approx(error, rel=1e-4)
    gain = row["features_unseen"] - row["features_corrected"]
    assert row["gain_features"] == pytest.approx(gain, abs=1e-6)


def test_a_model_that_does_not_look_mends_nothing(tok, images):
    """With logits that ignore the picture so far, the corrected arm is the ignored one."""
    var = make_var(SCHEDULE)
    with torch.no_grad():
        var.word.weight.zero_()
    row = repair(var, tok, images, LABELS, CLASSIFIER, 1, 1.0)
    assert row["features_corrected"] == row["features_ignored"]
    assert row["repair_corrected_features"] == 0 == row["repair_corrected_pixels"]
    assert row["features_corrected"] == row["features_unseen"] and row["gain_features"] == 0


def test_the_command_writes_tables_and_pictures(tmp_path, capsys):
    sizes = (1, 2, 4)
    tok = make_tokenizer(sizes=sizes, multipliers=(1,), patch=8)
    tok.save_pretrained(tmp_path / "tokenizer")
    make_var(ScaleSchedule(sizes), num_classes=10).save_pretrained(tmp_path / "var")
    Classifier(ClassifierConfig(image_channels=1, widths=(4, 8))).save_pretrained(
        tmp_path / "classifier"
    )
    out = tmp_path / "out"
    args = ["zeroshot", "--var", tmp_path / "var", "--classifier", tmp_path / "classifier"]
    args += ["--data", "fashion-subset", "--limit", "6", "--shares", "1.0", "--out", out]
    assert cli.main([str(a) for a in args]) == 0
    names = ("painting", "super_resolution", "repair")
    tables = {name: read_cells(out / f"{name}.csv") for name in names}
    rules = [(r["task"], r["rule"], r["smooth"]) for r in tables["painting"]]
    assert rules == [(task, rule, smooth) for task in TASKS for rule, smooth in
                     (*((rule, "True") for rule in RULES), ("painted", "False"))]  # fmt: skip
    assert [r["known"] for r in tables["super_resolution"]] == ["0", "1", "2", "3"]
    assert [r["scale"] for r in tables["repair"]] == ["1", "2"]
    assert all(r["commit"] and r["hardware"] for rows in tables.values() for r in rows)
    pictures = {f"{task}.png" for task in (*TASKS, "super-resolution")}
    assert {p.name for p in out.glob("*.png")} == pictures
