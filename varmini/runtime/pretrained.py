"""Saving and loading models: a folder with `config.json` and `model.safetensors`.

Nothing here unpickles, and a saved model is whole or absent (`files`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from .files import check_format, read_json, write_atomic

FORMAT_VERSION = 1
CHECKOUT = Path(__file__).resolve().parents[2]
ASSETS = CHECKOUT / "data"
"""Embedded images and shipped models: in the checkout, or as `pip install` carries them."""
if not (ASSETS / "models").is_dir():
    ASSETS = Path(__file__).resolve().parents[1] / "assets"
SHIPPED = ASSETS / "models"


def resolve_folder(name: str | os.PathLike, kind: str) -> Path:
    """The folder of a model: a folder on disk, a shipped name ("cifar10"), or a hub id "user/repo".

    Args:
        kind: "tokenizer", "var" or "classifier"; the sub-folder looked for below a shipped name.

    Raises:
        ValueError: when there is no such model.
    """
    folder = Path(name)
    if (folder / "config.json").is_file():
        return folder
    shipped = SHIPPED / str(name) / kind
    if (shipped / "config.json").is_file():
        return shipped
    if folder.is_dir():
        raise ValueError(
            f"{folder} holds no config.json: give the folder that a training run wrote "
            f"(config.json and model.safetensors)"
        )
    known = sorted(p.parent.parent.name for p in SHIPPED.glob(f"*/{kind}/config.json"))
    if str(name).count("/") == 1 and not str(name).startswith((".", "/")):
        return _from_hub(str(name), kind)
    raise ValueError(
        f"no {kind} named {str(name)!r}: expected a folder with config.json, a hub id "
        f"user/repo, or a shipped name ({', '.join(known) or 'none in this checkout'})"
    )


def _from_hub(repo: str, kind: str) -> Path:
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(repo, allow_patterns=["config.json", "model.safetensors"]))
    except Exception as error:  # the hub client raises many kinds; all mean the same to a reader
        raise ValueError(
            f"could not load the {kind} {repo!r}: no such folder here, and the hub "
            f"answered {type(error).__name__}; download it and give its folder"
        ) from None


def build_config(cls: type, values: dict[str, Any], source: str = "config") -> Any:
    """Builds the dataclass `cls` from a JSON dictionary.

    Raises:
        ValueError: on an unknown or missing key, naming it and its nearest relative.
    """
    import difflib

    fields = {f.name: f for f in dataclasses.fields(cls)}
    for key in values:
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1)
            raise ValueError(
                f"{source}: unknown key {key!r} for {cls.__name__}"
                + (f"; did you mean {near[0]!r}?" if near else f"; known keys: {', '.join(fields)}")
            )
    for name, field in fields.items():
        has_default = (field.default, field.default_factory) != (dataclasses.MISSING,) * 2
        if name not in values and not has_default:
            raise ValueError(f"{source}: missing key {name!r} for {cls.__name__}")
    taken = {int: int, float: int | float, bool: bool, str: str, tuple: list | tuple}
    for name, value in values.items():
        kind = type(fields[name].default)
        if kind in taken and (
            not isinstance(value, taken[kind]) or isinstance(value, bool) != (kind is bool)
        ):
            raise ValueError(f"{source}: {name} is {value!r}, expected {kind.__name__}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{source}: {name} is {value}, expected a finite number")
    try:
        return cls(**{k: _as_tuple(v) for k, v in values.items()})
    except TypeError as error:
        raise ValueError(
            f"{source}: a value of the wrong type for {cls.__name__}: {error}"
        ) from None


def _as_tuple(value: Any) -> Any:
    return tuple(_as_tuple(v) for v in value) if isinstance(value, list) else value


class Unfilled(TorchFunctionMode):
    """Leaves out numbers, which tensors on the meta device lack.

    Without it torch would first import all of dynamo, which takes a second.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, func.__name__
        if getattr(func, "__module__", "") == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        if name.endswith("_") and name[0] != "_" and name != "requires_grad_":
            return args[0]  # changed in place, were there numbers
        if name in ("ge", "__ge__"):  # of the mask
            return torch.empty(len(args[0]), args[1].shape[-1], dtype=torch.bool, device="meta")
        return func(*args, **kwargs)


@contextlib.contextmanager
def whole_tensors(path: Path) -> Iterator[Any]:
    """An open safetensors file, of which only the header is read so far.

    Raises:
        ValueError: naming the file, also for what fails inside the block on damaged content.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            yield file
    except (OSError, SafetensorError, RuntimeError, TypeError, KeyError) as error:
        raise ValueError(
            f"{path} is missing or damaged ({error}): copy it again or resume the "
            f"training that wrote it"
        ) from None


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Reads a safetensors file, or raises a ValueError that names it."""
    with whole_tensors(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}


