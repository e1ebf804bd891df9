"""Which device, which arithmetic, how threads wait; CUDA and MPS are only pretended."""

import os
import subprocess
import sys
import time

import pytest
import torch

from varmini.cli import main as cli
from varmini.runtime import WAITING, machine

POOREST = {
    "ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"
}  # fmt: skip


@pytest.fixture
def pretend(monkeypatch):
    """Lets torch find the devices that are named, and forgets what was asked for."""
    for name in ("VARMINI_DEVICE", "VARMINI_PRECISION"):
        monkeypatch.delenv(name, raising=False)
    machine.precision.cache_clear()

    def here(*names):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" in names)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: "mps" in names)

    yield here
    monkeypatch.undo()
    machine.precision.cache_clear()


@pytest.mark.parametrize("names, asked, device", [
    ((), "", "cpu"), (("mps",), "", "mps"), (("cuda",), "", "cuda"), (("cuda", "mps"), "", "cuda"),
    (("cuda",), "cpu", "cpu"), (("cuda", "mps"), "mps", "mps"),
])  # fmt: skip
def test_the_device_is_the_first_that_is_here_or_what_was_asked_for(
    names, asked, device, pretend, monkeypatch
):
    pretend(*names)
    monkeypatch.setenv("VARMINI_DEVICE", asked)
    assert machine.device() == torch.device(device)


@pytest.mark.parametrize("asked", ["tpu", "mps"])
def test_a_device_that_is_not_here_is_named(asked, pretend, monkeypatch):
    pretend()
    monkeypatch.setenv("VARMINI_DEVICE", asked)
    with pytest.raises(ValueError, match=f"'{asked}', expected one that .* this machine: cpu"):
        machine.device()


def test_every_command_takes_the_device(pretend, monkeypatch, capsys, tmp_path):
    pretend()
    monkeypatch.setenv("VARMINI_DEVICE", "")  # so that it is restored
    for option in (["--device", "mps"], ["--device=mps"]):
        assert cli.main(["sample", "--n", "1", "--out", str(tmp_path / "x.png"), *option]) == 2
        assert "'mps', expected one that torch finds" in capsys.readouterr().err
    assert cli.main(["sample", "--device", "--n", "1"]) == 2
    assert "--device: expected one argument" in capsys.readouterr().err


@pytest.mark.parametrize("error, words", [
    (NotImplementedError("The operator 'aten::_bicubic' is not currently implemented for the MPS "
                         "device."), "operator aten::_bicubic: set PYTORCH_ENABLE_MPS_FALLBACK=1"),
    (TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support "
               "float64."), "VARMINI_DEVICE=cpu"),
])  # fmt: skip
def test_what_a_device_lacks_is_told_with_what_to_set(error, words, monkeypatch, capsys):
    def fails(args):
        raise error

    monkeypatch.setattr(cli, "run", fails)
    assert cli.main([]) == 2
    told = capsys.readouterr().err
    assert words in told and "VARMINI_DEVICE=cpu" in told and told.count("\n") == 1
    assert machine.what_is_missing(RuntimeError("shapes do not fit")) == ""


@pytest.mark.parametrize("slow, dtype", [
    (torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32), (None, torch.float32),
])  # fmt: skip
def test_bfloat16_is_chosen_where_its_products_are_quicker(slow, dtype, pretend, monkeypatch):
    def product(x, w, *_):
        if slow is None:
            raise RuntimeError("could not create a primitive descriptor")
        time.sleep(0.005 * (x.dtype is slow))
        return x[:1]

    pretend()
    machine.quick_at_bfloat16.cache_clear()
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", product, raising=False)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True, raising=False)
    assert machine.precision() is machine.precision("cpu") is dtype
    assert machine.precision("mps") is torch.float32
    machine.quick_at_bfloat16.cache_clear()


def python(code, **variables):
    """What a new interpreter prints, without what this one was told."""
    told = (*POOREST, "VARMINI_PRECISION", "VARMINI_DEVICE", *WAITING)
    own = {k: v for k, v in os.environ.items() if k not in told} | variables
    return subprocess.check_output([sys.executable, "-c", code], env=own, text=True).strip()


def test_as_the_poorest_kind_products_are_float32():
    code = "from varmini.runtime.machine import precision; print(precision('cpu'))"
    assert python(code, **POOREST) == "torch.float32"


def test_threads_that_wait_soon_sleep_unless_asked_otherwise_or_too_late():
    code = "import varmini, os; print(*map(os.environ.get, varmini.WAITING))"
    assert python(code) == "PASSIVE 2000"
    assert python(code, GOMP_SPINCOUNT="7") == "PASSIVE 7"
    assert python(code, OMP_WAIT_POLICY="ACTIVE") == "ACTIVE None"
    assert python("import torch; " + code) == "None None"


def test_a_told_command_names_no_folders_of_this_machine(monkeypatch):
    given = ["varmini", "compare", "--out", "/home/ada/runs/comparison", "runs/x", "--rounds", "7"]
    monkeypatch.setattr(machine.sys, "argv", given)
    told = machine.provenance()["command"]
    assert told == "varmini compare --out runs/comparison runs/x --rounds 7"
