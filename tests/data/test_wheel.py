"""An ordinary install, away from the checkout, carries pictures, shipped models and tables.

It is the first cell of notebook 00 that installs it here, as on a hosted notebook; then 00 runs.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import nbformat
import pytest
from PIL import Image

REPO = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPO / "scripts" / "course"))

import hosted  # noqa: E402

PIP = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
OFFLINE = ["--no-deps", "--no-index"]
USE = """
import varmini
from varmini import VAR, MultiScaleVQVAE, sample
from varmini.data import EMBEDDED, load_images
from varmini.runtime.tables import RESULTS
var, tok = VAR.from_pretrained("cifar10"), MultiScaleVQVAE.from_pretrained("cifar10")
assert len(load_images("fashion-subset")) == 10_000 and len(load_images("cifar10-subset")) == 1000
assert sample(var, tok, [3], seed=0).shape == (1, 3, 32, 32)
print(varmini.__file__, EMBEDDED, RESULTS, sep="\\n")
"""


def run(*args: object, folder: Path) -> str:
    """What a command prints, run in `folder` and without the checkout on Python's path."""
    env = os.environ | {"PYTHONPATH": str(REPO / "tests/offline")}
    args = [str(a) for a in args]
    done = subprocess.run(args, capture_output=True, text=True, cwd=folder, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_wheel_runs_in_an_environment_of_its_own(tmp_path):
    source = tmp_path / "source"  # pip builds in the folder that it is given
    for name in ("varmini", "data", "results"):
        shutil.copytree(REPO / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(REPO / name, source)
    run(*PIP, "wheel", *OFFLINE, "--no-build-isolation", "-w", tmp_path, source, folder=tmp_path)
    (wheel,) = tmp_path.glob("varmini-*.whl")
    assert 30e6 < wheel.stat().st_size < 60e6
    venv.create(tmp_path / "env")
    bin = tmp_path / "env" / ("Scripts" if os.name == "nt" else "bin")
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(run(bin / "python", "-c", code, folder=tmp_path).strip())
    # The libraries are those of this Python; a checkout that is installed there stays out of sight.
    libraries = {sysconfig.get_path(kind) for kind in ("purelib", "platlib")}
    (site / "libraries.pth").write_text("\n".join(libraries))
    assert not (site / "varmini").exists()
    shutil.copy(next(REPO.glob("notebooks/00_*.ipynb")), tmp_path / "00.ipynb")
    hosted.write(tmp_path / "00.ipynb", " ".join([*OFFLINE, str(wheel)]))
    run(bin / "python", "-m", "nbconvert", "--to", "notebook", "--execute", "--output", "run.ipynb",
        "00.ipynb", folder=tmp_path)  # fmt: skip
    done = nbformat.read(tmp_path / "run.ipynb", as_version=4)
    assert all(cell.execution_count for cell in done.cells if cell.cell_type == "code")
    told = run(bin / "python", "-c", USE, folder=tmp_path).splitlines()
    carried = ("__init__.py", "assets", "results")
    assert told == [str(site / "varmini" / name) for name in carried]
    assert (site / "varmini" / "py.typed").is_file()  # PEP 561; the checkout has no such file
    results = ("**/*.csv", "comparison/*.png", "words/*.png", "motion/*.safetensors")
    for path in [file for kind in results for file in (REPO / "results").glob(kind)]:
        assert (site / "varmini" / path.relative_to(REPO)).read_bytes() == path.read_bytes()
    run(bin / "varmini", "sample", "--labels", "ship", "--n", 1, "--out", "a.png", folder=tmp_path)
    assert Image.open(tmp_path / "a.png").size[0] > 32


@pytest.mark.parametrize("path", hosted.lessons(), ids=lambda path: path.stem)
def test_every_lesson_installs_itself_from_one_address_where_varmini_is_missing(path):
    first = hosted.source_of(hosted.lessons()[0])
    assert first and hosted.source_of(path) == first, "run scripts/course/hosted.py"


def test_an_address_is_written_with_links_to_three_hosts_and_can_be_written_anew(tmp_path):
    path = Path(shutil.copy(hosted.lessons()[0], tmp_path))
    for owner in ("ada", "emmy"):
        links = {host: link.format(repository=f"{owner}/varmini", branch="main", name=path.name)
                 for host, link in hosted.HOSTS.items()}  # fmt: skip
        hosted.write(path, f"git+https://github.com/{owner}/varmini@main", links)
    opening = nbformat.read(path, as_version=4).cells[0].source
    assert opening.count("emmy/varmini") == 3 and "ada" not in opening.split("**Open it.**")[1]
    assert hosted.source_of(path) == "git+https://github.com/emmy/varmini@main"
