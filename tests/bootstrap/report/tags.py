"""A page as tests read it: its elements, its tables by section, and its words."""

import re
from html.parser import HTMLParser


class Tags(HTMLParser):
    """Elements of a page and their attributes, and the cells of its tables by section."""

    def __init__(self, page: str):
        super().__init__()
        self.found: list[tuple[str, dict]] = []
        self.tables: dict[str, list[list[list[str]]]] = {}
        self._in_cell = False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        here = self.tables.setdefault((self["section"] or [{"id": "header"}])[-1]["id"], [])
        if tag == "table":
            here.append([])
        elif tag == "tr":
            here[-1].append([])
        elif tag in ("td", "th"):
            here[-1][-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag):
        self._in_cell &= tag not in ("td", "th")

    def handle_data(self, data):
        if self._in_cell:
            self.tables[(self["section"] or [{"id": "header"}])[-1]["id"]][-1][-1][-1] += data

    def __getitem__(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.found if name == tag]


def plain(page: str) -> str:
    """The text of a page without its tags, in single spaces."""
    return " ".join(re.sub(r"<style.*?</style>|<svg.*?</svg>|<[^>]*>", " ", page, flags=re.DOTALL).split())


def captions(page: str) -> list[str]:
    return re.findall("<figcaption>(.*?)</figcaption>", page)


def across(table: list[list[str]]) -> dict[str, list[str]]:
    """The rows of a table by the name that they begin with."""
    return {name: cells for name, *cells in table}
