"""Rows of tables in the words of results/README.md: markdown, numbers with errors, provenance."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean

from varmini.runtime.tables import Row

NOT_MEASURED = "not measured"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"


def number(value: float | None, digits: int = 2) -> str:
    """A figure as text; what is missing was not measured."""
    return NOT_MEASURED if value is None else f"{value:.{digits}f}"


def with_error(rows: Sequence[Row], name: str, digits: int = 2, scale: float = 1) -> str:
    """mean ± `error_of` over runs."""
    if not rows:
        return NOT_MEASURED
    centre, error = scale * mean(r[name] for r in rows), scale * error_of(rows, name)
    return f"{centre:.{digits}f} ± {error:.{digits}f}"


def error_of(rows: Sequence[Row], name: str) -> float:
    """Standard error of a mean over runs: between runs, but no less than the sampling error.

    Between two runs it is half of their difference.
    """
    n = len(rows)
    sampling = (sum(r[f"{name}_se"] ** 2 for r in rows) ** 0.5) / n
    centre = mean(r[name] for r in rows)
    between = (sum((r[name] - centre) ** 2 for r in rows) / (n * (n - 1))) ** 0.5 if n > 1 else 0.0
    return max(sampling, between)


def provenance(rows: Sequence[Row]) -> str:
    """One line: by which command, on which commit, where and when."""
    commands = "; ".join(dict.fromkeys(f"`{r['command']}`" for r in rows))
    commits = ", ".join(dict.fromkeys(str(r["commit"]) for r in rows))
    dates = sorted({str(r["date"])[:10] for r in rows})
    machines = ", ".join(dict.fromkeys(str(r["hardware"]) for r in rows))
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    return f"{commands}; commit {commits}; {machines}; {when}.\n"
