"""The machinery of `varmini bench` on tiny shapes: rows, counts, ratios; no time is asserted."""

import math
import runpy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from varmini.cli import bench
from varmini.cli import main as cli
from varmini.experiments.bench import busy, measure, profiles, speed
from varmini.experiments.bench.cost import METHODS, cost_rows, counts, sizes_for
from varmini.experiments.bench.shapes import SHAPES, models
from varmini.runtime.machine import precision
from varmini.runtime.tables import read_rows
from varmini.training import flops

MOST = {"float32": 1e12, "bfloat16": 1e12, "bandwidth": 1e10}
COMMAND = ["bench", "--shapes", "tiny", "--batches", "1", "--rounds", "1", "--limit", "0"]


@pytest.fixture
def quick_ceilings(monkeypatch):
    for module in (speed, profiles):
        monkeypatch.setattr(module, "ceilings", lambda: MOST)


def test_rounds_are_interleaved_and_end_at_the_limit():
    order = []
    runs = {name: lambda name=name: order.append(name) for name in "ab"}
    assert {k: len(v) for k, v in measure.in_turn(runs, 3, 60).items()} == {"a": 3, "b": 3}
    assert "".join(order) == "ababab"
    assert len(measure.in_turn(runs, 3, 0)["a"]) == 1


def test_what_the_machine_does_is_measured():
    peak = measure.peak_memory(lambda: torch.ones(2**24).sum())  # 64 MiB
    assert peak is None or 60 < peak < 200
    found = measure.ceilings(side=64, rounds=1)
    assert {"bandwidth", *map(measure.name_of, measure.precisions())} == set(found)
    assert min(found.values()) > 0


def test_arithmetic_is_as_asked_and_comes_back(monkeypatch):
    monkeypatch.setenv("VARMINI_PRECISION", "bfloat16")
    precision.cache_clear()
    with measure.arithmetic(torch.float32):
        assert precision() is torch.float32
    assert precision() is torch.bfloat16
    monkeypatch.undo()
    precision.cache_clear()


def test_a_profile_counts_what_ran():
    a, b = torch.randn(8, 16), torch.randn(4, 16)
    with profiles.Traffic() as traffic:
        F.linear(a, b).t().relu_()
    assert traffic.flops["linear layers"] == 2 * 8 * 16 * 4
    assert traffic.bytes["linear layers"] == 4 * (8 * 16 + 4 * 16 + 8 * 4)
    assert traffic.calls["linear layers"] == 1
    var, _ = models(SHAPES["tiny"])
    rows = profiles.profile_run(speed.training(var, 2).runs["quick"], 1)
    assert sum(float(r["share"]) for r in rows) == pytest.approx(1, abs=0.01)
    formula = 2 * flops.var_training_flops(var.config, computed=True)
    assert sum(r["flops"] for r in rows) == pytest.approx(formula, rel=0.01)


def test_cost_of_methods():
    assert sizes_for(16) == SHAPES["d16"].sizes
    assert sizes_for(4) == (1, 2, 3, 4) and sizes_for(32)[0] == 1 and sizes_for(32)[-1] == 32
    var, cached, anew = (counts(method, 4) for method in METHODS)
    assert (var["steps"], cached["steps"], anew["steps"]) == (4, 16, 16)
    assert cached["pairs"] == 16 * 17 // 2 and anew["pairs"] == 16 * 17 * 33 // 6
    assert var["pairs"] == 1 * 1 + 4 * 5 + 9 * 14 + 16 * 30
    powers = [math.log2(counts(m, 32)["pairs"] / counts(m, 16)["pairs"]) for m in METHODS]
    assert [round(power) for power in powers] == [4, 4, 6]  # the paper's O(n^4) and O(n^6)


