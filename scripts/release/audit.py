"""Known vulnerabilities and conflicts of the pinned packages: results/audit.csv.

    python scripts/release/audit.py [FOLDER]

Asks `pip check` about this environment and `pip-audit`, where it is installed, about
constraints.txt. FOLDER is a checkout of the Python packaging advisory database
(github.com/pypa/advisory-database; records in the OSV schema, ossf.github.io/osv-schema), for
machines that pip-audit's service does not answer.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import yaml
from packaging.utils import canonicalize_name
from packaging.version import Version

from varmini.runtime.machine import provenance
from varmini.runtime.tables import write_rows

ROOT = Path(__file__).resolve().parents[2]
PINS = ROOT / "constraints.txt"


def run(*command: str) -> str:
    """What a command says."""
    done = subprocess.run(command, capture_output=True, text=True)
    return (done.stdout.strip() or done.stderr.strip()) or f"code {done.returncode}"


def ask_service() -> str:
    """What pip-audit finds; it calls clean what its service knows nothing of, so both are said."""
    options = ("--no-deps", "--disable-pip", "--format", "json", "-r", str(PINS))
    told = run(sys.executable, "-m", "pip_audit", *options)
    if not told.startswith("{"):
        return f"not measured: {told.splitlines()[-1]}"
    found = json.loads(told)["dependencies"]
    asked = [d for d in found if "vulns" in d]
    bad = [f"{d['name']} {d['version']} {v['id']}" for d in asked for v in d["vulns"]]
    if not asked:
        return f"not measured: the service knew none of {len(found)} packages"
    return f"{len(bad)} found in {len(asked)} of {len(found)} packages {'; '.join(bad)}".strip()


def concerns(record: dict, name: str, version: Version) -> bool:
    """Whether a record names this version, or a range that it lies in."""
    for affected in record["affected"]:
        if canonicalize_name(affected["package"]["name"]) != name:
            continue
        if str(version) in affected.get("versions", ()):
            return True
        for span in affected.get("ranges", ()):
            inside = False
            for event in span["events"] if span["type"] == "ECOSYSTEM" else ():
                kind, bound = next(iter(event.items()))
                reached = bound == "0" or version >= Version(bound)
                if kind == "introduced":
                    inside = inside or reached
                elif kind == "fixed":
                    inside = inside and not reached
                else:  # last_affected
                    inside = inside and version <= Version(bound)
            if inside:
                return True
    return False


def look_up(folder: Path) -> str:
    """The same from a checkout of the advisory database."""
    pins = re.findall(r"^([\w.-]+)==(\S+)", PINS.read_text(), re.M)
    bad, known, records = [], 0, 0
    for name, version in ((canonicalize_name(n), Version(v)) for n, v in pins):
        files = sorted((folder / "vulns" / name).glob("*.yaml"))
        known, records = known + bool(files), records + len(files)
        for record in (yaml.safe_load(file.read_text()) for file in files):
            if "withdrawn" not in record and concerns(record, name, version):
                bad.append(f"{name} {version} {record['id']}")
    at = run("git", "-C", str(folder), "log", "-1", "--format=%h of %cs")
    return (f"{len(bad)} found; {len(pins)} pins, {known} of them in {records} advisories, "
            f"at {at} {'; '.join(bad)}").strip()  # fmt: skip


def main() -> None:
    told = {"pip check": run(sys.executable, "-m", "pip", "check"), "pip-audit": ask_service()}
    if len(sys.argv) > 1:
        told["advisory database"] = look_up(Path(sys.argv[1]))
    origin = {k: provenance()[k] for k in ("date", "commit")}
    origin["command"] = "scripts/release/audit.py"
    rows = [{"check": check, "result": result} | origin for check, result in told.items()]
    for row in rows:
        print(f"{row['check']}: {row['result']}")
    write_rows(ROOT / "results" / "audit.csv", rows)


if __name__ == "__main__":
    main()
