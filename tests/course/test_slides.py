"""Decks from tagged cells: each builds, is long enough for a lecture, and asks no other site."""

import re
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts" / "course"))

import slides  # noqa: E402

TAGGED = [path for path in sorted((ROOT / "notebooks").glob("*.ipynb")) if slides.tagged(path)]


def test_the_notebooks_of_the_core_have_decks():
    assert {path.stem[:2] for path in TAGGED} >= {"01", "03", "05", "07"}


@pytest.mark.parametrize("path", TAGGED, ids=lambda path: path.stem)
def test_a_deck_has_slides_with_pictures_and_no_solutions(path):
    page = slides.deck(path)
    assert page.count("<section") // 2 >= 15  # nbconvert nests: a column, and the slide in it
    assert page.count("data:image/png;base64") >= 8
    assert "No description" not in page and 'alt="Picture of the section' in page
    assert "Solutions" not in page and "## Sources" not in page
    loaded = re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="([^"]*)"', page)
    assert not [link for link in loaded if re.match("(https?:)?//", link)]
    assert {"reveal/dist/reveal.js", "mathjax/tex-chtml.js"} <= set(loaded)


def test_every_slide_begins_with_words():
    for path in TAGGED:
        for cell in nbformat.read(path, as_version=4).cells:
            kind = slides.slide_type(cell)
            assert kind in ("slide", "-", "skip", ""), path
            assert kind != "slide" or cell.cell_type == "markdown", (path, cell.source)


def test_tagging_joins_a_picture_to_its_words_and_leaves_out_code_and_exercises(tmp_path):
    new = nbformat.v4
    picture = new.new_output("display_data", {"image/png": "aGk="})
    notebook = new.new_notebook(cells=[
        new.new_markdown_cell("# 00 · Title"), new.new_code_cell("x = 1"),
        new.new_markdown_cell("## 1 · Section"), new.new_markdown_cell("What it shows."),
        new.new_code_cell("y = 2"), new.new_code_cell("plot()", outputs=[picture]),
        new.new_markdown_cell("A remark."),
        new.new_markdown_cell("## 2 · Exercises"), new.new_code_cell("plot()", outputs=[picture]),
        new.new_markdown_cell("## Summary"),
    ])  # fmt: skip
    nbformat.write(notebook, tmp_path / "n.ipynb")
    slides.tag(tmp_path / "n.ipynb")
    kinds = [slides.slide_type(cell) for cell in nbformat.read(tmp_path / "n.ipynb", 4).cells]
    assert kinds == ["slide", "", "slide", "slide", "", "-", "", "", "", "slide"]
