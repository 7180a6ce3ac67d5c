"""Source material in: a TFDS dataset or a folder of text files becomes documents."""

import os
import stat
from collections.abc import Iterable, Iterator

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from ratchet.bootstrap.worlds.world import Document

Named = tuple[str, Document]
"""A document and where it comes from, for messages: "deep/a.txt" or "example 3"."""
NEEDED = ("id", "text")
"""The features of a dataset that make a document."""


def read(path: str) -> list[Document]:
    """The documents of a TFDS dataset directory, or of the .txt files in a folder and in those below it.

    A dataset has the features `id` and `text`; its other texts and numbers become meta. A file's id is its path in the
    folder without the suffix; links are followed, and each file is read once. Blank texts are left out, and so is a
    byte order mark before a text. Raises ValueError, which names the file or the example, for what cannot be read and
    for two texts of one id, and where there is no text at all.
    """
    place = epath.Path(path)
    found = _from_dataset(place) if (place / "dataset_info.json").exists() else _from_folder(place)
    first: dict[str, str] = {}
    documents = []
    try:
        for where, document in found:
            if not document.text.strip():
                continue
            if document.id in first:
                both = f"{first[document.id]} and {where} in {path}"
                raise ValueError(f"documents: {both} have the same id, {document.id!r}; rename one")
            first[document.id] = where
            documents.append(document)
    except OSError as error:
        raise ValueError(f"documents: {error.filename} cannot be read ({error.strerror}); take it out") from error
    if not documents:
        raise ValueError(f"documents: there is no text in what {path} holds; set --documents.path to another place")
    return documents


def _from_folder(folder: epath.Path) -> Iterator[Named]:
    files = _text_files(folder) if folder.is_dir() else []
    if not files:
        raise ValueError(
            f"documents: {folder} holds no TFDS dataset and no .txt files; set --documents.path to one that does"
        )
    for file in files:
        name = file.relative_to(folder)
        where, short = _spelled(name), _spelled(name.with_suffix(""))
        try:
            text = _text(file.read_bytes())
        except UnicodeDecodeError as error:
            raise ValueError(
                f"documents: {where} in {folder} is not UTF-8 text ({error.reason}); convert it or take it out"
            ) from None
        yield where, Document(short, text, {"source": where})


def _text_files(folder: epath.Path) -> list[epath.Path]:
    """The .txt files in a folder and in those below it, in order. What several paths lead to is found once, under a
    path without links where there is one."""
    found, seen, plain, links = [], {None}, [folder], []
    while plain or links:
        path = (plain or links).pop()
        is_folder = path.is_dir()
        identity = _identity(path) if is_folder or path.suffix.lower() == ".txt" else None
        if identity in seen:
            continue
        seen.add(identity)
        if not is_folder:
            found.append(path)
        for entry in sorted(path.iterdir(), reverse=True) if is_folder else ():
            (links if os.path.islink(entry) else plain).append(entry)
    return sorted(found)


def _identity(path: epath.Path) -> object:
    """What a path leads to, which is the same for all links to it; None if that is neither file nor folder."""
    where = os.fspath(path)
    if "://" in where:  # object stores have neither links nor pipes
        return where
    found = os.stat(where)
    readable = stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)
    return (found.st_dev, found.st_ino) if readable else None


def _spelled(path: epath.Path) -> str:
    """A path as text; bytes of it that are no UTF-8 are spelled `\\xe9`."""
    return os.fsencode(path.as_posix()).decode(errors="backslashreplace")


def _text(content: bytes) -> str:
    """UTF-8 as text, without a byte order mark. NUL bytes, which UTF-16 is full of, are no text."""
    if (at := content.find(b"\0")) >= 0:
        raise UnicodeDecodeError("utf-8", content, at, at + 1, "NUL byte")
    return content.decode().lstrip("\ufeff")


def _from_dataset(folder: epath.Path) -> Iterator[Named]:
    builder = _builder(folder)
    decoder = tfds.features.FeaturesDict(_scalars(folder, builder.info.features))
    try:
        rows = builder.as_data_source(split="train", deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)
    except NotImplementedError as error:
        form = builder.info.file_format.value
        raise ValueError(
            f"documents: the dataset in {folder} is {form}, which needs TensorFlow to be read; make it again with "
            'file_format="array_record"'
        ) from error
    for number in range(len(rows)):
        try:
            row = decoder.deserialize_example_np(rows[number])
            if row["id"] is None or row["text"] is None:
                raise ValueError("it has no id or no text")
            text, name = _text(row["text"]), row["id"].decode() if isinstance(row["id"], bytes) else str(row["id"])
        except UnicodeDecodeError as error:
            raise ValueError(
                f"documents: example {number} of the dataset in {folder} has an id or a text that is not UTF-8 "
                f"({error.reason}); convert it or take it out"
            ) from None
        except Exception as error:
            raise _unreadable(f"example {number} of the dataset in {folder}", error) from error
        more = {k: v.decode(errors="replace") if isinstance(v, bytes) else str(v) for k, v in row.items()}
        yield f"example {number}", Document(name, text, {k: v for k, v in more.items() if k not in NEEDED})


def _builder(folder: epath.Path) -> tfds.core.DatasetBuilder:
    """The dataset of a folder. Raises ValueError when its files do not say what it holds, or it has no `train`."""
    try:
        builder = tfds.builder_from_directory(folder)
    except Exception as error:
        raise _unreadable(f"the dataset in {folder}", error) from error
    if "train" not in builder.info.splits:
        raise _lacks(folder, "split `train`", builder.info.splits)
    return builder


def _scalars(folder: epath.Path, features: tfds.features.FeaturesDict) -> dict[str, tfds.features.FeatureConnector]:
    """Features that are one text or number; the others, such as images and lists, are not even decoded.

    Raises ValueError when the id is not among them, or the text is no text.
    """
    for name in NEEDED:
        if name not in features:
            raise _lacks(folder, f"feature `{name}`", features)
    found = {name: f for name, f in features.items() if not isinstance(f, tfds.features.FeaturesDict) and f.shape == ()}
    for name in NEEDED:
        if name not in found or (name == "text" and np.dtype(found[name].np_dtype).kind != "O"):
            kind = type(features[name]).__name__
            raise ValueError(
                f"documents: the feature `{name}` of the dataset in {folder} is a {kind}, not one text; make it one"
            )
    return found


def _lacks(folder: epath.Path, what: str, there: Iterable[str]) -> ValueError:
    return ValueError(
        f"documents: the dataset in {folder} has no {what} (it has {', '.join(sorted(there))}); rename one"
    )


def _unreadable(what: str, error: Exception) -> ValueError:
    """TFDS passes on the errors of whatever it reads with."""
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return ValueError(f"documents: {what} cannot be read ({reason}); make the dataset again")
