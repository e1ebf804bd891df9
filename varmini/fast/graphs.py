"""Steps of drawing as CUDA graphs: a small batch on a GPU waits for launches, not for arithmetic.

A graph is recorded once a scale, at the second draw of a batch size, and replayed with one launch.
Tests run all of this on a CPU but for `record`; what it gains on a GPU is not measured yet.
"""

from __future__ import annotations

import functools
import warnings
import weakref
from collections.abc import Callable

import torch
from torch import Tensor

from ..model.transformer import VAR, KVCache
from .attention import QuickCache

LARGEST = 32
"""Rows up to which steps are recorded (guided images count twice): more keep a GPU busy."""

_KEPT: weakref.WeakKeyDictionary[VAR, Steps] = weakref.WeakKeyDictionary()


class Steps(KVCache):
    """The steps of all scales on memory that stays in place, as a graph needs it.

    Args:
        var: a copy from `copies.ready`, whose weights stay in place as well.
        rows: images drawn together, both guidance halves counted.
    """

    def __init__(self, var: VAR, rows: int) -> None:
        super().__init__()
        self.rows, self.cache, self.draws = rows, QuickCache(var), 0
        self.held: list[Tensor] | None = None
        self.outputs: list[Tensor] = []
        self.replays: dict[int, Callable[[], object]] = {}

    def hidden(self, var: VAR, k: int, x: Tensor, modulations: Tensor, head: Tensor) -> Tensor:
        """`VAR.hidden` by a graph; the result (B, h_k w_k, w) is good until the next call."""
        if self.held is None:
            shapes = [(self.rows, n, var.config.width) for n in var.schedule.tokens_per_scale]
            # What is allocated in inference mode could not be written to outside of it.
            with torch.inference_mode(False):
                self.held = [torch.empty_like(modulations), torch.empty_like(head)]
                self.held += [torch.empty(shape, device=x.device) for shape in shapes]
                self.outputs = [torch.empty_like(held) for held in self.held[2:]]
        if k == len(var.schedule) - 1:
            _KEPT[var] = self
        if k == 0:
            self.held[0].copy_(modulations)
            self.held[1].copy_(head)
        self.held[2 + k].copy_(x)
        if k not in self.replays:
            model = weakref.ref(var)  # kept beside the model, so it may not keep the model

            def run() -> None:
                self.cache.part = model().schedule.slices[k]
                out = VAR.hidden(model(), k, self.held[2 + k], *self.held[:2], self.cache)
                self.outputs[k].copy_(out)

            if self.draws < 2:  # a size that is drawn once is not worth a recording
                run()
                return self.outputs[k]
            try:
                self.replays[k] = record(run, x.device)
            except RuntimeError as error:  # slower, but the same
                warnings.warn(f"drawing goes on without a CUDA graph: {error}", stacklevel=2)
                self.replays[k] = run
        self.replays[k]()
        return self.outputs[k]


def steps_for(var: VAR, rows: int) -> Steps | None:
    """Steps of `var` for so many rows, or None where graphs do not suit.

    They are taken out of what is kept until the draw ends, so that two draws never share memory.
    """
    if not suits(var, rows):
        return None
    steps = _KEPT.pop(var, None)
    if steps is None or steps.rows != rows:
        steps = Steps(var, rows)
    steps.draws += 1
    return steps


def suits(var: VAR, rows: int) -> bool:
    """Whether steps of so many rows are to be recorded."""
    laid_out = getattr(var, "laid_out", False)
    return laid_out and rows <= LARGEST and var.head.weight.device.type == "cuda"


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
