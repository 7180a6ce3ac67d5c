"""Training examples with soft targets, and the dataset of them on disk, which TFDS opens.

Shapes: T tokens of a sequence, N weighted tokens, K kept ids.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import tensorflow_datasets as tfds
from etils import epath
from tensorflow_datasets.core.example_serializer import tf_example_pb2

from ratchet.train.codec import SCHEMA, pack_targets, unpack_targets
from ratchet.train.files import RecordError, content_hash, read_unit, whole, write_payloads

ORIGINS = ("seed", "simulate", "student", "review", "correction", "imitation", "prose")
"""What an example may come from."""


@dataclass(frozen=True, eq=False)
class Example:
    """One training sequence with the teacher's distribution at each weighted token. Make it with `create`."""

    id: str  # sha256 of tokens, which of them are weighted, origin and lineage: 16 hex digits
    tokens: np.ndarray  # int32 [T], prompt and completion as sampled
    weights: np.ndarray  # float32 [T], of predicting tokens[t] from tokens[:t]; weights[0] is 0
    ids: np.ndarray  # int32 [N, K], kept ids; 0 where padded
    probs: np.ndarray  # float32 [N, K], before any sampling warp; 0 where padded
    tail: np.ndarray  # float32 [N], the mass of all other ids
    origin: str  # one of ORIGINS
    lineage: dict  # JSON: what it came from

    @classmethod
    def create(cls, tokens, weights, ids, probs, tail, *, origin: str, lineage: dict) -> "Example":
        """Casts the arrays, checks that they belong together and derives the id."""
        arrays = _belonging(tokens, weights, ids, probs, tail)
        assert origin in ORIGINS, origin
        return cls(_example_id(*arrays[:2], origin, lineage), *arrays, origin, lineage)


def _belonging(tokens, weights, ids, probs, tail) -> tuple[np.ndarray, ...]:
    """The arrays of an example as it holds them, which belong together."""
    tokens, ids = np.asarray(tokens, np.int32), np.asarray(ids, np.int32)
    weights, probs, tail = (np.asarray(x, np.float32) for x in (weights, probs, tail))
    assert np.isfinite(weights).all() and (weights >= 0).all(), "weights are finite and not negative"
    count = int((weights > 0).sum())
    assert tokens.ndim == 1 and tokens.shape == weights.shape and not weights[:1].any(), "one weight a token, first 0"
    assert ids.shape == probs.shape and ids.ndim == 2 and len(ids) == count and tail.shape == (count,)
    assert (abs(probs.sum(1) + tail - 1) <= 1e-3).all(), "the mass of each token is 1"
    return tokens, weights, ids, probs, tail


def features() -> tfds.features.FeaturesDict:
    """How an Example lies in a record: `targets` holds `pack_targets`, `lineage` is JSON."""
    return tfds.features.FeaturesDict(
        {
            "id": tfds.features.Text(),
            "tokens": tfds.features.Tensor(shape=(None,), dtype=np.int32),
            "weights": tfds.features.Tensor(shape=(None,), dtype=np.float32),
            # Bytes, since a plain uint8 tensor is stored as varints, half of which take two bytes.
            "targets": tfds.features.Tensor(shape=(None,), dtype=np.uint8, encoding="bytes"),
            "origin": tfds.features.Text(),
            "lineage": tfds.features.Text(),
        }
    )


def write_examples(directory: epath.PathLike, examples: Iterable[Example], *, header: dict) -> int:
    """Writes examples as the dataset "dataset" and returns how many there are.

    `header` goes into record.json; it must say `vocab_size` and `tokenizer` (its hash) and should say `temperature`.
    """
    assert {"vocab_size", "tokenizer"} <= header.keys() and header.get("unwarped", True), header
    examples = list(examples)
    widest = max((example.ids.shape[1] for example in examples), default=0)
    rows = (
        {
            "id": example.id,
            "tokens": example.tokens,
            "weights": example.weights,
            "targets": np.frombuffer(pack_targets(example.ids, example.probs, header["vocab_size"]), np.uint8),
            "origin": example.origin,
            "lineage": json.dumps(example.lineage, sort_keys=True),
        }
        for example in examples
    )
    metadata = {"K": widest, "precision": "float16", "unwarped": True} | header
    return write_dataset(directory, "dataset", features(), rows, metadata=metadata)


def metadata_of(directory: epath.PathLike) -> list[epath.Path]:
    """The small files of a training set, which say what it holds."""
    return [epath.Path(directory) / name for name in ("record.json", "dataset_info.json", "features.json")]


def has_examples(directory: epath.PathLike) -> bool:
    """Whether every file of a training set is there."""
    return all(file.exists() for file in (*metadata_of(directory), _shard(directory)))


def _shard(directory: epath.PathLike, name: str = "dataset") -> epath.Path:
    """The file of a dataset of one shard that holds its records."""
    return epath.Path(directory) / f"{name}-train.array_record-00000-of-00001"


