"""The course's site: its settings and front page name every notebook; broken links are found."""

import re
import runpy
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BOOK = ROOT / "docs" / "book"
SOLUTIONS = ROOT / "notebooks" / "assignments" / "source"
sys.path.insert(0, str(BOOK))

import front  # noqa: E402


def matches(page: str, patterns: list[str]) -> int:
    """How many patterns fit; as in Sphinx, a `*` stops at a slash."""
    return sum(p.count("/") == page.count("/") and fnmatch(page, p) for p in patterns)


def test_the_front_page_lists_every_notebook_once_and_no_solution():
    entries = re.findall(r"^/(\S+)$", (BOOK / "course.md").read_text(), re.M)
    read = runpy.run_path(str(BOOK / "conf.py"))["include_patterns"]
    for path in (ROOT / "notebooks").rglob("*.ipynb"):
        if ".ipynb_checkpoints" not in path.parts:
            page = path.relative_to(ROOT)
            wanted = 0 if path.is_relative_to(SOLUTIONS) else 1
            assert matches(str(page.with_suffix("")), entries) == wanted, page
            assert matches(str(page), read) == wanted, page


def test_the_front_page_has_a_card_for_every_notebook_with_goal_time_and_picture():
    paths = front.ordered(ROOT / "notebooks")
    assert sorted(paths) == sorted((ROOT / "notebooks").glob("*.ipynb"))
    assert "<!-- cards -->" in (BOOK / "course.md").read_text()
    page = front.cards(ROOT / "notebooks")
    assert page.count('<a class="card"') == len(paths) == page.count("<img ")
    for path in paths:
        said = front.front_matter(path)
        assert re.search("minute|hour", said["time"]) and len(said["goal"]) > 30, path
        assert front.thumbnail(path).size == front.SIZE


def test_a_picture_without_words_is_described_by_the_text_before_it():
    words = front.alternative("4 · The mask", "When map k\nis drawn. " * 30)
    assert words.startswith("Picture of the section “4 · The mask”. When map k is drawn.")
    assert words.endswith(" ...") and len(words) < 300


def test_the_ledgers_rows_become_paragraphs_whose_links_are_of_the_site():
    ledger = (ROOT / "results" / "CLAIMS.md").read_text()
    text = runpy.run_path(str(BOOK / "conf.py"))["ledger_of_the_site"](ledger)
    assert re.findall(r"^\*\*(\d+)\*\*", text, re.M) == re.findall(r"^\| (\d+) \|", ledger, re.M)
    assert not re.search(r"^\||cell-id|\.\./|<br>", text, re.M)
    places = re.findall(r"\(/notebooks/(\w+\.ipynb)#([^)]+)\)", text)
    assert len(places) == ledger.count("#cell-id=")
    for name, place in places:
        titles = re.findall(r'"#+ ([^"]+?)(?:\\n)?"', (ROOT / "notebooks" / name).read_text())
        slugs = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
        assert place in slugs, (name, place)


def test_nothing_is_run_and_the_site_begins_at_the_front_page():
    settings = runpy.run_path(str(BOOK / "conf.py"))
    assert settings["nb_execution_mode"] == "off"
    assert settings["root_doc"] in (BOOK / "index.html").read_text()


def test_a_link_that_leads_nowhere_is_found(tmp_path):
    (tmp_path / "index.html").write_text(
        '<h1 id="top">a</h1><a href="b.html#here">b</a><a href="#top">a</a><a href="c.html">c</a>'
        '<a href="b.html#there">b</a><img src="d.png"><a href="https://example.org/x">x</a>'
    )
    (tmp_path / "b.html").write_text('<p id="here">b</p>')
    run = [sys.executable, ROOT / "scripts" / "release" / "check_links.py", tmp_path]
    found = subprocess.run(run, capture_output=True, text=True)
    assert found.returncode == 1 and "5 links inside the site checked; 1 lead" in found.stdout
    assert re.findall(r"no (\w+) for (\S+)", found.stdout) == [
        ("file", "c.html"), ("place", "b.html#there"), ("file", "d.png"),
    ]
