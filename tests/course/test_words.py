"""The course speaks the field's words: a student goes from here to the papers.

A short table of our own words, each in the sense that has a name in the field. Ordinary English
("the rest of the chapter", "in place of", "takes place") is left alone.
"""

import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "docs" / "glossary.md", ROOT / "docs" / "teaching.md",
         *sorted((ROOT / "notebooks").rglob("*.ipynb"))]  # fmt: skip

OWN = {  # what to write instead: what not to write
    "residual": r"\*\*rest\*\*|`rests?\b[^`]*`|[+=-] rests?\b|\brests\b"
                r"|\b(?:last|new|actual) rest\b|\bthe rest (?:\$|fades|shrinks|so far)"
                r"|\b(?:codes?|off|in|nor) (?:only )?the rest\b(?! of\b)",
    "evaluator": r"\bjudges\b|\b(?:a|an|the|our|one|same|second|another|poor|good) judge\b",
    "position": r"\bplace \(|\b(?:each|every|inner|same|other|its) place\b(?! of its own)"
                r"|\b(?:two|all|its|the|64|8×8|black|white|these|between|over|at) places\b",
    "random numbers": r"\bdice\b",
    "positions or masks": r"\bmarks (?:of|in|on) (?:the )?maps?\b",
}  # fmt: skip


def words(page: Path) -> str:
    """What a reader reads: a page, or the Markdown of a notebook."""
    if page.suffix == ".md":
        return page.read_text(encoding="utf-8")
    cells = nbformat.read(page, as_version=4).cells
    return "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}/{page.stem}")
def test_no_word_of_our_own_where_the_field_has_one(page):
    text = words(page)
    found = {better: m[0] for better, own in OWN.items() for m in re.finditer(own, text, re.I)}
    assert not found


@pytest.mark.parametrize("better, own", [
    ("residual", "codes only the rest, coarse to fine"), ("residual", "`f = f_hat + rest`"),
    ("evaluator", "the same judge"), ("evaluator", "our own classifier judges"),
    ("position", "8×8 places"), ("position", "each place by itself"),
    ("random numbers", "by its own dice"), ("positions or masks", "marks on the map"),
])  # fmt: skip
def test_the_table_knows_its_words(better, own):
    assert re.search(OWN[better], own, re.I)


@pytest.mark.parametrize("plain", [
    "the rest of the chapter", "in place of argmax", "it takes place once", "judge for yourself",
    "breaks the package in four places", "three decimal places", "question marks",
    "leave out the rest: biases",
])  # fmt: skip
def test_ordinary_english_passes(plain):
    assert not any(re.search(own, plain, re.I) for own in OWN.values())


@pytest.mark.parametrize("number", ["01", "05"])
def test_the_central_assumption_is_named_where_it_first_matters(number):
    (page,) = (ROOT / "notebooks").glob(f"{number}_*.ipynb")
    assert "conditionally independent" in words(page)
