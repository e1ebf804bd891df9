"""The leaderboard: its rows hold what they must, and a malformed row is refused."""

import sys
from pathlib import Path

import pytest

from varmini.evaluation.evaluators import classifier_evaluator
from varmini.runtime.tables import read_cells, write_rows

sys.path.append(str(Path(__file__).parents[2] / "scripts" / "course"))
import leaderboard

ROW = read_cells(leaderboard.TABLE)[0]
BAD = [  # what is put into a right row, and what is said
    ({"frechet": ""}, "frechet is empty"),
    ({"frechet": "good"}, "expected a number"),
    ({"frechet": "nan"}, "expected a number"),
    ({"frechet_low": "9"}, "with an interval of 9.0"),
    ({"frechet_low": "1", "frechet": "1", "frechet_high": "1"}, "with an interval of 1.0 to 1.0"),
    ({"own_class": "93", "own_class_high": "94"}, "a share of at most 1"),
    ({"train_seconds": "601"}, "the budget is 600"),
    ({"images": "500"}, "expected 2500"),
    ({"commit": "bb309f84b601 with uncommitted changes"}, "others can check out"),
    ({"trained_commit": "unknown"}, "others can check out"),
    ({"evaluator": "varmini's fashion classifier, weights 12345678"}, "evaluator is"),
    ({"command": "by hand"}, "expected one of this script"),
    ({"date": "yesterday"}, "expected such as"),
    ({"hardware": ""}, "hardware is empty"),
    ({"note": "I won"}, "columns differ"),
]


def test_the_committed_rows_are_right():
    rows = read_cells(leaderboard.TABLE)
    assert [leaderboard.problems(row) for row in rows] == [[]] * len(rows)
    assert rows == sorted(rows, key=lambda row: float(row["frechet"]))
    assert any("varmini" in row["name"] for row in rows)
    assert classifier_evaluator("fashion", kind="evaluator").about == leaderboard.EVALUATOR


@pytest.mark.parametrize("change, said", BAD)
def test_a_malformed_row_is_refused(change, said, tmp_path, capsys):
    row = ROW | change
    assert [text for text in leaderboard.problems(row) if said in text]
    table = write_rows(tmp_path / "board.csv", [ROW, row] if row.keys() == ROW.keys() else [row])
    assert leaderboard.main(["check", "--table", str(table)]) == 1
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("words", ["run wider 6", "score alone", "check it", "score x a b --var=x"])
def test_words_that_do_not_fit_are_refused_before_any_training(words, capsys):
    with pytest.raises(SystemExit):
        leaderboard.main(words.split())
    assert "score NAME TOKENIZER VAR" in capsys.readouterr().err


def test_a_missing_table_and_an_uncommitted_change_are_told(tmp_path, capsys, monkeypatch):
    assert leaderboard.main(["check", "--table", str(tmp_path / "none.csv")]) == 1
    changed = {"commit": "bb309f84b601 with uncommitted changes"}
    monkeypatch.setattr("varmini.runtime.machine.provenance", lambda: changed)
    assert leaderboard.main(["run", "mine"]) == 1
    told = capsys.readouterr().err
    assert "no table" in told and "commit your change first" in told
