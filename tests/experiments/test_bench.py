"""The machinery of `varmini bench` on tiny shapes: rows, counts, ratios; no time is asserted."""

import sys

import pytest
import torch
import torch.nn.functional as F

from varmini.cli import main as cli
from varmini.experiments.bench import forms, measure, peers, profiles, work
from varmini.experiments.bench.cost import METHODS, Case, cost_rows, exponents, sizes_for
from varmini.experiments.bench.forms import form_rows
from varmini.experiments.bench.shapes import SHAPES, models
from varmini.experiments.bench.speed import rows_of, speed_rows
from varmini.runtime.machine import autocast, precision
from varmini.runtime.tables import read_rows
from varmini.training import flops as scaling

MOST = {"float32": 1e12, "bfloat16": 1e12, "bandwidth": 1e10}


@pytest.fixture(scope="module")
def tiny():
    return models(SHAPES["tiny"])


@pytest.fixture
def quick_ceilings(monkeypatch):
    for module in ("speed", "profiles"):
        monkeypatch.setattr(f"varmini.experiments.bench.{module}.ceilings", lambda kind: MOST)


def test_rounds_are_interleaved_and_end_at_the_limit():
    order = []
    runs = {name: lambda name=name: order.append(name) for name in "ab"}
    assert {k: len(v) for k, v in measure.in_turn(runs, 3, 60, "cpu").items()} == {"a": 3, "b": 3}
    assert "".join(order) == "ababab"
    assert len(measure.in_turn(runs, 3, 0, "wall")["a"]) == 1
    for rounds, kind in ((0, "cpu"), (1, "sundial")):
        with pytest.raises(ValueError, match="expected at least 1, by 'wall' or 'cpu'"):
            measure.in_turn(runs, rounds, 60, kind)


def test_peak_memory_sees_what_is_gone_afterwards():
    peak = measure.peak_memory(lambda: torch.ones(2**24).sum())  # 64 MiB
    assert peak is None or 60 < peak < 200


def test_ceilings_are_positive():
    found = measure.ceilings("cpu", side=64, rounds=1)
    assert {"float32", "bandwidth", measure.name_of(precision("cpu"))} == set(found)
    assert min(found.values()) > 0


def test_rows_hold_ratios_shares_and_the_count_of_the_formula(quick_ceilings):
    rows = list(speed_rows(["tiny"], [2], ["train", "sample", "tokenizer"], 1, 0, "cpu"))
    assert [r["what"] for r in rows[:3]] == list(MOST)
    assert [(r["what"], r["variant"]) for r in rows[3:]] == [
        ("train", "quick"), ("train", "quick, float32"), ("train", "plain"),
        *((what, form) for what in ("sample", "encode", "decode") for form in ("quick", "plain")),
    ]  # fmt: skip
    for row in rows[3:]:
        assert float(row["ms_low"]) <= float(row["ms"]) <= float(row["ms_high"])
        if row["variant"] == "quick":
            assert float(row["times_quick"]) == 1
            assert float(row["flops_counted"]) == pytest.approx(
                float(row["flops_formula"]), rel=0.01
            )
            share = float(row["flops_formula"]) / (float(row["ms"]) / 1e3) / 1e12
            assert float(row["share_of_products"]) == pytest.approx(share, rel=0.01)


def test_a_peer_that_is_missing_was_not_measured(monkeypatch, tiny):
    for name in ("diffusers", "vector_quantize_pytorch"):
        monkeypatch.setitem(sys.modules, name, None)
    found = list(work.works(SHAPES["tiny"], *tiny, ["peers"], [1]))
    rows = [row for one in found for row in rows_of(one, MOST, 1, 0, "cpu")]
    assert [r["per_second"] for r in rows] == ["not measured"] * 2
    assert all("is not installed" in r["variant"] for r in rows)


def test_peers_do_as_much(tiny):
    """Where it is installed: the residual VQ quantizes as many vectors."""
    pytest.importorskip("vector_quantize_pytorch", reason="a peer, of the extra [bench]")
    f = torch.randn(2, 16, 32)
    runs, missing = peers.residual_vq(SHAPES["tiny"], f)
    assert not missing and len(runs) == 1
    next(iter(runs.values()))()


def test_a_profile_counts_what_ran(tiny):
    a, b = torch.randn(8, 16), torch.randn(4, 16)
    with profiles.Traffic() as traffic:
        F.linear(a, b).t().relu_()
    assert traffic.flops["linear layers"] == 2 * 8 * 16 * 4
    assert traffic.bytes["linear layers"] == 4 * (8 * 16 + 4 * 16 + 8 * 4)
    assert traffic.calls["linear layers"] == 1
    var, tok = tiny
    rows = profiles.profile_run(work.sampling(var, tok, 2).runs["quick"], 1, "cpu")
    total = sum(float(r["share"]) for r in rows)
    assert total == pytest.approx(1, abs=0.01)
    formula = 2 * (scaling.var_sampling_flops(var.config) + work.decoded_flops(tok))
    assert sum(r["flops"] for r in rows) == pytest.approx(formula, rel=0.01)
    train = profiles.profile_run(work.training(var, 2).runs["quick"], 1, "wall")
    formula = 2 * scaling.var_training_flops(var.config, computed=True)
    assert sum(r["flops"] for r in train) == pytest.approx(formula, rel=0.01)


