"""Writes results/CLAIMS.md, the ledger of the paper's claims, from results/claims.toml.

No figure is typed: a claim names a CSV file, a row and a form of words with the names of columns,
and a digit outside of them is an error, as it is in the words that say why. Only what is claimed
holds figures, for those are others'. Counts that need no measurement are worked out here and kept
in results/counts.csv.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import sys
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

from varmini.evaluation.statistics import welch
from varmini.model.scales import ScaleSchedule
from varmini.runtime.files import write_atomic
from varmini.runtime.tables import Row, read_rows, write_rows
from varmini.training.flops import exact_parameters, paper_parameters, visible_pairs
from varmini.training.presets import PRESETS
from varmini.zoo.generators.infinity import head_parameters

ROOT = Path(__file__).resolve().parents[2]
REPRODUCED, TREND, CONTRADICTED, NOT_HERE = STATUSES = (
    "reproduced",
    "toy-scale trend",
    "contradicted",
    "not reproducible here",
)
MEANINGS = (
    "exact, or counted, and tested",
    "the same direction on small pictures or videos, with models of 5 thousand to a few million "
    "parameters; not the figure itself",
    "what was found here speaks against it",
    "needs data, hardware or more seeds than this project has, or no difference was measured",
)
SIDES = {
    "above": lambda value, bound: value > bound,
    "below": lambda value, bound: value < bound,
    "within": lambda value, bound: abs(value) < bound,
}
PARTS = ("the paper", "talks and what goes around")


@dataclass(frozen=True)
class Claim:
    """One row of the ledger."""

    source: str
    """Where it stands: an equation, a table, a talk."""
    part: str
    """One of `PARTS`."""
    claim: str
    status: str
    why: str
    taught: tuple[tuple[str, str], ...]
    """(notebook, a text that exactly one of its cells holds)."""
    tests: tuple[str, ...]
    """test_x.py::test_y, in tests/."""
    figures: tuple[dict[str, Any], ...] = ()
    """csv, where (column: value), text with {columns}; mean = true for the mean of several rows."""
    verdict: dict[str, Any] | None = None
    """What decides the status instead of a word: see `decided`."""


def read_claims(path: Path) -> list[Claim]:
    """The claims of a TOML file.

    Raises:
        ValueError: naming the claim, when a field is missing, unknown or empty.
    """
    found = []
    for number, entry in enumerate(tomllib.loads(path.read_text())["claim"], 1):
        name = f"claim {number} ({entry.get('source', '?')})"
        decided_by = "verdict" if "verdict" in entry else "status"
        for field in ("source", "part", "claim", decided_by, "taught", "tests"):
            if not entry.get(field):
                raise ValueError(f"{name} has no {field}")
        if "status" in entry and "verdict" in entry:
            raise ValueError(f"{name} has a status and a verdict, expected one of them")
        if entry.setdefault("status", TREND) not in STATUSES:
            raise ValueError(f"{name}: status {entry['status']!r}, expected one of {STATUSES}")
        if entry["part"] not in PARTS:
            raise ValueError(f"{name}: part {entry['part']!r}, expected one of {PARTS}")
        if entry["status"] != REPRODUCED and not (entry.get("why") or "verdict" in entry):
            raise ValueError(f"{name} is {entry['status']} and does not say why")
        for words in (entry.get("why", ""), *(f["text"] for f in entry.get("figures", ()))):
            if digits := re.search(r"\d[\d.,]*", re.sub(r"\{.*?\}", "", words)):
                raise ValueError(f"{name}: {digits[0]} is typed in {words!r}: read it from a CSV")
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in entry.items()}
        taught = tuple(tuple(cell) for cell in values["taught"])
        found.append(Claim(**{"why": "", **values, "taught": taught}))
    return found


def cell_of(root: Path, notebook: str, text: str) -> tuple[str, str]:
    """Id of the one cell of a notebook that holds `text`, and the heading above it.

    Raises:
        ValueError: when there is no such notebook, no such cell, or more than one.
    """
    path = root / "notebooks" / f"{notebook}.ipynb"
    if not path.exists():
        raise ValueError(f"notebook {notebook} does not exist")
    heading, found = "", []
    for cell in json.loads(path.read_text())["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            titles = [line[3:] for line in source.splitlines() if line.startswith("## ")]
            heading = titles[0] if titles else heading
        if text in source:
            found.append((cell["id"], heading))
    if len(found) != 1:
        raise ValueError(f"{len(found)} cells of notebook {notebook} hold {text!r}, expected one")
    return found[0]


def check_test(root: Path, name: str) -> str:
    """Path below `root` of the one file in tests/ that has this test, given as test_x.py::test_y.

    Raises:
        ValueError: when there is no such test.
    """
    file, _, function = name.partition("::")
    path = next((root / "tests").rglob(file), root / "tests" / file)
    tree = ast.parse(path.read_text()) if path.exists() else ast.Module([], [])
    if function not in {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}:
        raise ValueError(f"test {name} does not exist")
    return path.relative_to(root).as_posix()


def rows_where(root: Path, csv: str, where: dict[str, Any]) -> list[Row]:
    """The rows of a CSV file whose columns have these values.

    Raises:
        ValueError: when there is no such file or row.
    """
    rows = [r for r in read_rows(root / csv) if all(str(r.get(k)) == str(v)
            for k, v in where.items())]  # fmt: skip
    if not rows:
        raise ValueError(f"0 rows of {csv} have {where}, expected one")
    return rows


def figure_of(root: Path, spec: dict[str, Any]) -> str:
    """A figure in words, from its CSV file.

    Raises:
        ValueError: when the file, the row or a column is missing, or the row is not the only one.
    """
    rows = rows_where(root, spec["csv"], spec["where"])
    if len(rows) > 1 and not spec.get("mean"):
        raise ValueError(f"{len(rows)} rows of {spec['csv']} have {spec['where']}, expected one")
    shared = set.intersection(*(set(row) for row in rows))
    numbers = {k: [row[k] for row in rows] for k in shared}
    values = {k: mean(v) if isinstance(v[0], int | float) else v[0] for k, v in numbers.items()}
    try:
        return spec["text"].format(**values)
    except (KeyError, ValueError) as error:
        raise ValueError(f"{spec['csv']} {spec['where']}: {error} in {spec['text']!r}") from None


def decided(root: Path, rule: dict[str, Any]) -> tuple[str, str]:
    """Status of a claim from the figures alone, and a sentence on it. One of three rules:

    {csv, column, lower, than}: the rows `lower`, a run each, have less in `column` than the rows
    `than`, by Welch's test at the 5 % level; with fewer than five seeds a side nothing is decided.
    {csv, where, columns, above, below or within[, times]}: in all such rows all columns lie above,
    or below, or no further from zero than a number, or another column, `times` it.
    {csv, where, falls = [low, high]}: the interval lies below zero; around zero it says nothing.
    """
    try:
        if "lower" in rule:
            return _lower(root, rule)
        rows = rows_where(root, rule["csv"], rule["where"])
        if "falls" in rule:
            low, high = ([row[name] for row in rows] for name in rule["falls"])
            if max(high) < 0:
                return TREND, f"Decided by: `{rule['falls'][1]}` below zero"
            return (CONTRADICTED, "") if min(low) > 0 else (NOT_HERE, "No fall was measured")
        side = next(side for side in SIDES if side in rule)
        bound, times = rule[side], rule.get("times", 1)
        holds = all(
            SIDES[side](row[name], times * row.get(bound, bound))
            for row in rows for name in rule["columns"]
        )  # fmt: skip
    except (KeyError, TypeError, StopIteration) as error:
        raise ValueError(f"the verdict {rule} finds no {error} in {rule['csv']}") from None
    names = " and ".join(f"`{name}`" for name in rule["columns"])
    against = f"`{bound}`" if isinstance(bound, str) else f"{bound:g}"
    against = f"{times:g} × {against}" if times != 1 else against
    return TREND if holds else CONTRADICTED, f"Decided by: {names} {side} {against}"


def _lower(root: Path, rule: dict[str, Any]) -> tuple[str, str]:
    found = welch(*([row[rule["column"]] for row in rows_where(root, rule["csv"], rule[side])]
                    for side in ("lower", "than")))  # fmt: skip
    if not found.enough or found.p >= 0.05:
        return NOT_HERE, f"Not decided: {found}"
    return (TREND if found.value < 0 else CONTRADICTED), f"Decided by: {found}"


def counts() -> list[Row]:
    """What is counted, not measured: steps, tokens, pairs and parameters at the paper's sizes."""
    maps = {256: (1, 2, 3, 4, 5, 6, 8, 10, 13, 16), 512: (1, 2, 3, 4, 6, 9, 13, 18, 24, 32)}
    rows = []
    for pixels, sizes in maps.items():
        schedule, n = ScaleSchedule(sizes), sizes[-1] ** 2
        rows.append(
            {
                "what": f"{pixels} px",
                "steps": len(schedule),
                "tokens": schedule.num_tokens,
                "raster": n,
                "side": sizes[-1],
                "pixels": pixels**2,
                "epoch": 1_281_167 * schedule.num_tokens / 1e9,
                "pairs": visible_pairs(schedule),
                "pairs_uncached": sum(part.stop**2 for part in schedule.slices),
                "raster_pairs": n * (n + 1) // 2,
                "raster_pairs_uncached": n * (n + 1) * (2 * n + 1) // 6,
            }
        )
    for name in ("imagenet256-d16", "imagenet256-d30", "imagenet512-d36"):
        config = PRESETS[name].var.model
        formula = paper_parameters(config.depth, config.shared_adaln) / 1e9
        rows.append({"what": name, "formula": formula, "exact": exact_parameters(config) / 1e9})
    for bits in (16, 32, 64):  # over the width of Infinity's model of two billion parameters
        rows.append({"what": f"head of {bits} bits", "head_bits": head_parameters(2048, bits) / 1e6,
                     "head_codes": head_parameters(2048, bits, bits) / 1e12})  # fmt: skip
    channels = PRESETS["imagenet256-d16"].tokenizer.model.code_channels
    weights = 4 * (9 * channels**2 + channels)
    return [*rows, {"what": "phi", "weights": weights, "millions": weights / 1e6}]


