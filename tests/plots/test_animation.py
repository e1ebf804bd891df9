"""Moving pictures: all frames are there, the still picture is the last, and words go with them."""

import base64
from io import BytesIO

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from varmini import ScaleSchedule
from varmini.plots import animation


def played(moving: animation.Animation) -> list[np.ndarray]:
    """The frames as a browser plays them; PIL counts the still picture as the first."""
    image = Image.open(BytesIO(moving.png))
    shown = []
    for i in range(image.n_frames):
        image.seek(i)
        shown.append(np.asarray(image.convert("RGB")))
    still, *frames = shown
    assert np.array_equal(still, frames[-1]) and len(frames) == moving.frames
    return frames


def test_algorithm_1_has_four_frames_a_scale_and_ends_with_the_decoded_picture(pair, images):
    _, tok = pair
    moving = animation.algorithm_1(tok, images[:1])
    frames = played(moving)
    assert len(frames) == 4 * len(tok.schedule)
    assert not any(np.array_equal(a, b) for a, b in zip(frames, frames[1:]))
    assert not plt.get_fignums()


def test_a_grid_grows_by_a_frame_a_scale(pair, images):
    _, tok = pair
    tokens = tok.encode(images)
    moving = animation.growing_grid(tok, tokens, columns=3, names=("ant", "bee", "cat"))
    assert len(played(moving)) == len(tokens) and moving.alt.startswith("3 pictures")


def test_the_cache_fills_by_a_scale_a_step_and_the_words_count_the_tokens():
    schedule = ScaleSchedule((1, 2, 3))
    moving = animation.cache_filling(schedule)
    assert len(played(moving)) == 3
    assert "14 tokens pass" in moving.alt and "without a cache it would be 20" in moving.alt


def test_a_notebook_gets_the_picture_with_its_alternative_text(tmp_path):
    moving = animation.cache_filling(ScaleSchedule((1, 2)))
    data, metadata = moving._repr_mimebundle_()
    assert base64.b64decode(data["image/png"]) == moving.png and moving.alt in data["text/plain"]
    assert metadata == {"image/png": {"alt": moving.alt}}
    moving.save(tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes() == moving.png


@pytest.mark.parametrize("sizes", [[(2, 2)], [(2, 2), (3, 2)]])
def test_frames_of_one_size_are_asked_for(sizes):
    with pytest.raises(ValueError, match="expected two or more of one size"):
        animation.Animation((plt.figure(figsize=size) for size in sizes), 1, "")
