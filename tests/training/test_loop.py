"""What training loops share: schedule, averages, updates, run folders, signals."""

import json
import os
import signal
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from varmini.runtime.machine import autocast, precision
from varmini.runtime.tables import read_cells
from varmini.training.loop import StopSignal, uniform
from varmini.training.optim import (
    Updater,
    decay_groups,
    learning_rate_share,
    set_rates,
    weight_decay_at,
)
from varmini.training.run_folder import Run, check_folder, make_folder


@pytest.mark.parametrize("value", ["float32", "bfloat16", "fp16"])
def test_precision_can_be_asked_for_and_an_unknown_one_is_named(monkeypatch, value):
    monkeypatch.setenv("VARMINI_PRECISION", value)
    precision.cache_clear()
    try:
        if value == "fp16":
            with pytest.raises(ValueError, match="VARMINI_PRECISION.*'fp16'.*'float32'"):
                precision()
        else:
            with autocast():
                product = torch.ones(2, 2) @ torch.ones(2, 2)
            assert precision() is product.dtype is getattr(torch, value)
    finally:
        precision.cache_clear()


def test_the_learning_rate_rises_stays_and_falls():
    share = [learning_rate_share(step, 100, 0.1, 0.4, 0.05) for step in range(101)]
    assert share[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert share[10:61] == pytest.approx([1.0] * 51)
    assert share[60:] == pytest.approx([0.05 + 0.95 * (100 - step) / 40 for step in range(60, 101)])


@pytest.mark.parametrize(
    "total, warmup, decay", [(1, 0.02, 0.4), (5, 0, 0), (5, 0, 1), (7, 1, 1), (3, 0.5, 0.5)]
)
def test_the_learning_rate_of_short_runs_is_a_share(total, warmup, decay):
    shares = [learning_rate_share(step, total, warmup, decay, 0.0) for step in range(total)]
    assert all(0 < share <= 1 for share in shares)


def test_weight_decay_follows_half_a_cosine():
    assert weight_decay_at(7, 10, 0.05, None) == 0.05
    values = [weight_decay_at(step, 101, 0.05, 0.08) for step in range(101)]
    assert values[0] == 0.05 and values[-1] == pytest.approx(0.08)
    assert values[50] == pytest.approx(0.065) and values[25] < 0.0575
    assert weight_decay_at(0, 1, 0.05, 0.08) == 0.05


def test_groups_follow_the_schedule_with_a_peak_or_scale_of_their_own():
    @dataclass
    class Recipe:
        lr = 0.1
        warmup, decay, final = 0.1, 0.5, 0.0
        weight_decay, final_weight_decay = 0.04, 0.08

    one, two, three = (nn.Parameter(torch.zeros(2, 2)) for _ in range(3))
    adam = torch.optim.AdamW(
        [{"params": [one], "weight_decay": 0.04}, {"params": [two], "scale": 5.0}],
        weight_decay=0.0,
    )
    muon = torch.optim.Muon([{"params": [three], "peak": 0.3}], lr=0.3, weight_decay=0.04)
    assert set_rates([adam, muon], Recipe, 75, 100) == pytest.approx(0.1 * 0.5)
    groups = [*adam.param_groups, *muon.param_groups]
    assert [g["lr"] for g in groups] == pytest.approx([0.05, 0.25, 0.15])
    decay = weight_decay_at(75, 100, 0.04, 0.08)
    assert [g["weight_decay"] for g in groups] == [decay, 0.0, decay]


def test_decay_is_for_matrices_and_kernels(tok):
    class Net(nn.Module):
        no_decay = ("special",)

        def __init__(self):
            super().__init__()
            self.linear, self.conv, self.norm = nn.Linear(2, 3), nn.Conv2d(1, 2, 3), nn.LayerNorm(4)
            self.special_table = nn.Parameter(torch.zeros(2, 2))
            self.frozen = nn.Linear(2, 2).requires_grad_(False)

    net = Net()
    decay, free = decay_groups(net, 0.1)
    assert (decay["weight_decay"], free["weight_decay"]) == (0.1, 0.0)
    names = {id(p): name for name, p in net.named_parameters()}
    assert {names[id(p)] for p in decay["params"]} == {"linear.weight", "conv.weight"}
    wanted = {"linear.bias", "conv.bias", "norm.weight", "norm.bias", "special_table"}
    assert {names[id(p)] for p in free["params"]} == wanted
    codebook = tok.quantizer.codebook.weight
    assert all(p is not codebook for p in decay_groups(tok, 0.1)[0]["params"])


def two_weights(optimizer):
    model = nn.Linear(2, 1, bias=False)
    nn.init.ones_(model.weight)
    return model, Updater(model, [optimizer(model.parameters())], 1.0, patience=3)


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=1.0)


