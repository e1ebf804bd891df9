"""Nothing executes: pickles, paths and names in what was only to be read.

Submissions that reach for network, grader or disk: test_grade_isolation.py.
"""

import json
import os
import pickle
import re
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import varmini
from varmini.cli.models import class_names
from varmini.data import load_images
from varmini.evaluation import fid, npz
from varmini.evaluation import samples as sampling_run
from varmini.evaluation.evaluators import Evaluator
from varmini.grade.submission import read_submission
from varmini.official import load_official
from varmini.plots.images import image_grid, save
from varmini.training import checkpoint


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self):
        return os.mkdir, (str(self.victim),)


@pytest.fixture
def victim(tmp_path):
    """A folder that must not appear; the test first sees that unpickling would make it."""
    path = tmp_path / "executed"
    pickle.loads(pickle.dumps(Evil(path)))
    path.rmdir()
    yield path
    assert not path.exists()


@pytest.mark.parametrize("new", [True, False])
@pytest.mark.parametrize("wrap", [lambda e: e, lambda e: {"pos_1LC": e}, lambda e: {"a": [e]}])
def test_a_malicious_pth_is_refused(victim, tmp_path, new, wrap):
    options = {"_use_new_zipfile_serialization": new, "pickle_protocol": 2}
    torch.save(wrap(Evil(victim)), tmp_path / "a.pth", **options)
    with pytest.raises(ValueError, match="does not unpickle") as error:
        load_official(None, tmp_path / "a.pth", (1, 2))
    assert "\n" not in str(error.value)
    (tmp_path / "b.pth").write_bytes(pickle.dumps(wrap(Evil(victim)), 2))
    with pytest.raises(ValueError, match="does not unpickle"):
        load_official(tmp_path / "b.pth", None, (1, 2))


def test_object_arrays_are_neither_samples_nor_a_reference(victim, tmp_path, tok, var):
    part, draw = range(0, 3), sampling_run.Draw("v", "t", 3, 1, top_k=0)
    array = np.array([Evil(victim)] * 3, dtype=object)
    np.save(tmp_path / "part-000000-000003.npy", array, allow_pickle=True)
    assert not sampling_run._finished(tmp_path, part)
    np.savez(tmp_path / "stats.npz", mu=array, sigma=array)
    judge = Evaluator("j", "j", 3, lambda x: (x, x))
    with pytest.raises(ValueError, match=r"stats.npz"):
        fid.load_reference(tmp_path / "stats.npz", judge)
    with pytest.raises(ValueError, match="cannot read mu"):
        npz.read_array(tmp_path / "stats.npz", "mu", (3,))
    # A draw that finds such a shard draws it again.
    whole = sampling_run.draw_samples(var, tok, draw, tmp_path / "samples")
    assert npz.image_shape(whole)[0] == 3


@pytest.mark.parametrize("name", ["../../x", "/etc/passwd", "step-1/../../x", "index.json", ""])
def test_an_index_that_points_out_of_its_folder_is_refused(tmp_path, name):
    state = tmp_path / "run" / "state"
    checkpoint.save(state, 1, {"model": torch.nn.Linear(1, 1)})
    (state / "index.json").write_text(json.dumps({"checkpoints": [{"file": name, "sha256": "0"}]}))
    with pytest.raises(ValueError, match="index.json is damaged"):
        checkpoint.newest(state)


def test_nothing_in_the_package_unpickles_or_evaluates():
    """By its source: no pickle, no eval, and torch.load and numpy.load only without pickles."""
    package = Path(varmini.__file__).parent
    # The process that runs submissions; our own references with known mistakes in them.
    graded = {"worker.py", "stubs.py", "checks.py"}
    for path in package.rglob("*.py"):
        text = path.read_text()
        assert not re.search(r"^\s*(import|from) (pickle|marshal|shelve|dill)\b", text, re.M), path
        if path.name not in graded:
            assert not re.search(r"(?<![\w.])(eval|exec)\(", text), path
        for call in re.findall(r"(?:torch|np)\.load\([^\n]*", text):
            assert "weights_only=True" in call or "allow_pickle=False" in call, (path, call)


def test_names_like_tags_are_classes_and_titles_like_others(tmp_path):
    names = ("$\\frac{", "<script>x<", "b' OR 1", "{{7*7}}")
    for name in names:
        (tmp_path / "set" / name).mkdir(parents=True)
        for i in range(3):
            Image.new("L", (8, 8), i).save(tmp_path / "set" / name / f"{i}.png")
    assert load_images(str(tmp_path / "set"), "train").classes == names
    save(image_grid(torch.zeros(4, 1, 8, 8), 4, names, title=names[0]), tmp_path / "a.png")


def test_a_damaged_array_is_one_line(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, **{"mu\n\x1b[31m": np.zeros(2)})
    with pytest.raises(ValueError, match="name of an array is damaged") as error:
        npz.names(path)
    assert "\n" not in str(error.value)
    np.savez_compressed(path, mu=np.arange(500.0))
    content = bytearray(path.read_bytes())
    content[30 + len("mu.npy") + content[28]] |= 6  # a kind of block that deflate does not know
    path.write_bytes(content)
    with pytest.raises(ValueError, match="cannot read mu.*make it again") as error:
        npz.read_array(path, "mu", (500,))
    assert "\n" not in str(error.value)


def test_a_notebook_handed_in_is_read_not_run(victim, tmp_path):
    code = f"import os; os.mkdir({str(victim)!r})"
    cell = {"cell_type": "code", "metadata": {}, "source": code, "outputs": []}
    notebook = {"cells": [cell], "metadata": {"kernelspec": {"argv": ["sh"]}}, "nbformat": 4}
    (tmp_path / "a.ipynb").write_text(json.dumps(notebook))
    assert read_submission(tmp_path / "a.ipynb") == [("cell 1", code)]


@pytest.mark.parametrize("address", [("192.0.2.1", 80), ("2001:db8::1", 80), ("example.org", 443)])
def test_the_suite_reaches_nothing_outside_this_machine(address):
    """conftest.py sees to it; the addresses are reserved for documents."""
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    with socket.socket(family) as outside, pytest.raises(PermissionError, match="no network"):
        outside.connect(address)
    with pytest.raises(OSError):
        urllib.request.urlopen(f"http://{address[0] if family == socket.AF_INET else 'x.invalid'}")
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname()).close()
    # Nor do processes that the suite starts.
    code = "import socket; socket.create_connection(('192.0.2.1', 80), 1)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 and "tests need no network" in done.stderr


@pytest.mark.parametrize("config", [None, 3, [], {"data": 3}, {"data": [1]}])
def test_a_spoiled_run_json_leaves_the_classes_their_numbers(tmp_path, tok, var, config):
    (tmp_path / "run.json").write_text(json.dumps({"kind": "var", "config": config}))
    assert class_names(tmp_path, var, tok) == ()  # our bed has ten classes, not three


def test_a_spoiled_draw_is_drawn_again_or_named(tmp_path, tok, var):
    draw = sampling_run.Draw("v", "t", 3, 1, top_k=0)
    folder = tmp_path / draw.folder
    folder.mkdir()
    np.save(folder / "part-000000-000003.npy", np.uint8(3))  # of no dimension
    assert npz.image_shape(sampling_run.draw_samples(var, tok, draw, tmp_path))[0] == 3
    (folder / "draw.json").write_text("{}")
    with pytest.raises(ValueError, match="holds another draw"):
        sampling_run.draw_samples(var, tok, draw, tmp_path)
