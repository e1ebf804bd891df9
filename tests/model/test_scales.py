"""The schedule: slices, levels and mask against loops."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import schedules

from varmini import ScaleSchedule


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
