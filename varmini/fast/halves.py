"""Two halves of a batch at once, by two threads of a CPU.

Inside a product, a norm or an activation threads wait for the slowest of them, hundreds of times a
step. The halves of a batch meet twice: before the loss, and where their gradients are added up.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..runtime.machine import cores_for_halves
from .trial import observed

T = TypeVar("T")


def halved(
    run: Callable[..., Tensor], parameters: Sequence[nn.Parameter], *inputs: Tensor
) -> Tensor:
    """run(*inputs), and later its gradients, by two threads with a half of the batch each.

    As one call where there is no CPU with threads for it. The gradients are those of one call up to
    rounding; they can be asked for once, and have no gradients themselves.

    Args:
        run: row i of its result depends on row i of its inputs alone.
        parameters: at least all that `run` reads and that wants a gradient.
        inputs: each with the batch first.
    """
    if observed(inputs[0]) or not divisible(inputs[0]):
        return run(*inputs)
    if not torch.is_grad_enabled():
        parts = list(zip(*(x.chunk(2) for x in inputs)))
        return torch.cat(both(lambda i: torch.no_grad()(run)(*parts[i])))
    return _InHalves.apply(run, len(inputs), *inputs, *parameters)


def divide(model: nn.Module) -> None:
    """Lets parts of `model` train on two halves of each batch at once, in place, as `halved`.

    Its attribute `by_rows` names them, parts or methods of the model: row i of what they give
    depends on row i of their inputs alone, and they draw no random numbers. For loops that ask once
    for the gradients of a loss.
    """
    for name in getattr(model, "by_rows", ()):
        if callable(getattr(type(model), name, None)):
            part, method = model, name
        else:
            part, method = model.get_submodule(name), "forward"
        # A deep copy of the model copies the part in it, too.
        setattr(part, method, functools.partial(_divided, part, method))


def _divided(part: nn.Module, method: str, *inputs: Any) -> Tensor:
    run = functools.partial(getattr(type(part), method), part)
    if not all(isinstance(x, Tensor) for x in inputs):
        return run(*inputs)
    return halved(run, trained(part), *inputs)


def trained(module: nn.Module) -> list[nn.Parameter]:
    """The parameters that learn."""
    return [p for p in module.parameters() if p.requires_grad]


def by_halves(work: Callable[[int, Tensor], T], at: int, batch: Tensor) -> list[T]:
    """[work(at, batch)] of a batch that begins with image `at`, or the same of its two halves."""
    if not divisible(batch):
        return [work(at, batch)]
    half = (len(batch) + 1) // 2
    starts, parts = (at, at + half), batch.split(half)
    return both(lambda i: work(starts[i], parts[i]))


def by_shares(
    work: Callable[[Sequence[Tensor]], object],
    items: Sequence[Tensor],
    cost: Callable[[Tensor], float],
) -> None:
    """work(items), or by two threads, each with items of about half the cost.

    items: tensors whose work does not meet; more than one, on a CPU with threads for it, is shared.
    """
    if len(items) < 2 or not _two_threads(items[0]):
        work(items)
        return
    shares, loads = ([], []), [0.0, 0.0]
    for item in sorted(items, key=cost, reverse=True):
        lighter = loads.index(min(loads))
        shares[lighter].append(item)
        loads[lighter] += cost(item)
    both(lambda i: work(shares[i]))


_whole: list[bool] = []
_thread = threading.local()


@contextlib.contextmanager
def whole_batches() -> Iterator[None]:
    """No halves inside: profilers and counters see the calls of their own thread."""
    _whole.append(True)
    try:
        yield
    finally:
        _whole.pop()


def divisible(batch: Tensor) -> bool:
    """Whether a batch has two rows, and the machine two threads for them."""
    return len(batch) > 1 and _two_threads(batch)


def _two_threads(x: Tensor) -> bool:
    """Whether the machine has two threads for what is done with x, which no half is part of."""
    whole = _whole or vars(_thread).get("of_a_half")
    return x.device.type == "cpu" and not whole and cores_for_halves()


def both(work: Callable[[int], T]) -> list[T]:
    """[work(0), work(1)], at the same time, in the caller's modes (autocast, inference, grad)."""
    dtype, wanted = torch.get_autocast_dtype("cpu"), torch.is_autocast_enabled("cpu")
    inference, gradients = torch.is_inference_mode_enabled(), torch.is_grad_enabled()

    def inside(i: int) -> T:
        with (
            torch.inference_mode(inference),
            torch.set_grad_enabled(gradients),
            torch.autocast("cpu", dtype, enabled=wanted),
        ):
            return work(i)

    return list(_pool(torch.get_num_threads()).map(inside, range(2)))


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Two threads that share so many of torch's between them."""
    started = threading.Barrier(3)

    def start() -> None:
        _thread.of_a_half = True
        torch.get_num_threads()  # a thread's first question would undo an answer given before it
        torch.set_num_threads(max(1, threads // 2))
        started.wait()

    pool = ThreadPoolExecutor(2, "half", start)
    for _ in range(2):
        pool.submit(int)
    started.wait()
    torch.set_num_threads(threads)  # the last call also decides for threads to come
    return pool


if hasattr(os, "register_at_fork"):  # a child has none of its parent's threads
    os.register_at_fork(after_in_child=_pool.cache_clear)


class _InHalves(torch.autograd.Function):
    """A node of the graph that holds the graphs of two halves."""

    @staticmethod
    def forward(ctx: Any, run: Callable[..., Tensor], count: int, *tensors: Tensor) -> Tensor:
        halves = list(zip(*(x.chunk(2) for x in tensors[:count])))

        def half(i: int) -> tuple[list[Tensor], Tensor]:
            parts = [x.detach().requires_grad_(y.requires_grad) for x, y in zip(halves[i], tensors)]
            with torch.enable_grad():
                return [x for x in parts if x.requires_grad], run(*parts)

        ctx.halves, ctx.parameters = both(half), tensors[count:]
        ctx.wanted = [x.requires_grad for x in tensors[:count]]
        return torch.cat([y.detach() for _, y in ctx.halves])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.halves is None:
            raise RuntimeError("these gradients can be asked for once: quicken without in_halves")
        halves, ctx.halves = ctx.halves, None  # frees the graphs
        gradients = gradient.split([len(y) for _, y in halves])

        def half(i: int) -> tuple[Tensor | None, ...]:
            inputs, y = halves[i]
            wanted = [*inputs, *ctx.parameters]
            return torch.autograd.grad(y, wanted, gradients[i], allow_unused=True)

        first, second = both(half)
        count = sum(ctx.wanted)
        of_inputs = map(torch.cat, zip(first[:count], second[:count]))
        # Not in place: two of them may be views of the same numbers.
        pairs = zip(first[count:], second[count:])
        of_parameters = (a if a is None else a + b for a, b in pairs)
        return None, None, *(next(of_inputs) if w else None for w in ctx.wanted), *of_parameters
