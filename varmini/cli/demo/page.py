"""The demo's web page: `page.html` filled with pictures, the words of `texts.toml` and numbers.

Words and numbers are plain text, and are escaped here.
"""

import tomllib
from collections.abc import Mapping, Sequence
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
SECTION = Template('<section id="$name">\n<h2>$heading</h2>\n<p>$text</p>\n$figures\n</section>')


def figure(name: str, values: Mapping[str, Any], file: str, size: tuple[int, int]) -> str:
    """HTML of a picture file of that size (width, height), with its words filled in."""
    # A drawing on white, whose colours may be turned over on a dark page, or photographs.
    kind = "chart" if TEXTS["pictures"][name].get("chart") else "sheet"
    place = dict(file=escape(file), width=size[0], height=size[1])
    return FIGURE.substitute(_words("pictures", name, values), kind=kind, **place)


def section(name: str, values: Mapping[str, Any], figures: Sequence[str]) -> str:
    """HTML of a chapter: its heading, its paragraph and its pictures."""
    words = _words("chapters", name, values)
    return SECTION.substitute(words, name=name, figures="\n".join(figures))


def _words(kind: str, name: str, values: Mapping[str, Any]) -> dict[str, str]:
    found = TEXTS[kind][name]
    text = found["text"].strip().format(**values)
    return {"heading": escape(found["heading"]), "text": escape(text)}


def render(sections: Sequence[str], facts: Mapping[str, Any]) -> str:
    """The whole page as HTML."""

    def rows(pattern: str, pairs: Mapping[str, str]) -> str:
        filled = ((escape(name), escape(text.format(**facts))) for name, text in pairs.items())
        return "\n".join(pattern.format(*pair) for pair in filled)

    headings = {name: chapter["heading"] for name, chapter in TEXTS["chapters"].items()}
    return Template((HERE / "page.html").read_text(encoding="utf-8")).substitute(
        links=rows('<a href="#{}">{}</a>', headings),
        facts=rows("<div><dt>{}</dt><dd>{}</dd></div>", TEXTS["tiles"]),
        chapters="\n".join(sections),
        table=rows("<tr><th>{}</th><td>{}</td></tr>", TEXTS["table"]),
        code=escape(TEXTS["code"].strip().format(**facts)),
    )


def duration(seconds: float) -> str:
    """Seconds as "2 min 05 s"."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"
