"""Everything at a path as documents: ids, what is left out, near duplicates."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from ratchet.bootstrap.documents import datasets, tables, texts
from ratchet.bootstrap.documents.account import Account, LeftOut, NoText, NotInstalled, because
from ratchet.bootstrap.documents.duplicates import firsts
from ratchet.bootstrap.documents.encodings import clean, decoded
from ratchet.bootstrap.documents.folder import files, identity, matcher, spelled
from ratchet.bootstrap.documents.questions import questions
from ratchet.bootstrap.worlds import DocumentsConfig, Question
from ratchet.bootstrap.worlds.world import Document
from ratchet.train.nearby import nearby

KNOWN = (*texts.FORMATS, *tables.FORMATS)
"""Suffixes of the files that are read where no globs are given."""
RESERVED = ("source", "license", "document", "start", "end")
"""What meta says of every document or passage; a column of such a name, but for a licence, becomes `column source`."""
Piece = Document | LeftOut


class Found(NamedTuple):
    """What was read, and an account of it."""

    documents: tuple[Document, ...]
    questions: tuple[Question, ...]
    account: Account


def read(config: DocumentsConfig) -> Found:
    """The documents of a folder, a file or a dataset, and the labelled questions about them.

    Every document has its `source` and its `license` in meta, beside the other texts and numbers of its row. Documents
    that nearly repeat an earlier one are left out, and so is what cannot be read, with the reason. Raises ValueError,
    which names the source, where there is no text at all, for two documents of one id in `config.id_key`, for a library
    that is not installed, and with `config.strict` for whatever cannot be read.
    """
    pieces = list(_pieces(nearby(config.path), config))
    left_out = [p for p in pieces if isinstance(p, LeftOut)]
    ids = dict[str, set[str]]()
    whole = [p for p in pieces if isinstance(p, Document)]
    of = list(firsts(whole))
    documents = [document for document, first in zip(whole, of, strict=True) if first is None]
    apart = {} if config.id_key else _apart(documents)
    for document, first in zip(whole, of, strict=True):
        source = document.meta["source"]
        if first is not None:
            left_out.append(LeftOut(source, f"says nearly the same as {first.meta['source']}", "repeated"))
        original = first or document
        for name in (source, document.id):
            ids.setdefault(name, set()).add(apart.get(original.meta["source"], original.id))
    documents = [replace(d, id=apart.get(d.meta["source"], d.id)) for d in documents]
    _refuse_two_of_one_id(documents, config)
    asked = questions(config.questions, ids) if config.questions and documents else []
    left_out += [q for q in asked if isinstance(q, LeftOut)]
    known = tuple(q for q in asked if isinstance(q, Question))
    account = Account(config.path, len(documents), len(known), left_out)
    _refuse_too_little(account, config.strict)
    return Found(tuple(documents), known, account)


def _apart(documents: Sequence[Document]) -> dict[str, str]:
    """By their source, other ids for documents of one id: a column that nobody named may number the rows of each file.
    Their source is then their id."""
    shared = Counter(document.id for document in documents)
    return {d.meta["source"]: d.meta["source"] for d in documents if shared[d.id] > 1}


def _refuse_too_little(account: Account, strict: bool) -> None:
    unread, path = account.of("unread"), account.path
    first = f"{unread[0].source} {unread[0].reason}" if unread else ""
    if not account.documents:
        why = f" ({first})" if unread else ""
        raise ValueError(f"documents: {path} holds no text{why}; set --documents.path to another place")
    if unread and strict:
        raise ValueError(f"documents: {first}, in {path}; mend it, take it out, or leave out --documents.strict")


def _refuse_two_of_one_id(documents: Iterable[Document], config: DocumentsConfig) -> None:
    first: dict[str, Document] = {}
    for document in documents:
        other = first.setdefault(document.id, document)
        if other is not document:
            raise ValueError(
                f"documents: {other.meta['source']} and {document.meta['source']} in {config.path} have the same id, "
                f"{document.id!r}; set --documents.id-key to a column that tells them apart"
            )


def _pieces(place: epath.Path, config: DocumentsConfig) -> Iterator[Piece]:
    """The documents at a path, in order, and what cannot be read there."""
    needed = tuple(filter(None, (config.text_key, config.id_key)))
    if not config.globs and datasets.is_saved(place):
        return _of_dataset(datasets.saved(place), config)
    if not config.globs and (folder := datasets.folder_of(place)) is not None:
        return _of_dataset(datasets.prepared(folder, needed), config)
    if place.is_dir():
        return _of_folder(place, config)
    if place.exists():
        if identity(place) is None:  # a pipe or a device, which may have no end
            raise ValueError(
                f"documents: {config.path} is neither a file nor a folder; set --documents.path to one of them"
            )
        return _of_file(place, place.name, place.stem, config)
    if (dataset := datasets.named(config.path, needed)) is not None:
        return _of_dataset(dataset, config)
    raise ValueError(
        f"documents: there is no folder, file or TFDS dataset {config.path}; set --documents.path to one that there is"
    )


def _of_folder(folder: epath.Path, config: DocumentsConfig) -> Iterator[Piece]:
    """A file's id is its path in the folder without the suffix, where only one file has that; else with it."""
    known = lambda name: name.lower().endswith(KNOWN)
    found = list(files(folder, matcher(config.globs) if config.globs else known, hidden=bool(config.globs)))
    paths = [f for f in found if not isinstance(f, LeftOut)]
    if not paths and not any(f.kind == "unread" for f in found):
        wanted = f"matches {' or '.join(config.globs)}" if config.globs else f"is one of {', '.join(KNOWN)}"
        raise ValueError(
            f"documents: {folder} is no dataset, and no file in it {wanted}; set --documents.path or --documents.globs"
        )
    short = lambda path: spelled(path.relative_to(folder).with_suffix(""))
    shared = Counter(map(short, paths))
    for path in found:
        if isinstance(path, LeftOut):
            yield path
            continue
        source = spelled(path.relative_to(folder))
        yield from _of_file(path, source, short(path) if shared[short(path)] == 1 else source, config)


