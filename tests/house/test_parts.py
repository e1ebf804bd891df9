"""The parts of the package and what each may import: docs and review lean on this table."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "varmini"
BELOW = {
    "runtime": "",
    "model": "runtime",
    "data": "runtime",
    "fast": "model runtime",
    "official": "model runtime",
    "training": "fast model data runtime",
    "plots": "fast model data runtime",
    "zoo": "model data training runtime",
    "evaluation": "training plots fast model data runtime",
    "grade": "",
    "experiments": "evaluation zoo plots training official fast model data runtime",
    "cli": "experiments grade evaluation zoo plots training official fast model data runtime",
}
TOP = {"sample": "fast", "inpaint": "fast", "quicken": "fast", "VAR": "model",
       "MultiScaleVQVAE": "model", "plots": "plots", "__version__": "runtime"}  # fmt: skip
MACHINE = ("oneDNN", "mkldnn", "laid out", "contiguous", "channels_last", "is_autocast_enabled")
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or
               path.stem == "official")  # fmt: skip


def imported(path):
    """(part, name) of everything that a file imports from the package."""
    home = path.relative_to(PACKAGE).with_suffix("").parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = [*home[: len(home) - node.level], *(node.module or "").split(".")]
            base = [part for part in base if part]
            for name in (alias.name for alias in node.names):
                yield (base[0] if base else TOP.get(name, name)), name


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_imports_run_one_way_and_no_name_is_private(path):
    part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    found = list(imported(path))
    assert {p for p, _ in found} <= {part, *BELOW[part].split()}
    assert not [name for _, name in found if name.startswith("_") and name != "__version__"]


def test_the_paper_knows_no_machine():
    files = list((PACKAGE / "model").glob("*.py"))
    assert not [(f.name, w) for f in files for w in MACHINE if w in f.read_text()]
    assert sum(len(f.read_text().splitlines()) for f in files) <= 1500
    outside = {(p, n) for f in files for p, n in imported(f) if p != "model"}
    assert outside == {("runtime", "Pretrained")}


def test_the_reading_guide_tells_every_length():
    guide = (PACKAGE.parent / "docs/reading.md").read_text()
    told = re.findall(r"^\| `(\w+\.py)` \| (\d+) \|", guide, re.MULTILINE)
    files = [p for p in (PACKAGE / "model").glob("*.py") if p.stem not in ("config", "checks")]
    found = {(p.name, str(len(p.read_text().splitlines()))) for p in files}
    assert set(told) == found - {("__init__.py", "1")}


def test_no_file_is_long():
    lengths = {p: len(p.read_text().splitlines()) for p in PACKAGE.rglob("*.py")}
    assert not {p.name: n for p, n in lengths.items() if n > 350}
    assert len([p for p in PACKAGE.iterdir() if p.name != "__pycache__"]) <= 14


def test_the_top_level_is_short():
    command = ["git", "ls-tree", "-d", "--name-only", "HEAD"]
    found = subprocess.run(command, cwd=PACKAGE.parent, capture_output=True, text=True)
    if found.returncode:
        pytest.skip("no git checkout")
    folders = {name for name in found.stdout.split() if name[0] != "."}
    assert folders == {"varmini", "notebooks", "data", "results", "scripts", "docs", "tests", "web"}
