"""Saving and loading models: a folder with `config.json` and `model.safetensors`.

Nothing here unpickles. Files are written under a temporary name, flushed to disk and renamed, so
that a crash never leaves half a file under a final name.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import nn

FORMAT_VERSION = 1
SHIPPED = Path(__file__).resolve().parent.parent / "data" / "models"


def write_atomic(path: Path, content: bytes) -> None:
    """Writes `content` to `path` so that a reader sees the old file or the new one, never a part.

    Raises:
        OSError: when the folder cannot be written; the old file is then untouched.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def check_writable(path: Path) -> Path:
    """Tries the place of a file that long work will end in, and leaves nothing; returns `path`.

    Raises:
        ValueError: when the nearest folder above `path` that is there takes no files.
    """
    try:
        place = next(p for p in path.absolute().parents if p.exists())
        tempfile.TemporaryFile(dir=place).close()
    except OSError as error:
        raise ValueError(
            f"{path} cannot be written ({error.strerror}): choose another place"
        ) from None
    return path


def file_checksum(path: Path) -> str:
    """SHA-256 of a file, as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
        required = (
            field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        )
        if required and name not in values:
            raise ValueError(f"{source}: missing key {name!r} for {cls.__name__}")
    for name, value in values.items():
        default = fields[name].default
        kind = type(default)
        if default is dataclasses.MISSING:
            continue
        fits = (
            isinstance(value, list | tuple)
            if kind is tuple
            else (
                isinstance(value, int | float) and not isinstance(value, bool)
                if kind is float
                else type(value) is kind
            )
        )
        if kind in (int, float, bool, str, tuple) and not fits:
            raise ValueError(f"{source}: {name} is {value!r}, expected {kind.__name__}")
    try:
        return cls(**{k: _as_tuple(v) for k, v in values.items()})
    except TypeError as error:
        raise ValueError(
            f"{source}: a value of the wrong type for {cls.__name__}: {error}"
        ) from None


def _as_tuple(value: Any) -> Any:
    return tuple(_as_tuple(v) for v in value) if isinstance(value, list) else value


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object, or raises a ValueError that names the file."""
    try:
        values = json.loads(Path(path).read_text())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{path} cannot be read as JSON ({error}): restore the file or train again"
        ) from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds a {type(values).__name__}, expected a JSON object")
    return values


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Reads a safetensors file, or raises a ValueError that names it."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"{path} is missing or damaged ({error}): copy it again or resume the "
            f"training that wrote it"
        ) from None


def load_tensors(model: nn.Module, tensors: dict[str, torch.Tensor], source: str) -> None:
    """Loads `tensors` into `model`, or names all that does not fit in one ValueError."""
    own = model.state_dict()
    problems = [f"missing {k}" for k in own if k not in tensors]
    problems += [f"unknown {k}" for k in tensors if k not in own]
    problems += [
        f"{k} is {tuple(tensors[k].shape)}, expected {tuple(own[k].shape)}"
        for k in own
        if k in tensors and own[k].shape != tensors[k].shape
    ]
    if problems:
        more = f" and {len(problems) - 8} more" if len(problems) > 8 else ""
        raise ValueError(
            f"{source} does not fit this {type(model).__name__}: " + "; ".join(problems[:8]) + more
        )
    model.load_state_dict(tensors)


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
        write_atomic(folder / "model.safetensors", save(tensors, metadata={"format": "pt"}))
        config = {"format": FORMAT_VERSION, "kind": self.kind} | dataclasses.asdict(self.config)
        write_atomic(folder / "config.json", (json.dumps(config, indent=1) + "\n").encode())
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
        values = read_json(folder / "config.json")
        version, kind = values.pop("format", None), values.pop("kind", None)
        if kind != cls.kind:
            raise ValueError(f"{folder}/config.json is of kind {kind!r}, expected {cls.kind!r}")
        if version != FORMAT_VERSION:
            raise ValueError(
                f"{folder}/config.json has format {version!r}, this varmini reads "
                f"{FORMAT_VERSION}: update varmini or export the model again"
            )
        model = cls(build_config(cls.config_class, values, f"{folder}/config.json"))
        tensors = read_tensors(folder / "model.safetensors")
        load_tensors(
            model,
            {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()},
            f"{folder}/model.safetensors",
        )
        return model.eval()