def ledger(root: Path) -> str:
    """The text of CLAIMS.md.

    Raises:
        ValueError: on a claim that is incomplete, a link that leads nowhere, or a figure that no
            file holds.
    """
    claims = read_claims(root / "results" / "claims.toml")
    for i, claim in enumerate(claims):
        if claim.verdict:
            status, sentence = decided(root, claim.verdict)
            why = ". ".join(filter(None, [sentence, claim.why]))
            claims[i] = replace(claim, status=status, why=why)
    text = "# The claims, one by one\n\nMade by `make results` from claims.toml: what the paper "
    text += "(Tian et al. 2024, arXiv:2404.02905), talks and articles say about VAR, where this "
    text += "course teaches it, what tests it, and what was found here. Every figure is read from "
    text += "a committed CSV file; what was measured has command, commit, machine and date there, "
    text += "or in the table that a fit is made from.\n\n"
    for status, meaning in zip(STATUSES, MEANINGS):
        number = sum(c.status == status for c in claims)
        text += f"- **{status}** ({number}): {meaning}\n"
    heads = ("", "source", "claim", "status", "found here", "taught", "tested by")
    number = 0
    for part in PARTS:
        text += f"\n## Of {part}\n\n| {' | '.join(heads)} |\n|{' --- |' * len(heads)}\n"
        for c in (c for c in claims if c.part == part):
            number += 1
            cells = []
            for notebook, quoted in c.taught:
                cell, heading = cell_of(root, notebook, quoted)
                name = f"{notebook[:2]} · {heading}" if heading else notebook[:2]
                cells.append(f"[{name}](../notebooks/{notebook}.ipynb#cell-id={cell})")
            tests = (f"[{t.split('::')[1][5:].replace('_', ' ')}](../{check_test(root, t)})"
                     for t in c.tests)  # fmt: skip
            found: dict[str, list[str]] = {}
            for spec in c.figures:
                found.setdefault(spec["csv"], []).append(figure_of(root, spec))
            told = [f"{'; '.join(words)} ([CSV](../{csv}))" for csv, words in found.items()]
            found_here = ". ".join([*told, *filter(None, [c.why])])
            links = ("<br>".join(cells), "<br>".join(tests))
            row = (str(number), c.source, c.claim, f"**{c.status}**", found_here, *links)
            text += f"| {' | '.join(row)} |\n"
    return text


def main(args: list[str] | None = None) -> int:
    """Exit code 0; 2 after an error that is told in one line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=ROOT, help="the repository")
    root = parser.parse_args(args).root
    try:
        write_rows(root / "results" / "counts.csv", counts())
        write_atomic(root / "results" / "CLAIMS.md", ledger(root).encode())
    except (ValueError, OSError) as error:
        print(f"make_claims: error: {error}", file=sys.stderr)
        return 2
    print(f"wrote {root / 'results' / 'CLAIMS.md'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
