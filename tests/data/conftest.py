"""The tests of data use nothing from outside."""

import pytest


@pytest.fixture(autouse=True)
def nothing_from_outside(monkeypatch, tmp_path):
    """No $VARMINI_DATA, no network, no shared cache."""
    import datasets
    import huggingface_hub.constants as constants

    monkeypatch.delenv("VARMINI_DATA", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    # It sleeps after every shuffled pass, which costs nothing but time.
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0, raising=False)
