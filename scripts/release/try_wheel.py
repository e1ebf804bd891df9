"""The wheel in a clean environment, away from the checkout, on several Pythons: results/wheel.csv.

    python scripts/release/try_wheel.py [--only python3.12 ...]

Builds the wheel, installs it with the pinned packages, and there runs `varmini sample`, the first
notebook and `varmini demo`. A row an interpreter and task, with the last line that was said.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from try_versions import ROOT, interpreter, last_line, run

from varmini.runtime.machine import provenance
from varmini.runtime.tables import read_rows, write_rows

TABLE = ROOT / "results" / "wheel.csv"
PYTHONS = ("python3.11", "python3.12", "python3.13")
TASKS = {
    "sample": ("-m", "varmini", "sample", "--labels", "horse", "ship", "--n", "4"),
    "notebook 00": ("-m", "nbconvert", "--to", "notebook", "--execute", "00.ipynb"),
    "demo": ("-m", "varmini", "demo"),
}
"""What runs in an empty folder that holds nothing but the first notebook."""


def try_one(name: str, flags: list[str], folder: Path) -> list[dict[str, str]]:
    """Rows of one interpreter."""
    base = interpreter(name)
    if not base:
        return [{"python": name, "task": "install", "result": "not measured", "said": "not here"}]
    work, wheels, venv = (folder / part for part in ("work", "wheels", "venv"))
    work.mkdir()
    shutil.copy(next((ROOT / "notebooks").glob("00*.ipynb")), work / "00.ipynb")
    run(base, "-m", "venv", str(venv), check=True)
    python = str(venv / "bin" / "python")
    pip = (python, "-m", "pip", "--quiet", "--disable-pip-version-check")
    made = run(*pip, "wheel", *flags, "--no-deps", "-w", str(wheels), str(ROOT))
    wheel = next(iter(wheels.glob("*.whl")), None)
    asked = f"{wheel}[notebooks]"
    done = run(*pip, "install", *flags, "-c", "constraints.txt", asked) if wheel else made
    rows = [{"python": name, "task": "install", "result": "failed" if done.returncode else "passed",
             "said": last_line(done)}]  # fmt: skip
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    for task, command in () if done.returncode else TASKS.items():
        begin = time.monotonic()
        done = run(python, *command, cwd=work, env=env)
        rows.append({
            "python": name, "task": task, "result": "failed" if done.returncode else "passed",
            "minutes": f"{(time.monotonic() - begin) / 60:.1f}", "said": last_line(done),
        })  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=PYTHONS, default=PYTHONS)
    parser.add_argument("--pip-flags", default="", help="as PIP_FLAGS of the Makefile")
    o = parser.parse_args()
    kept = [r for r in read_rows(TABLE) if r["python"] not in o.only] if TABLE.exists() else []
    origin = {k: provenance()[k] for k in ("date", "hardware", "command", "commit")}
    for name in o.only:
        with tempfile.TemporaryDirectory() as folder:
            found = try_one(name, o.pip_flags.split(), Path(folder))
        print(*found, sep="\n", flush=True)
        kept += [row | origin for row in found]
        write_rows(TABLE, kept)
    sys.exit(any(row["result"] == "failed" for row in kept))


if __name__ == "__main__":
    main()