def fused(parameters):
    return torch.optim.AdamW(parameters, lr=0.1, fused=True)


def test_an_update_clips_steps_and_clears():
    model, updater = two_weights(sgd)
    for gradient, wanted in (([0.3, 0.4], [0.7, 0.6]), ([30.0, 40.0], [0.1, -0.2])):
        model.weight.grad = torch.tensor([gradient])
        updater.step()
        assert model.weight.tolist()[0] == pytest.approx(wanted, abs=1e-5)
        assert model.weight.grad is None


@pytest.mark.parametrize("optimizer", [sgd, fused])  # a fused one decides on the device
@pytest.mark.parametrize("gradient, loss", [("nan", 1.0), ("inf", 1.0), (1.0, "nan"), (1.0, "inf")])
def test_a_step_that_is_not_finite_is_skipped_and_many_end_the_run(optimizer, gradient, loss):
    model, updater = two_weights(optimizer)

    def step(gradient, loss=1.0):
        model.weight.grad = torch.tensor([[float(gradient), 1.0]])
        updater.step(torch.tensor(float(loss)))

    step(1.0)
    before = model.weight.detach().clone()
    state = {k: v.clone() for k, v in updater.optimizers[0].state[model.weight].items()}
    for _ in range(2):  # fewer than the patience
        step(gradient, loss)
    assert model.weight.equal(before) and model.weight.grad is None
    after = updater.optimizers[0].state[model.weight]
    assert all(v.equal(after[k]) for k, v in state.items())
    step(1.0)
    assert not model.weight.equal(before) and updater.take_skipped() == 2
    with pytest.raises(ValueError, match="loss or gradient.*3 steps in a row.*lower --lr") as error:
        for _ in range(3):
            step(gradient, loss)
    assert "\n" not in str(error.value)


def test_random_numbers_follow_seed_and_step_alone():
    numbers = uniform(3, 7, 8, 5)
    assert numbers.shape == (8, 5) and numbers.dtype == torch.float32
    assert numbers.min() >= 0 and numbers.max() < 1
    torch.manual_seed(1)
    assert uniform(3, 7, 8, 5).equal(numbers)
    assert all((uniform(*other, 8, 5) != numbers).all() for other in ((3, 8), (4, 7)))


@dataclass(frozen=True)
class Config:
    depth: int = 2


def prepare_folder(out, *, overwrite=False, resume=False):
    out = check_folder(out, Config(), overwrite=overwrite, resume=resume)
    return make_folder(out, clear=overwrite and not resume)


def test_a_missing_or_empty_folder_is_taken_and_one_whose_first_start_was_killed(tmp_path):
    out = prepare_folder(tmp_path / "a" / "b")
    assert out.is_dir() and prepare_folder(out) == out
    (out / ".run.json.host-123.tmp").write_bytes(b"{")  # half a hidden file at most
    with pytest.raises(ValueError, match="no run to resume"):
        prepare_folder(out, resume=True)
    assert prepare_folder(out) == out


def test_another_runs_folder_is_refused_and_what_is_not_ours_stays(tmp_path):
    out = prepare_folder(tmp_path / "run")
    Run(out, Config()).log(1, 8, {"loss": 1.0})
    (out / "state").mkdir()
    for name in ("state/step-00000001.safetensors", "model.safetensors", "notes.txt"):
        (out / name).write_bytes(b"mine")
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    with pytest.raises(ValueError, match="--resume.*--overwrite.*--out"):
        prepare_folder(out)
    assert prepare_folder(out, resume=True) == out
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before
    prepare_folder(out, overwrite=True)
    # run.json stays until the new run replaces it.
    assert sorted(p.name for p in out.rglob("*") if p.is_file()) == ["notes.txt", "run.json"]


