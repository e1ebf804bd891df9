"""Saving and loading models: a folder with `config.json` and `model.safetensors`.

Nothing here unpickles, and a saved model is whole or absent (`files`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import torch

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

    Raises ValueError when there is no such model.
    """
    folder, text = Path(name), str(name)
    for found in (folder, SHIPPED / text / kind):
        if (found / "config.json").is_file():
            return found
    if folder.is_dir():
        raise ValueError(
            f"{folder} holds no config.json: give the folder that a training run wrote "
            f"(config.json and model.safetensors)"
        )
    if text.count("/") == 1 and not text.startswith((".", "/")):
        return _from_hub(text, kind)
    known = sorted(p.parent.parent.name for p in SHIPPED.glob(f"*/{kind}/config.json"))
    raise ValueError(
        f"no {kind} named {text!r}: expected a folder with config.json, a hub id "
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


@contextlib.contextmanager
def whole_tensors(path: Path) -> Iterator[Any]:
    """An open safetensors file, of which only the header is read so far.

    Raises ValueError naming the file, also for what fails inside the block on damaged content.
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


def check_finite(tensors: Mapping[str, torch.Tensor], source: str) -> None:
    """Raises a ValueError that names the first tensor with NaN or infinity."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.float().isfinite().all():
            raise ValueError(
                f"{source}: {name} holds NaN or infinity: resume the training from its last "
                f"checkpoint, with a lower --lr"
            )


def _as_tuple(value: Any) -> Any:
    return tuple(_as_tuple(v) for v in value) if isinstance(value, list) else value


class Pretrained:
    """Mixin that gives a module `save_pretrained`, `from_pretrained` and `push_to_hub`.

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

        Raises ValueError when a weight is NaN or infinite; an earlier model is then untouched.
        """
        from safetensors.torch import save

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {
            name: x.detach().to("cpu", dtype if x.is_floating_point() else None).contiguous()
            for name, x in self.state_dict().items()
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

        Raises ValueError for no such model, a damaged file, or weights that do not fit the config.
        """
        folder = resolve_folder(name, cls.kind)
        source, weights = str(folder / "config.json"), str(folder / "model.safetensors")
        values = read_json(source)
        check_format(values.pop("format", None), FORMAT_VERSION, source)
        if (kind := values.pop("kind", None)) != cls.kind:
            raise ValueError(f"{source} is of kind {kind!r}, expected {cls.kind!r}")
        tensors = read_tensors(weights)
        check_finite(tensors, weights)
        try:
            model = cls(cls.config_class(**{k: _as_tuple(v) for k, v in values.items()}))
        except Exception as error:  # torch's layers raise many kinds on odd sizes
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise ValueError(f"{source} describes no {cls.__name__}: {reason}") from None
        try:
            model.load_state_dict(tensors)  # copies into float32, whatever the file's type
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"{weights} does not fit this {cls.__name__}: {reason:.600}") from None
        return model.eval()

    def push_to_hub(self, repo: str, **options: Any) -> str:
        """Saves into the hub's repository `repo`, made if missing, and returns its address.

        Who may write there is known from `hf auth login`; options: as `HfApi.upload_folder` takes.
        """
        from huggingface_hub import HfApi

        api = HfApi()
        repo = api.create_repo(repo, exist_ok=True).repo_id
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            api.upload_folder(repo_id=repo, folder_path=folder, **options)
        return f"https://huggingface.co/{repo}"
