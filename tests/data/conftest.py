"""The tests of data use nothing from outside."""

import pytest


@pytest.fixture(autouse=True, scope="module")
def nothing_from_outside(tmp_path_factory):
    """No $VARMINI_DATA, no network, no shared cache."""
    import datasets
    import huggingface_hub.constants as constants

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("VARMINI_DATA", raising=False)
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        patch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        # It sleeps after every shuffled pass, which costs nothing but time.
        patch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0, raising=False)
        yield
