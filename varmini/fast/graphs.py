"""Sampling steps as CUDA graphs: a small batch on a GPU waits for launches, not for arithmetic.

A graph is recorded once a scale, at the second draw of a batch size, and replayed with one launch.
Tests run all of this on a CPU but for `record`; what it gains on a GPU is not measured yet.
"""

from __future__ import annotations

import contextlib
import functools
import warnings
import weakref
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ..model.attention import KVCache
from ..model.block import split_modulations
from ..model.transformer import VAR

LARGEST = 32
"""Rows up to which steps are recorded (guided images count twice): more keep a GPU busy."""

_KEPT: weakref.WeakKeyDictionary[VAR, Steps] = weakref.WeakKeyDictionary()


class Steps:
    """The steps of all scales on memory that stays in place, as a graph needs it.

    Args:
        var: a copy from `precision.ready`, whose weights stay in place as well.
        rows: images drawn together, both guidance halves counted.
        dtype: of keys and values.
    """

    def __init__(self, var: VAR, rows: int, dtype: torch.dtype, modulations: Tensor) -> None:
        shapes = [(rows, n, var.config.width) for n in var.schedule.tokens_per_scale]
        # What is allocated in inference mode could not be written to outside of it.
        with torch.inference_mode(False):
            self.cache, self.modulations = KVCache(var, rows, dtype), torch.empty_like(modulations)
            self.inputs = [torch.empty(shape, device=modulations.device) for shape in shapes]
            self.outputs = [torch.empty_like(x) for x in self.inputs]
        self.replays: dict[int, Callable[[], object]] = {}
        self.draws = 0
        self.taken = False

    def fits(self, rows: int, dtype: torch.dtype) -> bool:
        return len(self.inputs[0]) == rows and self.cache.keys.dtype == dtype

    def advance(self, var: VAR, k: int, x: Tensor) -> Tensor:
        """`VAR.advance` by a graph; the result (B, h_k w_k, w) is good until the next call."""
        self.inputs[k].copy_(x)
        if k not in self.replays:
            model = weakref.ref(var)  # kept beside the model, so it may not keep the model

            def run() -> None:
                # Split in here, because a replay is to read the new modulations.
                split = split_modulations(self.modulations, self.inputs[k].dtype)
                out = model().advance(k, self.inputs[k], split, self.cache)
                self.outputs[k].copy_(out)

            if self.draws == 1:  # a size that is drawn once is not worth a recording
                run()
                return self.outputs[k]
            try:
                self.replays[k] = record(run, x.device)
            except RuntimeError as error:  # slower, but the same
                warnings.warn(f"drawing goes on without a CUDA graph: {error}", stacklevel=2)
                self.replays[k] = run
        self.replays[k]()
        return self.outputs[k]


@functools.cache
def _aside(device: torch.device) -> torch.cuda.Stream:
    """One stream for all recordings: libraries keep memory for every stream they are called on."""
    return torch.cuda.Stream(device)


def record(run: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """Records what `run` launches on the GPU `device`; the result launches all of it again.

    By the recipe of torch's CUDA notes: some runs aside first, which allocate what libraries need.
    """
    aside, main = _aside(device), torch.cuda.current_stream(device)
    graph = torch.cuda.CUDAGraph()
    # Back on `main` also after a recording that fails: `torch.cuda.graph` itself then stays aside.
    with torch.cuda.stream(main):
        aside.wait_stream(main)
        with torch.cuda.stream(aside):
            for _ in range(3):
                run()
        main.wait_stream(aside)
        # Of this thread alone: others, such as NCCL's watchdog, may ask the GPU meanwhile.
        with torch.cuda.graph(graph, stream=aside, capture_error_mode="thread_local"):
            run()
    return graph.replay


def suits(var: VAR, rows: int, laid_out: bool) -> bool:
    """Whether steps of so many rows are to be recorded."""
    return laid_out and rows <= LARGEST and var.head.weight.device.type == "cuda"


@contextlib.contextmanager
def stepping(
    var: VAR, modulations: Tensor, dtype: torch.dtype, laid_out: bool
) -> Iterator[Callable[[int, Tensor], Tensor]]:
    """Yields advance(k, x): `VAR.advance` with a new cache, by graphs where they suit.

    Args:
        modulations: (depth, rows, 6, w) from `VAR.condition`.
        dtype: of keys and values.
        laid_out: `var` is a copy from `precision.ready`.
    """
    rows = modulations.shape[1]

    def plainly() -> Callable[[int, Tensor], Tensor]:
        cache = KVCache(var, rows, dtype)
        split = split_modulations(modulations, var.start_position.dtype)
        return lambda k, x: var.advance(k, x, split, cache)

    steps = _KEPT.get(var)
    # Two draws that take turns cannot share one memory: the second goes without.
    if not suits(var, rows, laid_out) or (steps is not None and steps.taken):
        yield plainly()
        return
    if steps is None or not steps.fits(rows, dtype):
        steps = _KEPT[var] = Steps(var, rows, dtype, modulations)
    steps.modulations.copy_(modulations)
    steps.taken, steps.draws = True, steps.draws + 1
    try:
        yield lambda k, x: steps.advance(var, k, x)
    finally:
        steps.taken = False
