"""The test suite with other torch, numpy and Python: `make versions`.

    python scripts/release/try_versions.py [--only NAME ...] [--tests "tests/model"]

Makes an environment for each trial, installs varmini there, runs `pip check` and the tests without
any network (`unshare -n` where that is allowed). Writes a row a trial to results/versions.csv;
what cannot be installed, or an interpreter that is not here, is `not measured`, with the reason; of
tests that fail, the names are the reason.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from varmini.runtime.machine import provenance
from varmini.runtime.tables import read_rows, write_rows

ROOT = Path(__file__).resolve().parents[2]
TABLE = ROOT / "results" / "versions.csv"
PINNED = ("-c", "constraints.txt")
TRIALS = {
    "lowest": ("", "torch==2.11.*", "numpy==2.0.*"),
    "pinned": ("", *PINNED),
    "newest": ("", "torch", "numpy", "--upgrade"),
    **{name: (name, *PINNED) for name in ("python3.11", "python3.12", "python3.13")},
}
"""An interpreter (none: this one), and what pip is asked for on top of pyproject.toml."""


def run(*command: str, **options) -> subprocess.CompletedProcess:
    """A command in the checkout, with its output caught."""
    return subprocess.run(command, capture_output=True, text=True, **{"cwd": ROOT} | options)


def last_line(done: subprocess.CompletedProcess) -> str:
    """What a command said last, or its code when it said nothing."""
    lines = (done.stdout.strip() or done.stderr.strip()).splitlines()
    return lines[-1].strip() if lines else f"code {done.returncode}"


def interpreter(name: str) -> str:
    """The path of an interpreter by its name, also of one that pyenv keeps; "" if there is none."""
    kept = sorted(Path.home().glob(f".pyenv/versions/*/bin/{name}"), reverse=True)
    for path in filter(None, (shutil.which(name), *map(str, kept))):
        if run(path, "-c", "import ensurepip, venv").returncode == 0:
            return path
    return ""


def alone() -> list[str]:
    """What stands before a command to run it without a network; empty where that is not allowed."""
    if run("unshare", "-rn", "true").returncode:
        return []
    # A namespace of its own comes with its loopback down, and processes meet there.
    return ["unshare", "-rn", "sh", "-c", 'ip link set lo up 2>/dev/null; exec "$@"', "sh"]


def try_one(name: str, tests: list[str], flags: list[str], folder: Path) -> dict[str, str]:
    """Installs and tests one of `TRIALS`; returns a row of the table."""
    wanted, *asked = TRIALS[name]
    row = {"trial": name, "asked": " ".join(asked)}
    base = interpreter(wanted) if wanted else sys.executable
    if not base:
        return row | {"tests": "not measured", "reason": f"no {wanted} is on this machine"}
    venv = folder / name
    run(base, "-m", "venv", str(venv), check=True)
    python = str(venv / "bin" / "python")
    done = run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *flags,
               *asked, "-e", ".[dev,notebooks]")  # fmt: skip
    if done.returncode:
        return row | {"tests": "not measured", "reason": last_line(done)}
    versions = run(python, "-c", "import torch, numpy, platform as p; "
                   "print(torch.__version__, numpy.__version__, p.python_version())")  # fmt: skip
    row |= dict(zip(("torch", "numpy", "python"), versions.stdout.split()))
    row["pip check"] = last_line(run(python, "-m", "pip", "check"))
    prefix = alone()
    row["network"] = "none" if prefix else "there; conftest.py lets nothing out"
    begin = time.monotonic()
    done = run(*prefix, python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests)
    row["tests"] = last_line(done).strip("= ")
    row["minutes"] = f"{(time.monotonic() - begin) / 60:.1f}"
    row["reason"] = "; ".join(re.findall(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.M))
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=TRIALS, default=list(TRIALS))
    parser.add_argument("--tests", nargs="*", default=["tests"], help="what pytest runs")
    parser.add_argument("--pip-flags", default="", help="as PIP_FLAGS of the Makefile")
    o = parser.parse_args()
    kept = [r for r in read_rows(TABLE) if r["trial"] not in o.only] if TABLE.exists() else []
    origin = {k: provenance()[k] for k in ("date", "hardware", "command", "commit")}
    for name in o.only:
        with tempfile.TemporaryDirectory() as folder:
            kept.append(try_one(name, o.tests, o.pip_flags.split(), Path(folder)) | origin)
        print(kept[-1], flush=True)
        write_rows(TABLE, kept)


if __name__ == "__main__":
    main()
