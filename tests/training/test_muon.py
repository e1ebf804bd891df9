"""Muon: torch's own step, singular values near one, kernels as matrices, and who gets it."""

import pytest
import torch

from varmini import VAR, MultiScaleVQVAE, TokenizerConfig, VARConfig
from varmini.training.muon import Muon, orthogonalised
from varmini.training.optim import make_optimizers
from varmini.training.train_tokenizer import muon_kernels

SHAPES = ((24, 8), (8, 24), (24, 8), (8, 8))


def test_every_singular_value_becomes_about_one():
    torch.manual_seed(0)
    for matrices in (torch.randn(3, 12, 30), torch.randn(2, 30, 12)):
        values = torch.linalg.svdvals(orthogonalised(matrices).float())
        assert values.min() > 0.5 and values.max() < 1.3


@pytest.mark.parametrize("kernels", [False, True])
def test_steps_are_those_of_torch(kernels):
    """Torch's rounds to bf16 all along, so the two agree to about a hundredth of a step."""
    torch.manual_seed(0)
    starts = [torch.randn(shape) for shape in SHAPES]
    shapes = [(a, b // 4, 2, 2) if kernels else (a, b) for a, b in SHAPES]
    ours = [torch.nn.Parameter(w.clone().view(s)) for w, s in zip(starts, shapes)]
    torchs = [torch.nn.Parameter(w.double().clone()) for w in starts]
    rates = {"lr": 0.03, "weight_decay": 0.05}
    steppers = Muon(ours, **rates), torch.optim.Muon(torchs, **rates)
    for _ in range(3):
        for a, b in zip(ours, torchs):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.view(b.shape).double()
        for stepper in steppers:
            stepper.step()
    for start, a, b in zip(starts, ours, torchs):
        off, way = (a.view(b.shape) - b).norm(), (start - b).norm()
        assert off < 0.05 * way


def test_a_tokenizer_gives_muon_its_kernels_but_not_those_next_to_pixels_or_codes():
    config = TokenizerConfig(sizes=(1, 2), width=32, multipliers=(1,), num_res_blocks=1, patch=4)
    model = MultiScaleVQVAE(config)
    names = {id(p): name for name, p in model.named_parameters()}
    held = [names[id(p)] for p in muon_kernels(model)]
    assert held and all(
        name.split(".")[1] in ("levels", "middle") and name.endswith("weight") for name in held
    )


def test_muon_takes_the_matrices_of_the_blocks_and_no_other_parameter():
    model = VAR(VARConfig(depth=1, width=16, heads=2, sizes=(1, 2)))
    held = {
        name: {id(p) for group in optimizer.param_groups for p in group["params"]}
        for name, optimizer in make_optimizers(model, 1e-3, 0.05, 0.02).items()
    }
    names = ("attention.qkv", "attention.proj", "fc1", "fc2")
    assert held["muon"] == {id(model.blocks[0].get_parameter(f"{n}.weight")) for n in names}
    assert held["optimizer"] == {id(p) for p in model.parameters()} - held["muon"]
    assert list(make_optimizers(model, 1e-3, 0.05)) == ["optimizer"]
