"""Every quick form is tried once on this machine before it is used: it runs and agrees, or not."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

Trial = Callable[[torch.dtype], tuple[Tensor, Tensor]]

TRIALS: dict[str, Trial] = {}
"""By name of a form: a small call of the quick and of the plain form, in some type of numbers."""


def trial(name: str) -> Callable[[Trial], Trial]:
    """Registers the trial of the form `name`."""

    def register(run: Trial) -> Trial:
        TRIALS[name] = run
        return run

    return register


@functools.cache
def works(name: str, dtype: torch.dtype) -> bool:
    """Whether the form `name` runs here in `dtype` and agrees with its plain form.

    What a processor can do is not told by its name or by torch's version: oneDNN refuses bfloat16
    where the processor lacks an instruction, and other builds of torch lack the operators.
    """
    if dtype not in (torch.float32, torch.bfloat16):
        return False
    state = torch.random.get_rng_state()
    try:
        with (
            torch.inference_mode(False),
            torch.no_grad(),
            torch.autocast("cpu", enabled=False),
            torch.device("cpu"),
        ):
            quick, plain = TRIALS[name](dtype)
    except (RuntimeError, AttributeError, NotImplementedError, TypeError):
        return False
    finally:
        torch.random.set_rng_state(state)
    bound = 0.05 if dtype is torch.bfloat16 else 1e-4
    return bool(torch.allclose(quick.float(), plain.float(), rtol=bound, atol=bound))


def observed(x: Tensor) -> bool:
    """Whether somebody compiles, traces or transforms (vmap, grad) this call: then plain forms run.

    What is written out by hand is opaque to them.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return True
    return torch._C._functorch.is_functorch_wrapped_tensor(x)