def test_cost_is_measured_along_three_axes():
    rows = list(cost_rows(1, 0, sides=(2, 4), depths=(1,), batches=(2,)))
    assert len(rows) == 2 * 3 + 2 + 2 and all(float(r["seconds"]) > 0 for r in rows)
    kept = {r["method"]: float(r["cache_mib"]) * 2**20 for r in rows if r["axis"] == "depth"}
    assert kept[METHODS[1]] == pytest.approx(2 * 2 * 128 * 4 * 64, rel=1e-3)
    values = [r | {"seconds": float(r["seconds"])} for r in rows]
    script = Path(__file__).parents[2] / "scripts/evidence/report_figures.py"
    exponents = runpy.run_path(str(script))["exponents"]
    found = exponents(values, "side")
    assert [r["method"] for r in found] == list(METHODS) and exponents(values, "depth") == []
    assert found[1]["steps"] == pytest.approx(2) and (found[0]["from"], found[0]["to"]) == (2, 4)


def test_beside_busy_processes_each_policy_is_measured_in_a_process_of_its_own(monkeypatch):
    steps = "busy.steps = lambda: [('wait', lambda: None)]; "
    monkeypatch.setattr(busy, "CHILD", busy.CHILD.replace("busy.child", steps + "busy.child"))
    rows = list(busy.busy_rows(1, 2, (0, 1)))
    found = [(r["waiting"], r["busy"]) for r in rows]
    assert found == [(policy, n) for policy in busy.POLICIES for n in (0, 1)]
    assert all(r["what"] == "wait" and r["rounds"] == 2 for r in rows)
    assert rows[0]["times_quiet"] == rows[2]["times_quiet"] == "1"


def test_the_step_beside_busy_processes_is_one_of_both_stages():
    for what, step in zip(("tokenizer", "transformer"), busy.steps(), strict=True):
        assert step[0] == what
        step[1]()


def test_the_command_writes_tables_for_every_precision(tmp_path, quick_ceilings, capsys):
    other = {"shape": "tiny", "what": "elsewhere", "kind": "of another kind"}
    bench.write(tmp_path / "speed.csv", [other])
    assert cli.main([*COMMAND, "--only", "speed", "forms", "profile", "--out", str(tmp_path)]) == 0
    *rows, kept = read_rows(tmp_path / "speed.csv")
    here = [measure.name_of(dtype) for dtype in measure.precisions()]
    assert kept["what"] == "elsewhere"
    assert [(r["what"], r["arithmetic"]) for r in rows] == [
        (what, name) for what in ("train", "sample") for name in here
    ]
    for row in rows:
        assert row["ratio_low"] <= row["times_as_fast"] <= row["ratio_high"]
        share = row["flops"] / (row["quick_ms"] / 1e3) / row["products"]
        assert row["share_of_products"] == pytest.approx(share, rel=0.01)
        assert row["commit"] and row["hardware"] and row["command"] and row["torch"]
    forms = read_rows(tmp_path / "forms.csv")
    assert len({(r["form"], r["what"]) for r in forms}) * len(here) == len(forms)
    kinds = [r["kind"] for r in read_rows(tmp_path / "profile.csv") if r["what"] == "train"]
    assert "linear layers" in kinds and kinds[-1] == "all"
    out = capsys.readouterr().out
    assert "tiny  train  float32  2  " in out and f"wrote {tmp_path / 'profile.csv'}" in out


def test_a_run_that_is_stopped_leaves_the_table(tmp_path):
    def rows():
        yield {"what": "new"}
        raise KeyboardInterrupt

    bench.write(tmp_path / "forms.csv", [{"what": "old"}, {"what": "older"}])
    with pytest.raises(KeyboardInterrupt):
        bench.write(tmp_path / "forms.csv", rows())
    table, unfinished = (read_rows(tmp_path / f"forms{end}.csv") for end in ("", "-unfinished"))
    assert [r["what"] for r in table] == ["old", "older"]
    assert [r["what"] for r in unfinished] == ["new"]


@pytest.mark.parametrize("bad, named", [
    (["--only", "lunch"], "'lunch'"), (["--shapes", "vast"], "'vast'"),
    (["--batches", "0"], "batches [0]"), (["--rounds", "0"], "rounds 0"),
], ids=lambda x: None)  # fmt: skip
def test_bad_options_are_one_line(bad, named, capsys, tmp_path):
    assert cli.main([*COMMAND, "--only", "speed", "--out", str(tmp_path), *bad]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and named in err
