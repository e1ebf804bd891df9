"""Checkpoints of a training run: complete or absent, never unpickled; on a CPU exact to the bit.

The state of a whole run is one file, `step-N.safetensors`, also where FSDP2 splits the weights: the
first process collects them. So a run goes on with any number of processes, split or not.
"""

from __future__ import annotations

import json
import random
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..model.transformer import VAR, VARConfig
from ..runtime import distributed
from ..runtime.files import check_format, file_checksum, read_json, write_atomic
from ..runtime.pretrained import check_finite

FORMAT_VERSION = 1  # of the files that `save` writes; index.json tells it
KEEP = 2  # checkpoints on disk
AVERAGES = "/parts/ema/module."
"""How the names of the averaged weights begin in a checkpoint."""


def flatten_state(state: Any, tensors: dict[str, Tensor], path: str = "") -> Any:
    """Splits a nested state into JSON and `tensors`, so that safetensors can hold it unpickled."""
    if isinstance(state, Tensor):
        tensors[path] = state.detach()
        return {"__tensor__": path}
    if isinstance(state, dict):
        return {
            "__dict__": [[k, flatten_state(v, tensors, f"{path}/{k}")] for k, v in state.items()]
        }
    if isinstance(state, list | tuple):
        return {"__list__": [flatten_state(v, tensors, f"{path}/{i}") for i, v in enumerate(state)]}
    if state is None or isinstance(state, bool | int | float | str):
        return state
    raise TypeError(f"training state at {path} has type {type(state).__name__}")


def unflatten_state(tree: Any, tensors: dict[str, Tensor]) -> Any:
    """Undoes `flatten_state`; tuples come back as lists."""
    if not isinstance(tree, dict):
        return tree
    if "__tensor__" in tree:
        return tensors[tree["__tensor__"]]
    if "__dict__" in tree:
        return {k: unflatten_state(v, tensors) for k, v in tree["__dict__"]}
    return [unflatten_state(v, tensors) for v in tree["__list__"]]


def save(folder: Path, step: int, parts: dict[str, Any]) -> None:
    """Writes the training state of `step`; the one before stays until this one is complete.

    The random state of torch, numpy and Python travels along. Under torchrun all processes call
    this; the first one writes.

    Args:
        parts: objects with `state_dict` and `load_state_dict`, by name.

    Raises:
        ValueError: when something is NaN or infinite; earlier checkpoints are then intact.
        OSError: when the disk is full or read-only; likewise.
    """
    tensors: dict[str, Tensor] = {}
    state = {name: part.state_dict() for name, part in parts.items()}
    tree = flatten_state({"step": step, "rng": _random_state(), "parts": state}, tensors)
    with distributed.together():
        own = {k: t.to_local() if _is_split(t) else t for k, t in tensors.items()}
        check_finite(own, f"step {step} was not saved")
    for name, t in tensors.items():
        whole = t.full_tensor() if _is_split(t) else t  # all processes take part
        tensors[name] = whole.cpu().contiguous().clone() if distributed.is_main() else t
    with distributed.together():
        if distributed.is_main():
            _write(folder, step, tree, tensors)


def _write(folder: Path, step: int, tree: Any, tensors: dict[str, Tensor]) -> None:
    """Writes a checkpoint, puts it first in index.json, removes what falls off its end."""
    from safetensors.torch import save as pack

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{step:08d}.safetensors"
    write_atomic(path, pack(tensors, metadata={"tree": json.dumps(tree)}))
    entries = [{"file": path.name, "sha256": file_checksum(path)}]
    if (folder / "index.json").exists():
        # What is newer than this step was damaged and passed over.
        earlier = read_json(folder / "index.json")["checkpoints"]
        entries += [entry for entry in earlier if entry["file"] < path.name]
    index = {"format": FORMAT_VERSION, "checkpoints": entries[:KEEP]}
    write_atomic(folder / "index.json", json.dumps(index, indent=1).encode())
    for old in folder.glob("step-*"):
        if old.name not in {entry["file"] for entry in entries[:KEEP]}:
            old.unlink()


def _random_state() -> dict[str, Any]:
    numpy = [s.tolist() if isinstance(s, np.ndarray) else s for s in np.random.get_state()]
    state = {"torch": torch.get_rng_state(), "python": json.dumps(random.getstate())}
    state |= {"numpy": json.dumps(numpy)}
    return state | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})


