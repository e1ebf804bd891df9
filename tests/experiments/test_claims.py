"""The ledger: in step with its data and the results, and every way in which it can be wrong."""

import importlib.util
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from varmini.runtime.tables import read_rows

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def script():
    path = ROOT / "scripts/evidence/make_claims.py"
    spec = importlib.util.spec_from_file_location("make_claims", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_claims"] = module
    spec.loader.exec_module(module)
    return module


def test_the_ledger_is_in_step_and_whole(script):
    again = script.ledger(ROOT)
    committed = (ROOT / "results" / "CLAIMS.md").read_text()
    assert committed == again, "run `make results` to write results/CLAIMS.md anew"
    for kept, row in zip(read_rows(ROOT / "results" / "counts.csv"), script.counts(), strict=True):
        assert kept.pop("what") == row.pop("what") and kept == pytest.approx(row)
    claims = script.read_claims(ROOT / "results" / "claims.toml")
    assert len(claims) >= 50 and len({c.claim for c in claims}) == len(claims)
    assert {c.status for c in claims} <= set(script.STATUSES)
    sources = " ".join(c.source for c in claims)
    numbers = {"equation": range(1, 11), "table": (1, 2, 3), "figure": range(1, 10)}
    missing = [f"{kind} {n}" for kind, ns in numbers.items() for n in ns
               if not stated(sources, kind, n)]  # fmt: skip
    assert not missing and "algorithm 1" in sources and "algorithm 2" in sources


def stated(sources: str, kind: str, number: int) -> bool:
    """Whether "equations 2 to 4", "equations 9 and 10" or "equation 5" names this one."""
    for match in re.finditer(rf"{kind}s? (\d+)(?: (to|and) (\d+))?", sources):
        first, last = int(match[1]), int(match[3] or match[1])
        if number in (range(first, last + 1) if match[2] == "to" else (first, last)):
            return True
    return False


CLAIM = """
[[claim]]
source = "equation 1"
part = "the paper"
claim = "It is so."
status = "contradicted"
why = "It is not"
taught = [["lesson", "one such cell"]]
tests = ["test_x.py::test_y"]
figures = [{ csv = "results/t.csv", where = { name = "a" }, text = "{value:.2f} of them" }]
"""


@pytest.fixture
def small(tmp_path):
    """A repository with one notebook, one test, one table and one claim."""
    for folder in ("notebooks", "tests", "results"):
        (tmp_path / folder).mkdir()
    sources = {"h": "## 1 · Head", "c": "one such cell", "d": "twice", "e": "twice"}
    cells = [{"cell_type": "markdown" if name == "h" else "code", "id": name, "source": [source]}
             for name, source in sources.items()]  # fmt: skip
    (tmp_path / "notebooks" / "lesson.ipynb").write_text(json.dumps({"cells": cells}))
    (tmp_path / "tests" / "test_x.py").write_text("def test_y():\n    pass\n")
    (tmp_path / "results" / "t.csv").write_text("name,value\na,0.256\nb,1\nb,2\n")
    (tmp_path / "results" / "claims.toml").write_text(CLAIM)
    return tmp_path


def test_a_claim_becomes_a_row_and_a_verdict_its_status(script, small):
    text = script.ledger(small)
    assert "| 1 | equation 1 | It is so. | **contradicted** |" in text
    assert "0.26 of them ([CSV](../results/t.csv)). It is not" in text
    assert "[le · 1 · Head](../notebooks/lesson.ipynb#cell-id=c)" in text
    assert "[y](../tests/test_x.py)" in text and "**contradicted** (1)" in text
    rule = 'verdict = { csv = "results/t.csv", where = { name = "a" }, columns = ["value"], '
    claim = CLAIM.replace('status = "contradicted"', rule + "above = 0 }")
    (small / "results" / "claims.toml").write_text(claim)
    words = "| **toy-scale trend** | 0.26 of them ([CSV](../results/t.csv)). Decided by: `value` "
    assert words in script.ledger(small)
    (small / "results" / "t.csv").write_text("name,value\na,0.5\n")  # read anew every time
    assert script.ledger(small) != text and "0.50 of them" in script.ledger(small)


@pytest.mark.parametrize(
    "old, new, message",
    [
        ('"lesson"', '"lessen"', "notebook lessen does not exist"),
        ("one such cell", "no such cell", "0 cells of notebook lesson hold"),
        ("one such cell", "twice", "2 cells of notebook lesson hold"),
        ("test_x.py::", "test_z.py::", "test test_z.py::test_y does not exist"),
        ("::test_y", "::test_z", "test test_x.py::test_z does not exist"),
        ('status = "contradicted"\n', "", "has no status"),
        ('"contradicted"', '"true"', "status 'true', expected one of"),
        ('part = "the paper"', 'part = "a dream"', "part 'a dream'"),
        ("tests = [", 'verdict = { csv = "x" }\ntests = [', "a status and a verdict"),
        ('why = "It is not"\n', "", "does not say why"),
        ('taught = [["lesson", "one such cell"]]', "taught = []", "has no taught"),
        ('tests = ["test_x.py::test_y"]', "tests = []", "has no tests"),
        ("results/t.csv", "results/u.csv", "cannot be read as CSV"),
        ('name = "a"', 'name = "c"', "0 rows of results/t.csv"),
        ('name = "a"', 'name = "b"', "2 rows of results/t.csv"),
        ("{value:.2f}", "{worth:.2f}", "'worth'"),
        ("{value:.2f} of them", "0.26 of them", "0.26 is typed in '0.26 of them'"),
        ('why = "It is not"', 'why = "It misses by 3 %"', "3 is typed in 'It misses by 3 %'"),
    ],
)
def test_what_is_wrong_with_a_claim_is_named(script, small, capsys, old, new, message):
    path = small / "results" / "claims.toml"
    assert old in CLAIM
    path.write_text(CLAIM.replace(old, new))
    assert script.main(["--root", str(small)]) == 2
    assert message in capsys.readouterr().err
    assert not (small / "results" / "CLAIMS.md").exists()


@pytest.mark.parametrize(
    "a, b, status, sentence",
    [
        ((1, 1.1, 0.9, 1, 1), (2, 2.1, 1.9, 2, 2), "toy-scale trend",
         "Decided by: difference -1.00 (-1.10 to -0.90), Welch's test with 5 and 5 seeds, p = "),
        ((2, 2.1, 1.9, 2, 2), (1, 1.1, 0.9, 1, 1), "contradicted", "Decided by: difference +1.00"),
        ((1, 1.1, 0.9, 3, 0), (1, 1.3, 0.9, 2, 2), "not reproducible here",
         "Not decided: difference"),
        ((1, 1), (2, 2), "not reproducible here",
         "Not decided: 2 seeds a side do not decide it, 5 could"),
        ((1,), (2, 2, 2, 2, 2), "not reproducible here", "Not decided: 1 seeds a side"),
    ],
)  # fmt: skip
def test_a_verdict_needs_five_seeds_and_welchs_test(script, small, a, b, status, sentence):
    rows = "".join(f"{name},{x}\n" for name, xs in (("a", a), ("b", b)) for x in xs)
    (small / "results" / "t.csv").write_text("name,x\n" + rows)
    rule = {"csv": "results/t.csv", "column": "x", "lower": {"name": "a"}, "than": {"name": "b"}}
    found, words = script.decided(small, rule)
    assert found == status and words.startswith(sentence)


@pytest.mark.parametrize(
    "rule, holds",
    [
        ({"where": {"name": "a"}, "columns": ["one", "many"], "above": 1}, True),
        ({"where": {"name": "a"}, "columns": ["one", "many"], "above": 2}, False),
        ({"where": {"kind": "x"}, "columns": ["many"], "below": 2}, False),  # of all rows
        ({"where": {"kind": "x"}, "columns": ["many"], "below": "one"}, True),
        ({"where": {"name": "a"}, "columns": ["one"], "above": "many", "times": 2}, False),
        ({"where": {"name": "b"}, "columns": ["off"], "above": -1}, False),
        ({"where": {"kind": "x"}, "columns": ["off"], "within": 3}, True),
        ({"where": {"name": "b"}, "columns": ["off"], "within": 2}, False),
        ({"where": {"name": "b"}, "falls": ["off", "up"]}, True),
        ({"where": {"name": "b"}, "falls": ["many", "one"]}, False),
        ({"where": {"name": "b"}, "falls": ["off", "one"]}, None),  # around zero
    ],
)
def test_a_verdict_reads_the_figures(script, small, rule, holds):
    table = "name,kind,one,many,off,up\na,x,3,1.5,0.1,1\nb,x,5,2,-2,-1\n"
    (small / "results" / "t.csv").write_text(table)
    expected = {True: script.TREND, False: script.CONTRADICTED, None: script.NOT_HERE}[holds]
    assert script.decided(small, {"csv": "results/t.csv", **rule})[0] == expected


def test_a_verdict_on_nothing_is_refused_and_a_mean_is_asked_for(script, small):
    (small / "results" / "u.csv").write_text("name,one\na,3\n")
    rule = {"csv": "results/u.csv", "where": {"name": "a"}, "columns": ["one"], "above": 1}
    for change in ({"columns": ["three"]}, {"above": "three"}, {"where": {"name": "c"}},
                   {"falls": ["one", "z"]}):  # fmt: skip
        with pytest.raises(ValueError, match="results/u.csv"):
            script.decided(small, rule | change)
    spec = {"csv": "results/t.csv", "where": {"name": "b"}, "text": "{value:.1f}", "mean": True}
    assert script.figure_of(small, spec) == "1.5"


def test_every_table_of_the_ledger_is_committed_with_its_provenance(script):
    claims = script.read_claims(ROOT / "results" / "claims.toml")
    named = {spec["csv"] for claim in claims for spec in claim.figures}
    named = sorted(named | {claim.verdict["csv"] for claim in claims if claim.verdict})
    for name in set(named) - {"results/counts.csv"}:  # which the script works out
        # Laws are fitted to the table beside them.
        table = name.replace("laws.csv", "sweep.csv").replace("floors.csv", "sweep.csv")
        for row in read_rows(ROOT / table):
            assert row["command"] and row["commit"] and row["hardware"] and row["date"], name

    def git(*args):
        return subprocess.run(["git", *args], cwd=ROOT, capture_output=True, text=True)

    if not (ROOT / ".git").exists() or git("rev-parse", "HEAD").returncode:
        pytest.skip("not a checkout that git can read")
    assert git("ls-files", *named).stdout.split() == named


COMPARED = re.compile(r"(?<!or )\b(better|worse|beats?|improves?|outperforms?)\b")
FIGURE, DECIDED = re.compile(r"\d\.\d|\d ?%"), re.compile(r"seeds|Welch|interval|p [<=]")


def texts_of(root: Path):
    """The texts that a reader sees: README and the like, tables, and the notebooks' markdown."""
    for path in (root / "README.md", *root.glob("results/*.md"), *root.glob("docs/*.md")):
        yield path.name, path.read_text()
    for path in root.glob("notebooks/*.ipynb"):
        for cell in json.loads(path.read_text())["cells"]:
            if cell["cell_type"] == "markdown":
                yield path.name, "".join(cell["source"])


def test_nothing_is_called_better_without_five_seeds_a_test_and_an_interval(script):
    for entry in tomllib.loads((ROOT / "results" / "claims.toml").read_text())["claim"]:
        if COMPARED.search(entry["claim"]):
            told = "than" in entry.get("verdict", {}) or entry.get("status") == script.NOT_HERE
            assert told, f"{entry['claim']}: its verdict needs `lower` and `than`"
    for path in (ROOT / "results").rglob("*.csv"):
        for row in read_rows(path):
            words = [v for v in row.values() if isinstance(v, str) and COMPARED.fullmatch(v)]
            assert not words or {"p", "low", "high"} <= row.keys(), f"{path.name}: {row}"
    for name, text in texts_of(ROOT):
        for sentence in re.split(r"(?<=[.!?:|])\s+|\n\n", text):
            bare = re.sub(r"arXiv:[\d.]+|`[^`]*`", "", sentence)
            if name != "CLAIMS.md" and COMPARED.search(bare) and FIGURE.search(bare):
                assert DECIDED.search(bare), f"{name}: {sentence!r} does not say how it was decided"
