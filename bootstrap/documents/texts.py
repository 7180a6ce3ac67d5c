"""One file is one text: plain and marked-up text, web pages, PDF and Word."""

import io
import logging
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from ratchet.bootstrap.documents.account import library
from ratchet.bootstrap.documents.encodings import decoded


class Text(NamedTuple):
    """What a file says, and the licence that it names itself."""

    text: str
    license: str = ""


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
    """The paragraphs and tables of a Word document, a line for each row, its cells set apart by tabs."""
    said = []
    for block in library("docx", source).Document(io.BytesIO(content)).iter_inner_content():
        rows = getattr(block, "rows", None)
        said.append(block.text if rows is None else "\n".join("\t".join(c.text for c in row.cells) for row in rows))
    return Text("\n\n".join(filter(str.strip, said)))


FORMATS: Mapping[str, Callable[[bytes, str], Text]] = {
    ".txt": plain, ".md": plain, ".markdown": plain, ".html": page, ".htm": page, ".pdf": pdf, ".docx": word,
}  # fmt: skip
"""How the text of a file is read, by its suffix in small letters."""
