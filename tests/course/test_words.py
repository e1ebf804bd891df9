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


def table(text: str, first: str) -> list[list[str]]:
    """The rows of the Markdown table whose head begins with `first`, without its rule."""
    lines = text[text.index(f"| {first} |"):].split("\n\n")[0].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [rows[0], *rows[2:]]


def test_the_glossary_names_each_term_its_chinese_name_and_a_section_that_exists():
    rows = table(words(ROOT / "docs" / "glossary.md"), "term")[1:]
    assert len(rows) >= 50 and len({row[0] for row in rows}) == len(rows)
    for term, chinese, meaning, first, source in rows:
        assert re.search("[\u4e00-\u9fff]|DDIM", chinese) and meaning and source, term
        path, section = re.fullmatch(r"\[[\da]\d\]\(\.\./(\S+)\)(?:, (\d+))?", first).groups()
        assert not section or f"## {section} ·" in words(ROOT / path), term


def test_the_teaching_guide_counts_the_cells_and_its_syllabi_use_every_lesson():
    text = words(ROOT / "docs" / "teaching.md")
    lessons = sorted((ROOT / "notebooks").glob("*.ipynb"))
    head, cells, _ = table(text, "notebook")
    assert head[1:] == [path.stem[:2].replace("va", "scratch") for path in lessons]
    counted = [str(len(nbformat.read(path, as_version=4).cells)) for path in lessons]
    assert cells[1:] == counted
    longest = text[text.index("**Twelve weeks**"):].split("A project that")[0]
    used = {number for row in table(longest, "week")[1:] for number in row[1].split(", ")}
    assert used == set(head[1:]) and all(f"| a{n} |" in longest for n in range(1, 5))
