"""The page that runs the live bed in a browser: it draws what Python draws, in both precisions."""

import functools
import json
import os
import re
import runpy
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
WEB = ROOT / "web"
EXPORT = ROOT / "scripts" / "release" / "export_page.py"
LARGEST = 20_000_000
CHROMIUM = (
    os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
)
needs_node = pytest.mark.skipif(not shutil.which("node"), reason="needs Node to run the page")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The page in a precision, with fixtures: built once."""
    main = runpy.run_path(str(EXPORT))["main"]

    @functools.cache
    def build(precision: str) -> Path:
        out = tmp_path_factory.mktemp(precision)
        main(["--out", str(out), "--fixtures", "50", "--precision", precision])
        return out

    return build


def node(script: str, page: Path) -> None:
    environment = os.environ | {"PAGE": str(page), "CHROMIUM": CHROMIUM or ""}
    command = ["node", "--test", str(WEB / "test" / script)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stdout + run.stderr


@needs_node
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_the_page_draws_and_rebuilds_what_python_does(precision, built):
    node("parity.test.js", built(precision))


@needs_node
@pytest.mark.skipif(not CHROMIUM, reason="needs Chromium, named in CHROMIUM or on the PATH")
@pytest.mark.skipif(
    not (WEB / "node_modules" / "playwright-core").is_dir(), reason="needs `npm install` in web/"
)
def test_the_page_works_in_a_browser(built):
    node("browser.test.js", built("float16"))


def test_the_page_is_small(built):
    files = [file for file in built("float16").rglob("*") if file.name != "fixtures.json"]
    assert sum(file.stat().st_size for file in files if file.is_file()) <= LARGEST


def test_both_languages_say_the_same_and_all_that_the_page_asks_for():
    texts = json.loads((WEB / "texts.json").read_text(encoding="utf-8"))
    english, chinese = texts["en"], texts["zh"]
    assert list(english) == list(chinese)
    for name, text in english.items():
        if isinstance(text, list):
            assert len(text) == len(chinese[name]), name
        else:
            values = [sorted(re.findall(r"\{\w+\}", t)) for t in (text, chinese[name])]
            assert values[0] == values[1], name
    page = (WEB / "index.html").read_text(encoding="utf-8")
    asked = set(re.findall(r'data-(?:text|label)="(\w+)"', page))
    for script in (WEB / "src").glob("*.js"):
        code = script.read_text(encoding="utf-8")
        asked |= set(re.findall(r'(?:say|problem|status)\(\s*"(\w+)"', code))
    assert asked <= set(english)


def test_the_page_asks_nothing_of_other_sites():
    for file in (WEB / "index.html", WEB / "style.css", *(WEB / "src").glob("*.js")):
        assert not re.search(r"https?://", file.read_text(encoding="utf-8")), file
