"""Two gloo processes against one: the same curves, checkpoints that go both ways, clean stops.

Started by torchrun, this file is what the two processes do; rank-0.json and rank-1.json in FOLDER
say what each of them saw:

    torchrun --standalone --nproc-per-node 2 tests/runtime/test_distributed.py FOLDER
"""

import dataclasses
import json
import shutil
import signal
import sys
from pathlib import Path

import pytest
import torch
import toy_world
from toy_world import LOOPS, STEPS, STOP

from varmini import VAR, MultiScaleVQVAE
from varmini.runtime import distributed
from varmini.runtime.machine import precision
from varmini.training.checkpoint import AVERAGES, newest, read

RUNS = {"ddp": "var", "fsdp": "var", "tok": "tokenizer"}
LOSSES = ("loss", "reconstruction", "vq", "perceptual", "adversarial", "val_loss", "val_loss_2")


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """(folder with all runs, rows by run and step, what the two processes saw)."""
    folder, rows = tmp_path_factory.mktemp("runs"), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VARMINI_PRECISION", "float32")
        precision.cache_clear()
        toy_world.install(patch.setattr, rows)
        toy_world.models(folder)
        configs = toy_world.configs(folder)
        for kind, loop in LOOPS.items():
            loop.train(configs[kind], folder / f"{kind}-one")
            code = toy_world.stopped_run(kind, configs[kind], folder / f"{kind}-half", STOP - 1)
            assert code == 128 + signal.SIGTERM
        for name, kind in RUNS.items():
            shutil.copytree(folder / f"{kind}-half", folder / f"{name}-one-then-two")
        toy_world.on_two_processes(__file__, folder)
        for name, kind in RUNS.items():
            LOOPS[kind].train(configs[kind], folder / f"{name}-two-then-one", resume=True)
    precision.cache_clear()
    seen = [json.loads((folder / f"rank-{r}.json").read_text()) for r in (0, 1)]
    return folder, rows | seen[0]["rows"], seen


runs = pytest.mark.parametrize("name", RUNS)


def assert_same_curve(rows, run, kind, first=1):
    compared = 0
    for step in map(str, range(first, STEPS + 1)):
        mine, other = rows[run][step], rows[f"{kind}-one"][step]
        assert mine.keys() == other.keys()
        for name in other.keys() & set(LOSSES):
            assert mine[name] == pytest.approx(other[name], abs=1e-5), (step, name)
            compared += 1
        for name in (n for n in other if n.startswith("usage")):
            assert mine[name] == other[name], (step, name)
    assert compared >= 3 * (STEPS + 1 - first)


@runs
def test_two_processes_give_the_curve_of_one(ran, name):
    """With a stop and a resume on two in between."""
    assert_same_curve(ran[1], f"{name}-two", RUNS[name])


@runs
def test_a_run_goes_on_with_fewer_or_more_processes(ran, name):
    _, rows, _ = ran
    for run in (f"{name}-two-then-one", f"{name}-one-then-two"):
        assert set(rows[run]) == {str(step) for step in range(STOP + 1, STEPS + 1)}
        assert_same_curve(rows, run, RUNS[name], first=STOP + 1)


def test_the_curves_are_no_accident(ran):
    """Losses move by more than the tolerance, codes are revived, the adversary is at work."""
    _, rows, _ = ran
    for kind in LOOPS:
        losses = [row["loss"] for row in rows[f"{kind}-one"].values()]
        assert len(losses) == STEPS and max(losses) - min(losses) > 1e-2
    last = rows["tokenizer-one"][str(STEPS)]
    assert abs(last["adversarial"]) > 1e-3 and last["perceptual"] > 1e-3
    assert sum(rows["revived"]) > 0


@runs
def test_a_signal_to_one_process_stops_all_after_the_same_step(ran, name):
    folder, _, seen = ran
    assert [s["codes"][name] for s in seen] == [128 + signal.SIGTERM] * 2
    for run in (f"{name}-two-then-one", f"{name}-two"):
        sessions = json.loads((folder / run / "run.json").read_text())["sessions"]
        assert [s["from_step"] for s in sessions] == [0, STOP]
        assert sessions[0]["processes"] == 2
    assert len((folder / f"{name}-two" / "log.csv").read_text().splitlines()) == 1 + STEPS