def read_examples(
    directory: epath.PathLike, *, tokenizer: str | None = None, mentioning: str = ""
) -> list[Example]:
    """Reads what `write_examples` wrote, checking the content, each example's id and, when given, the tokenizer's hash.

    Only examples `mentioning` a text, such as an id in their lineage, are decoded; the others are passed over. Raises
    RecordError, which names the file and the example, for what is damaged, and for a dataset of another kind.
    """
    directory = epath.Path(directory)
    header_path, shard = directory / "record.json", _shard(directory)
    if not header_path.exists():
        raise RecordError(f"{header_path}: the file is missing; resume the run to make it again")
    header = _header(header_path)
    if tokenizer is not None and header["tokenizer"] != tokenizer:
        raise RecordError(
            f"{header_path}: tokenizer is {header['tokenizer']}, expected {tokenizer}; {_again(directory)}"
        )
    decode, payloads = features().deserialize_example_np, read_unit(shard, header["sha256"])
    wanted = ((number, payload) for number, payload in enumerate(payloads) if mentioning.encode() in payload)
    rows = (_row(shard, number, decode, payload) for number, payload in wanted)
    return [_example(shard, row, header) for row in rows]


def write_dataset(
    directory: epath.PathLike,
    name: str,
    features: tfds.features.FeaturesDict,
    rows: Iterable[dict],
    *,
    description: str = "",
    metadata: dict,
) -> int:
    """Writes rows as a one-shard TFDS dataset at `.../<name>/<version>` and returns how many there are.

    It appears whole or not at all, replaces one that is there, and equal rows give equal bytes. `record.json` holds
    `metadata`, the schema, the number of records and the sha256 of their content. Opens with
    `tfds.builder_from_directory(directory).as_data_source("train")`. Raises RecordError when there are no rows.
    """
    directory = epath.Path(directory)
    with whole(directory) as fresh:
        fresh.mkdir()
        shard = _shard(fresh, name)
        count, sha256 = write_payloads(shard, (_in_order(features.serialize_example(row)) for row in rows))
        if not count:
            raise RecordError(f"{directory}: there are no examples to write; look at what the review accepted")
        template = tfds.core.ShardedFileTemplate(
            dataset_name=name, split="train", filetype_suffix="array_record", data_dir=fresh
        )
        size = shard.stat().length
        split = tfds.core.SplitInfo(name="train", shard_lengths=[count], num_bytes=size, filename_template=template)
        tfds.folder_dataset.write_metadata(
            data_dir=fresh,
            features=features,
            split_infos=[split],
            version=directory.name,
            filename_template=template,
            check_data=False,  # checking needs TensorFlow
            description=description,
        )
        record = {"schema": SCHEMA, "records": count, "sha256": sha256} | metadata
        (fresh / "record.json").write_text(json.dumps(record, indent=1, sort_keys=True))
    return count


def _in_order(serialized: bytes) -> bytes:
    """The same tf.train.Example with its features in order: protobuf maps come in another order in every process."""
    return tf_example_pb2.Example.FromString(serialized).SerializeToString(deterministic=True)


def _header(path: epath.Path) -> dict:
    """What record.json says of a training set. Raises RecordError when it is of another kind of dataset."""
    try:
        header = json.loads(path.read_text())
        missing = {"schema", "sha256", "vocab_size", "tokenizer"} - header.keys()
    except (ValueError, AttributeError):
        raise RecordError(f"{path}: this is no JSON object; {_again(path.parent)}") from None
    if missing:
        raise RecordError(f"{path}: it has no {min(missing)}, so this is no training set; {_again(path.parent)}")
    if header["schema"] != SCHEMA:
        raise RecordError(f"{path}: schema {header['schema']}, need {SCHEMA}; {_again(path.parent)}")
    return header


def _again(directory: epath.Path) -> str:
    """How a training set that cannot be trusted is mended."""
    return f"delete {directory} and resume the run to make it again"


def _row(shard: epath.Path, number: int, decode: Callable[[bytes], dict], payload: bytes) -> dict:
    where = f"{shard}: example {number}"
    try:
        row = decode(payload)
        complete = all(value is not None for value in row.values())
    except Exception as error:  # TFDS passes on the errors of whatever it reads with
        raise RecordError(f"{where}: this is no training example; {_again(shard.parent)}") from error
    if not complete:
        raise RecordError(f"{where}: parts of it are missing; {_again(shard.parent)}")
    return row


def _example(shard: epath.Path, row: dict, header: dict) -> Example:
    name = row["id"].decode()
    try:
        targets = unpack_targets(row["targets"].tobytes(), header["vocab_size"])
    except RecordError as error:
        raise RecordError(f"{shard}: example {name}: {error}; {_again(shard.parent)}") from error
    lineage, origin = json.loads(row["lineage"]), row["origin"].decode()
    if name != _example_id(row["tokens"], row["weights"], origin, lineage):
        raise RecordError(f"{shard}: example {name}: the id does not match the content; {_again(shard.parent)}")
    return Example(name, *_belonging(row["tokens"], row["weights"], *targets), origin, lineage)


def _example_id(tokens_T: np.ndarray, weights_T: np.ndarray, origin: str, lineage: dict) -> str:
    weighted_T, made_of = weights_T > 0, json.dumps(lineage, sort_keys=True)
    parts = tokens_T.astype("<i4").tobytes(), weighted_T.tobytes(), origin.encode(), made_of.encode()
    return content_hash(parts)[:16]
