"""Datasets: TFDS's, by folder or by name, and those that Hugging Face's `datasets` saved to disk."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from ratchet.bootstrap.documents.account import LeftOut, because
from ratchet.bootstrap.documents.tables import Row, arrow

SPLIT = "train"
"""The split that is read, where there are several."""
_INFO, _STATE, _SPLITS = "dataset_info.json", "state.json", "dataset_dict.json"
_NAME = re.compile(r"[A-Za-z]\w*(?:/[\w.-]+)?(?::[\d.*]+)?")


class Dataset(NamedTuple):
    """The rows of a dataset in order, and the licence that it names."""

    rows: Iterator[Row]
    license: str


def folder_of(place: epath.Path) -> epath.Path | None:
    """The folder of a TFDS dataset: `place` itself, or the only version of a dataset in it; None where there is none.
    Raises ValueError when there are several."""
    if not place.is_dir():
        return None
    if _is_prepared(place):
        return place
    versions = sorted(p.parent for p in place.glob(f"*/{_INFO}") if _is_prepared(p.parent))
    if len(versions) > 1:
        names = ", ".join(v.name for v in versions)
        raise ValueError(f"documents: {place} holds several datasets ({names}); set --documents.path to one of them")
    return versions[0] if versions else None


def _is_prepared(folder: epath.Path) -> bool:
    """Whether TFDS made a folder, as far as its files tell: others have a dataset_info.json or a features.json too."""
    info = folder / _INFO
    if not info.exists() or info.is_dir():
        return False
    return (folder / "features.json").exists() or b'"fileFormat"' in info.read_bytes()


def prepared(folder: epath.Path, needed: Iterable[str]) -> Dataset:
    """A TFDS dataset in the folder where it was prepared. `needed` are the features without which it is of no use: the
    one that holds the text, and others that may be a text or a number.

    Features that are one text or number are read; others, such as images and lists, are not even decoded. Raises
    ValueError when its files do not say what it holds, and when it lacks a feature or the split `train`.
    """
    try:
        builder = tfds.builder_from_directory(folder)
    except Exception as error:
        raise _unreadable(f"the dataset in {folder}", error) from error
    return _of(builder, f"in {folder}", needed)


def named(name: str, needed: Iterable[str]) -> Dataset | None:
    """A TFDS dataset by name, such as `ag_news_subset` or `xsum/config:1.0.0`; it is downloaded and prepared first
    where it is not yet. None where there is none of this name. Raises ValueError as `prepared` does."""
    if not _NAME.fullmatch(name):
        return None
    try:
        builder = tfds.builder(name)
        builder.download_and_prepare(file_format=tfds.core.FileFormat.ARRAY_RECORD)
    except tfds.core.DatasetNotFoundError:
        return None
    except Exception as error:
        raise _unreadable(f"the dataset {name}", error) from error
    return _of(builder, name, needed)


def is_saved(folder: epath.Path) -> bool:
    """Whether `save_to_disk` of Hugging Face's `datasets` wrote a folder, as far as its files tell: one of notes may
    have a state.json too."""
    if not (folder / _STATE).exists() and not (folder / _SPLITS).exists():
        return False
    if any(folder.glob("*.arrow")) or any(folder.glob("*/*.arrow")):
        return True
    try:
        return "_data_files" in _object(folder / _STATE) or "splits" in _object(folder / _SPLITS)
    except ValueError:
        return False


def saved(folder: epath.Path) -> Dataset:
    """A dataset that `save_to_disk` of Hugging Face's `datasets` wrote; of several splits, `train`, or the only one.

    Raises ValueError when its files do not say what it holds.
    """
    splits, place = _object(folder / _SPLITS).get("splits"), folder
    if isinstance(splits, list):
        if SPLIT not in splits and len(splits) != 1:
            raise _lacks(f"in {folder}", f"split `{SPLIT}`", map(str, splits))
        place = folder / (SPLIT if SPLIT in splits else str(splits[0]))
    state, info = _object(place / _STATE), _object(place / _INFO)
    try:
        files = [place / file["filename"] for file in state["_data_files"]]
    except (LookupError, TypeError) as error:
        raise _unreadable(f"the dataset in {folder}", error) from error
    return Dataset(_of_arrow(files), str(info.get("license") or ""))


def _object(path: epath.Path) -> dict[str, Any]:
    """A file's JSON object, {} where there is no file. Raises ValueError for what is none."""
    try:
        found = json.loads(path.read_text()) if path.exists() else {}
        if not isinstance(found, dict):
            raise TypeError(f"{path.name} holds no JSON object")
    except (OSError, TypeError, ValueError, RecursionError) as error:
        raise _unreadable(f"the dataset in {path.parent}", error) from error
    return found


def _of_arrow(files: Iterable[epath.Path]) -> Iterator[Row]:
    before = 0
    for path in files:
        number = 0
        try:
            with path.open("rb") as file:
                for number, row in arrow(file, path.name):
                    yield before + number, row
        except Exception as error:  # arrow passes on those of whatever it reads with
            yield before + number + 1, LeftOut(path.name, because(error))
        before += number


def _of(builder: tfds.core.DatasetBuilder, where: str, needed: Iterable[str]) -> Dataset:
    if SPLIT not in builder.info.splits:
        raise _lacks(where, f"split `{SPLIT}`", builder.info.splits)
    decoder = tfds.features.FeaturesDict(_scalars(where, builder.info.features, needed))
    try:
        rows = builder.as_data_source(split=SPLIT, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)
    except NotImplementedError as error:
        form = builder.info.file_format.value
        raise ValueError(
            f"documents: the dataset {where} is {form}, which needs TensorFlow to be read; make it again with "
            'file_format="array_record"'
        ) from error
    except Exception as error:
        raise _unreadable(f"the dataset {where}", error) from error
    return Dataset(_examples(rows, decoder), builder.info.redistribution_info.license.strip())


def _examples(rows: Any, decoder: tfds.features.FeaturesDict) -> Iterator[Row]:
    for number in range(len(rows)):
        try:
            yield number + 1, decoder.deserialize_example_np(rows[number])
        except Exception as error:  # TFDS passes on the errors of whatever it reads with
            yield number + 1, LeftOut(f"example {number + 1}", because(error))


def _scalars(
    where: str, features: tfds.features.FeaturesDict, needed: Iterable[str]
) -> Mapping[str, tfds.features.FeatureConnector]:
    """Features that are one text or number. Raises ValueError when one that is needed is not among them, or the first
    of these is no text."""
    found = {name: f for name, f in features.items() if not isinstance(f, tfds.features.FeaturesDict) and f.shape == ()}
    for number, name in enumerate(needed):
        if name not in features:
            raise _lacks(where, f"feature `{name}`", features)
        if name not in found or (number == 0 and np.dtype(found[name].np_dtype).kind != "O"):
            kind = type(features[name]).__name__
            raise ValueError(f"documents: the feature `{name}` of the dataset {where} is a {kind}, not one text")
    return found


def _lacks(where: str, what: str, there: Iterable[str]) -> ValueError:
    has = ", ".join(sorted(there)) or "none"
    return ValueError(
        f"documents: the dataset {where} has no {what} (it has {has}); set --documents.text-key and "
        "--documents.id-key, or rename one"
    )


def _unreadable(what: str, error: Exception) -> ValueError:
    return ValueError(f"documents: {what} {because(error)}; make it again")
