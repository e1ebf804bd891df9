"""Several processes as one: the group that torchrun announces, shares of a batch, sums over ranks.

Without torchrun there is one process, and everything here is the identity, so that the loops read
the same either way. One rule makes the result independent of the number of processes: the global
batch and all random numbers are functions of (seed, step), and each process takes its share.
"""

from __future__ import annotations

import atexit
import contextlib
import datetime
import gc
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .machine import device, world

PATIENCE = datetime.timedelta(hours=2)
"""How long a process waits for the others: one of them may encode token maps meanwhile."""


def start() -> None:
    """Joins the group of processes that torchrun announces: nccl between GPUs, gloo between CPUs.

    Raises ValueError when torchrun started more processes than this machine has GPUs.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or dist.is_initialized():
        return
    backend = "gloo"
    if device().type == "cuda":
        local, here = (int(os.environ.get(k, "0")) for k in ("LOCAL_RANK", "LOCAL_WORLD_SIZE"))
        gpus = torch.cuda.device_count()
        if here > gpus:
            if local:
                raise SystemExit(2)  # the first process tells it
            raise ValueError(
                f"torchrun started {here} processes here, but there are {gpus} GPUs: "
                f"use --nproc-per-node {gpus} or fewer"
            )
        torch.cuda.set_device(local)
        # gloo carries what lives on the CPU, so that a word between hosts never waits for a GPU.
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, timeout=PATIENCE)
    atexit.register(_leave)


def _leave() -> None:
    """At the end of a process: its threads for the group end before the interpreter does."""
    gc.collect()  # models that were wrapped hold on to the group, in circles
    dist.destroy_process_group()
    gc.collect()


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_main() -> bool:
    """Whether this is process 0, which alone prints and writes."""
    return rank() == 0


def share(batch_size: int) -> slice:
    """The rows of a global batch that are this process's; ValueError when it has uneven shares."""
    own, left = divmod(batch_size, world())
    if left:
        raise ValueError(
            f"batch_size {batch_size} cannot be shared evenly by {world()} processes: "
            f"choose a multiple of {world()}"
        )
    return slice(rank() * own, (rank() + 1) * own)


def total(x: Tensor) -> Tensor:
    """Sum of x over the processes, without a gradient."""
    if world() == 1:
        return x
    x = x.detach().clone()
    dist.all_reduce(x)
    return x


def mean(x: Tensor) -> Tensor:
    """Mean of x over the processes; the gradient goes to this process's own x.

    DDP and FSDP2 average gradients over the processes: what arrives at the weights is then
    1/W sum_r dL/dmean dx_r/dw, the gradient of a loss of the mean.
    """
    if world() == 1:
        return x
    whole = total(x) / world()
    return x + (whole - x).detach() if x.requires_grad else whole


def gather(x: Tensor) -> Tensor:
    """The shares of all processes, (B / W, ...) each, as one batch (B, ...), without a gradient."""
    if world() == 1:
        return x
    parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(world())]
    dist.all_gather(parts, x.detach().contiguous())
    return torch.cat(parts)


def from_main(x: Tensor) -> None:
    """Overwrites x with that of process 0."""
    if world() > 1:
        dist.broadcast(x, 0)


def largest(value: int) -> int:
    """The largest of the processes' numbers; also the point where they wait for each other."""
    if world() == 1:
        return value
    found = torch.tensor(value)
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return int(found)


def wait() -> None:
    """Waits until all processes are here."""
    largest(0)


def progress(steps: Sequence[Any], name: str, done: int = 0) -> Any:
    """A tqdm bar over `steps`, of which `done` were made before; the first process shows it."""
    from tqdm.auto import tqdm

    look = {"unit": "step", "mininterval": 0.5, "dynamic_ncols": True}
    return tqdm(steps, name, done + len(steps), initial=done, disable=not is_main(), **look)


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Work without exchange that fails everywhere when it fails somewhere.

    Raises:
        the error of the first process that has one, there; elsewhere SystemExit(2), in silence.
    """
    error = None
    try:
        yield
    except Exception as caught:
        error = caught
    first = world() - largest(world() - rank() if error else 0)
    if first < world():
        raise error if error and rank() == first else SystemExit(2)


def replicate(model: nn.Module, *, some_unused: bool = False) -> nn.Module:
    """DDP: every process holds all weights; backward averages the gradients.

    some_unused: some weights never take part, so that backward must not wait for them.
    """
    if world() == 1:
        return model
    from torch.nn.parallel import DistributedDataParallel

    # The new name, forward_sync_buffers, is not known before torch 2.13.
    warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated")
    options = {"broadcast_buffers": False, "gradient_as_bucket_view": True}
    return DistributedDataParallel(model, find_unused_parameters=some_unused, **options)


def shard(model: nn.Module, units: Iterable[nn.Module], dtype: torch.dtype) -> None:
    """FSDP2: weights, gradients and optimizer state are split; `units` are gathered one at a time.

    dtype: of the products. In bfloat16 the units' weights also travel in it, gradients are added
    up in float32, and the activations between the units keep their type.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    # It warns of in-place changes to what a module returns; we make none.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view")
    mesh = init_device_mesh(device().type, (world(),))
    light = MixedPrecisionPolicy(
        None if dtype is torch.float32 else dtype, torch.float32, cast_forward_inputs=False
    )
    for unit in units:
        fully_shard(unit, mesh=mesh, mp_policy=light)
    # What is left is small. Split again after every forward, also where no backward follows.
    fully_shard(model, mesh=mesh, reshard_after_forward=True)


def keep_gradients(network: nn.Module, wanted: bool) -> contextlib.AbstractContextManager:
    """For all parts of a batch but the last: DDP exchanges the gradients once, at the end."""
    return network.no_sync() if wanted and hasattr(network, "no_sync") else contextlib.nullcontext()
