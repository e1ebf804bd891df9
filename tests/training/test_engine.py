"""What training loops share: schedule, averages, updates, run folders, signals."""

import csv
import json
import os
import signal
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from varmini.runtime.precision import autocast, precision
from varmini.training.loop import StopSignal, uniform
from varmini.training.optim import Updater, averaged, decay_groups, learning_rate_share
from varmini.training.run_folder import Run, check_folder, make_folder

# --------------------------------------------------------------------------- precision and schedule


@pytest.mark.parametrize(
    "value, wanted", [("float32", torch.float32), ("bfloat16", torch.bfloat16)]
)
def test_precision_can_be_asked_for(monkeypatch, value, wanted):
    monkeypatch.setenv("VARMINI_PRECISION", value)
    precision.cache_clear()
    try:
        assert precision() is wanted
        with autocast():
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == wanted
    finally:
        precision.cache_clear()


def test_an_unknown_precision_is_named(monkeypatch):
    monkeypatch.setenv("VARMINI_PRECISION", "fp16")
    precision.cache_clear()
    try:
        with pytest.raises(ValueError, match="VARMINI_PRECISION.*'fp16'.*'float32'"):
            precision()
    finally:
        precision.cache_clear()


def test_the_learning_rate_rises_stays_and_falls():
    share = [learning_rate_share(step, 100, 0.1, 0.4, 0.05) for step in range(100)]
    assert share[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert share[10:61] == pytest.approx([1.0] * 51)
    assert share[60:] == pytest.approx([0.05 + 0.95 * (100 - step) / 40 for step in range(60, 100)])
    assert share[-1] == pytest.approx(0.05 + 0.95 / 40)
    assert learning_rate_share(100, 100, 0.1, 0.4, 0.05) == pytest.approx(0.05)


@pytest.mark.parametrize(
    "total, warmup, decay", [(1, 0.02, 0.4), (5, 0, 0), (5, 0, 1), (7, 1, 1), (3, 0.5, 0.5)]
)
def test_the_learning_rate_of_short_runs_is_a_share(total, warmup, decay):
    shares = [learning_rate_share(step, total, warmup, decay, 0.0) for step in range(total)]
    assert all(0 < share <= 1 for share in shares)


def test_decay_is_for_matrices_and_kernels():
    class Net(nn.Module):
        no_decay = ("special",)

        def __init__(self):
            super().__init__()
            self.linear, self.conv, self.norm = nn.Linear(2, 3), nn.Conv2d(1, 2, 3), nn.LayerNorm(4)
            self.special_table = nn.Parameter(torch.zeros(2, 2))
            self.frozen = nn.Linear(2, 2).requires_grad_(False)

    net = Net()
    decay, rest = decay_groups(net, 0.1)
    assert (decay["weight_decay"], rest["weight_decay"]) == (0.1, 0.0)
    names = {id(p): name for name, p in net.named_parameters()}
    assert {names[id(p)] for p in decay["params"]} == {"linear.weight", "conv.weight"}
    assert {names[id(p)] for p in rest["params"]} == {
        "linear.bias",
        "conv.bias",
        "norm.weight",
        "norm.bias",
        "special_table",
    }


def test_the_codebook_is_an_embedding_and_does_not_decay(tok):
    decay, _ = decay_groups(tok, 0.1)
    assert all(p is not tok.quantizer.codebook.weight for p in decay["params"])


def test_the_average_follows_its_formula_and_copies_buffers():
    model = nn.BatchNorm1d(2)
    ema = averaged(model, 0.75)
    values = [torch.tensor([1.0, 2.0]), torch.tensor([5.0, -2.0]), torch.tensor([0.0, 1.0])]
    for value in values:
        model.weight.data.copy_(value)
        model.running_mean.copy_(value)
        ema.update_parameters(model)
    wanted = 0.75 * (0.75 * values[0] + 0.25 * values[1]) + 0.25 * values[2]
    torch.testing.assert_close(ema.module.weight.data, wanted)
    assert ema.module.running_mean.equal(values[2])


def two_weights():
    model = nn.Linear(2, 1, bias=False)
    nn.init.ones_(model.weight)
    return model, Updater(model, [torch.optim.SGD(model.parameters(), lr=1.0)], 1.0, patience=3)


def test_an_update_clips_steps_and_clears():
    model, updater = two_weights()
    for gradient, wanted in (([0.3, 0.4], [0.7, 0.6]), ([30.0, 40.0], [0.1, -0.2])):
        model.weight.grad = torch.tensor([gradient])
        updater.step()
        assert model.weight.tolist()[0] == pytest.approx(wanted, abs=1e-5)
        assert model.weight.grad is None


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_step_with_a_bad_gradient_is_skipped_and_many_end_the_run(bad):
    model, updater = two_weights()
    for count in (2, 2):  # fewer than the patience, each time
        for _ in range(count):
            model.weight.grad = torch.tensor([[bad, 1.0]])
            updater.step()
            assert model.weight.tolist() == [[1.0, 1.0]] and model.weight.grad is None
        model.weight.grad = torch.zeros(1, 2)
        updater.step()
    with pytest.raises(ValueError, match="gradient of weight.*3 steps") as error:
        for _ in range(3):
            model.weight.grad = torch.tensor([[bad, 1.0]])
            updater.step()
    assert "\n" not in str(error.value) and model.weight.tolist() == [[1.0, 1.0]]


def test_a_fused_optimizer_skips_by_itself():
    """The device decides: its state, too, is that before the step."""
    model = nn.Linear(2, 1, bias=False)
    fused = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    updater = Updater(model, [fused], 1.0, patience=3)
    model.weight.grad = torch.ones(1, 2)
    updater.step()
    before = model.weight.detach().clone()
    state = {k: v.clone() for k, v in fused.state[model.weight].items()}
    for _ in range(2):
        model.weight.grad = torch.tensor([[float("inf"), 1.0]])
        updater.step()
    assert model.weight.equal(before) and model.weight.grad is None
    assert all(v.equal(state[k]) for k, v in fused.state[model.weight].items())
    model.weight.grad = torch.ones(1, 2)
    updater.step()
    assert not model.weight.equal(before) and fused.state[model.weight]["step"] == 2
    with pytest.raises(ValueError, match="gradient of weight.*3 steps"):
        for _ in range(3):
            model.weight.grad = torch.full((1, 2), float("nan"))
            updater.step()


def test_random_numbers_follow_seed_and_step_alone():
    numbers = uniform(3, 7, 8, 5)
    assert numbers.shape == (8, 5) and numbers.dtype == torch.float32
    assert numbers.min() >= 0 and numbers.max() < 1
    assert uniform(3, 7, 8, 5).equal(numbers)
    torch.manual_seed(1)
    assert uniform(3, 7, 8, 5).equal(numbers)
    for seed, step in ((3, 8), (4, 7)):
        assert (uniform(seed, step, 8, 5) != numbers).all()


# ---------------------------------------------------------------------------------- folder of a run


@dataclass(frozen=True)
class Config:
    depth: int = 2


def prepare_folder(out, *, overwrite, resume):
    out = check_folder(out, Config(), overwrite=overwrite, resume=resume)
    return make_folder(out, clear=overwrite and not resume)


def test_an_empty_or_missing_folder_is_taken(tmp_path):
    out = prepare_folder(tmp_path / "a" / "b", overwrite=False, resume=False)
    assert out.is_dir()
    assert prepare_folder(out, overwrite=False, resume=False) == out


def test_a_folder_of_a_first_start_that_was_killed_is_taken(tmp_path):
    """It had time for a half-written hidden file at most; there is nothing to resume."""
    (tmp_path / ".run.json.host-123.tmp").write_bytes(b"{")
    with pytest.raises(ValueError, match="no run to resume"):
        prepare_folder(tmp_path, overwrite=False, resume=True)
    assert prepare_folder(tmp_path, overwrite=False, resume=False) == tmp_path


def a_run(folder):
    out = prepare_folder(folder, overwrite=False, resume=False)
    Run(out, Config()).log(1, 8, {"loss": 1.0})
    (out / "state").mkdir()
    (out / "state" / "step-00000001.safetensors").write_bytes(b"state")
    (out / "model.safetensors").write_bytes(b"weights")
    (out / "notes.txt").write_text("mine")
    return out


def test_another_runs_folder_is_refused(tmp_path):
    out = a_run(tmp_path / "run")
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    with pytest.raises(ValueError, match="--resume.*--overwrite.*--out"):
        prepare_folder(out, overwrite=False, resume=False)
    assert prepare_folder(out, overwrite=False, resume=True) == out
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before
    prepare_folder(out, overwrite=True, resume=False)
    # The notes are not ours; run.json stays until the new run replaces it.
    assert sorted(p.name for p in out.rglob("*") if p.is_file()) == ["notes.txt", "run.json"]


@pytest.mark.parametrize("overwrite, resume", [(False, False), (True, False), (False, True)])
def test_a_folder_that_no_run_wrote_is_refused(tmp_path, overwrite, resume):
    (tmp_path / "model.safetensors").write_bytes(b"precious")
    with pytest.raises(ValueError, match="run"):
        prepare_folder(tmp_path, overwrite=overwrite, resume=resume)
    assert (tmp_path / "model.safetensors").read_bytes() == b"precious"


def test_a_file_or_an_impossible_place_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="is a file"):
        prepare_folder(tmp_path / "file", overwrite=True, resume=False)
    with pytest.raises(ValueError, match="cannot be made"):
        prepare_folder(tmp_path / "file" / "below", overwrite=False, resume=False)


