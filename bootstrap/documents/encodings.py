"""Bytes as text, whatever they are encoded in."""

import codecs
import io
import re
import unicodedata
from typing import BinaryIO, TextIO

from ratchet.bootstrap.documents.account import NoText, library

MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # which begins with the mark of UTF-16
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""Byte order marks, and the encodings that they announce."""
WIDE = ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be")
"""Encodings in which plain English is full of NUL bytes."""
BLOCK = 1 << 20
"""Bytes that are looked at together."""
FEW = 0.01
"""The share of control characters from which on something is no text."""
WESTERN = 1 / 3
"""The share of letters with accents beyond which a text is no Western European one."""
NAME = 24
"""Letters of a name or two, which are too few to go by shares."""
_ACCENTED_NAME = re.compile(r"(?:[^\W\d_]?(?:[\W\d_]|\Z)|(?=[À-ÿ]*[A-Za-z])[A-Za-zÀ-ÖØ-öø-ÿ]++)*")
"""Words of Western letters, of which each has a plain one or is alone."""
_CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f]")
_HALF = re.compile("[\ud800-\udfff]")
_BEYOND_ASCII = re.compile(r"[^\x00-\x7f]")
_MARKS = re.compile(r"(?<!\S)\ufeff+")
_TORN_WORD = re.compile(r"[^\W\d_](?![’‘–—…·\xad\xa0])(?:[^\x00-\x7f\w]|[¹²³ªº])[^\W\d_]")
"""A sign within a word, as letters of other alphabets become when they are read as Western European."""


def decoded(content: bytes, source: str, declared: str = "") -> str:
    """The text of a file. `declared` is the encoding that the content itself names. Raises NoText for what is none in
    any."""
    return content.decode(encoding(content, source, declared), errors="replace")


def clean(text: str) -> str:
    """A text without control characters, whose lines are ended by \\n. For half a letter, which JSON may spell, it has
    the sign of a damaged one. Byte order marks are removed where they begin the text, a line or a word, as where files
    were put together; within a word they join its parts."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n")
    return _HALF.sub("\ufffd", _MARKS.sub("", _CONTROL.sub("", lines)))


def opened(file: BinaryIO, source: str) -> TextIO:
    """An open file as text, read line by line in whatever it is encoded in. Raises NoText where that is nothing.

    The whole file is read first: one stray byte in it does not make what is UTF-8 before it another encoding.
    """
    doubtful, whole, damaged = None, 0, 0
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    for block in iter(lambda: file.read(BLOCK), b""):
        text = "" if block.isascii() and not decoder.getstate()[0] else decoder.decode(block, final=len(block) < BLOCK)
        halves = len(_HALF.findall(text))
        whole, damaged = whole + len(_BEYOND_ASCII.findall(text)) - halves, damaged + halves
        if doubtful is None and (halves or b"\0" in block):
            doubtful = block
    form = "utf-8-sig"
    if doubtful is not None and (b"\0" in doubtful or damaged > whole):
        form = encoding(doubtful, source)
    file.seek(0)
    return io.TextIOWrapper(file, encoding=form, errors="replace", newline="")


def encoding(content: bytes, source: str, declared: str = "") -> str:
    """The encoding of a content. Raises NoText when it is no text in any."""
    for mark, form in MARKS:
        if content.startswith(mark) and _readable(content.decode(form, errors="replace")):
            return form
    for form in (("utf-8", "cp1252") if _is_latin(declared) else (declared, "utf-8")):
        if form and _is_text(content, form):
            return form
    if _is_whole(content):
        return "utf-8"
    form = _wide(content) if b"\0" in content else _detected(content, source)
    if form:
        return form
    raise NoText("is no text in any encoding")


def _is_latin(declared: str) -> bool:
    """Whether a page declares ASCII, Latin-1 or Windows' version of it. Browsers read all three as the last (WHATWG's
    Encoding Standard), and many such pages are UTF-8 nevertheless, which is tried first."""
    try:
        return codecs.lookup(declared).name in ("ascii", "iso8859-1", "cp1252")
    except LookupError:
        return False


def _readable(text: str) -> bool:
    return len(_CONTROL.findall(text)) <= FEW * len(text)


def _is_text(content: bytes, form: str) -> bool:
    """Whether a content reads as text in an encoding. Few of its letters beyond ASCII may be damaged, and the last one
    may be cut off. Of UTF-8 half of them may be: several bytes make one of its letters, and hardly do so by chance."""
    try:
        b"a".decode(form)  # which refuses what is no encoding of text
        decoder = codecs.getincrementaldecoder(form)("replace")
        text = decoder.decode(content)
    except (LookupError, ValueError):
        return False
    damaged, torn = text.count("\ufffd"), bool(decoder.getstate()[0])
    whole = len(text) - len(text.encode("ascii", "ignore")) - damaged
    few = 1 if codecs.lookup(form).name == "utf-8" else 10
    return few * damaged + torn <= whole and _readable(text)


def _is_whole(content: bytes) -> bool:
    """Whether a content is UTF-8 without a fault, which no other encoding is by chance: the signs of damaged letters in
    it were there before, and a short text may have a control character."""
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return len(_CONTROL.findall(text)) <= max(1, FEW * len(text)) and "\0\0" not in text


def _wide(content: bytes) -> str:
    """The encoding of two or four bytes a letter that makes most Latin letters and signs; "" where none makes text."""
    latin: dict[str, int] = {}
    for form in WIDE:
        try:
            text = content.decode(form)
        except UnicodeDecodeError:
            continue
        if _readable(text) and sum(unicodedata.category(c) in ("Cn", "Co") for c in text) <= FEW * len(text):
            latin[form] = len(text.encode("latin-1", "ignore"))
    return max(latin, key=latin.__getitem__, default="")


def _detected(content: bytes, source: str) -> str:
    """What an encoding without marks is taken for; "" for none. Of encodings that as much speaks for, Latin-1, or
    rather Windows' version of it, is the likeliest where it makes whole words."""
    sample = content if len(content) <= BLOCK else content[: content.rfind(b"\n", 0, BLOCK) + 1 or BLOCK]
    detect = library("charset_normalizer", source).from_bytes
    best = detect(sample).best()
    if _is_text(sample, "cp1252") and (accents := _western_accents(sample.decode("cp1252", "replace"))) is not None:
        western = detect(sample, cp_isolation=["cp1252"]).best()
        if best is None or not accents or (western is not None and western.coherence >= best.coherence):
            return "cp1252"
    wide = best is not None and best.encoding.startswith(("utf_16", "utf_32"))  # which has NUL bytes, but by chance
    return best.encoding if best is not None and not wide and _is_text(sample, best.encoding) else ""


def _western_accents(text: str) -> int | None:
    """How many letters with accents a text has; None where they are too many, or signs tear words apart, for a text of
    Western Europe. A name or two may have many, if they stand beside plain letters."""
    letters = [c for c in text if c.isalpha()]
    accents = sum(not c.isascii() for c in letters)
    few = accents <= WESTERN * len(letters) or (len(text) <= NAME and _ACCENTED_NAME.fullmatch(text))
    return accents if few and not _TORN_WORD.search(text) else None