@pytest.mark.parametrize("options", [{}, {"overwrite": True}, {"resume": True}])
def test_a_folder_that_no_run_wrote_is_refused(tmp_path, options):
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"precious")
    for out, words in ((tmp_path, "run"), (file, "cannot be written"), (file / "x", "cannot be")):
        with pytest.raises(ValueError, match=words):
            prepare_folder(out, **options)
    assert file.read_bytes() == b"precious"


def test_settings_are_compared_by_name_and_younger_ones_are_free(tmp_path):
    @dataclass(frozen=True)
    class Model:
        width: int = 8
        sizes: tuple[int, ...] = (1, 2)

    @dataclass(frozen=True)
    class Nested:
        depth: int = 2
        images: int = 5
        model: Model = Model()

    Run(tmp_path, Config())  # knows depth alone
    check_folder(tmp_path, Nested(model=Model(width=9)), overwrite=False, resume=True)
    Run(tmp_path, Nested())
    for config in (Nested(), Nested(images=7)):  # a run may be made longer
        check_folder(tmp_path, config, overwrite=False, resume=True)
    for config, words in (
        (Nested(depth=3), "depth=2, not 3"),
        (Nested(model=Model(width=9)), "model.width=8, not 9"),
        (Nested(model=Model(sizes=(1, 3))), r"model.sizes=\[1, 2\], not \[1, 3\]"),
    ):
        with pytest.raises(ValueError, match=words):
            check_folder(tmp_path, config, overwrite=False, resume=True)


def test_the_log_grows_row_by_row_and_goes_on_after_a_resume(tmp_path):
    run = Run(tmp_path, Config())
    for step in (10, 20, 30):
        run.log(step, step * 8, {"loss": 1 / step, "psnr": None})
        assert len(read_cells(run.path)) == step // 10
    wanted = {"step": "10", "images": "80", "seconds": "", "loss": "0.1", "psnr": ""}
    assert read_cells(run.path)[0] | {"seconds": ""} == wanted
    resumed = Run(tmp_path, Config(), start_step=20)
    resumed.log(25, 200, {"loss": 0.5, "usage": 1.0})
    log = read_cells(run.path)
    assert [(r["step"], r["usage"]) for r in log] == [("10", ""), ("20", ""), ("25", "1")]
    seconds = [float(r["seconds"]) for r in log]
    assert seconds == sorted(seconds)


@pytest.mark.parametrize(
    "text", ["step,images,seconds\n1,8\n", "step\n\0", "a,b\n1,2\n", "step,seconds\n1,x\n"]
)
def test_a_damaged_log_is_one_line_and_stays(tmp_path, text):
    Run(tmp_path, Config()).log(1, 8, {})
    (tmp_path / "log.csv").write_text(text)
    with pytest.raises(ValueError, match="log.csv is damaged.*weights are intact") as error:
        Run(tmp_path, Config(), start_step=5)
    assert "\n" not in str(error.value) and (tmp_path / "log.csv").read_text() == text


def test_run_json_tells_the_configuration_and_where_it_ran(tmp_path):
    Run(tmp_path, Config(depth=7)).log(5, 40, {"loss": 1.0})
    Run(tmp_path, Config(depth=7), start_step=5)
    told = json.loads((tmp_path / "run.json").read_text())
    assert told["config"] == {"depth": 7}
    assert [s["from_step"] for s in told["sessions"]] == [0, 5]
    for key in ("command", "commit", "date", "hardware", "threads", "precision", "torch", "python"):
        assert told["sessions"][0][key]
    assert told["sessions"][0]["threads"] == torch.get_num_threads()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_becomes_a_request_once_and_the_handlers_come_back(number):
    before = signal.getsignal(number)
    with StopSignal() as stop:
        assert stop.received == 0 and signal.getsignal(number) != before
        os.kill(os.getpid(), number)
        assert stop.received == number
        assert signal.getsignal(number) == before  # the second one ends the process
    with pytest.raises(KeyError), StopSignal():
        raise KeyError
    assert signal.getsignal(number) == before
