"""Measures of moving garments: what is true has no error, and what stands still is frozen."""

import contextlib
import dataclasses
import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from varmini.data.motion import MovingGarments, Videos, centroid
from varmini.experiments.motion import bed, measure
from varmini.experiments.motion.network import (
    VideoNetwork,
    VideoNetworkConfig,
    network_loss,
    perceptual_distance,
    perceptual_parts,
)
from varmini.fast import halves
from varmini.zoo.parts import SelfAttention

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts" / "evidence"


@pytest.fixture(scope="module")
def truth():
    return measure.test_videos(20, seed=0)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return VideoNetwork(VideoNetworkConfig(width=4, features=8)).eval()


def script(name, monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    spec = importlib.util.spec_from_file_location(f"script_{name}", SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


def test_true_videos_have_no_error_and_frozen_ones_that_of_a_frozen_garment(truth, network):
    real = measure.features_of(measure.test_videos(20, seed=1).frames, network)
    true = measure.figures(truth.frames, truth, 5, network, real)
    assert true["error"] == 0 and true["frozen"] > 1 and true["speed"] > 0.5
    still = truth.frames.clone()
    still[:, :, 5:] = still[:, :, 4:5]
    found = measure.figures(still, truth, 5, network, real)
    assert found["error"] == pytest.approx(found["frozen"], rel=1e-4)
    first = truth.frames[:, :, :1].expand_as(truth.frames)
    found = measure.figures(first, truth, 5, network, real)
    assert found["error"] == pytest.approx(found["frozen_first"], rel=1e-4)
    assert found["steady"] == 1 and found["speed"] < 1e-4
    assert "error" not in measure.figures(truth.frames, truth, 0, network, real)


def test_an_empty_frame_has_its_middle():
    middle = centroid(torch.full((3, 32, 32), -1.0))
    assert torch.allclose(middle, torch.full((3, 2), 15.5), atol=1e-3)


def test_the_network_learns_class_and_velocity(truth):
    torch.manual_seed(0)
    model = VideoNetwork(VideoNetworkConfig(width=4, features=8))
    logits, velocity, features = model(truth.frames)
    assert logits.shape == (20, 13, 5) and velocity.shape == (20, 11, 2)
    assert features.shape == (20, 8)
    optimizer, losses = torch.optim.Adam(model.parameters(), 3e-3), []
    for _ in range(12):
        loss = network_loss(model, truth)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert min(losses[-3:]) < losses[0]


def test_the_perceptual_distance_is_none_of_equal_videos_and_grows(truth, network):
    def distance(x):
        return perceptual_distance(perceptual_parts(network, x, truth.frames[:4]))

    x = truth.frames[:4].clone().requires_grad_()
    far = distance(x + 0.2 * torch.randn_like(x))
    assert distance(x) == 0 < far
    assert torch.autograd.grad(far, x)[0].abs().sum() > 0


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("loss", [bed.tokenizer_loss, bed.decoder_loss])
def test_a_tokenizer_learns_the_same_in_halves(loss, network, truth, monkeypatch):
    torch.manual_seed(0)
    model = bed.CausalVideoTokenizer(bed.CausalVideoConfig(width=4, hidden=8, norm_groups=4))
    found, calls, at_once = [], [], halves.both
    monkeypatch.setattr(halves, "both", lambda work: calls.append(1) or at_once(work))
    for inside in (contextlib.nullcontext, halves.whole_batches):
        with inside():
            value = loss(model, truth.frames[:3], classifier=network.requires_grad_(False))
            gradients = torch.autograd.grad(value, [*model.parameters()], allow_unused=True)
            found.append([value, *gradients])
    assert len(calls) in (3, 4)  # there, back, and once or twice for features
    for ours, whole in zip(*found):
        assert (ours is None) == (whole is None)
        assert ours is None or torch.allclose(ours, whole, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("method", bed.METHODS)
def test_a_run_goes_from_the_tokenizer_to_a_continued_video(method, tmp_path, monkeypatch, truth):
    cls, name = bed.METHODS[method]
    small = {n: dataclasses.replace(c, width=4, hidden=8) for n, c in bed.TOKENIZERS.items()}
    monkeypatch.setattr(bed, "TOKENIZERS", small)
    monkeypatch.setattr(bed, "SHAPE", {"width": 16, "heads": 2, "depth": 1})
    monkeypatch.setattr(bed, "VIDEOS", 64)
    recipe = bed.Training(images=8, batch_size=4, points=1)
    monkeypatch.setattr(bed, "RECIPES", dict.fromkeys(bed.RECIPES, recipe))
    bed.train_network("classifier", tmp_path)
    bed.train_tokenizer(name, tmp_path)
    bed.train_decoder(name, tmp_path)
    assert bed.train_model(method, 0, tmp_path) == tmp_path / f"{method}-s0"
    model, tok = measure.pair(method, 0, tmp_path)
    some = Videos(*(part[:3] for part in truth))
    for given in (0, 1, 5):
        videos = measure.drawn(model, tok, some, given, seed=0)
        assert videos.shape == some.frames.shape
        kept = tok.decode(tok.encode(some.frames[:, :, :given])) if given else videos[:, :, :0]
        assert torch.allclose(videos[:, :, :given], kept, atol=1e-4)


def test_doors(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="run `python scripts/evidence/motion.py --train"):
        bed.load(VideoNetwork, tmp_path / "evaluator")
    module = script("motion", monkeypatch)
    with pytest.raises(ValueError, match="no training named 'nothing', expected evaluator"):
        module.train("nothing", tmp_path)


def test_the_sheet_has_a_row_a_system_and_goals_are_told(truth, monkeypatch):
    module = script("motion", monkeypatch)
    frames = module.sheet([truth.frames[:3], truth.frames[3:6]])
    assert len(frames) == 13 and frames[0].shape == (2 * 34 * 3, 3 * 34 * 3)
    report = script("motion_report", monkeypatch)
    rows = [{"system": "magvit", "task": "continue", "kept": 0.9, "error": 2.0,
             "frozen_first": 5.0}]  # fmt: skip
    assert "keeps the class in 90 % (reached)" in report.goals(rows)
    assert "times that of a frozen first frame (reached)" in report.goals(rows)


def test_minutes_are_measured_without_a_trace_and_told(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    module, seen = script("motion_minutes", monkeypatch), []
    (tmp_path / "classifier").mkdir()
    monkeypatch.setattr(module, "train", lambda name, out: seen.append(
        (name, bed.RECIPES["magvit"].images, [path.name for path in out.iterdir()])))  # fmt: skip
    monkeypatch.setattr(module, "seconds_a_step", lambda run: run(30) or 0.1)
    before = dict(bed.RECIPES)
    row = module.measure("magvit-s9", tmp_path)
    assert seen == [("magvit-s9", 16 * n, ["classifier"]) for n in (2, 30)]
    assert bed.RECIPES == before and (row["training"], row["steps"]) == ("magvit", 1600)
    told = script("motion_report", monkeypatch).minutes(
        [{"training": name, "minutes": m, "threads": 2, "machine": "AVX2"}
         for name, m in (("magvit", 4.6), ("evaluator", 0.6))])  # fmt: skip
    assert "magvit 4.6, evaluator 0.6" in told and told.endswith("Over that: magvit.")


def test_batches_go_on_where_they_stopped():
    whole = bed.stream(seed=3, count=2)(0)
    next(whole)
    again = bed.stream(seed=3, count=2)(1)
    assert all(a.equal(b) for a, b in zip(next(whole), next(again)))
    assert isinstance(MovingGarments("test").batch(1, 0), Videos)


def test_written_out_attention_equals_the_fused_one(monkeypatch):
    attention, x = SelfAttention(16, 2), torch.randn(2, 5, 16)
    out = script("motion", monkeypatch).written_out(attention, x)
    torch.testing.assert_close(out, attention(x))
