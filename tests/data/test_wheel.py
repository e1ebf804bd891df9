"""An ordinary install, away from the checkout, carries the embedded pictures and shipped models."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
USE = """
import varmini
from varmini import VAR, MultiScaleVQVAE, sample
from varmini.data import EMBEDDED, load_images
var, tok = VAR.from_pretrained("cifar10"), MultiScaleVQVAE.from_pretrained("cifar10")
assert len(load_images("fashion-subset")) == 10_000 and len(load_images("cifar10-subset")) == 1000
assert sample(var, tok, [3], seed=0).shape == (1, 3, 32, 32)
print(varmini.__file__, EMBEDDED, sep="\\n")
"""


def run(*args: object, **options) -> str:
    done = subprocess.run([str(a) for a in args], capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A copy of the checkout, as pip builds in the folder that it is given."""
    folder = tmp_path_factory.mktemp("source")
    for name in ("varmini", "data"):
        shutil.copytree(REPO / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(REPO / name, folder)
    return folder


@pytest.mark.parametrize("editable", [False, True])
def test_an_install_holds_what_it_needs(source, editable, tmp_path):
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    offline = ["--no-deps", "--no-index", "--no-build-isolation"]
    site, wanted = tmp_path / "site", source / "varmini"
    if editable:
        env = {**os.environ, "PYTHONPATH": ""}
        run(*pip, "install", *offline, "--target", site, "--editable", source, env=env)
        code = f"import site; site.addsitedir({str(site)!r})\n{USE}"
    else:
        run(*pip, "wheel", *offline, "-w", tmp_path, source)
        (wheel,) = tmp_path.glob("varmini-*.whl")
        assert 30e6 < wheel.stat().st_size < 60e6
        run(*pip, "install", *offline, "--target", site, wheel)
        code, wanted = USE, site / "varmini"
    env = {**os.environ, "PYTHONPATH": str(site)}
    package, embedded = run(sys.executable, "-c", code, cwd=tmp_path, env=env).splitlines()
    assert Path(package).parent == wanted
    assert Path(embedded) == (source / "data" if editable else site / "varmini/assets")
