"""The loop that trains what is compared: stop and resume bit for bit, what it refuses."""

import itertools
import os
import signal
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from varmini.data import batch_order
from varmini.experiments.comparison.training import Training, finished, train
from varmini.runtime.tables import read_cells
from varmini.zoo.generators.maskgit import MaskGIT, MaskGITConfig

SHAPE = dict(depth=2, width=32, heads=2, side=3, num_classes=3)
NUMBERS = torch.Generator().manual_seed(4)
TOKENS, LABELS = torch.randint(12, (20, 3, 3), generator=NUMBERS), torch.arange(20) % 3
TRAINING = Training(images=44, batch_size=4, points=3, checkpoint_every=4, ema=0.9, lr=1e-2)


def run(out, training=TRAINING, interrupt=None, data="toy"):
    """MaskGIT draws random numbers at every step: dropped labels and masks."""

    def stream(start):
        order = batch_order(20, training.batch_size, training.seed, start)
        for step, (rows, *_) in zip(itertools.count(start), order):
            if step == interrupt:
                os.kill(os.getpid(), signal.SIGTERM)
            yield TOKENS[rows], LABELS[rows]

    return train(
        lambda: MaskGIT(MaskGITConfig(**SHAPE, vocab_size=12)),
        lambda model, x, y: model.training_loss(x, y),
        stream,
        training,
        out,
        data=data,
        held_out=lambda model: {"val_loss": model.training_loss(TOKENS, LABELS).item()},
    )


def log(folder):
    return [{k: v for k, v in row.items() if k != "seconds"}
            for row in read_cells(folder / "log.csv")]  # fmt: skip


def equal(one, other):
    weights = [load_file(folder / "model.safetensors") for folder in (one, other)]
    return all(t.equal(weights[1][k]) for k, t in weights[0].items())


def test_a_stopped_run_goes_on_bit_equal_and_a_finished_one_is_left(tmp_path, capsys):
    whole, parted = run(tmp_path / "whole"), tmp_path / "parted"
    with pytest.raises(SystemExit) as stopped:
        run(parted, interrupt=6)
    assert stopped.value.code == 128 + signal.SIGTERM and not finished(parted, TRAINING)
    assert "the same command goes on" in capsys.readouterr().err
    run(parted)
    assert equal(whole, parted) and log(whole) == log(parted)
    assert [int(row["step"]) for row in log(whole)] == TRAINING.log_steps == [3, 6, 11]
    assert finished(parted, TRAINING)
    before = (parted / "model.safetensors").stat().st_mtime_ns
    run(parted, interrupt=0)  # would stop if it took a step
    assert (parted / "model.safetensors").stat().st_mtime_ns == before
    for other, message in (
        (dict(training=replace(TRAINING, lr=1e-3)), "started with lr=0.01, not 0.001"),
        (dict(data="other"), "started with data=toy, not other"),
    ):
        with pytest.raises(ValueError, match=message):
            run(parted, **other)


def test_measuring_does_not_change_the_training(tmp_path):
    often = run(tmp_path / "often", replace(TRAINING, points=4))
    once = run(tmp_path / "once", replace(TRAINING, points=1))
    assert len(log(often)) == 4 and len(log(once)) == 1 and equal(often, once)


def test_log_points_halve_and_bad_settings_are_named():
    assert Training(images=100, batch_size=1, points=4).log_steps == [12, 25, 50, 100]
    assert Training(images=3, batch_size=1, points=10).log_steps == [1, 2, 3]
    for options, message in (
        (dict(images=0), "images is 0, expected at least a batch"),
        (dict(images=8, batch_size=16), "expected at least a batch, and batch_size 16"),
        (dict(lr=2.0), "lr is 2.0"),
    ):
        with pytest.raises(ValueError, match=message):
            Training(**options)
