"""The schedule: slices, levels and mask against loops, and what it refuses."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import random_tokens, schedules

from varmini import ScaleSchedule
from varmini.model.checks import as_pyramid


def test_the_paper_schedules_have_the_known_lengths():
    paper = ScaleSchedule((1, 2, 3, 4, 5, 6, 8, 10, 13, 16))
    assert (paper.num_tokens, len(paper), paper.grids[-1]) == (680, 10, (16, 16))
    assert paper.num_tokens * 1_281_167 == pytest.approx(0.87e9, rel=0.01)  # an epoch of ImageNet
    assert ScaleSchedule((1, 2, 3, 4, 6, 9, 13, 18, 24, 32)).num_tokens == 2240
    assert ScaleSchedule((1, 2, 3, 4, 6, 8)).num_tokens == 130


def test_sizes_come_back_as_given():
    schedule = ScaleSchedule([1, (2, 3), [3, 3], (4, 5)])
    assert schedule.sizes == (1, (2, 3), 3, (4, 5))
    assert schedule.grids == ((1, 1), (2, 3), (3, 3), (4, 5))
    assert schedule == ScaleSchedule(schedule.sizes) == eval(repr(schedule))
    assert hash(schedule) == hash(ScaleSchedule(schedule.sizes))
    assert schedule != ScaleSchedule((1, (3, 2), 3, (4, 5)))
    assert schedule != (1, (2, 3), 3, (4, 5))


@settings(max_examples=25)
@given(schedules())
def test_slices_levels_and_mask_agree_with_loops(schedule):
    levels = [k for k, (h, w) in enumerate(schedule.grids) for _ in range(h * w)]
    assert schedule.num_tokens == len(levels) == sum(schedule.tokens_per_scale)
    assert schedule.level_ids().tolist() == levels
    assert len(schedule.slices) == len(schedule)
    covered = [i for part in schedule.slices for i in range(part.start, part.stop)]
    assert covered == list(range(len(levels)))
    for k, part in enumerate(schedule.slices):
        assert set(levels[part]) == {k}
    mask = schedule.mask()
    assert mask.dtype == torch.bool
    assert mask.tolist() == [[key <= query for key in levels] for query in levels]


@settings(max_examples=25)
@given(schedules(), st.integers(1, 3))
def test_flatten_and_unflatten_undo_each_other(schedule, batch):
    sequence = torch.arange(batch * schedule.num_tokens).view(batch, -1)
    pyramid = schedule.unflatten(sequence)
    assert [tuple(t.shape) for t in pyramid] == [(batch, h, w) for h, w in schedule.grids]
    for map_, part in zip(pyramid, schedule.slices):  # row by row inside a scale
        assert map_[0].flatten().tolist() == list(range(part.start, part.stop))
    assert schedule.flatten(pyramid).equal(sequence)


@pytest.mark.parametrize(
    "sizes, words",
    [
        ((), "empty"),
        ((0, 2), "0"),
        ((-1,), "-1"),
        ((1.5, 2), "1.5"),
        ((True, 2), "True"),
        (("2",), "'2'"),
        (((1, 2, 3),), "(1, 2, 3)"),
        (((2, 0),), "(2, 0)"),
        ((1, 4, 2), "2x2 is smaller than 4x4"),
        (((2, 3), (3, 2)), "3x2 is smaller than 2x3"),
        (4, "4"),
    ],
)
def test_bad_sizes_are_named(sizes, words):
    with pytest.raises(ValueError) as error:
        ScaleSchedule(sizes)
    assert words in str(error.value) and "\n" not in str(error.value)


def replaced(tokens, k, map_):
    return [map_ if i == k else t for i, t in enumerate(tokens)]


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda t: t[:2], ["2 maps", "3 maps"]),
        (lambda t: torch.zeros(2, 21, dtype=torch.long), ["tensor", "3 maps"]),
        (lambda t: replaced(t, 1, t[1][:, :1]), ["map 2", "(2, 1, 2)", "(B, 2, 2)"]),
        (lambda t: replaced(t, 1, t[1].flatten(1)), ["map 2", "(2, 4)"]),
        (lambda t: replaced(t, 2, t[2].float()), ["map 3", "float32", "integers"]),
        (lambda t: replaced(t, 2, t[2] + 12), ["map 3", "[0, 12)"]),
        (lambda t: replaced(t, 0, t[0] - 20), ["map 1", "[0, 12)"]),
        (lambda t: replaced(t, 1, t[1][:1]), ["map 2", "1", "2"]),  # one image among maps of two
    ],
)
def test_a_pyramid_that_does_not_fit_is_refused(change, words):
    schedule = ScaleSchedule((1, 2, 4))
    tokens = random_tokens(schedule, 2)
    as_pyramid(tokens, schedule, 12)
    with pytest.raises(ValueError) as error:
        as_pyramid(change(tokens), schedule, 12)
    assert all(word in str(error.value) for word in words), error.value
    assert "\n" not in str(error.value)


def test_unflatten_refuses_another_length():
    with pytest.raises(ValueError, match=r"\(2, 20\).*\(B, 21\)"):
        ScaleSchedule((1, 2, 4)).unflatten(torch.zeros(2, 20, dtype=torch.long))
