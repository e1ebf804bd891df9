"""The folder of a run: who may use it, what it tells about itself, and its log."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

from ..runtime import distributed
from ..runtime.files import check_writable, read_json, write_atomic
from ..runtime.machine import provenance
from ..runtime.tables import read_rows, write_rows

FREE_ON_RESUME = {
    "images", "accumulate", "log_every", "checkpoint_every", "held_out", "workers", "compile",
    "recompute", "parallel",
}  # fmt: skip
"""Settings that may change when a run goes on; any other would mix two runs."""


def check_folder(out: str | os.PathLike, config: Any, *, overwrite: bool, resume: bool) -> Path:
    """Checks that a run may use the folder `out`; leaves nothing.

    Raises:
        ValueError: when `out` cannot be written, holds a run and neither `overwrite` nor `resume`
            is set, or holds what no run, or a run with another configuration, wrote.
    """
    out = Path(out)
    check_writable(out / "run.json")
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
    before = _settings(read_json(out / "run.json").get("config")) if resume else {}
    for name, new in _settings(json.loads(json.dumps(dataclasses.asdict(config)))).items():
        # A run that is older than a setting knows nothing of it.
        if name not in FREE_ON_RESUME and before.get(name, new) != new:
            raise ValueError(
                f"{out} was started with {name}={before[name]}, not {new}: "
                f"resume with the same, or choose another --out"
            )
    return out


def _settings(config: Any, path: str = "") -> dict[str, Any]:
    """The values of a configuration by name, such as model.width."""
    found: dict[str, Any] = {}
    for name, value in config.items() if isinstance(config, dict) else ():
        nested = isinstance(value, dict)
        found |= _settings(value, f"{path}{name}.") if nested else {path + name: value}
    return found


def make_folder(out: Path, *, clear: bool = False) -> Path:
    """Makes the checked folder of a run; under torchrun the first process does it for all.

    Args:
        clear: remove what an earlier run wrote; run.json stays until `Run` replaces it, so that a
            crash in between leaves a folder that can still be overwritten.

    Raises:
        OSError: when it cannot be made.
    """
    with distributed.together():
        if distributed.is_main():
            if clear and (out / "run.json").exists():
                for name in ("log.csv", "config.json", "model.safetensors"):
                    (out / name).unlink(missing_ok=True)
                for folder in (out / "state", out / "tokens"):
                    if folder.is_dir():
                        shutil.rmtree(folder)
            out.mkdir(parents=True, exist_ok=True)
    return out


class Run:
    """What the first process writes of a run: `run.json` (config and provenance) and `log.csv`.

    Args:
        start_step: rows after this step are dropped from an earlier log, as they will come again.
        kind: of the model that is trained.

    Raises:
        ValueError: when an earlier log.csv or run.json is damaged.
    """

    def __init__(self, out: Path, config: Any, start_step: int = 0, kind: str = "") -> None:
        self.path = out / "log.csv"
        self.rows: list[dict[str, Any]] = []
        sessions: list[Any] = []
        if start_step:
            self.rows = self._rows_until(start_step) if self.path.exists() else []
            told = read_json(out / "run.json").get("sessions")
            sessions = told if isinstance(told, list) else []
        before = float(self.rows[-1]["seconds"]) if self.rows else 0.0
        if distributed.is_main():
            sessions.append({"from_step": start_step} | provenance())
            told = {"kind": kind, "config": dataclasses.asdict(config), "sessions": sessions}
            write_atomic(out / "run.json", json.dumps(told, indent=1).encode())
        self.begin = time.perf_counter() - before

    def _rows_until(self, step: int) -> list[dict[str, Any]]:
        try:
            rows = [r | {"seconds": f"{float(r['seconds']):.1f}"} for r in read_rows(self.path)]
            return [row for row in rows if row["step"] <= step]
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"{self.path} is damaged ({error}): the weights are intact; move this file away to "
                f"go on with a new log"
            ) from None

    def log(self, step: int, images: int, values: dict[str, float | None]) -> None:
        """Adds a row to log.csv; a value of None leaves its cell empty."""
        if not distributed.is_main():
            return
        row = {"step": step, "images": images}
        row |= {"seconds": f"{time.perf_counter() - self.begin:.1f}"}
        row |= {k: "" if v is None else f"{v:.6g}" for k, v in values.items()}
        self.rows.append(row)
        write_rows(self.path, self.rows)
