"""The test suite with the lowest, pinned and newest torch and numpy: `make versions`.

    python scripts/release/try_versions.py [--only NAME ...] [--tests "tests/model"]

Makes an environment for each pair, installs varmini there, runs `pip check` and the tests without
any network (`unshare -n` where that is allowed). Writes a row a pair to results/versions.csv;
a pair that cannot be installed is `not measured`, with the reason; of tests that fail, the names
are the reason.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from varmini.runtime.machine import provenance
from varmini.runtime.tables import read_rows, write_rows

ROOT = Path(__file__).resolve().parents[2]
TABLE = ROOT / "results" / "versions.csv"
PAIRS = {
    "lowest": ("torch==2.11.*", "numpy==2.0.*"),
    "pinned": ("-c", "constraints.txt"),
    "newest": ("torch", "numpy", "--upgrade"),
}
"""What pip is asked for on top of varmini's own requirements in pyproject.toml."""


def run(*command: str, **options) -> subprocess.CompletedProcess:
    """A command in the checkout, with its output caught."""
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, **options)


def last_line(done: subprocess.CompletedProcess) -> str:
    """What a command said last, or its code when it said nothing."""
    lines = (done.stdout.strip() or done.stderr.strip()).splitlines()
    return lines[-1].strip() if lines else f"code {done.returncode}"


def try_pair(name: str, tests: list[str], flags: list[str], folder: Path) -> dict[str, str]:
    """Installs and tests one pair; returns a row of the table."""
    venv = folder / name
    run(sys.executable, "-m", "venv", str(venv), check=True)
    python = str(venv / "bin" / "python")
    done = run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *flags,
               *PAIRS[name], "-e", ".[dev,notebooks]")  # fmt: skip
    row = {"pair": name, "asked": " ".join(PAIRS[name])}
    if done.returncode:
        return row | {"tests": "not measured", "reason": last_line(done)}
    versions = run(python, "-c", "import torch, numpy, platform as p; "
                   "print(torch.__version__, numpy.__version__, p.python_version())")  # fmt: skip
    row |= dict(zip(("torch", "numpy", "python"), versions.stdout.split()))
    row["pip check"] = last_line(run(python, "-m", "pip", "check"))
    alone = ["unshare", "-rn"] if run("unshare", "-rn", "true").returncode == 0 else []
    row["network"] = "none" if alone else "there; conftest.py lets nothing out"
    # A namespace of its own comes with its loopback down, and torchrun's processes meet there.
    inside = "ip link set lo up 2>/dev/null; " if alone else ""
    inside += " ".join([python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests])
    begin = time.monotonic()
    done = run(*alone, "sh", "-c", inside)
    row["tests"] = last_line(done).strip("= ")
    row["minutes"] = f"{(time.monotonic() - begin) / 60:.1f}"
    row["reason"] = "; ".join(re.findall(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.M))
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=PAIRS, default=list(PAIRS))
    parser.add_argument("--tests", nargs="*", default=["tests"], help="what pytest runs")
    parser.add_argument("--pip-flags", default="", help="as PIP_FLAGS of the Makefile")
    o = parser.parse_args()
    kept = [r for r in read_rows(TABLE) if r["pair"] not in o.only] if TABLE.exists() else []
    origin = {k: provenance()[k] for k in ("date", "hardware", "command", "commit")}
    for name in o.only:
        with tempfile.TemporaryDirectory() as folder:
            kept.append(try_pair(name, o.tests, o.pip_flags.split(), Path(folder)) | origin)
        print(kept[-1], flush=True)
        write_rows(TABLE, kept)


if __name__ == "__main__":
    main()
