"""The same again: training, token maps, samples and figures, twice on one process, twice on two.

Started by torchrun, this file is what the two processes do:

    torchrun --standalone --nproc-per-node 2 tests/runtime/test_same_again.py FOLDER
"""

import csv
import dataclasses
import sys
from pathlib import Path

import pytest
import torch
import toy_world

from varmini.cli import evaluate
from varmini.cli import main as cli
from varmini.evaluation import samples as sampling_run
from varmini.runtime import distributed
from varmini.runtime.machine import precision


def everything(folder, out, setattr):
    """Trains both stages (the second caches token maps), draws samples and measures them."""
    toy_world.install(setattr, {})
    setattr(sampling_run, "SHARD", 4)
    setattr(evaluate, "load_images", lambda *a, **k: toy_world.image_set(*a[:2]))
    for kind, config in toy_world.configs(folder).items():
        config = dataclasses.replace(config, images=40, log_every=5)
        toy_world.LOOPS[kind].train(config, out / kind)
    code = cli.main(
        ["evaluate", "samples", "--var", str(folder / "pair" / "var"), "--classifier",
         str(folder / "evaluator"), "--per-class", "6", "--batch-size", "4", "--top-k", "0",
         "--samples", str(out / "samples"), "--out", str(out / "figures.csv")]
    )  # fmt: skip
    assert code == 0


def found(out):
    """All that was made, by name: tensors, samples, and tables without times."""
    made = {}
    for path in sorted(p for p in out.rglob("*") if p.is_file()):
        name = str(path.relative_to(out))
        if path.suffix == ".safetensors":
            made[name] = toy_world.tensors(path)[1]  # besides, it tells unused random states
        elif path.suffix == ".csv":
            with open(path, newline="") as file:
                free = ("seconds", "date", "command")
                made[name] = [{k: v for k, v in row.items() if k not in free}
                              for row in csv.DictReader(file)]  # fmt: skip
        elif path.suffix == ".npz":
            made[name] = path.read_bytes()
    return made


@pytest.fixture(scope="module")
def twice(tmp_path_factory):
    """What was made by one process and by two, each of them twice."""
    folder = tmp_path_factory.mktemp("same")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VARMINI_PRECISION", "float32")
        precision.cache_clear()
        toy_world.models(folder)
        toy_world.drawing_models(folder)
        for name in ("one-a", "one-b"):
            with pytest.MonkeyPatch.context() as inner:
                everything(folder, folder / name, inner.setattr)
                torch.rand(3)  # what happened before must not matter
        toy_world.on_two_processes(__file__, folder)
    precision.cache_clear()
    names = ("one-a", "one-b", "two-a", "two-b")
    return {name: found(folder / name) for name in names}


@pytest.mark.parametrize("processes", ["one", "two"])
def test_twice_is_the_same_to_the_last_bit(twice, processes):
    a, b = twice[f"{processes}-a"], twice[f"{processes}-b"]
    assert a.keys() == b.keys() and len(a) >= 12
    assert [name for name in a if a[name] != b[name]] == []


def test_token_maps_samples_and_figures_do_not_depend_on_the_number_of_processes(twice):
    one, two = twice["one-a"], twice["two-a"]
    assert one.keys() == two.keys()
    alike = [n for n in one if "tokens/" in n or n.startswith(("samples", "figures"))]
    assert len(alike) >= 6 and [n for n in alike if one[n] != two[n]] == []
    # Training adds up in another order: the same curve, not the same bits.
    assert one["var/model.safetensors"] != two["var/model.safetensors"]


if __name__ == "__main__":
    torch.set_num_threads(1)
    distributed.start()
    for run in ("two-a", "two-b"):
        everything(Path(sys.argv[1]), Path(sys.argv[1]) / run, setattr)
        distributed.wait()