def test_a_place_that_cannot_be_written_is_refused_before_anything_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    with pytest.raises(ValueError, match="cannot be written.*--out") as error:
        check_folder(tmp_path / "a" / "b", Config(), overwrite=False, resume=False)
    assert str(tmp_path) in str(error.value) and not any(tmp_path.iterdir())


def test_settings_are_compared_by_name_and_younger_ones_by_their_default(tmp_path):
    @dataclass(frozen=True)
    class Model:
        width: int = 8
        sizes: tuple[int, ...] = (1, 2)

    @dataclass(frozen=True)
    class Nested:
        depth: int = 2
        images: int = 5
        model: Model = Model()

    def resume(config, **options):
        return check_folder(tmp_path, config, overwrite=False, resume=True, **options)

    Run(tmp_path, Config())  # knows depth alone
    resume(Nested())
    resume(Nested(images=7))  # a run may be made longer
    for config, words in (
        (Nested(depth=3), "depth=2, not 3"),
        (Nested(model=Model(width=9)), "model.width=8, not 9"),
        (Nested(model=Model(sizes=(1, 3))), r"model.sizes=\[1, 2\], not \[1, 3\]"),
    ):
        with pytest.raises(ValueError, match=words):
            resume(config)
    resume(Nested(model=Model(width=9)), follows=("model.width",))


