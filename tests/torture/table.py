"""What a section of the torture gives back, and the table that it ends in."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

from varmini.runtime.machine import provenance
from varmini.runtime.tables import write_rows


@dataclass
class Tried:
    """One line of the table."""

    section: str
    what: str
    tried: int = 0
    failures: list[str] = field(default_factory=list)
    seed: int | str = ""
    note: str = ""

    def fail(self, text: str) -> None:
        """Notes a failure, and says so at once."""
        self.failures.append(" ".join(text.split()))
        print(f"FAILED {self.what}: {self.failures[-1][:600]}", file=sys.stderr, flush=True)

    def say(self) -> None:
        """One line for whoever waits."""
        print(f"{self.section:<12}  {self.what:<44}  {self.tried:>6} tried  "
              f"{len(self.failures)} failed  {self.note}", flush=True)  # fmt: skip


def write(path, lines: list[Tried]) -> None:
    """Writes the table: what was tried, how often, what failed, and where it ran."""
    found = provenance()
    words = ["python -m torture", *sys.argv[1:]]
    origin = {"command": " ".join(words) if words[1:] else "make torture"}
    origin |= {k: found[k] for k in ("commit", "date", "hardware", "torch", "python")}
    write_rows(path, [{"section": t.section, "what": t.what, "tried": t.tried,
                       "failed": len(t.failures), "seed": t.seed, "note": t.note} | origin
                      for t in lines])  # fmt: skip
