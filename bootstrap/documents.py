"""Source material in: a TFDS dataset or a folder of text files becomes documents."""

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from ratchet.bootstrap.worlds.world import Document


def read(path: str) -> list[Document]:
    """Documents of a TFDS dataset directory (features `id` and `text`, others become meta) or a folder of .txt files,
    whose ids are their paths in it without the suffix.

    Raises ValueError when there is neither, or no text in it.
    """
    path = epath.Path(path)
    if (path / "dataset_info.json").exists():
        return _from_dataset(path)
    files = _text_files(path) if path.is_dir() else []
    if not files:
        raise ValueError(
            f"documents: {path} holds no TFDS dataset and no .txt files; set --documents.path to one that does"
        )
    named = [(file.relative_to(path), file) for file in files]
    documents = [Document(name.with_suffix("").as_posix(), _text(f), {"source": name.as_posix()}) for name, f in named]
    if not any(d.text.strip() for d in documents):
        raise ValueError(f"documents: the .txt files in {path} have no text in them; set --documents.path to others")
    return [d for d in documents if d.text.strip()]


def _text_files(folder: epath.Path) -> list[epath.Path]:
    """The .txt files of a folder and of those in it, in order; epath's glob does not descend."""
    found = []
    for entry in sorted(folder.iterdir()):
        found += _text_files(entry) if entry.is_dir() else [entry] if entry.suffix == ".txt" else []
    return found


def _text(file: epath.Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"documents: {file} is not UTF-8 text ({error.reason}); convert it or take it out") from None


def _from_dataset(path: epath.Path) -> list[Document]:
    builder = tfds.builder_from_directory(path)
    for kind, needed, there in (
        ("feature", ("id", "text"), sorted(builder.info.features)), ("split", ("train",), sorted(builder.info.splits)),
    ):  # fmt: skip
        if missing := [name for name in needed if name not in there]:
            raise ValueError(
                f"documents: the dataset in {path} has no {kind} `{missing[0]}` (it has {', '.join(there)}); rename one"
            )
    try:
        return [_from_row(row) for row in builder.as_data_source(split="train")]
    except NotImplementedError as error:
        form = builder.info.file_format.value
        raise ValueError(
            f"documents: the dataset in {path} is {form}, which needs TensorFlow to be read; make it again with "
            'file_format="array_record"'
        ) from error


def _from_row(row: dict) -> Document:
    texts = {k: v.decode() if isinstance(v, bytes) else v for k, v in row.items() if not isinstance(v, np.ndarray)}
    meta = {k: str(v) for k, v in texts.items() if k not in ("id", "text")}
    return Document(str(texts["id"]), str(texts["text"]), meta)
