"""One file is many rows: JSONL, CSV, parquet and arrow, each row with named columns."""

import csv
import json
import sys
from collections.abc import Callable, Iterator, Mapping
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
        header = next(csv.reader([names], delimiter=delimiter), [])
        for number, row in enumerate(csv.DictReader(text, header, delimiter=delimiter), 1):
            beyond = [cell for cell in row.pop(None, ()) if cell.strip()]
            why = f"has cells beyond its {len(header)} names; put texts with {delimiter!r} in quotes"
            yield number, LeftOut(f"{source}:{number}", why) if beyond else row


def parquet(file: BinaryIO, source: str) -> Iterator[Row]:
    """The rows of a parquet file, a few thousand at a time."""
    batches = library("pyarrow.parquet", source).ParquetFile(file).iter_batches(ROWS)
    yield from _rows(batches)


def arrow(file: BinaryIO, source: str) -> Iterator[Row]:
    """The rows of an arrow file, in the form of a stream, as Hugging Face's `datasets` writes it, or of a file."""
    ipc = library("pyarrow.ipc", source)
    is_file = file.read(6) == b"ARROW1"
    file.seek(0)
    if is_file:
        reader = ipc.open_file(file)
        yield from _rows(map(reader.get_batch, range(reader.num_record_batches)))
    else:
        yield from _rows(ipc.open_stream(file))


def _rows(batches: Iterator[Any]) -> Iterator[Row]:
    number = 0
    for batch in batches:
        for row in batch.to_pylist():
            number += 1
            yield number, row


FORMATS: Mapping[str, Callable[[BinaryIO, str], Iterator[Row]]] = {
    ".jsonl": jsonl, ".ndjson": jsonl, ".csv": comma_separated, ".tsv": comma_separated, ".parquet": parquet,
    ".arrow": arrow,
}  # fmt: skip
"""How the rows of a file are read, by its suffix in small letters."""