def _set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    version, numbers, spare = json.loads(state["python"])
    random.setstate((version, tuple(numbers), spare))
    np.random.set_state(tuple(json.loads(state["numpy"])))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def _is_split(x: Tensor) -> bool:
    """Whether FSDP2 holds a share of x in each process."""
    return hasattr(x, "device_mesh")


def newest(folder: Path) -> Path | None:
    """The newest intact checkpoint, or None when there is none yet; warns of damaged ones.

    Raises:
        ValueError: when the index or every checkpoint is damaged, or a newer varmini wrote them.
    """
    if not (folder / "index.json").exists():
        return None
    index = read_json(folder / "index.json")
    check_format(index.get("format", 1), FORMAT_VERSION, f"{folder}/index.json")
    entries = index.get("checkpoints")
    known = re.compile(r"step-\d+\.safetensors")  # nothing outside the folder
    if not isinstance(entries, list) or not all(
        isinstance(e, dict) and known.fullmatch(str(e.get("file"))) for e in entries
    ):
        raise ValueError(f"{folder}/index.json is damaged: start again with --overwrite")
    for entry in entries:
        path = folder / entry["file"]
        intact = path.is_file() and file_checksum(path) == entry.get("sha256")
        if not distributed.largest(not intact):
            return path
        if distributed.is_main():
            warning = f"warning: checkpoint {path} is missing or damaged; trying the one before"
            print(warning, file=sys.stderr)
    raise ValueError(f"every checkpoint in {folder} is damaged: start again with --overwrite")


def restore(folder: Path, parts: dict[str, Any]) -> int:
    """Loads the newest intact checkpoint into `parts`; returns its step, 0 when there is none.

    Restores the random state. Under torchrun all processes call this.

    Raises:
        ValueError: as `newest`, or when the newest intact one is that of another run.
    """
    path = newest(folder)
    if path is None:
        return 0
    tree, tensors = read(path)
    state = unflatten_state(tree, _split_alike(tensors, parts))
    for name, part in parts.items():
        try:
            part.load_state_dict(state["parts"][name])
        except (RuntimeError, ValueError, KeyError) as error:
            raise ValueError(
                f"{path} does not fit this run's {name} ({str(error).splitlines()[0]}): resume "
                f"with the configuration that wrote it"
            ) from None
    _set_random_state(state["rng"])
    return state["step"]


def read(path: Path, prefix: str = "") -> tuple[Any, dict[str, Tensor]]:
    """The tree of a checkpoint and, for `unflatten_state`, its tensors whose names begin so."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        tree = json.loads(file.metadata()["tree"])
        return tree, {k: file.get_tensor(k) for k in file.keys() if k.startswith(prefix)}


def _split_alike(tensors: dict[str, Tensor], parts: dict[str, Any]) -> dict[str, Tensor]:
    """`tensors`, of which each process takes its share where FSDP2 splits those of `parts`."""
    like: dict[str, Tensor] = {}
    for name, part in parts.items():
        flatten_state(part.state_dict(), like, f"/parts/{name}")
        if isinstance(part, torch.optim.Optimizer):  # its moments are not there before a step
            weights = [p.detach() for group in part.param_groups for p in group["params"]]
            for i, p in enumerate(weights):
                like |= {f"/parts/{name}/state/{i}/{k}": p for k in ("exp_avg", "exp_avg_sq")}
    for name, t in like.items():
        if _is_split(t) and name in tensors and t.shape == tensors[name].shape:
            from torch.distributed.tensor import distribute_tensor

            how = t.device_mesh, t.placements
            tensors[name] = distribute_tensor(tensors[name].to(t.device), *how, src_data_rank=None)
    return tensors


def consolidate(run: Path, config: VARConfig) -> Path:
    """Writes config.json and model.safetensors: the averaged weights of the newest checkpoint.

    A run split by FSDP2 ends with this, as no process holds all weights. The first one does it.
    """
    path = newest(run / "state")
    if distributed.is_main():
        model = VAR(config)
        weights = read(path, AVERAGES)[1]
        model.load_state_dict({k.removeprefix(AVERAGES): t for k, t in weights.items()})
        model.save_pretrained(run)
    distributed.wait()
    return run
