"""Two archives of one checkout: what students get, and what only instructors get.

    python scripts/course/instructors.py students out/students.tar.gz
    python scripts/course/instructors.py instructors out/instructors.tar.gz.gpg
    python scripts/course/instructors.py open out/instructors.tar.gz.gpg FOLDER

The students' archive holds all files that git tracks but those of `WITHHELD`: no solutions and no
tests. Its notebooks run and `varmini grade` works, for the grader's references and the sentences on
known mistakes (`varmini/grade/`) stay: points say that code works, not who wrote it. The
instructors' archive holds the withheld files and nothing else, encrypted by GnuPG with a passphrase
(AES-256; asked for, or the first line of --passphrase-file). `open` unpacks it over a folder, such
as the students' tree: the two together are the checkout again.

GnuPG is the system's own `gpg`; `gpg --decrypt FILE | tar xz` opens the archive without this file.
"""

from __future__ import annotations

import argparse
import getpass
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from functools import cache
from pathlib import Path
from subprocess import SubprocessError

import nbformat

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts" / "course"))
from make_assignments import SOLUTION  # noqa: E402

WITHHELD = (
    "notebooks/assignments/source/", "tests/", ".ci/", ".github/workflows/",
    "results/grading.csv", "results/attack.csv",
    *(f"scripts/course/{name}.py" for name in ("make_assignments", "prove_grader",
      "prove_notebooks", "attack_grader", "try_nbgrader", "instructors")),
)  # fmt: skip
FEWEST = 3
"""Lines of a solution, one after the other, that give it away; shorter ones any textbook holds."""


def tracked() -> list[str]:
    """The files of the checkout, by git."""
    found = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    names = found.stdout.decode().split("\0")
    return sorted(name for name in names if name and (ROOT / name).is_file())


def split() -> tuple[list[str], list[str]]:
    """(students' files, withheld files)."""
    everything = tracked()
    withheld = [name for name in everything if name.startswith(WITHHELD)]
    return sorted(set(everything) - set(withheld)), withheld


def plain(text: str) -> list[str]:
    """Lines without indentation, comments and blank ones."""
    lines = (line.partition("  #")[0].strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


@cache
def solutions() -> dict[str, list[str]]:
    """The lines of every solution, by the first line of its cell."""
    found = {}
    for path in sorted((ROOT / "notebooks" / "assignments" / "source").glob("*.ipynb")):
        for cell in nbformat.read(path, 4).cells:
            for match in SOLUTION.finditer(cell.source):
                found[f"{path.stem}: {cell.source.splitlines()[0]}"] = plain(match["body"])
    return found


def leaks(name: str, data: bytes) -> list[str]:
    """The solutions of which a file holds `FEWEST` lines, one after the other."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return []
    if name.endswith(".ipynb"):
        cells = json.loads(text)["cells"]
        text = "\n".join("".join(cell["source"]) for cell in cells)
    lines = "\n".join(["", *plain(text), ""])
    return [
        of for of, body in solutions().items() if any(
            "\n".join(["", *body[i : i + FEWEST], ""]) in lines
            for i in range(len(body) - FEWEST + 1)
        )
    ]  # fmt: skip


def packed(names: list[str]) -> bytes:
    """A .tar.gz of files of the checkout; the names of their owners are left out."""

    def bare(info: tarfile.TarInfo) -> tarfile.TarInfo:
        info.uid = info.gid = 0
        info.uname = info.gname = ""
        return info

    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name in names:
            archive.add(ROOT / name, name, filter=bare)
    return out.getvalue()


def gpg(options: list[str], data: bytes, passphrase: str) -> bytes:
    """What `gpg` makes of data, with a key ring of its own that is removed afterwards.

    Raises:
        RuntimeError: when there is no gpg, or it fails (as with another passphrase).
    """
    if shutil.which("gpg") is None:
        raise RuntimeError("no gpg found: install GnuPG (apt install gnupg, brew install gnupg)")
    with tempfile.TemporaryDirectory() as home:
        os.chmod(home, 0o700)
        file = Path(home, "data")
        file.write_bytes(data)
        command = ["gpg", "--homedir", home, "--batch", "--pinentry-mode", "loopback"]
        command += ["--passphrase-fd", "0", "--output", "-", *options, str(file)]
        done = subprocess.run(command, input=passphrase.encode(), capture_output=True)
        stop = ["gpgconf", "--homedir", home, "--kill", "all"]
        subprocess.run(stop, capture_output=True)
    if done.returncode:
        raise RuntimeError(f"gpg failed: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout


def students(target: Path) -> list[str]:
    """Writes the students' archive; its files.

    Raises:
        RuntimeError: when a file holds a solution.
    """
    names, _ = split()
    told = {name: found for name in names if (found := leaks(name, (ROOT / name).read_bytes()))}
    if told:
        raise RuntimeError(f"solutions stand in {told}: withhold these files, or change the tasks")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(packed(names))
    return names


def instructors(target: Path, passphrase: str) -> list[str]:
    """Writes the instructors' archive; its files."""
    _, names = split()
    options = ["--symmetric", "--cipher-algo", "AES256", "--s2k-digest-algo", "SHA512"]
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(gpg(options, packed(names), passphrase))
    return names


def unpack(source: Path, folder: Path, passphrase: str) -> list[str]:
    """Unpacks an instructors' archive over a folder; its files."""
    data = gpg(["--decrypt"], source.read_bytes(), passphrase)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        archive.extractall(folder, filter="data")
        return archive.getnames()


def passphrase(file: Path | None) -> str:
    """The first line of a file, or what is typed.

    Raises:
        RuntimeError: when it has fewer than 12 characters.
    """
    typed = getpass.getpass("passphrase: ") if file is None else file.read_text()
    if len(first := typed.partition("\n")[0]) < 12:
        raise RuntimeError(
            "a passphrase of at least 12 characters is needed: the archive may travel"
        )
    return first


def main(words: list[str]) -> int:
    raw = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("what", choices=["students", "instructors", "open"])
    parser.add_argument("archive", type=Path)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("."), help="open: into this")
    parser.add_argument("--passphrase-file", type=Path)
    args = parser.parse_args(words)
    try:
        if args.what == "students":
            names = students(args.archive)
        elif args.what == "instructors":
            names = instructors(args.archive, passphrase(args.passphrase_file))
        else:
            names = unpack(args.archive, args.folder, passphrase(args.passphrase_file))
    except (OSError, RuntimeError, ValueError, tarfile.TarError, SubprocessError) as error:
        print(f"instructors.py: {error}", file=sys.stderr)
        return 1
    print(f"{args.archive}: {len(names)} files")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
