"""The demo's web page: `page.html` filled with pictures, the words of `texts.toml` and numbers."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template
from typing import Any

HERE = Path(__file__).parent
TEXTS = tomllib.loads((HERE / "texts.toml").read_text(encoding="utf-8"))
FIGURE = Template("""<figure class="$kind">
<figcaption><h3>$heading</h3><p>$text</p></figcaption>
<a class="card" href="$file"><img src="$file" alt="$heading" loading="lazy"
 width="$width" height="$height" style="--pixels: ${width}px"></a>
</figure>""")


@dataclass(frozen=True)
class Picture:
    """An image file beside the page, and what there is to see."""

    file: str
    """Path relative to the page."""
    size: tuple[int, int]
    """Width and height in pixels."""
    heading: str
    text: str
    chart: bool = False
    """A drawing on white, whose colours may be turned over on a dark page."""

    def html(self) -> str:
        values = {"heading": self.heading, "text": self.text, "file": self.file}
        kind, (width, height) = "chart" if self.chart else "sheet", self.size
        escaped = {name: escape(value) for name, value in values.items()}
        return FIGURE.substitute(escaped, kind=kind, width=width, height=height)


@dataclass(frozen=True)
class Chapter:
    """A part of the page: a heading, a paragraph and pictures."""

    name: str
    """Anchor, letters only."""
    heading: str
    text: str
    pictures: Sequence[Picture] = ()

    def html(self) -> str:
        figures = "\n".join(picture.html() for picture in self.pictures)
        return (
            f'<section id="{escape(self.name)}">\n<h2>{escape(self.heading)}</h2>\n'
            f"<p>{escape(self.text)}</p>\n{figures}\n</section>"
        )


def words(kind: str, name: str, values: Mapping[str, object]) -> dict[str, str]:
    """Heading and text of a chapter or picture in `texts.toml`, filled in."""
    found = TEXTS[kind][name]
    return {"heading": found["heading"], "text": found["text"].strip().format(**values)}


def render(
    chapters: Sequence[Chapter],
    facts: Sequence[tuple[str, str]],
    table: Sequence[tuple[str, str]],
    code: str,
) -> str:
    """The whole page as HTML. Every argument is plain text and is escaped here.

    facts: (what, number) tiles below the title; table: (what, value) rows at the end; code: Python
    that loads the models.
    """

    def lines(pattern: str, pairs: Sequence[tuple[str, str]]) -> str:
        return "\n".join(pattern.format(escape(a), escape(b)) for a, b in pairs)

    return Template((HERE / "page.html").read_text(encoding="utf-8")).substitute(
        links=lines('<a href="#{}">{}</a>', [(c.name, c.heading) for c in chapters]),
        facts=lines("<div><dt>{}</dt><dd>{}</dd></div>", facts),
        chapters="\n".join(chapter.html() for chapter in chapters),
        table=lines("<tr><th>{}</th><td>{}</td></tr>", table),
        code=escape(code),
    )


# -------------------------------------------------------------------------------- the run's numbers


def tiles(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The numbers at the top of the page."""
    bed = facts["fashion"]
    return [
        ("Tokenizer trained in", duration(facts["tokenizer"]["seconds"])),
        ("Transformer trained in", duration(facts["var"]["seconds"])),
        ("A picture is", f"{bed['tokens']} tokens"),
        ("Steps a picture", str(bed["steps"])),
        ("Drawn in a second", f"{bed['samples_per_second']:,.0f} pictures"),
        ("Peak memory", memory(facts)),
    ]


def account(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The run's account: costs, final losses, machine, versions."""
    rows = [("Whole demo", duration(facts["total_seconds"]))]
    for name, stage in (("Tokenizer", facts["tokenizer"]), ("Transformer", facts["var"])):
        cost = f"{duration(stage['seconds'])} for {stage['images']:,} pictures"
        rows.append((f"{name} training", f"{cost}, {stage['images_per_second']:,.0f} a second"))
    end = facts["tokenizer"]["final"]
    rows.append(("Tokenizer's end", f"loss {end['loss']:.4f}, held-out PSNR {end['psnr']:.2f} dB"))
    end = facts["var"]["final"]
    losses = f"loss {end['loss']:.3f}, held out {end['val_loss']:.3f}"
    losses += f"; last map {end['loss_last']:.3f}, held out {end['val_loss_last']:.3f}"
    rows += [("Transformer's end", f"{losses} (nats a token)"), ("Peak memory", memory(facts))]
    for key in ("hardware", "threads", "precision", "torch", "python", "seed", "commit", "date"):
        rows.append((key.capitalize(), str(facts[key])))
    return [*rows, ("Command", facts["command"])]


def code(folder: str, label: int, name: str) -> str:
    """Python that goes on with the trained models."""
    return (
        "from varmini import VAR, MultiScaleVQVAE, sample\n\n"
        f'tok = MultiScaleVQVAE.from_pretrained("{folder}/tokenizer")\n'
        f'var = VAR.from_pretrained("{folder}/var")\n'
        f"images = sample(var, tok, [{label}] * 8, seed=1)  # eight times {name}, in [-1, 1]"
    )


def duration(seconds: float) -> str:
    """Seconds as "2 min 05 s"."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def memory(facts: Mapping[str, Any]) -> str:
    """The peak memory in GB."""
    peak = facts["peak_memory_mb"]
    return "unknown" if peak is None else f"{peak / 1000:.1f} GB"
