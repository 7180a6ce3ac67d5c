"""One file is one text: plain and marked-up text, web pages, PDF and Word."""

import io
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from ratchet.bootstrap.documents.account import library
from ratchet.bootstrap.documents.encodings import decoded


class Text(NamedTuple):
    """What a file says, and the licence that it names itself."""

    text: str
    license: str = ""


_NAMED = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_SIGNS = {"tab": "\t", "br": "\n", "cr": "\n", "ptab": "\t", "noBreakHyphen": "-"}
"""What elements of Word stand for."""
_UNSEEN = ("pPr", "rPr", "sdtPr", "del", "moveFrom", "rt", "Fallback")
"""Elements of Word that say how a part looks or sounds, what was taken out, or the same again for older programs."""
_DECLARED = re.compile(rb"""<(?:meta|\?xml)[^>]{0,200}?(?:charset|encoding)\s*=\s*["']?([\w-]+)""", re.IGNORECASE)


def plain(content: bytes, source: str) -> Text:
    """A text as it is, Markdown included."""
    return Text(decoded(content, source))


def page(content: bytes, source: str) -> Text:
    """The main text of a web page, without navigation, scripts and comments; of a small page, all that it shows."""
    trafilatura, parser = library("trafilatura", source), library("lxml.html", source)
    declared = _DECLARED.search(content[:2048])
    html = decoded(content, source, declared[1].decode() if declared else "")
    if not html.strip():
        return Text("")
    tree = parser.document_fromstring(html.encode(), parser=parser.HTMLParser(encoding="utf-8"))
    licenses = tree.xpath("//*[contains(concat(' ', @rel, ' '), ' license ')]/@href")
    shown = tree.xpath("//body//text()[not(ancestor::script or ancestor::style)]")
    text = trafilatura.extract(html, include_comments=False) or "\n".join(filter(str.strip, shown))
    return Text(text, str(licenses[0]) if licenses else "")


def pdf(content: bytes, source: str) -> Text:
    """The text layer of a PDF, page by page. Raises ValueError for one that a password locks."""
    pypdf = library("pypdf", source)
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # what it says of damaged files is said in one line here
    reader = pypdf.PdfReader(io.BytesIO(content))
    if reader.is_encrypted and not reader.decrypt(""):
        raise ValueError("it is locked by a password")
    return Text("\n\n".join(page.extract_text() for page in reader.pages))


def word(content: bytes, source: str) -> Text:
    """The paragraphs and tables of a Word document, a line for each row, its cells set apart by tabs, as it reads when
    all changes are accepted."""
    body = library("docx", source).Document(io.BytesIO(content)).element.body
    return Text("\n\n".join(filter(str.strip, _blocks(body))))


def _blocks(parent: Any) -> Iterator[str]:
    """The paragraphs and tables of a part of a Word document."""
    for part in parent.iterchildren("{*}*"):
        kind = part.tag.rpartition("}")[2]
        if kind == "p":
            yield "".join(_letters(part))
        elif kind == "tbl":
            yield "\n".join("\t".join(map(_cell, _own(row, "tr", "tc"))) for row in _own(part, "tbl", "tr"))
        elif kind not in _UNSEEN:  # a form's field, an index, or the like, with paragraphs in it
            yield from _blocks(part)


def _own(part: Any, kind: str, wanted: str) -> Iterator[Any]:
    """Rows of a table that are not taken out, or cells of a row, but not those of tables within its cells."""
    own = (one for one in part.iter(_NAMED + wanted) if next(one.iterancestors(_NAMED + kind)) is part)
    return (one for one in own if one.find(f"{_NAMED}trPr/{_NAMED}del") is None)


def _cell(cell: Any) -> str:
    return " ".join(filter(str.strip, _blocks(cell)))


def _letters(part: Any) -> Iterator[str]:
    """What a part of a paragraph says; paragraphs in it, which are those of text boxes, on lines of their own."""
    for inner in part.iterchildren("{*}*"):
        kind = inner.tag.rpartition("}")[2]
        if kind == "t":
            yield inner.text or ""
        elif kind in _SIGNS:
            yield _SIGNS[kind]
        elif kind not in _UNSEEN:
            yield from ["\n", *_letters(inner), "\n"] if kind == "p" else _letters(inner)


FORMATS: Mapping[str, Callable[[bytes, str], Text]] = {
    ".txt": plain, ".md": plain, ".markdown": plain, ".html": page, ".htm": page, ".pdf": pdf, ".docx": word,
}  # fmt: skip
"""How the text of a file is read, by its suffix in small letters."""
