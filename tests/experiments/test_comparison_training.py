"""The loop that trains what is compared: kill and resume bit for bit, one order of batches."""

import csv
import itertools
import os
import signal
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from varmini.experiments.comparison.training import Training, finished, log_steps, shuffled, train
from varmini.zoo.generators.maskgit import MaskGIT, MaskGITConfig

SHAPE = dict(depth=2, width=32, heads=2, side=3, num_classes=3)
NUMBERS = torch.Generator().manual_seed(4)
DATA = (torch.randint(12, (20, 3, 3), generator=NUMBERS), torch.arange(20) % 3)
TRAINING = Training(images=44, batch_size=4, points=3, checkpoint_every=4, ema=0.9, lr=1e-2)


def run(out, training=TRAINING, interrupt=None, data="toy"):
    """MaskGIT draws random numbers at every step: dropped labels and masks."""

    def stream(start):
        batches = shuffled(DATA, training.batch_size, training.seed, start)
        for step, batch in zip(itertools.count(start), batches):
            if step == interrupt:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    return train(
        lambda: MaskGIT(MaskGITConfig(**SHAPE, vocab_size=12)),
        lambda model, x, y: model.training_loss(x, y),
        stream,
        training,
        out,
        data=data,
        held_out=lambda model: {"val_loss": model.training_loss(*DATA).item()},
    )


def log(folder):
    with open(folder / "log.csv", newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def test_a_stopped_run_goes_on_bit_equal_and_a_finished_one_is_left(tmp_path, capsys):
    whole, parted = run(tmp_path / "whole"), tmp_path / "parted"
    with pytest.raises(SystemExit) as stopped:
        run(parted, interrupt=6)
    assert stopped.value.code == 128 + signal.SIGTERM and not finished(parted, TRAINING)
    assert "the same command goes on" in capsys.readouterr().err
    run(parted)
    weights = [load_file(folder / "model.safetensors") for folder in (whole, parted)]
    assert all(t.equal(weights[1][k]) for k, t in weights[0].items())
    assert log(whole) == log(parted)
    assert [int(row["step"]) for row in log(whole)] == log_steps(11, 3) == [3, 6, 11]
    assert finished(parted, TRAINING)
    before = (parted / "model.safetensors").stat().st_mtime_ns
    run(parted, interrupt=0)  # would stop if it took a step
    assert (parted / "model.safetensors").stat().st_mtime_ns == before


def test_a_run_does_not_go_on_as_another(tmp_path):
    run(tmp_path / "run")
    for other, message in (
        (dict(training=replace(TRAINING, lr=1e-3)), "started with lr=0.01, not 0.001"),
        (dict(data="other"), "started with data=toy, not other"),
    ):
        with pytest.raises(ValueError, match=message):
            run(tmp_path / "run", **other)


def test_measuring_does_not_change_the_training(tmp_path):
    often = run(tmp_path / "often", replace(TRAINING, points=4))
    once = run(tmp_path / "once", replace(TRAINING, points=1))
    weights = [load_file(folder / "model.safetensors") for folder in (often, once)]
    assert len(log(often)) == 4 and len(log(once)) == 1
    assert all(t.equal(weights[1][k]) for k, t in weights[0].items())


def test_every_epoch_shows_every_image_once_and_starts_anywhere():
    numbers = torch.arange(10)
    stream = shuffled((numbers, 2 * numbers), 3, seed=1)
    seen = [next(stream) for _ in range(6)]
    assert all((2 * a).equal(b) for a, b in seen)
    epochs = [torch.cat([a for a, _ in seen[i : i + 3]]) for i in (0, 3)]
    assert all(len(set(e.tolist())) == 9 for e in epochs) and not epochs[0].equal(epochs[1])
    again = shuffled((numbers, 2 * numbers), 3, seed=1, start_step=4)
    assert next(again)[0].equal(seen[4][0])


def test_log_points_halve():
    assert log_steps(100, 4) == [12, 25, 50, 100]
    assert log_steps(3, 10) == [1, 2, 3]


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Training(images=0), "images is 0, expected at least 1"),
        (lambda: Training(images=8, batch_size=16), "at least a batch of 16"),
        (lambda: Training(lr=2.0), "lr is 2.0"),
        (lambda: next(shuffled((torch.zeros(3),), 4, 0)), "expected 1 to 3, the images"),
    ],
)
def test_bad_settings_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
