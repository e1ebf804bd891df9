"""Numbers that go wrong: skipped, counted, named; and how far fp32 and bf16 are from float64."""

import copy
import dataclasses
import json

import numpy as np
import pytest
import torch
import toy_world
from safetensors.torch import load_file, save_file

from varmini import VAR, MultiScaleVQVAE
from varmini.data import load_images, to_float
from varmini.grade.reference import resize
from varmini.model.filters import filter_logits, guide
from varmini.runtime.machine import precision
from varmini.runtime.tables import read_cells, read_rows, write_rows
from varmini.training import checkpoint, train_tokenizer
from varmini.training.codebook import CodeRevival
from varmini.training.loop import Symptoms

NAN = float("nan")


@pytest.fixture
def world(monkeypatch, tmp_path):
    """Configurations of toy runs by kind, with a row of the log every fourth step."""
    monkeypatch.setenv("VARMINI_PRECISION", "float32")
    precision.cache_clear()
    toy_world.install(monkeypatch.setattr, {})
    toy_world.models(tmp_path)
    yield {
        kind: dataclasses.replace(config, images=48, log_every=4, checkpoint_every=4)
        for kind, config in toy_world.configs(tmp_path).items()
    }
    precision.cache_clear()


def poison(monkeypatch, kind, part, steps):
    """Makes the output of a part of the network NaN in the given training steps."""
    module = toy_world.LOOPS[kind]
    cls = {"tokenizer": "MultiScaleVQVAE", "var": "VAR"}[kind]
    usual, seen = getattr(module, cls), []

    def build(config):
        model = usual(config)

        def hook(module, inputs, output):
            if module.training and torch.is_grad_enabled():
                seen.append(1)
                # A batch of the toy VAR is cut in two.
                step = (len(seen) - 1) // (2 if kind == "var" else 1)
                return output * NAN if step in steps else output

        model.get_submodule(part).register_forward_hook(hook)
        return model

    for name in ("from_pretrained", "kind"):
        setattr(build, name, getattr(usual, name))
    monkeypatch.setattr(module, cls, build)


PARTS = {"tokenizer": "decoder.conv_in", "var": "blocks.1.attention"}
kinds = pytest.mark.parametrize("kind", PARTS)


@kinds
def test_a_step_that_is_not_finite_is_skipped_counted_and_logged(
    kind, world, monkeypatch, tmp_path, capsys
):
    poison(monkeypatch, kind, PARTS[kind], {5, 6, 9})
    out = toy_world.LOOPS[kind].train(world[kind], tmp_path / "run")
    assert [row["skipped"] for row in read_cells(out / "log.csv")] == ["0", "2", "1"]
    assert "step 8: steps skipped: 2 with a loss" in capsys.readouterr().err
    states = [load_file(p) for p in [*(out / "state").glob("*.safetensors"),
                                     out / "model.safetensors"]]  # fmt: skip
    assert len(states) == 3
    assert all(t.isfinite().all() for s in states for t in s.values() if t.is_floating_point())


@kinds
def test_many_in_a_row_end_the_run_and_leave_the_last_good_state(
    kind, world, monkeypatch, tmp_path
):
    poison(monkeypatch, kind, PARTS[kind], range(6, 100))
    config = dataclasses.replace(world[kind], images=400)
    with pytest.raises(ValueError) as error:
        toy_world.LOOPS[kind].train(config, tmp_path / "run")
    text = str(error.value)
    assert "was not finite 20 steps in a row" in text and "lower --lr" in text
    state = load_file(checkpoint.newest(tmp_path / "run" / "state"))
    assert all(t.isfinite().all() for t in state.values() if t.is_floating_point())


@kinds
def test_a_learning_rate_a_thousand_times_too_high_is_noticed(kind, world, tmp_path, capsys):
    config = dataclasses.replace(world[kind], lr=world[kind].lr * 1000, warmup=0.0, decay=0.0)
    try:
        toy_world.LOOPS[kind].train(config, tmp_path / "run")
        told = capsys.readouterr().err
    except ValueError as error:
        told = str(error)
    assert f"is --lr {config.lr:g} too high?" in told or "lower --lr" in told
    toy_world.LOOPS[kind].train(world[kind], tmp_path / "usual")
    assert "warning" not in capsys.readouterr().err


def test_exploding_logits_are_noticed_once(capsys):
    symptoms = Symptoms(0.5)
    for step in (100, 200):
        symptoms.of_transformer(step, 1.0, torch.tensor([[[3.0, -250.5]]]), 24)
        symptoms.of_transformer(step, 1.0, torch.tensor([[[NAN, 1.0]]]), 24)
    told = capsys.readouterr().err
    assert told == "warning: step 100: exploding logits: they reach 251; is --lr 0.5 too high?\n"


def test_a_collapsed_codebook_is_noticed(world, monkeypatch, tmp_path, capsys):
    class Collapsed(CodeRevival):
        """All codes but one lie far away, and stay there."""

        def start(self, f):
            self.quantizer.codebook.weight.data[1:] = 1e4

        def revive(self, f):
            return 0

    monkeypatch.setattr(train_tokenizer, "CodeRevival", Collapsed)
    config = dataclasses.replace(world["tokenizer"], adversarial=0.0, diversity=0.0)
    config = dataclasses.replace(config, log_every=12)
    train_tokenizer.train(config, tmp_path / "run")
    assert "codebook collapse: 1 of 24 codes are in use" in capsys.readouterr().err