def check_finite(tensors: dict[str, torch.Tensor], source: str) -> None:
    """Raises a ValueError that names the first tensor with NaN or infinity."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.float().isfinite().all():
            raise ValueError(
                f"{source}: {name} holds NaN or infinity: resume the training from its last "
                f"checkpoint, with a lower --lr"
            )


def build_fitting(cls: type, config: Any, weights: Path, source: str) -> nn.Module:
    """Builds cls(config) once the header of its weights shows that both belong together.

    A config may ask for any size; memory is taken only for what the weights' file really holds.

    Raises:
        ValueError: as `build_unfilled`.
    """
    with whole_tensors(weights) as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
    build_unfilled(cls, config, shapes, str(weights), source)
    return cls(config)


def build_unfilled(
    cls: type, config: Any, shapes: dict[str, tuple[int, ...]], weights: str, source: str
) -> nn.Module:
    """cls(config) on the meta device, where tensors of `shapes`, those of `weights`, fit it.

    Raises:
        ValueError: naming `source` when it describes no model, or all that does not fit.
    """
    most = max(1024, len(shapes), *(side for shape in shapes.values() for side in shape))
    for name, value in _integers(dataclasses.asdict(config)):
        if value > most:
            raise ValueError(f"{source}: {name} is {value}, more than anything in {weights}")
    try:
        with torch.device("meta"), Unfilled():
            model = cls(config)
    except MemoryError:
        raise
    except Exception as error:  # torch's layers raise many kinds on odd sizes
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{source} describes no {cls.__name__}: {reason}") from None
    check_shapes(model, shapes, weights)
    return model


def _integers(value: Any, name: str = "") -> Iterator[tuple[str, int]]:
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _integers(part, key)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _integers(part, name)
    elif isinstance(value, int):
        yield name, value


def check_shapes(model: nn.Module, shapes: dict[str, tuple[int, ...]], source: str) -> None:
    """Names all in which a model and the tensors for it differ in one ValueError."""
    own = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    problems = [f"missing {k}" for k in own if k not in shapes]
    problems += [f"unknown {k}" for k in shapes if k not in own]
    problems += [
        f"{k} is {shapes[k]}, expected {own[k]}" for k in own if shapes.get(k, own[k]) != own[k]
    ]
    if problems:
        more = f" and {len(problems) - 8} more" if len(problems) > 8 else ""
        raise ValueError(
            f"{source} does not fit this {type(model).__name__}: " + "; ".join(problems[:8]) + more
        )


class Pretrained:
    """Mixin that gives a module `save_pretrained` and `from_pretrained`.

    The module keeps its configuration, a dataclass of type `config_class`, in `self.config`, and
    can be rebuilt by `cls(config)`.
    """

    config_class: ClassVar[type]
    kind: ClassVar[str]

    def save_pretrained(self, folder: str | os.PathLike, dtype: torch.dtype | None = None) -> Path:
        """Writes config.json and model.safetensors into `folder` (made if missing).

        Args:
            dtype: store floating tensors in this type (for example torch.bfloat16 halves the file);
                None keeps each tensor's own.

        Raises:
            ValueError: when a weight is NaN or infinite; an earlier model is then untouched.
        """
        from safetensors.torch import save

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {
            k: v.detach()
            .to("cpu", dtype if dtype and v.is_floating_point() else v.dtype)
            .contiguous()
            for k, v in self.state_dict().items()
        }
        check_finite(tensors, f"{folder}/model.safetensors, not written")
        config = {"format": FORMAT_VERSION, "kind": self.kind} | dataclasses.asdict(self.config)
        write_atomic(folder / "config.json", (json.dumps(config, indent=1) + "\n").encode())
        # The weights come last: where they are, the model is whole.
        write_atomic(folder / "model.safetensors", save(tensors, metadata={"format": "pt"}))
        return folder

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike) -> Self:
        """Loads a model in evaluation mode, with float32 weights.

        Args:
            name: a shipped name ("cifar10", "fashion"), a folder, or a hub id "user/repo".

        Raises:
            ValueError: no such model, a damaged file, or weights that do not fit the config.
        """
        folder = resolve_folder(name, cls.kind)
        source, weights = folder / "config.json", folder / "model.safetensors"
        values = read_json(source)
        version, kind = values.pop("format", None), values.pop("kind", None)
        check_format(version, FORMAT_VERSION, f"{source}")
        if kind != cls.kind:
            raise ValueError(f"{source} is of kind {kind!r}, expected {cls.kind!r}")
        config = build_config(cls.config_class, values, f"{source}")
        model = build_fitting(cls, config, weights, f"{source}")
        tensors = read_tensors(weights)
        check_finite(tensors, f"{weights}")
        model.load_state_dict(tensors)  # copies into float32, whatever the file's type
        return model.eval()
