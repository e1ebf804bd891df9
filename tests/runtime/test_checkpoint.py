"""Checkpoints: exact round trips with their random state, damage, crashes while writing."""

import json
import os
import random

import numpy as np
import pytest
import torch
from torch import nn

from varmini.training import checkpoint
from varmini.training.checkpoint import flatten_state, restore, save, unflatten_state
from varmini.training.optim import averaged, decay_groups


def test_any_nesting_comes_back_exactly():
    state = {
        "a": torch.arange(6).view(2, 3).T,
        3: [1, 2.5, None, True, "text"],
        "nested": {"": {}, 0: torch.tensor(1.5)},
        "tuple": (0.9, 0.95),
        "empty": [],
        "tiny": 1e-300,
        "half": torch.tensor([1.0], dtype=torch.bfloat16),
        "third": 1 / 3,
    }
    tensors = {}
    tree = json.loads(json.dumps(flatten_state(state, tensors)))
    back = unflatten_state(tree, tensors)
    assert list(back) == list(state) and back["a"].equal(state["a"])
    assert back[3] == state[3] and back["tuple"] == [0.9, 0.95] and back["third"] == 1 / 3
    assert back["nested"][0].equal(torch.tensor(1.5)) and back["nested"][""] == {}
    assert back["half"].dtype == torch.bfloat16 and back["empty"] == [] and back["tiny"] == 1e-300
    with pytest.raises(TypeError, match="/set.*set"):
        flatten_state({"set": {1}}, {})


def trained(seed=0, steps=3):
    """A model and its AdamW after some steps."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)).to(
        memory_format=torch.channels_last
    )
    optimizer = torch.optim.AdamW(decay_groups(model, 0.1), lr=0.1, betas=(0.8, 0.9))
    parts = {"model": model, "ema": averaged(model, 0.9), "optimizer": optimizer}
    advance(parts, steps)
    return parts


def advance(parts, steps):
    for _ in range(steps):
        parts["model"](torch.randn(2, 2, 4, 4)).square().sum().backward()
        parts["optimizer"].step()
        parts["optimizer"].zero_grad()
        parts["ema"].update_parameters(parts["model"])


def same(a, b):
    tensors = [{}, {}]
    trees = [
        flatten_state({k: v.state_dict() for k, v in parts.items()}, kept)
        for parts, kept in zip((a, b), tensors)
    ]
    return trees[0] == trees[1] and all(t.equal(tensors[1][k]) for k, t in tensors[0].items())


def test_a_checkpoint_brings_back_everything_and_training_goes_on_bit_equal(tmp_path):
    parts = trained()
    random.seed(1)
    np.random.seed(2)
    np.random.standard_normal()  # leaves a spare number in the state
    save(tmp_path, 3, parts)
    wanted = torch.rand(4), random.random(), random.gauss(0, 1), np.random.standard_normal(3)
    other = trained(seed=1, steps=1)
    assert not same(parts, other)
    assert restore(tmp_path, other) == 3
    assert same(parts, other)
    assert torch.rand(4).equal(wanted[0])
    assert (random.random(), random.gauss(0, 1)) == wanted[1:3]
    assert (np.random.standard_normal(3) == wanted[3]).all()
    for run in (parts, other):
        torch.manual_seed(5)
        advance(run, 4)
    assert same(parts, other)


def test_two_checkpoints_stay_and_the_newest_counts(tmp_path):
    parts = trained()
    for step in (5, 10, 15, 15, 20):
        save(tmp_path, step, parts)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "index.json",
        "step-00000015.safetensors",
        "step-00000020.safetensors",
    ]
    assert restore(tmp_path, parts) == 20
    assert restore(tmp_path / "nothing", parts) == 0


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "a flipped bit": flip_a_bit,
    "missing": lambda p: p.unlink(),
    "half of it": lambda p: p.write_bytes(p.read_bytes()[: p.stat().st_size // 2]),
    "empty": lambda p: p.write_bytes(b""),
}
damages = pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())


@damages
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(tmp_path, capsys, damage):
    first = trained()
    save(tmp_path, 5, first)
    second = trained(seed=1)
    save(tmp_path, 10, second)
    damage(tmp_path / "step-00000010.safetensors")
    loaded = trained(seed=2)
    assert restore(tmp_path, loaded) == 5
    assert same(first, loaded)
    warning = capsys.readouterr().err
    assert "step-00000010" in warning and warning.count("\n") == 1


def test_going_on_after_a_fall_back_keeps_the_intact_checkpoint_not_the_damaged_one(tmp_path):
    intact, parts = trained(), trained(seed=1)
    save(tmp_path, 5, intact)
    save(tmp_path, 10, parts)
    flip_a_bit(tmp_path / "step-00000010.safetensors")
    assert restore(tmp_path, parts) == 5
    save(tmp_path, 7, parts)  # a signal came two steps later
    flip_a_bit(tmp_path / "step-00000007.safetensors")
    assert restore(tmp_path, parts) == 5 and same(parts, intact)


@damages
def test_when_all_are_damaged_nothing_is_loaded(tmp_path, damage):
    for step in (5, 10):
        save(tmp_path, step, trained())
        damage(tmp_path / f"step-{step:08d}.safetensors")
    loaded = trained(seed=2)
    with pytest.raises(ValueError, match="every checkpoint.*damaged") as error:
        restore(tmp_path, loaded)
    assert "\n" not in str(error.value) and same(loaded, trained(seed=2))


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"checkpoints": 3}', '{"checkpoints": ["x"]}']
)
def test_a_damaged_index_is_one_clear_line(tmp_path, content):
    save(tmp_path, 5, trained())
    (tmp_path / "index.json").write_text(content)
    with pytest.raises(ValueError, match="index.json|damaged") as error:
        restore(tmp_path, trained())
    assert "\n" not in str(error.value)


def test_a_crash_while_writing_keeps_the_checkpoint_before(tmp_path, monkeypatch):
    parts = trained()
    save(tmp_path, 5, parts)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        save(tmp_path, 10, trained(seed=1))
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_crash_between_checkpoint_and_index_keeps_the_checkpoint_before(tmp_path, monkeypatch):
    parts = trained()
    save(tmp_path, 5, parts)
    write = checkpoint.write_atomic

    def dies(path, content):
        if path.name == "index.json":
            raise KeyboardInterrupt
        write(path, content)

    monkeypatch.setattr(checkpoint, "write_atomic", dies)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, 10, trained(seed=1))
    loaded = trained(seed=2)
    assert restore(tmp_path, loaded) == 5 and same(parts, loaded)


def other_width():
    return {"model": nn.Linear(3, 3), "ema": nn.Linear(3, 3), "optimizer": nn.Linear(3, 3)}


@pytest.mark.parametrize(
    "parts",
    [lambda: trained() | {"more": nn.Linear(1, 1)}, other_width],
    ids=["another part", "another model"],
)
def test_a_checkpoint_of_another_run_is_refused(tmp_path, parts):
    save(tmp_path, 5, trained())
    with pytest.raises(ValueError) as error:
        restore(tmp_path, parts())
    assert "\n" not in str(error.value)
