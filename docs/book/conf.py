"""Settings of the course's site: `make book` runs Sphinx on the checkout with them.

Sphinx reads the notebooks where they lie and shows the outputs that were saved in them: nothing is
executed. Fonts, formulas and search come from the site's own files, so it works without a network.
"""

import re
import sys
from pathlib import Path

BOOK = Path(__file__).resolve().parent
sys.path.insert(0, str(BOOK))

import front  # noqa: E402

NOTEBOOKS = BOOK.parents[1] / "notebooks"

project = "varmini"
author = "varmini authors"
html_title = "varmini: the course"

extensions = ["myst_nb", "sphinx_copybutton", "sphinx-mathjax-offline"]
root_doc = "docs/book/course"
include_patterns = ["docs/**.md", "notebooks/*.ipynb", "results/CLAIMS.md",
                    "results/README.md", "notebooks/assignments/*.ipynb"]

nb_execution_mode = "off"
nb_merge_streams = True
nb_output_stderr = "error"
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

html_theme = "furo"
html_theme_options = {"navigation_with_keys": True}
html_static_path = ["_static"]
html_css_files = ["course.css"]
html_extra_path = ["index.html"]  # sends the reader from the site's root to the root document
html_copy_source = False
html_show_copyright = False


def ledger_of_the_site(text):
    """The ledger as the site has it: paragraphs, since a phone has no room for seven columns.

    A link to a cell of a notebook, whose words name the section, leads to that section. A file that
    is no page is named instead.
    """

    def section(link):
        place = re.sub(r"[^\w\- ]", "", link[2].lower()).replace(" ", "-")  # as MyST names it
        return f"[{link[1]} · {link[2]}](/{link[3]}#{place})"

    def claim(row):
        number, source, claim, status, found, taught, tests = (
            cell.strip().replace("<br>", "; ") for cell in re.split(r"(?<!\\)\|", row[0])[1:-1]
        )
        parts = {"Found here": found, "Taught": taught, "Tested by": tests}
        lines = [f"**{number}** · {source}: {claim} {status}"]
        return "\\\n".join(lines + [f"*{k}:* {v}" for k, v in parts.items() if v]) + "\n"

    cell = r"\[(\d\d) · ([^\]]+)\]\(\.\./(notebooks/\w+\.ipynb)#cell-id=[^)]+\)"
    text = re.sub(cell, section, text)
    text = re.sub(r"\[CSV\]\(\.\./([^)]+)\)", r"`\1`", text)
    text = re.sub(r"\[([^\]]+)\]\(\.\./tests/([^)]+)\)", r"\1 (`\2`)", text)
    text = re.sub(r"^\| +\|.*\n\| ---.*\n", "", text, flags=re.M)
    return re.sub(r"^\| \d+ \|.*$", claim, text, flags=re.M)


def describe_pictures(app, doctree, page):
    """Gives every picture an alternative text: its own, or what the page says before it."""
    from docutils import nodes  # comes with Sphinx; the tests read the settings without it

    source, said = Path(app.env.doc2path(page)), {nodes.title: "", nodes.paragraph: ""}
    own = front.own_words(source) if source.suffix == ".ipynb" else {}
    for node in doctree.findall():
        if type(node) in said:
            said[type(node)] = node.astext()
        elif isinstance(node, nodes.image) and not node.get("alt"):
            words = front.alternative(said[nodes.title], said[nodes.paragraph])
            node["alt"] = own.get(Path(node["uri"]).stem, words)


def setup(app):
    def change(app, page, source):
        if page == "results/CLAIMS":
            source[0] = ledger_of_the_site(source[0])
        if page == root_doc:
            source[0] = source[0].replace("<!-- cards -->", front.cards(NOTEBOOKS))

    def finish(app, error):
        if not error:
            front.write_thumbnails(NOTEBOOKS, Path(app.outdir) / "thumbnails")

    app.connect("source-read", change)
    app.connect("doctree-resolved", describe_pictures)
    app.connect("build-finished", finish)
