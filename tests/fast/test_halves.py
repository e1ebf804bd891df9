"""Two halves of a batch on two threads: the same values, gradients and pictures as at once."""

import copy

import numpy as np
import pytest
import torch
from tiny import make_tokenizer, make_var, random_images
from torch import nn

from varmini import ScaleSchedule, quicken, sample
from varmini.fast import filters as quick
from varmini.fast.halves import both, divisible, halved, whole_batches
from varmini.model import filters
from varmini.runtime import machine
from varmini.training.muon import Muon

SIZES = (1, 2, 4)

pytestmark = pytest.mark.usefixtures("two_threads")


def close(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rows", [2, 5])
def test_a_transformer_in_halves_has_the_logits_and_gradients_of_one_call(rows):
    var = make_var(ScaleSchedule(SIZES))
    length = var.schedule.num_tokens - var.schedule.tokens_per_scale[0]
    inputs = torch.randn(rows, length, var.config.code_channels, requires_grad=True)
    labels, draws = torch.arange(rows) % 3, torch.rand(rows, 1 + 2 * var.config.depth)
    found = []
    for halves in (False, True):
        model = quicken(copy.deepcopy(var), in_halves=halves).train()
        logits = model(labels, inputs, draws)
        wanted = [inputs, *model.parameters()]
        found.append([logits, *torch.autograd.grad(logits.square().mean(), wanted)])
    assert type(found[1][0].grad_fn).__name__ == "_InHalvesBackward"
    close(found[1], found[0])


def test_a_tokenizer_in_halves_has_the_loss_and_gradients_of_one_call():
    tok, images, found = make_tokenizer(), random_images(3), []
    for halves in (False, True):
        model = quicken(copy.deepcopy(tok), in_halves=halves).train()
        result = model(images)
        (result.loss + (result.images - images).square().mean()).backward()
        found.append([result.images, *(p.grad for p in model.parameters() if p.grad is not None)])
    close(found[1], found[0])


def test_labels_are_dropped_alike_with_the_same_seed():
    model = quicken(make_var(ScaleSchedule(SIZES)), in_halves=True).train()
    length = model.schedule.num_tokens - model.schedule.tokens_per_scale[0]
    inputs = torch.zeros(8, length, model.config.code_channels)
    torch.manual_seed(1)
    first = model([0] * 8, inputs)
    torch.manual_seed(1)
    assert torch.equal(model([0] * 8, inputs), first)


@pytest.mark.parametrize("count", [2, 5])
def test_pictures_drawn_in_halves_are_those_drawn_at_once(count, monkeypatch):
    tok, var = make_tokenizer().eval(), make_var(ScaleSchedule(SIZES)).eval()
    ours, tokens = sample(var, tok, [1] * count, seed=3, top_k=5, return_tokens=True)
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    theirs, others = sample(var, tok, [1] * count, seed=3, top_k=5, return_tokens=True)
    close([ours], [theirs])
    assert all(map(torch.equal, tokens, others))


def test_without_a_seed_the_global_seed_decides():
    tok, var = make_tokenizer().eval(), make_var(ScaleSchedule(SIZES)).eval()
    pictures = []
    for _ in range(2):
        torch.manual_seed(5)
        pictures.append(sample(var, tok, [0, 1, 2]))
    assert torch.equal(*pictures)


def test_each_thread_has_its_share_and_the_caller_keeps_all():
    torch.set_num_threads(4)
    assert both(lambda i: torch.get_num_threads()) == [2, 2]
    assert torch.get_num_threads() == 4


def test_halves_know_the_callers_autocast_and_inference_mode():
    def state(i):
        return torch.is_autocast_enabled("cpu"), torch.is_inference_mode_enabled()

    with torch.autocast("cpu", torch.bfloat16):
        assert both(state) == [(True, False)] * 2
    with torch.inference_mode():
        assert both(state) == [(False, True)] * 2


def test_where_a_second_thread_would_not_help_there_is_one_call(monkeypatch):
    batch = torch.zeros(4, 2)
    assert divisible(batch) and not divisible(batch[:1])
    torch.set_num_threads(1)
    assert not divisible(batch)
    torch.set_num_threads(2)
    with whole_batches():
        assert not divisible(batch)
    monkeypatch.setattr(machine, "world", lambda: 2)  # the other would wait for the same calls
    assert not divisible(batch)
    monkeypatch.undo()
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)  # torch's own: threads that wait spin
    assert not divisible(batch)


def test_matrices_stepped_by_two_threads_go_where_one_brings_them(monkeypatch):
    """Also when there is one matrix alone, and one without a gradient."""
    shapes, shared = ((1, 24), (8, 24), (24, 8), (8, 8), (6, 4, 3, 3)), []
    monkeypatch.setattr("varmini.fast.halves.both", lambda work: shared.append(both(work)))
    for count in (len(shapes), 1):
        found = []
        for policy in ("PASSIVE", "ACTIVE"):
            monkeypatch.setenv("OMP_WAIT_POLICY", policy)
            torch.manual_seed(0)
            params = [nn.Parameter(torch.randn(shape)) for shape in shapes]
            muon = Muon(params, lr=0.03, weight_decay=0.05)
            for _ in range(3):
                for p in params[:count]:
                    p.grad = torch.randn_like(p)
                muon.step()
            found.append([*params, *(muon.state[p]["momentum_buffer"] for p in params[:count])])
        close(*found)
    assert len(shared) == 3  # of five matrices, not of one


def test_an_error_in_a_half_is_told_as_usual():
    def fails(x):
        raise ValueError("no such row")

    with pytest.raises(ValueError, match="no such row"):
        halved(fails, [], torch.zeros(2, 1, requires_grad=True))


def test_gradients_can_be_asked_for_once():
    layer = nn.Linear(3, 2)
    loss = halved(layer, list(layer.parameters()), torch.randn(4, 3)).sum()
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="once"):
        loss.backward()


@pytest.mark.parametrize("shape", [(1, 5, 9), (3, 4, 7), (11,)])
def test_filters_by_halves_keep_what_plain_ones_keep(monkeypatch, shape):
    logits = torch.randn(shape).mul(3).round()  # with ties
    monkeypatch.setattr(quick, "LARGE_MAP", 0)
    for top_k, top_p in ((2, 0.0), (np.uint8(3), 0.9), (0, 0.7), (6, 0.9)):
        found = quick.filter_logits(logits, top_k, top_p)
        assert found.equal(filters.filter_logits(logits, top_k, top_p))


def test_a_half_is_not_halved_again():
    torch.set_num_threads(4)
    x = torch.zeros(4, 3)
    assert divisible(x) and both(lambda i: divisible(x)) == [False, False]
    assert both(lambda i: torch.get_num_threads()) == [2, 2]
