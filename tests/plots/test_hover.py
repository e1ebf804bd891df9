"""The token map that answers the pointer: a well-formed page, and every answer the right one."""

import base64
import re
from io import BytesIO
from xml.etree import ElementTree

import matplotlib.pyplot as plt
import torch

from varmini.plots import views, widgets
from varmini.plots.hover import token_page
from varmini.plots.images import pixels_of

SVG = "{http://www.w3.org/2000/svg}"


def tokens_of(page: str) -> list:
    """The group of each token, in the order of the map."""
    root = ElementTree.fromstring(page[page.index("<svg") :])
    return [g for g in root.iter(f"{SVG}g") if "varmini-token" in g.get("class", "").split()]


def pictures(group) -> list:
    found = [image.get("href").split(",")[1] for image in group.iter(f"{SVG}image")]
    return [torch.tensor(plt.imread(BytesIO(base64.b64decode(data)))) for data in found]


def test_each_token_answers_with_its_own_code_patch_and_attention(pair, images):
    var, tok = pair
    tokens = tok.encode(images[:1])
    groups = tokens_of(token_page(var, tok, images[0], 1, scale=2, block=1, head=0))
    assert len(groups) == 16
    inputs = tok.quantizer.teacher_inputs(tokens)
    shares = views.attention(var, torch.tensor([1]), inputs, 1)[0, 0]
    paints = views.token_paints(tok, tokens, 2)
    for i, group in enumerate(groups):
        words = [text.text for text in group.iter(f"{SVG}text")]
        title = group.find(f"{SVG}rect/{SVG}title").text
        assert title == f"row {i // 4}, column {i % 4}: code {tokens[2].flatten()[i]}"
        said = [int(re.search(r"(\d+) %", text)[1]) for text in words]
        row = shares[tok.schedule.slices[2].start + i]
        assert said == [round(100 * float(row[part].sum())) for part in tok.schedule.slices]
        painted, *looks = pictures(group)
        expected = torch.tensor(pixels_of(paints[i : i + 1] / paints[i].abs().max())[0])
        assert torch.equal((255 * painted[..., :3]).round().int(), expected.int())
        assert tuple(tuple(p.shape[:2]) for p in looks) == tok.schedule.grids


def test_what_is_seen_before_the_pointer_comes(pair, images):
    page = token_page(*pair, images[0], 1, scale=1)
    first = ["first" in group.get("class").split() for group in tokens_of(page)]
    assert first == [False, False, False, True]  # row 1, column 1 of a 2x2 map
    assert ":hover .answer" in page and "script" not in page


def test_the_widget_shows_the_page_and_keeps_a_picture(pair, images):
    panel = widgets.tokens(*pair, images, torch.tensor([0, 1, 2]))
    assert panel.children[-1] is panel.live and set(panel.values) == {
        "picture", "scale", "block", "head",
    }  # fmt: skip
    first = panel.live.value
    assert len(tokens_of(first)) == 16  # the last map
    panel.controls["scale"].value = 1
    assert len(tokens_of(panel.live.value)) == 4 and panel.message.value == ""
    assert panel.live.value == token_page(*pair, images[0], 0, scale=1, block=1)
    assert panel.picture.value[:4] == b"\x89PNG"
