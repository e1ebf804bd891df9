"""Lets the notebooks run where varmini is not installed: Colab, Kaggle, Binder.

    python scripts/course/hosted.py                       # new notebooks get the lines, too
    python scripts/course/hosted.py --repository owner/name [--branch main]

The first cell of each notebook installs varmini if it cannot be imported, and does nothing else, so
a checkout stays as it is. Until the course has a public address that installation fails and says
so: a name under .invalid belongs to nobody, now or later. With --repository (on GitHub) the address
is written into every notebook, with links that open it on the three hosts. Binder builds from
environment.yml and needs no installation.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[2]
NOWHERE = "git+https://varmini.invalid/varmini"
LINES = """
from importlib.util import find_spec

if find_spec("varmini") is None:  # on a hosted notebook; the address: scripts/course/hosted.py
    get_ipython().run_line_magic("pip", "install -q {source}")
"""
INSTALL = re.compile(r'(run_line_magic\("pip", "install -q )([^"]+)("\))')
LAUNCH = re.compile(r"\n\n\*\*Open it\.\*\*.*")
HOSTS = {
    "Colab": "https://colab.research.google.com/github/{repository}/blob/{branch}/notebooks/{name}",
    "Kaggle": "https://kaggle.com/kernels/welcome?src="
              "https://github.com/{repository}/blob/{branch}/notebooks/{name}",
    "Binder": "https://mybinder.org/v2/gh/{repository}/{branch}?urlpath=lab/tree/notebooks/{name}",
}  # fmt: skip


def lessons() -> list[Path]:
    """All but var_from_scratch, which reads the pictures of a checkout and does without varmini."""
    return sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))


def source_of(path: Path) -> str | None:
    """What pip would install from; None if the notebook has no such lines."""
    cell = next(c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code")
    found = INSTALL.search(cell.source)
    return found and found[2]


def write(path: Path, source: str | None = None, links: dict[str, str] | None = None) -> None:
    """Puts the lines into a notebook's first cell, or changes where they install from."""
    notebook = nbformat.read(path, as_version=4)
    cell = next(c for c in notebook.cells if c.cell_type == "code")
    if not INSTALL.search(cell.source):
        first, _, others = cell.source.partition("\n")
        cell.source = f"{first}\n{LINES.format(source=NOWHERE)}\n{others.lstrip()}"
    if source:
        cell.source = INSTALL.sub(lambda m: m[1] + source + m[3], cell.source)
    if links:
        opening = notebook.cells[0]
        listed = " · ".join(f"[{host}]({link})" for host, link in links.items())
        opening.source = LAUNCH.sub("", opening.source) + f"\n\n**Open it.** {listed}"
    nbformat.write(notebook, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repository", help="owner/name on GitHub")
    parser.add_argument("--branch", default="main")
    o = parser.parse_args()
    for path in lessons():
        if o.repository:
            where = {"repository": o.repository, "branch": o.branch, "name": path.name}
            links = {host: link.format(**where) for host, link in HOSTS.items()}
            write(path, f"git+https://github.com/{o.repository}@{o.branch}", links)
        else:
            write(path)


if __name__ == "__main__":
    main()
