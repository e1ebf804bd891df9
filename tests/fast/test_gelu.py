"""GELU by a sigmoid: values, gradients, second gradients, and who asks for it."""

import copy

import pytest
import torch
import torch.nn.functional as F
from tiny import make_var
from torch import nn

from varmini import ScaleSchedule, quicken
from varmini.fast import layers
from varmini.fast.copies import ready
from varmini.runtime import machine


@pytest.fixture
def slow(monkeypatch):
    """A processor whose GELU is slow."""
    monkeypatch.setattr(machine, "slow_at_gelu", lambda: True)


def plain(x):
    return F.gelu(x, approximate="tanh")


def test_it_is_gelu_in_pieces_and_whatever_the_layout():
    x = torch.linspace(-99, 99, 2 * layers.PIECE + 3)  # in three pieces
    for given in (x, x[:60].view(5, 12).T, x[:0], x[30:31]):
        found = []
        for gelu in (plain, layers.GELU.apply):
            asked = given.clone().requires_grad_()
            y = gelu(asked)
            weights = torch.linspace(-1, 1, y.numel()).view(y.shape)
            found.append([y, *torch.autograd.grad((y * weights).sum(), asked)])
        torch.testing.assert_close(found[1], found[0])
    torch.testing.assert_close(layers.gelu_(x.clone()), plain(x))


def test_second_gradients_are_those_of_gelu():
    found = []
    for gelu in (plain, layers.GELU.apply):
        x = torch.linspace(-4, 4, 33, requires_grad=True)
        (first,) = torch.autograd.grad(gelu(x).sum(), x, create_graph=True)
        found.append(torch.autograd.grad(first.square().sum(), x)[0])
    torch.testing.assert_close(found[1], found[0])
    assert found[0].abs().max() > 0.1


def test_layers_and_their_copies_ask_for_it(slow):
    linear, x = nn.Linear(32, 48), torch.randn(2, 7, 32)
    quick = quicken(nn.Sequential(copy.deepcopy(linear)))[0].eval()
    y = quick(x, gelu=True)
    assert type(y.grad_fn).__name__ == "GELUBackward"
    torch.testing.assert_close(y, plain(linear(x)))
    with torch.no_grad():
        torch.testing.assert_close(ready(quick)(x, gelu=True), y)


def test_who_compiles_sees_the_plain_form(slow):
    var = make_var(ScaleSchedule((1, 2)))
    labels, teacher = torch.tensor([0, 1]), torch.randn(2, 4, var.config.code_channels)
    quick = torch.compile(quicken(copy.deepcopy(var)), backend="eager", fullgraph=True)
    torch.testing.assert_close(quick(labels, teacher), var(labels, teacher), rtol=1e-4, atol=1e-4)
