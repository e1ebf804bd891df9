"""Checkpoints of a training run: complete or absent, never unpickled; on a CPU exact to the bit.

The state of a whole run is one file, `step-N.safetensors`. Where FSDP2 splits the weights, it is a
folder `step-N` of safetensors files, written and read by torch.distributed.checkpoint. Either kind
goes on with any number of processes, split or not.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..runtime import distributed
from ..runtime.files import check_format, file_checksum, read_json, write_atomic
from ..runtime.pretrained import check_finite

FORMAT_VERSION = 1
"""Of the files that `save` writes; index.json tells it. Index files without one have format 1."""


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
    """Undoes `flatten_state`."""
    if isinstance(tree, dict):
        if "__tensor__" in tree:
            return tensors[tree["__tensor__"]]
        if "__dict__" in tree:
            return {k: unflatten_state(v, tensors) for k, v in tree["__dict__"]}
        return [unflatten_state(v, tensors) for v in tree["__list__"]]
    return tree


def save(folder: Path, step: int, parts: dict[str, Any], keep: int = 2) -> None:
    """Writes the training state of `step`; the one before stays until this one is complete.

    The random state of torch, numpy and Python travels along. Under torchrun all processes call
    this; the first one writes what is not split.

    Args:
        parts: objects with `state_dict` and `load_state_dict`, by name.
        keep: how many checkpoints stay on disk.

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
    if any(_is_split(t) for t in tensors.values()):
        path = folder / f"step-{step:08d}"
        _write_split(path, tree, tensors)
        checksums = _folder_checksums(path)
    elif distributed.is_main():
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"step-{step:08d}.safetensors"
        checksums = _write_whole(path, tree, tensors)
    if distributed.is_main():
        _list(folder, {"file": path.name, "sha256": checksums}, keep)
    distributed.wait()


def _random_state() -> dict[str, Any]:
    numpy = [s.tolist() if isinstance(s, np.ndarray) else s for s in np.random.get_state()]
    state = {
        "torch": torch.get_rng_state(),
        "python": json.dumps(random.getstate()),
        "numpy": json.dumps(numpy),
    }
    return state | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})


def _set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    python = json.loads(state["python"])
    random.setstate((python[0], tuple(python[1]), python[2]))
    np.random.set_state(tuple(json.loads(state["numpy"])))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def _is_split(x: Tensor) -> bool:
    return hasattr(x, "device_mesh")


def _write_whole(path: Path, tree: Any, tensors: dict[str, Tensor]) -> str:
    from safetensors.torch import save as pack

    tensors = {name: t.cpu().contiguous().clone() for name, t in tensors.items()}
    write_atomic(path, pack(tensors, metadata={"tree": json.dumps(tree)}))
    return file_checksum(path)


def _write_split(path: Path, tree: Any, tensors: dict[str, Tensor]) -> None:
    import torch.distributed.checkpoint as dcp

    temporary = path.with_name(f".{path.name}.tmp")
    if distributed.is_main():
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    distributed.wait()
    writer = dcp.HuggingFaceStorageWriter(str(temporary), save_distributed=True)
    try:
        dcp.save(tensors, storage_writer=writer)
    except dcp.api.CheckpointException as error:
        number, (cause, _) = next(iter(error.failures.items()))
        raise OSError(f"{path} could not be written by process {number}: {cause}") from None
    if distributed.is_main():
        write_atomic(temporary / "tree.json", json.dumps(tree).encode())
        shutil.rmtree(path, ignore_errors=True)  # a damaged one of this step that was passed over
        os.replace(temporary, path)
    distributed.wait()


def _folder_checksums(path: Path) -> dict[str, str]:
    """SHA-256 of each file in a folder; the processes take turns."""
    files = sorted(path.iterdir())[distributed.rank() :: distributed.world()]
    own = {file.name: file_checksum(file) for file in files}
    return {k: v for part in distributed.gather_objects(own) for k, v in part.items()}


def _list(folder: Path, entry: dict[str, Any], keep: int) -> None:
    """Puts a complete checkpoint first in index.json and removes those that fall off its end."""
    entries = [entry]
    if (folder / "index.json").exists():
        earlier = read_json(folder / "index.json")["checkpoints"]
        # What is newer than this step was damaged and passed over.
        entries += [c for c in earlier if _step(c["file"]) < _step(entry["file"])]
    entries = entries[:keep]
    index = {"format": FORMAT_VERSION, "checkpoints": entries}
    write_atomic(folder / "index.json", json.dumps(index, indent=1).encode())
    kept = {c["file"] for c in entries}
    for old in folder.glob("step-*"):
        if old.name not in kept:
            shutil.rmtree(old) if old.is_dir() else old.unlink(missing_ok=True)
    for left_over in folder.glob(".step-*.tmp"):  # a split one, of a run that died while it wrote
        if left_over.is_dir():
            shutil.rmtree(left_over)


