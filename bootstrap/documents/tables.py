"""One file is many rows: JSONL, CSV, parquet and arrow, each row with named columns."""

import contextlib
import csv
import itertools
import json
import re
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, BinaryIO

from ratchet.bootstrap.documents.account import LeftOut, because, library
from ratchet.bootstrap.documents.encodings import opened

Row = tuple[int, Mapping[str, Any] | LeftOut]
"""A row by its number, which begins at 1; one that cannot be read is left out."""
ROWS = 4096
"""Rows of a parquet file that are read together."""
SEPARATORS = ",;\t|"
_QUOTE = "\ue000"
"""A sign for private use, in the place of a quote that quotes nothing."""
OPENINGS = 64
"""Quotes of a line that are tried, one after the other, as one that quotes nothing."""


def jsonl(file: BinaryIO, source: str) -> Iterator[Row]:
    """A JSON object a line; blank lines are none. Where files were put together, a byte order mark may begin any."""
    with opened(file, source) as text:
        for number, line in enumerate(text, 1):
            if said := line.lstrip("\ufeff").strip():
                yield number, _object(said, f"{source}:{number}")


def _object(line: str, source: str) -> Mapping[str, Any] | LeftOut:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return LeftOut(source, because(error))
    return row if isinstance(row, dict) else LeftOut(source, "is no JSON object")


def comma_separated(file: BinaryIO, source: str) -> Iterator[Row]:
    """Rows under a line of names, the first that is not blank, set apart by whichever of `,` `;` tab and `|` is most
    frequent in that line. A row with words beyond the last name is left out: they are the rest of a text."""
    csv.field_size_limit(sys.maxsize)
    with opened(file, source) as text:
        names = next((line for line in text if line.strip("\ufeff\r\n\t ")), "").lstrip("\ufeff")
        delimiter = max(SEPARATORS, key=names.count)
        header, spaced = next(csv.reader([names], delimiter=delimiter), []), f"{delimiter} " in names
        header = [name.strip(" \r\n") for name in header]
        for number, cells in enumerate(filter(None, _cells(text, delimiter, len(header), spaced)), 1):
            why = f"has cells beyond its {len(header)} names; put texts with {delimiter!r} in quotes"
            beyond = any(cell.strip() for cell in cells[len(header) :])
            row = dict(itertools.zip_longest(header, cells[: len(header)]))
            yield number, LeftOut(f"{source}:{number}", why) if beyond else row


def _cells(text: Iterable[str], delimiter: str, width: int, spaced: bool) -> Iterator[list[str]]:
    """The cells of each row, which is a line, or several where quotes hold them together. `width` of them are named;
    where they are `spaced`, a space follows each delimiter.

    A quote that opens a cell and does not end as quotes do may be speech, with which a text begins. It holds no lines
    together then, or all up to the next quote would be in one cell.
    """
    rest, ahead, taken = iter(text), deque[str](), list[str]()

    def take() -> str | None:
        line = ahead.popleft() if ahead else next(rest, None)
        if line is not None:
            taken.append(line)
        return line

    form = {"delimiter": delimiter, "skipinitialspace": spaced}
    strictly = lambda: csv.reader(iter(take, None), strict=True, **form)
    rows = strictly()
    while True:
        taken.clear()
        try:
            yield next(rows)
            continue
        except StopIteration:
            return
        except csv.Error as error:
            first, *others = taken
            is_row = lambda line: len(next(csv.reader([line], **form), [])) >= width
            if "unexpected end" in str(error):
                speech = not others or any(map(is_row, others[:8]))
            else:
                speech = bool(others) and is_row(others[-1]) and _opens(others[-1], delimiter)
        if speech and (cells := _with_speech(first, form)):
            ahead.extendleft(reversed(others))
            yield cells
        elif delimiter == "\t" and not others:
            yield next(csv.reader([first], quoting=csv.QUOTE_NONE, **form))
        else:
            ahead.extendleft(reversed(taken))
            yield next(csv.reader(iter(take, None), **form))
        rows = strictly()


def _opens(line: str, delimiter: str) -> bool:
    """Whether the first quote of a line, which should close what an earlier line opened, opens a cell itself."""
    before = line.partition('"')[0].rstrip(" ")
    return not before or before.endswith(delimiter)


def _with_speech(line: str, form: Mapping[str, Any]) -> list[str] | None:
    """The cells of a line in which one quote opens a cell and quotes nothing; None where no quote is such a one."""
    for found in itertools.islice(re.finditer(rf'(?:^|{re.escape(form["delimiter"])}) *"', line), OPENINGS):
        with contextlib.suppress(csv.Error):
            (cells,) = csv.reader([line[: found.end() - 1] + _QUOTE + line[found.end() :]], strict=True, **form)
            return [cell.replace(_QUOTE, '"') for cell in cells]
    return None


def parquet(file: BinaryIO, source: str) -> Iterator[Row]:
    """The rows of a parquet file, a few thousand at a time."""
    batches = library("pyarrow.parquet", source).ParquetFile(file).iter_batches(ROWS)
    yield from _rows(batches, source)


def arrow(file: BinaryIO, source: str) -> Iterator[Row]:
    """The rows of an arrow file, in the form of a stream, as Hugging Face's `datasets` writes it, or of a file."""
    ipc = library("pyarrow.ipc", source)
    is_file = file.read(6) == b"ARROW1"
    file.seek(0)
    if is_file:
        reader = ipc.open_file(file)
        yield from _rows(map(reader.get_batch, range(reader.num_record_batches)), source)
    else:
        yield from _rows(ipc.open_stream(file), source)


def _rows(batches: Iterator[Any], source: str) -> Iterator[Row]:
    """Rows with their texts and numbers. Images, lists and times, which nobody reads, are `...`: as Python's objects
    they may take much memory, or there may be none such."""
    of = library("pyarrow.types", source)
    read = (of.is_string, of.is_large_string, of.is_string_view, of.is_binary, of.is_large_binary,
            of.is_fixed_size_binary, of.is_integer, of.is_floating, of.is_boolean, of.is_null)  # fmt: skip
    number = 0
    for batch in batches:
        kinds = [f.type.value_type if of.is_dictionary(f.type) else f.type for f in batch.schema]
        said = [n for n, kind in enumerate(kinds) if any(is_kind(kind) for is_kind in read)]
        unread = dict.fromkeys(batch.schema.names, ...)
        for row in batch.select(said).to_pylist():
            number += 1
            yield number, unread | row


FORMATS: Mapping[str, Callable[[BinaryIO, str], Iterator[Row]]] = {
    ".jsonl": jsonl, ".ndjson": jsonl, ".csv": comma_separated, ".tsv": comma_separated, ".parquet": parquet,
    ".arrow": arrow,
}  # fmt: skip
"""How the rows of a file are read, by its suffix in small letters."""
