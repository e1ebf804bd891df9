"""The front page's cards, and words for pictures: what conf.py makes from the notebooks themselves.

A card shows a notebook's title, its first goal, its times and a thumbnail: the picture of the cell
with the tag "thumbnail", or else the first.
"""

import base64
import hashlib
import html
import io
import re
from pathlib import Path

import nbformat
from PIL import Image, ImageOps

SIZE = (320, 180)  # of a thumbnail, in pixels


def ordered(folder: Path) -> list[Path]:
    """The lessons in the order of reading: var_from_scratch after 00."""
    first, *others = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    return [first, folder / "var_from_scratch.ipynb", *others]


def front_matter(path: Path) -> dict[str, str]:
    """Title, first goal and time of a notebook, from its first cell; without Markdown's signs."""
    opening = nbformat.read(path, as_version=4).cells[0].source.replace("*", "").replace("`", "")
    title = re.match(r"# (.+)", opening)[1]
    goal = re.search(r"^Goals\..*\n- (.+?),?$", opening, re.M)[1]
    times = re.sub(r" \([^)]*\)", "", re.search(r"^Time\. (.+)", opening, re.M)[1]).split(". ")
    said = [times[0], *(part.split(",")[0] for part in times[1:] if "to type" in part)]
    time = "; ".join(part.strip(". ") for part in said)
    return {"title": title, "goal": goal[0].upper() + goal[1:], "time": time}


def thumbnail(path: Path) -> Image.Image:
    """A notebook's picture, on white, at the size of a card."""
    cells = nbformat.read(path, as_version=4).cells
    drawn = [(cell, o.data["image/png"]) for cell in cells for o in cell.get("outputs", [])
             if "image/png" in o.get("data", {})]  # fmt: skip
    chosen = [png for cell, png in drawn if "thumbnail" in cell.metadata.get("tags", [])]
    picture = Image.open(io.BytesIO(base64.b64decode((chosen or [drawn[0][1]])[0]))).convert("RGB")
    if picture.width > 2.4 * picture.height:  # a strip, of which the left end can be read
        return ImageOps.fit(picture, SIZE, centering=(0, 0.5))
    return ImageOps.pad(picture, SIZE, color="white")


def cards(folder: Path, up: str = "../../") -> str:
    """The cards as HTML; `up` leads from the front page to the site's root."""
    found = []
    for path in ordered(folder):
        said = {key: html.escape(text) for key, text in front_matter(path).items()}
        found.append(
            f'<a class="card" href="{up}notebooks/{path.stem}.html">'
            f'<img src="{up}thumbnails/{path.stem}.png" alt="" width="320" height="180">'
            f"<strong>{said['title']}</strong><span>{said['goal']}.</span>"
            f"<small>{said['time']}.</small></a>"
        )
    return '<div class="cards">\n' + "\n".join(found) + "\n</div>"


def write_thumbnails(folder: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for path in ordered(folder):
        thumbnail(path).save(out / f"{path.stem}.png", optimize=True)


def own_words(path: Path) -> dict[str, str]:
    """Alternative texts that pictures bring along, by the checksum that myst-nb names a file by."""
    outputs = (o for cell in nbformat.read(path, 4).cells for o in cell.get("outputs", []))
    alts = ((o, o.get("metadata", {}).get("image/png", {}).get("alt")) for o in outputs)
    return {hashlib.sha256(base64.b64decode(o.data["image/png"])).hexdigest(): alt
            for o, alt in alts if alt}  # fmt: skip


def alternative(heading: str, text: str) -> str:
    """Words for a picture without any of its own: the section, and what was said before it."""
    text = re.sub(r"\s+", " ", text).strip()
    if len(text) > 240:
        text = text[:240].rsplit(" ", 1)[0] + " ..."
    return f"Picture of the section “{heading}”. {text}".strip()