def _of_file(path: epath.Path, source: str, id: str, config: DocumentsConfig) -> Iterator[Piece]:
    """The text of a file, or its rows. Libraries pass on the errors of whatever they read with."""
    suffix = path.suffix.lower()
    try:
        if not path.stat().length:
            yield LeftOut(source, "gives no text")
        elif suffix in tables.FORMATS:
            with path.open("rb") as file:
                for number, row in tables.FORMATS[suffix](file, source):
                    yield from _of_row(row, f"{source}:{number}", f"{id} {number}", config)
        else:
            text, license = texts.FORMATS.get(suffix, texts.plain)(path.read_bytes(), source)
            yield _document(id, text, source, license, config)
    except NotInstalled:
        raise
    except Exception as error:
        yield LeftOut(source, because(error))


def _of_dataset(dataset: datasets.Dataset, config: DocumentsConfig) -> Iterator[Piece]:
    for number, row in dataset.rows:
        yield from _of_row(row, f"example {number}", str(number), config, dataset.license)


def _of_row(
    row: Mapping[str, Any] | LeftOut, source: str, id: str, config: DocumentsConfig, license: str = ""
) -> Iterator[Piece]:
    """The document of a row; none of an empty text."""
    if isinstance(row, LeftOut):
        yield row
        return
    row = {clean(str(key)): value for key, value in row.items()}
    for key in filter(None, (config.text_key, config.id_key)):
        if row.get(key) is None:
            yield LeftOut(source, f"has no {key!r} (it has {', '.join(row)}); see --documents.text-key")
            return
    asked, said = {config.text_key, config.id_key or "id"}, {}
    for key, value in row.items():
        try:
            said[key] = _as_text(value, source)
        except NoText as error:
            if key in asked:
                yield LeftOut(source, because(error))
                return
    text, name = said.get(config.text_key), (said.get(config.id_key or "id") or "").strip()
    if text is None or not isinstance(row[config.text_key], str | bytes):
        yield LeftOut(source, f"has a {config.text_key!r} that is no text")
    else:
        more = {f"column {k}" if k in RESERVED else k: v for k, v in said.items() if v is not None and k not in asked}
        license = more.pop("column license", None) or license
        yield _document(name or id, text, source, license, config, more)


def _as_text(value: Any, source: str) -> str | None:
    """One text or number of a row as text; None of anything else."""
    if isinstance(value, bytes):
        return clean(decoded(value, source))
    return clean(str(value)) if isinstance(value, str | int | float | np.generic) else None


def _document(
    id: str, text: str, source: str, license: str, config: DocumentsConfig, more: Mapping[str, str] | None = None
) -> Piece:
    text = clean(text)
    if not text.strip():
        return LeftOut(source, "gives no text")
    return Document(id, text, {**(more or {}), "source": source, "license": license or config.license or "unknown"})
