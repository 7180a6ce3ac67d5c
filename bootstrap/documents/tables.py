"""One file is many rows: JSONL, CSV, parquet and arrow, each row with named columns."""

import csv
import itertools
import json
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
        header = [name.strip() for name in next(csv.reader([names], delimiter=delimiter), [])]
        for number, cells in enumerate(filter(None, _cells(text, delimiter)), 1):
            why = f"has cells beyond its {len(header)} names; put texts with {delimiter!r} in quotes"
            beyond = any(cell.strip() for cell in cells[len(header) :])
            row = dict(itertools.zip_longest(header, cells[: len(header)]))
            yield number, LeftOut(f"{source}:{number}", why) if beyond else row


def _cells(text: Iterable[str], delimiter: str) -> Iterator[list[str]]:
    """The cells of each row, which is a line, or several where quotes hold them together.

    Quotes that do not end as quotes do are part of a text, which begins with speech: they hold no lines together, or
    what stands up to the next quote would be in one cell.
    """
    rest, ahead, taken = iter(text), deque[str](), list[str]()

    def take() -> str | None:
        line = ahead.popleft() if ahead else next(rest, None)
        if line is not None:
            taken.append(line)
        return line

    strictly = lambda: csv.reader(iter(take, None), delimiter=delimiter, strict=True)
    rows = strictly()
    while True:
        taken.clear()
        try:
            yield next(rows)
        except StopIteration:
            return
        except csv.Error:
            quoting = csv.QUOTE_NONE if delimiter == "\t" or len(taken) > 1 else csv.QUOTE_MINIMAL
            yield next(csv.reader(taken[:1], delimiter=delimiter, quoting=quoting))
            ahead.extendleft(reversed(taken[1:]))
            rows = strictly()


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
    read = (of.is_string, of.is_large_string, of.is_string_view, of.is_binary, of.is_large_binary, of.is_integer,
            of.is_floating, of.is_boolean, of.is_null)  # fmt: skip
    number = 0
    for batch in batches:
        kinds = {f.name: f.type.value_type if of.is_dictionary(f.type) else f.type for f in batch.schema}
        said = [name for name, kind in kinds.items() if any(is_kind(kind) for is_kind in read)]
        unread = dict.fromkeys(kinds.keys() - said, ...)
        for row in batch.select(said).to_pylist():
            number += 1
            yield number, row | unread


FORMATS: Mapping[str, Callable[[BinaryIO, str], Iterator[Row]]] = {
    ".jsonl": jsonl, ".ndjson": jsonl, ".csv": comma_separated, ".tsv": comma_separated, ".parquet": parquet,
    ".arrow": arrow,
}  # fmt: skip
"""How the rows of a file are read, by its suffix in small letters."""
