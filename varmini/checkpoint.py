"""Checkpoints of a training run: complete or absent, never unpickled; on a CPU exact to the bit."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .pretrained import file_checksum, read_json, write_atomic


def flatten_state(state: Any, tensors: dict[str, Tensor], path: str = "") -> Any:
    """Splits a nested state into JSON and `tensors`, so that safetensors can hold it unpickled."""
    if isinstance(state, Tensor):
        tensors[path] = state.detach().cpu().contiguous().clone()
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

    The random state of torch, numpy and Python travels along.

    Args:
        parts: objects with `state_dict` and `load_state_dict`, by name.
        keep: how many checkpoints stay on disk.

    Raises:
        OSError: when the disk is full or read-only; earlier checkpoints are then intact.
    """
    from safetensors.torch import save as pack

    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    rng = {
        "torch": torch.get_rng_state(),
        "python": json.dumps(random.getstate()),
        "numpy": json.dumps(
            [s.tolist() if isinstance(s, np.ndarray) else s for s in np.random.get_state()]
        ),
    }
    state = {name: part.state_dict() for name, part in parts.items()}
    tree = flatten_state({"step": step, "rng": rng, "parts": state}, tensors)
    path = folder / f"step-{step:08d}.safetensors"
    write_atomic(path, pack(tensors, metadata={"tree": json.dumps(tree)}))
    index = {"checkpoints": [{"file": path.name, "sha256": file_checksum(path)}]}
    if (folder / "index.json").exists():
        earlier = read_json(folder / "index.json")["checkpoints"]
        # What is newer than this step was damaged and passed over.
        index["checkpoints"] += [c for c in earlier if c["file"] < path.name]
    index["checkpoints"] = index["checkpoints"][:keep]
    kept = {c["file"] for c in index["checkpoints"]}
    write_atomic(folder / "index.json", json.dumps(index, indent=1).encode())
    for old in folder.glob("step-*.safetensors"):
        if old.name not in kept:
            old.unlink(missing_ok=True)


def restore(folder: Path, parts: dict[str, Any]) -> int:
    """Loads the newest intact checkpoint into `parts`; returns its step, 0 when there is none.

    A damaged newest checkpoint is passed over with a warning on stderr. Restores the random state.

    Raises:
        ValueError: when checkpoints are listed but every one is damaged.
    """
    from safetensors import safe_open

    if not (folder / "index.json").exists():
        return 0
    entries = read_json(folder / "index.json").get("checkpoints")
    if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
        raise ValueError(f"{folder}/index.json is damaged: start again with --overwrite")
    for entry in entries:
        path = folder / str(entry.get("file"))
        if not path.is_file() or file_checksum(path) != entry.get("sha256"):
            print(
                f"warning: checkpoint {path} is missing or damaged; trying the one before",
                file=sys.stderr,
            )
            continue
        with safe_open(path, "pt") as file:
            tree = json.loads(file.metadata()["tree"])
            tensors = {k: file.get_tensor(k) for k in file.keys()}
        state = unflatten_state(tree, tensors)
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
        rng = state["rng"]
        torch.set_rng_state(rng["torch"])
        python = json.loads(rng["python"])
        random.setstate((python[0], tuple(python[1]), python[2]))
        np.random.set_state(tuple(json.loads(rng["numpy"])))
        return state["step"]
    raise ValueError(f"every checkpoint in {folder} is damaged: start again with --overwrite")