def test_packed_products_are_counted_as_plain_ones(tiny):
    _, tok = tiny
    f_hat = torch.randn(1, 32, 4, 4)
    with torch.no_grad():
        tok.decode_features(f_hat)
        with autocast(), profiles.Traffic() as packed:
            tok.decode_features(f_hat)
        with profiles.Traffic() as usual:
            tok.decode_features(f_hat)
    assert packed.flops["convolutions"] == usual.flops["convolutions"] > 0


def test_every_quick_form_has_a_row(monkeypatch):
    monkeypatch.setattr(forms, "can_compile", lambda: False)  # which takes a while
    rows = list(form_rows(1, 0, "cpu", "tiny", "tiny"))
    assert len({r["form"] for r in rows}) == 13 and all(float(r["times_as_fast"]) > 0 for r in rows)


def test_cost_of_methods():
    assert sizes_for(16) == SHAPES["d16"].sizes
    assert sizes_for(4) == (1, 2, 3, 4) and sizes_for(32)[0] == 1 and sizes_for(32)[-1] == 32
    var, cached, anew = (Case(m, 4, 2, 1) for m in METHODS)
    assert (var.steps(), cached.steps(), anew.steps()) == (4, 16, 16)
    assert cached.pairs() == 16 * 17 // 2 and anew.pairs() == 16 * 17 * 33 // 6
    assert var.pairs() == 1 * 1 + 4 * 5 + 9 * 14 + 16 * 30
    assert cached.cache_bytes() == 2 * 2 * 2 * 128 * 4 * 16 and anew.cache_bytes() == 0
    large = [Case(m, n, 2, 1).pairs() for m in METHODS for n in (16, 32)]
    powers = [round(torch.tensor(b / a).log2().item()) for a, b in zip(large[::2], large[1::2])]
    assert powers == [4, 4, 6]  # the paper's O(n^4) and O(n^6)


def test_cost_is_measured_along_three_axes():
    rows = list(cost_rows(1, "cpu", 0, sides=(2, 4), depths=(1,), batches=(2,)))
    assert len(rows) == 2 * 3 + 2 + 2 and all(float(r["seconds"]) > 0 for r in rows)
    values = [r | {"seconds": float(r["seconds"])} for r in rows]
    found = exponents(values, "side")
    assert [r["method"] for r in found] == list(METHODS) and exponents(values, "depth") == []
    assert found[1]["steps"] == pytest.approx(2) and (found[0]["from"], found[0]["to"]) == (2, 4)


def test_the_command_writes_tables_and_keeps_other_parts(tmp_path, quick_ceilings, capsys):
    command = ["bench", "--shapes", "tiny", "--batches", "1", "--rounds", "1", "--limit", "0",
               "--clock", "cpu", "--out", str(tmp_path)]  # fmt: skip
    assert cli.main([*command, "--only", "train"]) == 0
    assert cli.main([*command, "--only", "tokenizer", "profile"]) == 0
    rows = read_rows(tmp_path / "speed.csv")
    assert {r["part"] for r in rows} == {"ceiling", "train", "tokenizer"}
    assert sum(r["part"] == "ceiling" for r in rows) == len(MOST)
    assert all(r["commit"] and r["hardware"] and r["command"] and r["torch"] for r in rows)
    kinds = [r["kind"] for r in read_rows(tmp_path / "profile.csv") if r["what"] == "train"]
    assert "linear layers" in kinds and kinds[-1] == "all"
    out = capsys.readouterr().out
    assert "tiny  train  2  quick  " in out and f"wrote {tmp_path / 'profile.csv'}" in out


def test_a_run_that_is_stopped_leaves_the_table(tmp_path):
    from varmini.cli import bench

    def rows():
        yield {"what": "new"}
        raise KeyboardInterrupt

    bench._write(tmp_path / "forms.csv", [{"what": "old"}, {"what": "older"}])
    with pytest.raises(KeyboardInterrupt):
        bench._write(tmp_path / "forms.csv", rows())
    table, unfinished = (read_rows(tmp_path / f"forms{end}.csv") for end in ("", "-unfinished"))
    assert [r["what"] for r in table] == ["old", "older"]
    assert [r["what"] for r in unfinished] == ["new"]


@pytest.mark.parametrize("bad, named", [
    (["--only", "lunch"], "'lunch'"), (["--shapes", "vast"], "'vast'"),
    (["--batches", "0"], "batches are [0]"), (["--rounds", "0"], "0 rounds"),
    (["--clock", "sundial"], "'sundial'"),
], ids=lambda x: None)  # fmt: skip
def test_bad_options_are_one_line(bad, named, capsys, tmp_path, quick_ceilings):
    command = ["bench", "--shapes", "tiny", "--only", "train", "--out", str(tmp_path), *bad]
    assert cli.main(command) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and named in err