def rows(folder):
    with open(folder / "log.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_the_log_grows_row_by_row_and_goes_on_after_a_resume(tmp_path):
    run = Run(tmp_path, Config())
    for step in (10, 20, 30):
        run.log(step, step * 8, {"loss": 1 / step, "psnr": None})
        assert len(rows(tmp_path)) == step // 10
    assert list(rows(tmp_path)[0]) == ["step", "images", "seconds", "loss", "psnr"]
    assert rows(tmp_path)[0] | {"seconds": ""} == {
        "step": "10",
        "images": "80",
        "seconds": "",
        "loss": "0.1",
        "psnr": "",
    }
    resumed = Run(tmp_path, Config(), start_step=20)
    resumed.log(25, 200, {"loss": 0.5, "usage": 1.0})
    log = rows(tmp_path)
    assert [r["step"] for r in log] == ["10", "20", "25"]
    assert log[0]["usage"] == "" and log[2]["usage"] == "1"
    seconds = [float(r["seconds"]) for r in log]
    assert seconds == sorted(seconds)


@pytest.mark.parametrize(
    "text", ["step,images,seconds\n1,8\n", "step\n\0", "a,b\n1,2\n", "step,seconds\n1,x\n"]
)
def test_a_damaged_log_or_run_json_is_one_line_and_stays(tmp_path, text):
    Run(tmp_path, Config()).log(1, 8, {})
    (tmp_path / "log.csv").write_text(text)
    with pytest.raises(ValueError, match="log.csv is damaged.*weights are intact") as error:
        Run(tmp_path, Config(), start_step=5)
    assert "\n" not in str(error.value) and (tmp_path / "log.csv").read_text() == text
    (tmp_path / "run.json").write_text('{"config": 3}')
    with pytest.raises(ValueError, match="run.json tells no configuration"):
        prepare_folder(tmp_path, overwrite=False, resume=True)


def test_run_json_tells_the_configuration_and_where_it_ran(tmp_path):
    Run(tmp_path, Config(depth=7)).log(5, 40, {"loss": 1.0})
    Run(tmp_path, Config(depth=7), start_step=5)
    told = json.loads((tmp_path / "run.json").read_text())
    assert told["config"] == {"depth": 7}
    assert [s["from_step"] for s in told["sessions"]] == [0, 5]
    for key in ("command", "commit", "date", "hardware", "threads", "precision", "torch", "python"):
        assert told["sessions"][0][key]
    assert told["sessions"][0]["threads"] == torch.get_num_threads()


# ------------------------------------------------------------------------------------------ signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_becomes_a_request_once_and_the_handlers_come_back(tmp_path, capsys, number):
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as stopped, StopSignal() as stop:
        stop.exit_if_received(tmp_path)
        assert stop.received == 0
        os.kill(os.getpid(), number)
        assert stop.received == number
        assert signal.getsignal(number) == before  # the second one ends the process
        stop.exit_if_received(tmp_path)
    assert stopped.value.code == 128 + number
    assert "--resume" in capsys.readouterr().err
    assert signal.getsignal(number) == before
    with StopSignal():
        assert signal.getsignal(number) != before
    assert signal.getsignal(number) == before