def test_a_batch_that_is_not_finite_moves_no_codes(tok):
    revival = CodeRevival(tok.quantizer)
    before = tok.quantizer.codebook.weight.clone()
    revival.share.zero_()
    bad = torch.full((2, 4, 4, 4), NAN)
    revival.start(bad)
    assert revival.revive(bad) == 0 and tok.quantizer.codebook.weight.equal(before)
    assert revival.revive(torch.randn(2, 4, 4, 4)) == 12


def test_what_is_not_finite_is_neither_saved_nor_loaded(tok, tmp_path):
    folder = tok.save_pretrained(tmp_path / "model")
    checkpoint.save(tmp_path / "state", 1, {"model": tok})
    good = (folder / "model.safetensors").read_bytes()
    tok.quantizer.codebook.weight.data[3, 1] = float("inf")
    with pytest.raises(ValueError, match="codebook.weight holds NaN or infinity"):
        tok.save_pretrained(folder)
    with pytest.raises(ValueError, match="step 2 was not saved.*codebook.weight holds NaN"):
        checkpoint.save(tmp_path / "state", 2, {"model": tok})
    assert (folder / "model.safetensors").read_bytes() == good
    assert checkpoint.newest(tmp_path / "state").name == "step-00000001.safetensors"
    save_file(tok.state_dict(), folder / "model.safetensors")
    with pytest.raises(ValueError, match="codebook.weight holds NaN or infinity"):
        MultiScaleVQVAE.from_pretrained(folder)


@pytest.mark.parametrize("file, key", [("model/config.json", "format"), ("state/index.json", "")])
def test_what_a_newer_varmini_wrote_says_so(tok, tmp_path, file, key):
    tok.save_pretrained(tmp_path / "model")
    checkpoint.save(tmp_path / "state", 1, {"model": tok})
    told = json.loads((tmp_path / file).read_text())
    assert told["format"] == 1
    (tmp_path / file).write_text(json.dumps(told | {"format": 2, "something": "new"}))
    with pytest.raises(ValueError, match="has format 2, this varmini reads 1: a newer one wrote"):
        MultiScaleVQVAE.from_pretrained(tmp_path / "model")
        checkpoint.restore(tmp_path / "state", {"model": tok})


# ------------------------------------------------------------------ how far from float64 (CIFAR-10)


@pytest.fixture(scope="module")
def shipped():
    """The shipped CIFAR-10 pair, and its tokens, labels and features of eight test images."""
    tok, var = MultiScaleVQVAE.from_pretrained("cifar10"), VAR.from_pretrained("cifar10")
    data = load_images("cifar10-subset", "test", limit=8)
    with torch.no_grad():
        f = tok.features(to_float(data.images))
        tokens = tok.quantizer.encode(f)
    return tok, var, f, tokens, data.labels


def by_hand(q, f, tokens):
    """Algorithm 1 in NumPy's float64: tokens of f (B, C, H, W), and f_hat after each map given."""
    codebook, f_hat, found, f_hats = q.codebook.weight.double().numpy(), np.zeros(f.shape), [], []
    for k, size in enumerate(q.schedule.grids):
        z = resize(f.double().numpy() - f_hat, size, "area").transpose(0, 2, 3, 1)
        found.append((2 * z @ codebook.T - (codebook**2).sum(1)).argmax(-1))
        codes = codebook[tokens[k].numpy()].transpose(0, 3, 1, 2)
        h = resize(codes, q.schedule.grids[-1], "bicubic")
        phi = q.phis[q.phi_index(k)]
        padded = np.pad(h, ((0, 0), (0, 0), (1, 1), (1, 1)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))
        conv = np.einsum("ocij,bchwij->bohw", phi.weight.double().numpy(), windows)
        f_hat = f_hat + (h + conv + phi.bias.double().numpy()[:, None, None]) / 2
        f_hats.append(f_hat)
    return found, f_hats


@torch.no_grad()
def test_the_quantizer_is_within_1e_5_of_float64_also_under_bfloat16(shipped):
    tok, _, f, tokens, _ = shipped
    q = tok.quantizer
    found, f_hats = by_hand(q, f, tokens)
    assert min(np.mean(a == b.numpy()) for a, b in zip(found, tokens)) > 0.99
    for bf16 in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            assert all(a.equal(b) for a, b in zip(q.encode(f), tokens))
            for wanted, ours in zip(f_hats, q.cumulative(tokens)):
                assert np.abs(wanted - ours.double().numpy()).max() < 1e-5


@torch.no_grad()
def test_transformer_and_sampler_are_near_float64(shipped):
    """Largest error of a logit, and total variation between what tokens are drawn from."""
    tok, var, _, tokens, labels = shipped
    inputs, null = tok.quantizer.teacher_inputs(tokens), torch.full_like(labels, 10)
    exact = copy.deepcopy(var).double()

    def chances(conditional, unconditional):
        logits = [guide(conditional[:, part], unconditional[:, part], k, len(tok.schedule), 1.5)
                  for k, part in enumerate(tok.schedule.slices)]  # fmt: skip
        return filter_logits(torch.cat(logits, 1), 900, 0.96).softmax(-1).double()

    wanted = [exact(label, inputs.double()) for label in (labels, null)]
    for bf16, largest, mean_tv in ((False, 1e-4, 1e-5), (True, 0.3, 0.04)):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            found = [var(label, inputs).float() for label in (labels, null)]
        assert max((a - b).abs().max() for a, b in zip(found, wanted)) < largest
        apart = (chances(*found) - chances(*wanted)).abs().sum(-1) / 2
        assert apart.mean() < mean_tv


def test_a_system_named_infinity_is_no_number(tmp_path):
    rows = [{"method": "infinity", "low": float("-inf"), "high": float("inf"), "mean": 0.5}]
    path = write_rows(tmp_path / "a.csv", rows)
    assert read_rows(path) == rows