@runs
def test_every_run_ends_with_the_same_averaged_model(ran, name):
    folder, _, _ = ran
    cls = {"var": VAR, "tokenizer": MultiScaleVQVAE}[RUNS[name]]
    wanted = cls.from_pretrained(folder / f"{RUNS[name]}-one")
    images = toy_world.image_set("toy", "test").images.float() / 127.5 - 1
    for run in (f"{name}-two", f"{name}-two-then-one", f"{name}-one-then-two"):
        model = cls.from_pretrained(folder / run)
        assert model.config == wanted.config
        if cls is VAR:
            inputs = torch.ones(3, 4, 4), torch.arange(3)
            given, expected = (m(inputs[1], inputs[0]) for m in (model, wanted))
        else:
            given, expected = (m(images).images for m in (model, wanted))
        torch.testing.assert_close(given, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["ddp", "fsdp"])
def test_a_run_ends_with_the_averages_of_its_newest_checkpoint(ran, name):
    run = ran[0] / f"{name}-two"
    model = VAR.from_pretrained(run)
    stored = read(newest(run / "state"), prefix=AVERAGES)[1]
    assert stored.keys() == {AVERAGES + k for k in model.state_dict()}
    assert all(t.equal(stored[AVERAGES + k]) for k, t in model.state_dict().items())


def test_token_maps_are_the_same_files_for_any_number_of_processes(ran):
    folder, _, _ = ran

    def contents(run):
        return {p.name: toy_world.tensors(p) for p in (folder / run / "tokens").iterdir()}

    written = contents("var-one")
    assert sorted(written) == ["test-00000-of-00001.safetensors"] + [
        f"train-0000{i}-of-00003.safetensors" for i in range(3)
    ]
    for run in ("ddp-two", "fsdp-two", "ddp-one-then-two"):
        assert contents(run) == written
    for name in written:  # found, not made again
        made, kept = (folder / run / "tokens" / name for run in ("var-half", "ddp-one-then-two"))
        assert made.stat().st_mtime_ns == kept.stat().st_mtime_ns


def test_an_uneven_batch_is_one_error_and_one_silent_end(ran):
    folder, _, seen = ran
    said = seen[0]["error"]
    assert said.startswith("ValueError: batch_size 5") and "2 processes" in said
    assert seen[1]["error"] == "SystemExit: 2"
    assert not (folder / "uneven").exists()


# ------------------------------------------------------------------------------- without a launcher


def test_one_process_needs_no_group(monkeypatch):
    for variable in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(variable, raising=False)
    distributed.start()
    assert not torch.distributed.is_initialized()
    assert (distributed.world(), distributed.rank(), distributed.is_main()) == (1, 0, True)
    x = torch.randn(3, requires_grad=True)
    assert distributed.mean(x) is x and distributed.gather(x) is x and distributed.total(x) is x
    assert distributed.share(10) == slice(0, 10)
    model = torch.nn.Linear(1, 1)
    assert distributed.replicate(model) is model
    with pytest.raises(ValueError, match="mine"), distributed.together():
        raise ValueError("mine")


def test_more_processes_than_gpus_are_one_clear_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for variable, value in (("WORLD_SIZE", "4"), ("LOCAL_WORLD_SIZE", "4"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(variable, value)
    with pytest.raises(ValueError, match="4 processes.*2 GPUs.*--nproc-per-node 2") as error:
        distributed.start()
    assert "\n" not in str(error.value)
    monkeypatch.setenv("LOCAL_RANK", "3")
    with pytest.raises(SystemExit):
        distributed.start()


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    seen = {"rows": {}, "codes": {}, "error": ""}
    toy_world.install(setattr, seen["rows"])
    distributed.start()
    rank = distributed.rank()
    for name, kind in RUNS.items():
        config = toy_world.configs(folder)[kind]
        if name == "fsdp":
            config = dataclasses.replace(config, parallel="fsdp", recompute=True)
        loop, out = LOOPS[kind], folder / f"{name}-two"
        # The second process alone is told to stop, one step before they next ask each other.
        code = toy_world.stopped_run(kind, config, out, STOP - 2, here=rank == 1)
        seen["codes"][name] = code
        if rank == 0:
            shutil.copytree(out, folder / f"{name}-two-then-one")
        distributed.wait()
        loop.train(config, out, resume=True)
        loop.train(config, folder / f"{name}-one-then-two", resume=True)
    uneven = dataclasses.replace(toy_world.configs(folder)["var"], batch_size=5)
    try:
        LOOPS["var"].train(uneven, folder / "uneven")
    except (ValueError, SystemExit) as error:
        seen["error"] = f"{type(error).__name__}: {error}"
    (folder / f"rank-{rank}.json").write_text(json.dumps(seen))
    distributed.wait()  # neither leaves while the other still speaks


if __name__ == "__main__":
    main(Path(sys.argv[1]))
