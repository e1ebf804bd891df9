"""Checks every link inside a built site: files that pages name, and places in them.

    python scripts/release/check_links.py out/book/html

Links to other sites are counted, not followed. Exit code 1 when a file or a place is missing.
"""

from __future__ import annotations

import sys
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

from bs4 import BeautifulSoup

NAMES = {"a": "href", "link": "href", "img": "src", "script": "src", "iframe": "src"}


def links(page: BeautifulSoup) -> list[str]:
    """Everything that a page names: other pages, pictures, styles, scripts."""
    return [tag[NAMES[tag.name]] for tag in page.find_all(NAMES) if tag.get(NAMES[tag.name])]


def check(site: Path) -> tuple[int, int, list[str]]:
    """Links inside the site, links to elsewhere, and a sentence for each that leads nowhere."""
    pages = {
        path.resolve(): BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")
        for path in sorted(site.rglob("*.html"))
    }
    places = {path: {tag["id"] for tag in page.find_all(id=True)} for path, page in pages.items()}
    inside, outside, broken = 0, 0, []
    for path, page in pages.items():
        for link in links(page):
            address, place = urldefrag(link)
            if urlsplit(link).scheme or urlsplit(link).netloc:
                outside += 1
                continue
            inside += 1
            file = unquote(urlsplit(address).path)
            target = (path.parent / file).resolve() if file else path
            if not target.is_file():
                broken.append(f"{path.relative_to(site.resolve())}: no file for {link}")
            elif place and target in places and unquote(place) not in places[target]:
                broken.append(f"{path.relative_to(site.resolve())}: no place for {link}")
    return inside, outside, broken


def main() -> int:
    if len(sys.argv) != 2 or not (Path(sys.argv[1]) / "index.html").is_file():
        print("usage: check_links.py FOLDER, with an index.html in it", file=sys.stderr)
        return 2
    inside, outside, broken = check(Path(sys.argv[1]))
    print(*broken, f"{inside} links inside the site checked; {outside} lead elsewhere", sep="\n")
    return bool(broken)


if __name__ == "__main__":
    sys.exit(main())
