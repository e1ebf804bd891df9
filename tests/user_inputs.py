"""What users bring: pictures, folders, data sets, models, runs; results/user_inputs.csv.

    python tests/user_inputs.py

Each case makes something in a folder and tells what happened: of a data set, what `load_images`
makes of it and its first pixel; of a model, whether it does what a fresh one does; of a run, how
far it got. `expected` is found in what happened.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from pathlib import Path

import user_models
import user_pictures
from user_pictures import Case

from varmini.runtime.tables import origin, write_rows

CASES = user_pictures.CASES + user_models.CASES


def happened(case: Case, folder: Path) -> str:
    """One line: what was told, or the message of the error, with `folder` left out."""
    try:
        return case.tell(case.make(folder))
    except ValueError as error:
        return "error: " + str(error).replace(str(folder), "FOLDER").replace(folder.name, "FOLDER")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results/user_inputs.csv"))
    out = parser.parse_args().out
    logging.getLogger("varmini").setLevel(logging.ERROR)
    table = []
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            table.append({"input": case.name, "what happened": happened(case, Path(folder))})
    told = {key: value for key, value in origin().items() if key in ("command", "commit", "date")}
    told["command"] = "python tests/user_inputs.py"
    print(write_rows(out, [row | told for row in table]))


if __name__ == "__main__":
    main()
