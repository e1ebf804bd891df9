"""No window, no figure left open, and a tiny pair of models."""

import matplotlib.pyplot as plt
import pytest
from tiny import make_tokenizer, make_var, random_images

plt.switch_backend("agg")


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="session")
def pair():
    tok = make_tokenizer()
    return make_var(tok.schedule), tok


@pytest.fixture(scope="session")
def images():
    return random_images(3)
