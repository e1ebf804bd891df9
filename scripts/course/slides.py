"""Decks for lectures: reveal.js slides from the notebooks' tagged cells, by nbconvert.

    python scripts/course/slides.py build --out out/slides     # what `make slides` calls
    python scripts/course/slides.py tag notebooks/02_*.ipynb   # for a notebook without slides

A cell's Slide Type (JupyterLab: property inspector, Common Tools) decides: "slide" begins one, "-"
goes on with it, "skip" or none leaves the cell out. Of a cell with a picture a deck shows the
picture and not the code, unless the cell has the tag "show-code". reveal.js and MathJax come from
pip packages (the extra "book") and lie beside the decks, which need no network.
"""

from __future__ import annotations

import argparse
import html
import importlib.util
import re
import shutil
import sys
from pathlib import Path

import nbformat
from nbconvert import SlidesExporter
from traitlets.config import Config

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "docs" / "book"))

from front import alternative  # noqa: E402

TEMPLATE = Path(__file__).with_name("slides.html.j2")
HIDDEN = "deck-hides-code"
# A deck has no prerequisites and no list of sources.
ENDS = re.compile(r"\n+(?:## Sources|\*\*Next\.|\*\*Before you start\.).*", re.S)
UNDESCRIBED = "No description has been provided for this image"  # nbconvert's alternative text
NOT_TAUGHT = re.compile(r"## \d+ · Exercises")


def png(output: nbformat.NotebookNode) -> bool:
    return "image/png" in output.get("data", {})


def pictures(cell: nbformat.NotebookNode) -> bool:
    return any(map(png, cell.get("outputs", [])))


def slide_type(cell: nbformat.NotebookNode) -> str:
    return cell.metadata.get("slideshow", {}).get("slide_type", "")


def tagged(path: Path) -> bool:
    return any(map(slide_type, nbformat.read(path, as_version=4).cells))


def tag(path: Path) -> None:
    """Writes Slide Types into a notebook without any, as a first draft to be edited.

    A section's title begins a slide. A picture joins the slide of the text before it, code between
    the two is left out; of a slide's second picture, and of the exercises, nothing is shown.
    """
    notebook = nbformat.read(path, as_version=4)
    cells, text, kinds = notebook.cells, None, {0: "slide"}
    for i, cell in enumerate(cells):
        if NOT_TAUGHT.match(cell.source):
            break
        if i and cell.cell_type == "markdown":
            text = i
            if cell.source.startswith("## "):
                kinds[i] = "slide"
        elif pictures(cell) and text is not None:
            kinds[text], kinds[i], text = "slide", "-", None
    kinds[len(cells) - 1] = "slide"
    for i, kind in kinds.items():
        cells[i].metadata["slideshow"] = {"slide_type": kind}
    nbformat.write(notebook, path)


def deck(path: Path) -> str:
    """The deck of one notebook as an HTML page, which looks for reveal/ and mathjax/ beside it."""
    notebook, heading, words, described = nbformat.read(path, as_version=4), "", "", []
    for cell in notebook.cells:
        kind = cell.metadata.setdefault("slideshow", {}).setdefault("slide_type", "skip")
        if cell.cell_type == "markdown":
            cell.source = ENDS.sub("", cell.source)
            titles = re.findall(r"^#+ (.+)", cell.source, re.M)
            heading = titles[-1] if titles else heading
            words = re.sub(r"^#+ .+|[*`$]", "", cell.source, flags=re.M)
        elif kind != "skip":
            said = alternative(heading, words)
            described += [output.metadata.get("image/png", {}).get("alt", said)
                          for output in cell.get("outputs", []) if png(output)]  # fmt: skip
            if pictures(cell) and "show-code" not in cell.metadata.get("tags", []):
                cell.metadata["tags"] = [*cell.metadata.get("tags", []), HIDDEN]
    notebook.metadata["title"] = path.stem
    config = Config(TagRemovePreprocessor={"enabled": True, "remove_input_tags": {HIDDEN}},
                    SlidesExporter={"reveal_url_prefix": "reveal", "reveal_theme": "white"},
                    )  # fmt: skip
    exporter = SlidesExporter(config=config, template_file=str(TEMPLATE))
    first, *parts = exporter.from_notebook_node(notebook)[0].split(UNDESCRIBED)
    return first + "".join(html.escape(a) + b for a, b in zip(described, parts, strict=True))


def assets(out: Path) -> None:
    """Copies reveal.js and MathJax, about 10 MB, from their pip packages."""
    parts = {"reveal": ("sphinx_revealjs", "_static/revealjs", ("dist", "plugin/notes", "LICENSE")),
             "mathjax": ("sphinx-mathjax-offline", "static/mathjax",
                         ("tex-chtml.js", "output/chtml", "a11y", "sre"))}  # fmt: skip
    for name, (package, folder, wanted) in parts.items():
        found = importlib.util.find_spec(package)
        if found is None:
            sys.exit(f"{package} is not installed: pip install -e '.[book]'")
        source = Path(next(iter(found.submodule_search_locations))) / folder
        for part in wanted:
            if (source / part).is_dir():
                shutil.copytree(source / part, out / name / part, dirs_exist_ok=True)
            else:
                (out / name).mkdir(parents=True, exist_ok=True)
                shutil.copy(source / part, out / name / part)


def build(paths: list[Path], out: Path) -> None:
    shutil.rmtree(out, ignore_errors=True)
    assets(out)
    for path in paths:
        (out / f"{path.stem}.html").write_text(deck(path), encoding="utf-8")
    links = "".join(f'<li><a href="{path.stem}.html">{path.stem}</a>' for path in paths)
    page = f"<!DOCTYPE html><meta charset=utf-8><title>varmini: decks</title><ul>{links}</ul>"
    (out / "index.html").write_text(page, encoding="utf-8")
    print(out / "index.html")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("do", choices=("build", "tag"))
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: all tagged ones")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "slides")
    o = parser.parse_args()
    if o.do == "tag":
        for path in o.notebooks:
            tag(path)
    else:
        paths = o.notebooks or sorted(filter(tagged, (ROOT / "notebooks").glob("*.ipynb")))
        build(paths, o.out)


if __name__ == "__main__":
    main()
