"""The demo in its tiny setting, from an empty folder to a page whose every link resolves."""

import contextlib
import io
import json
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from PIL import Image

from varmini import VAR, MultiScaleVQVAE, sample
from varmini.cli.demo import page
from varmini.cli.demo import run as demo


class Reader(HTMLParser):
    """Collects links, images, anchors, and tags that never close."""

    VOID = {"meta", "img", "link", "br", "hr", "!doctype"}

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links, self.images, self.open, self.words, self.anchors = [], [], [], [], set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        values = dict(attrs)
        self.anchors.add(values.get("id"))
        if tag == "a":
            self.links.append(values["href"])
        if tag == "img":
            self.images.append(values)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] not in (["style"], ["script"]):
            self.words.append(data)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, str]:
    """One tiny demo for all tests here: its folder and what it printed."""
    out = tmp_path_factory.mktemp("demo") / "demo é"
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        demo.Demo(out, tiny=True)()
    return out, printed.getvalue()


def test_what_it_prints(finished, monkeypatch) -> None:
    out, printed = finished
    first, *_, last = printed.splitlines()
    assert "minutes on two cores" in first and first == demo.expectation()
    assert last == f"Open {out / 'index.html'} in a browser"
    assert (out / "log.txt").read_text() == printed
    for kind, words in (("AVX2", "about 4 minutes on two cores (AVX2)"), ("mps", "a few minutes")):
        monkeypatch.setattr(demo, "kind_of_machine", lambda kind=kind: kind)
        assert words in demo.expectation()


def test_the_account_names_cost_machine_and_losses(finished) -> None:
    facts = json.loads((finished[0] / "demo.json").read_text())
    assert facts["finished"] is True and facts["kind"] == demo.KIND
    assert facts["peak_memory_mb"] > 50 and facts["seed"] == 0
    for key in ("hardware", "torch", "commit", "date", "threads", "command", "total_seconds"):
        assert facts[key]
    for stage in ("tokenizer", "var"):
        assert facts[stage]["seconds"] and facts[stage]["images_per_second"]
        assert facts[stage]["final"]["loss"] > 0
    assert facts["var"]["final"]["loss_last"] > 0
    assert len(facts["fashion"]["usage"]["scales"]) == 3
    tok = MultiScaleVQVAE.from_pretrained(finished[0] / "tokenizer")
    images = sample(VAR.from_pretrained(finished[0] / "var"), tok, torch.tensor([0, 9]), seed=1)
    assert images.shape == (2, 1, 32, 32)


def test_every_link_and_picture_of_the_page_is_there(finished) -> None:
    out, _ = finished
    found = Reader((out / "index.html").read_text())
    assert not found.open
    for link in found.links:
        there = link[1:] in found.anchors if link.startswith("#") else (out / link).is_file()
        assert there, link
    shown = {image["src"] for image in found.images}
    assert shown == {p.relative_to(out).as_posix() for p in (out / "pictures").glob("*.png")}
    kinds = ["samples", "growing", "scales", "tokens", "usage", "tokenizer-curves", "var-curves"]
    wanted = {f"pictures/{bed}-{kind}.png" for bed in ("fashion", "cifar10") for kind in kinds}
    assert wanted <= shown
    for image in found.images:
        assert image["alt"]
        with Image.open(out / image["src"]) as file:
            assert file.size == (int(image["width"]), int(image["height"]))
    words = " ".join(found.words)
    assert "21 tokens in 3 maps: 1×1, 2×2, 4×4" in words
    assert "{" not in words and "$" not in words  # every blank was filled in


def test_an_earlier_demo_is_replaced_only_when_asked(finished, tmp_path) -> None:
    with pytest.raises(ValueError, match="already holds a demo: add --overwrite"):
        demo.Demo(finished[0], tiny=True)()
    assert (finished[0] / "index.html").is_file()
    out = tmp_path / "demo"
    demo.Demo(out).claim()
    for name in ("notes.txt", "index.html"):
        (out / name).write_text("mine")
    demo.Demo(out, overwrite=True).claim()
    assert (out / "notes.txt").read_text() == "mine" and not (out / "index.html").exists()
    assert json.loads((out / "demo.json").read_text())["finished"] is False


def test_another_folder_is_never_touched(tmp_path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/demo.json").write_text('{"kind": "another"}')
    for place in (tmp_path, tmp_path / "thesis.tex", tmp_path / "other"):
        for overwrite in (False, True):
            with pytest.raises(ValueError, match="is no demo's, so it is left alone"):
                demo.Demo(place, overwrite)()
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["demo.json", "other", "thesis.tex"]


@pytest.mark.parametrize("bad", ["<script>alert('$x & \"y\"')</script>", "$\\frac{", "{{7*7}}",
                                 '"><img src=x onerror=alert(1)>'])  # fmt: skip
def test_the_page_escapes_what_it_shows(bad, finished) -> None:
    facts = json.loads((finished[0] / "demo.json").read_text())
    facts |= {"hardware": bad, "command": bad, "name": bad}
    figures = [page.figure("samples", {"guidance": bad, "seed": bad}, bad, (10, 10))]
    text = page.section("how", {"shape": bad, "steps": bad, "last": bad}, figures)
    html = page.render([text], facts)
    assert "<script" not in html and "<img src=x" not in html
    found = Reader(html)
    assert not found.open and found.images[0]["src"] == bad
    assert sum(bad in word for word in found.words) >= 5
