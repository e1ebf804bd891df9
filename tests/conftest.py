"""Shared settings: one thread, no network, repeatable property tests, and tiny models."""

import os
import runpy
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from tiny import make_tokenizer, make_var

from varmini import ScaleSchedule

OFFLINE = Path(__file__).parent / "offline"
runpy.run_path(str(OFFLINE / "sitecustomize.py"))
paths = filter(None, [str(OFFLINE), os.environ.get("PYTHONPATH")])
os.environ["PYTHONPATH"] = os.pathsep.join(paths)

torch.set_num_threads(1)
settings.register_profile("varmini", deadline=None, derandomize=True, database=None)
settings.load_profile("varmini")


@pytest.fixture
def tok():
    """Grey 16x16 images, scales (1, 2, 4), 12 codes of 4 channels, random weights, eval mode."""
    return make_tokenizer()


@pytest.fixture
def var():
    """A transformer for `tok`: depth 2, width 32, 3 classes, random weights, eval mode."""
    return make_var(ScaleSchedule((1, 2, 4)))


@pytest.fixture
def two_threads(monkeypatch):
    """Two threads whose waiting is passive, as training in halves needs them."""
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    before = torch.get_num_threads()
    yield torch.set_num_threads(2)
    torch.set_num_threads(before)
