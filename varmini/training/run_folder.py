"""The folder of a run: who may use it, what it tells about itself, and its log."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from ..runtime import distributed
from ..runtime.files import read_json, write_atomic
from ..runtime.machine import provenance
from ..runtime.tables import read_cells, write_rows

FREE_ON_RESUME = {
    "images", "accumulate", "log_every", "checkpoint_every", "held_out", "workers", "compile",
    "recompute", "parallel",
}  # fmt: skip
"""Settings that may change when a run goes on; any other would mix two runs."""


def check_folder(
    out: str | os.PathLike,
    config: Any,
    *,
    overwrite: bool,
    resume: bool,
    follows: Collection[str] = (),
) -> Path:
    """Checks that a run may use the folder `out`; touches nothing.

    Args:
        follows: settings ("model.sizes") that follow from others, so need not be compared.

    Raises:
        ValueError: when `out` is a file or cannot be written, when it holds files and neither
            `overwrite` nor `resume` is set, when no run wrote it, or when there is no run to
            resume or it had another configuration.
    """
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file, expected a folder for the run: choose another --out")
    existing = next(p for p in (out, *out.absolute().parents) if p.exists())
    if existing.is_dir() and not os.access(existing, os.W_OK | os.X_OK):
        raise ValueError(f"{existing} cannot be written: choose another --out")
    # A first start that was killed may have left an empty folder or a half-written hidden file.
    if not out.is_dir() or all(p.match(".*.tmp") for p in out.iterdir()):
        if resume:
            raise ValueError(f"{out} holds no run to resume: check --out, or leave out --resume")
        return out
    if not (overwrite or resume):
        raise ValueError(
            f"{out} already holds a run: add --resume to go on with it, "
            f"--overwrite to replace it, or choose another --out"
        )
    if not (out / "run.json").exists():
        raise ValueError(
            f"{out} is not a folder that a varmini run wrote (no run.json in it), "
            f"so it is left alone: choose another --out"
        )
    if resume:
        before = read_json(out / "run.json").get("config")
        if not isinstance(before, dict):
            raise ValueError(f"{out}/run.json tells no configuration: start again with --overwrite")
        for name, old, new in _changes(config, before):
            if name not in FREE_ON_RESUME and name not in follows:
                raise ValueError(
                    f"{out} was started with {name}={old}, not {new}: "
                    f"resume with the same, or choose another --out"
                )
    return out


def _changes(config: Any, before: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(name, old, new) of the settings in which a run's run.json differs from `config`."""
    for field in dataclasses.fields(config):
        name, new = path + field.name, getattr(config, field.name)
        if dataclasses.is_dataclass(new):
            inner = before.get(field.name)
            yield from _changes(new, inner if isinstance(inner, dict) else {}, f"{name}.")
            continue
        # A run that is older than a setting had what is the default now.
        usual = None if field.default is dataclasses.MISSING else field.default
        old, new = json.loads(json.dumps([before.get(field.name, usual), new]))
        if old != new:
            yield name, old, new


def make_folder(out: Path, *, clear: bool) -> Path:
    """Makes the checked folder of a run; under torchrun the first process does it for all.

    Args:
        clear: remove what an earlier run wrote; run.json stays until `Run` replaces it, so that a
            crash in between leaves a folder that can still be overwritten.

    Raises:
        ValueError: when it cannot be made.
    """
    with distributed.together():
        if distributed.is_main():
            _make_folder(out, clear)
    return out


def _make_folder(out: Path, clear: bool) -> None:
    if clear and (out / "run.json").exists():
        for name in ("log.csv", "config.json", "model.safetensors"):
            (out / name).unlink(missing_ok=True)
        for path in (*(out / "state").glob("*"), *(out / "tokens").glob("*")):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{out} cannot be made ({error.strerror}): choose another --out") from None


def _rows_until(path: Path, step: int) -> list[dict[str, Any]]:
    """The rows of a log up to a step; ValueError when it is damaged."""
    try:
        rows = [r for r in read_cells(path) if int(r["step"]) <= step]
        if any(float(r["seconds"]) < 0 for r in rows):
            raise ValueError("seconds are negative")
    except (ValueError, KeyError) as error:
        raise ValueError(
            f"{path} is damaged ({error}): the weights are intact; move this file away to go on "
            f"with a new log"
        ) from None
    return rows


class Run:
    """The folder of one training run: `run.json` (config and provenance) and `log.csv`.

    Under torchrun the first process writes them.

    Args:
        start_step: rows after this step are dropped from an earlier log, as they will come again.
        kind: of the model that is trained, "tokenizer" or "var", for `varmini consolidate`.

    Raises:
        ValueError: when an earlier log.csv or run.json is damaged.
    """

    def __init__(self, out: Path, config: Any, start_step: int = 0, kind: str = "") -> None:
        self.path = out / "log.csv"
        self.rows: list[dict[str, Any]] = []
        self.seconds_before = 0.0
        sessions = []
        if start_step and (out / "run.json").exists():
            sessions = read_json(out / "run.json").get("sessions") or []
            if not isinstance(sessions, list):
                raise ValueError(f"{out}/run.json lists no sessions: restore the file")
        if start_step and self.path.exists():
            self.rows = _rows_until(self.path, start_step)
            self.seconds_before = float(self.rows[-1]["seconds"]) if self.rows else 0.0
        if distributed.is_main():
            sessions.append({"from_step": start_step} | provenance())
            told = {"kind": kind, "config": dataclasses.asdict(config), "sessions": sessions}
            write_atomic(out / "run.json", json.dumps(told, indent=1).encode())
        self.begin = time.perf_counter()

    def log(self, step: int, images: int, values: dict[str, float | None]) -> None:
        """Adds a row to log.csv; a value of None leaves its cell empty."""
        if not distributed.is_main():
            return
        seconds = self.seconds_before + time.perf_counter() - self.begin
        row = {"step": step, "images": images, "seconds": f"{seconds:.1f}"}
        row |= {k: "" if v is None else f"{v:.6g}" for k, v in values.items()}
        self.rows.append(row)
        write_rows(self.path, self.rows)
