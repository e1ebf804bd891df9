"""The demo's web page: one HTML file, written by hand, that shows pictures and explains them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from string import Template


@dataclass(frozen=True)
class Picture:
    """One picture of the page: an image file beside it and what there is to see."""

    file: str
    """Path relative to the page."""
    size: tuple[int, int]
    """Width and height in pixels."""
    heading: str
    """A line above it."""
    text: str
    """Two or three sentences for somebody new to VAR."""
    chart: bool = False
    """A drawing on white, whose colours may be turned over on a dark page."""


@dataclass(frozen=True)
class Chapter:
    """A part of the page: a heading, a paragraph and pictures."""

    name: str
    """Anchor, letters only."""
    heading: str
    lead: str
    pictures: Sequence[Picture] = ()


PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>$title</title>
<style>
:root {
  --paper: #fbfaf8; --card: #ffffff; --ink: #22262b; --muted: #626a75; --rule: #e4e2dd;
  --accent: #b83a4e; --code: #f1efea;
  --serif: Charter, "Bitstream Charter", "Iowan Old Style", "Palatino Linotype", Georgia, serif;
  --sans: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
  --mono: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #15171a; --card: #000000; --ink: #e4e6e9; --muted: #9aa2ad; --rule: #2d3136;
    --accent: #ee8294; --code: #1f2226;
  }
  .chart img { filter: invert(1) hue-rotate(180deg); }
  .sheet { --card: #ffffff; }
  .sheet .card { filter: brightness(.92); }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 1.0625rem/1.62 var(--serif); }
main, header, footer { max-width: 62rem; margin: 0 auto; padding: 0 1.25rem; }
header { padding-top: 3.5rem; }
h1, h2, h3, nav, table, figcaption, footer, .facts { font-family: var(--sans); }
h1 { font-size: clamp(1.9rem, 5vw, 2.7rem); line-height: 1.12; letter-spacing: -.02em; margin: 0; }
h2 { font-size: 1.55rem; letter-spacing: -.01em; line-height: 1.2; margin: 4rem 0 .6rem; }
h3 { font-size: 1.05rem; margin: 0 0 .3rem; }
p { max-width: 42rem; margin: .6rem 0 1rem; }
a { color: var(--accent); text-underline-offset: .18em; }
nav { margin: 1.4rem 0 0; font-size: .92rem; display: flex; flex-wrap: wrap; gap: .3rem 1.3rem; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.6rem, 1fr)); gap: 1px;
  margin: 2rem 0 0; padding: 0; background: var(--rule); border: 1px solid var(--rule);
  border-radius: .6rem; overflow: hidden; }
.facts div { background: var(--paper); padding: .8rem 1rem; }
.facts dt { color: var(--muted); font-size: .8rem; }
.facts dd { margin: 0; font-size: 1.2rem; font-weight: 600; font-variant-numeric: tabular-nums; }
figure { margin: 2.2rem 0 0; }
figcaption p { font: 1rem/1.55 var(--serif); margin: 0 0 .9rem; }
.card { display: inline-block; max-width: 100%; background: var(--card); padding: .5rem;
  border: 1px solid var(--rule); border-radius: .6rem; overflow-x: auto; }
.card img { display: block; width: calc(.7 * var(--pixels)); max-width: 100%; height: auto;
  min-width: calc(.36 * var(--pixels)); }  /* narrower, and the words could not be read: scroll */
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .92rem; width: 100%; }
th, td { text-align: left; padding: .45rem 1rem .45rem 0; border-bottom: 1px solid var(--rule);
  vertical-align: top; }
th { color: var(--muted); font-weight: 400; white-space: nowrap; width: 14rem; }
td { font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
pre { background: var(--code); border-radius: .6rem; padding: 1rem 1.1rem; overflow-x: auto;
  font: .86rem/1.55 var(--mono); }
footer { color: var(--muted); font-size: .87rem; margin-top: 4rem; padding-bottom: 3rem; }
footer p { max-width: none; }
</style>
</head>
<body>
<header>
<h1>$title</h1>
<p>$subtitle</p>
<nav>$links</nav>
<dl class="facts">
$facts
</dl>
</header>
<main>
$chapters
<section id="run">
<h2>This run</h2>
<div class="scroll"><table>
$table
</table></div>
<h3 style="margin-top:2rem">Go on with the models</h3>
<pre>$code</pre>
</section>
</main>
<footer>
<p>$footer</p>
</footer>
</body>
</html>
""")

FIGURE = Template("""<figure class="$kind">
<figcaption><h3>$heading</h3><p>$text</p></figcaption>
<a class="card" href="$file"><img src="$file" alt="$heading" loading="lazy"
 width="$width" height="$height" style="--pixels: ${width}px"></a>
</figure>""")


def _figure(picture: Picture) -> str:
    values = {"heading": picture.heading, "text": picture.text, "file": picture.file}
    return FIGURE.substitute(
        {name: escape(value) for name, value in values.items()},
        kind="chart" if picture.chart else "sheet",
        width=picture.size[0],
        height=picture.size[1],
    )


def _chapter(chapter: Chapter) -> str:
    figures = "\n".join(_figure(picture) for picture in chapter.pictures)
    return (
        f'<section id="{escape(chapter.name)}">\n<h2>{escape(chapter.heading)}</h2>\n'
        f"<p>{escape(chapter.lead)}</p>\n{figures}\n</section>"
    )


def render(
    *,
    title: str,
    subtitle: str,
    facts: Sequence[tuple[str, str]],
    chapters: Sequence[Chapter],
    table: Sequence[tuple[str, str]],
    code: str,
    footer: str,
) -> str:
    """The whole page as HTML. Every argument is plain text and is escaped here.

    facts: (what, number) tiles below the title; table: (what, value) rows at the end; code: Python
    that loads the models.
    """
    links = [(c.name, c.heading) for c in chapters] + [("run", "This run")]
    return PAGE.substitute(
        title=escape(title),
        subtitle=escape(subtitle),
        links="\n".join(f'<a href="#{escape(n)}">{escape(h)}</a>' for n, h in links),
        facts="\n".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in facts),
        chapters="\n".join(map(_chapter, chapters)),
        table="\n".join(f"<tr><th>{escape(k)}</th><td>{escape(v)}</td></tr>" for k, v in table),
        code=escape(code),
        footer=escape(footer),
    )