def _step(name: str) -> str:
    return name.removesuffix(".safetensors")


# ------------------------------------------------------------------------------------------ reading


def newest(folder: Path) -> Path | None:
    """The newest intact checkpoint, or None when there is none yet.

    A damaged one is passed over with a warning on stderr.

    Raises:
        ValueError: when checkpoints are listed but every one is damaged, or a newer varmini wrote
            them.
    """
    if not (folder / "index.json").exists():
        return None
    index = read_json(folder / "index.json")
    check_format(index.get("format", 1), FORMAT_VERSION, f"{folder}/index.json")
    entries = index.get("checkpoints")
    known = re.compile(r"step-\d+(\.safetensors)?")  # nothing outside the folder
    if not isinstance(entries, list) or not all(
        isinstance(e, dict) and known.fullmatch(str(e.get("file"))) for e in entries
    ):
        raise ValueError(f"{folder}/index.json is damaged: start again with --overwrite")
    for entry in entries:
        path = folder / entry["file"]
        if path.is_dir():
            intact = _folder_checksums(path) == entry.get("sha256")
        else:
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
        ValueError: when checkpoints are listed but every one is damaged, or when the newest intact
            one is that of another run.
    """
    path = newest(folder)
    if path is None:
        return 0
    state = unflatten_state(*read(path, like=_layouts(parts)))
    if state["parts"].keys() != parts.keys():
        raise ValueError(
            f"{path} holds {', '.join(state['parts'])}, expected {', '.join(parts)}: "
            f"it is the checkpoint of another kind of run"
        )
    for name, part in parts.items():
        try:
            part.load_state_dict(state["parts"][name])
        except (RuntimeError, ValueError, KeyError) as error:
            first = str(error).splitlines()[0]
            raise ValueError(
                f"{path} does not fit this run's {name} ({first}): resume with the "
                f"configuration that wrote it"
            ) from None
    _set_random_state(state["rng"])
    return state["step"]


def _layouts(parts: dict[str, Any]) -> dict[str, Tensor]:
    """By the name of what FSDP2 splits here: a tensor that is split alike."""
    found: dict[str, Tensor] = {}
    for name, part in parts.items():
        flatten_state(part.state_dict(), found, f"/parts/{name}")
        if isinstance(part, torch.optim.Optimizer):  # its moments are not there before a step
            weights = [p.detach() for group in part.param_groups for p in group["params"]]
            for i, p in enumerate(weights):
                found |= {f"/parts/{name}/state/{i}/{k}": p for k in ("exp_avg", "exp_avg_sq")}
    return {name: t for name, t in found.items() if _is_split(t)}


def read(
    path: Path, *, like: dict[str, Tensor] | None = None, prefix: str = ""
) -> tuple[Any, dict[str, Tensor]]:
    """The tree and the tensors of a checkpoint, for `unflatten_state`.

    Args:
        like: tensors whose split over the processes those of the same name take.
        prefix: read only the tensors whose names begin so.
    """
    from safetensors import safe_open

    like = like or {}
    if path.is_dir():
        return _read_split(path, like, prefix)
    with safe_open(path, "pt") as file:
        tree = json.loads(file.metadata()["tree"])
        tensors = {k: file.get_tensor(k) for k in file.keys() if k.startswith(prefix)}
    fits = {k: t for k, t in like.items() if k in tensors and t.shape == tensors[k].shape}
    if fits:
        from torch.distributed.tensor import distribute_tensor

        for name, t in fits.items():
            whole = tensors[name].to(t.device)
            tensors[name] = distribute_tensor(
                whole, t.device_mesh, t.placements, src_data_rank=None
            )
    return tree, tensors


def _read_split(path: Path, like: dict[str, Tensor], prefix: str) -> tuple[Any, dict[str, Tensor]]:
    import torch.distributed.checkpoint as dcp

    reader = dcp.HuggingFaceStorageReader(str(path))
    tensors = {}
    for name, stored in reader.read_metadata().state_dict_metadata.items():
        if name.startswith(prefix):
            split = name in like and like[name].shape == stored.size
            tensors[name] = (
                torch.empty_like(like[name])
                if split
                else torch.empty(stored.size, dtype=stored.properties.dtype)
            )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        dcp.load(tensors, storage_reader=reader, no_dist=True)  # each process what it needs
    return read_json(path / "tree.json"), tensors
