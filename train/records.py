"""The soft-target record, the dataset of them, and the unit file that every stage of the loop writes.

A packed target is a 16-byte header and three bit streams, each padded to a byte: one count per token (0 for one-hot,
k + 1 for k kept ids), the kept ids of all tokens in ceil(log2 V) bits, then for tokens that are not one-hot the
log-probabilities in nats of the kept ids and of the tail. A one-hot token costs its id and nothing else.

Shapes: T tokens of a sequence, N weighted tokens, K kept ids, E entries of a stream.
"""

import contextlib
import hashlib
import json
import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from etils import epath
from tensorflow_datasets.core.example_serializer import tf_example_pb2

SCHEMA = 1
ORIGINS = ("seed", "simulate", "student", "review", "correction", "imitation", "prose")
LOG_PROB_BITS = {"float16": 16, "uint9": 9, "uint8": 8}

_HEADER = struct.Struct("<BBxxIII")  # schema, bits of a log-probability, K, N, vocabulary
_LOG_RANGE = 16.0  # nats that the integer forms span
_LOG_FLOOR = 80.0  # nats; a kept id below this would become 0 in float32, hence padding
_CUT_SHORT = "targets: the packed targets are cut short; write them again"
_ROUNDING = 1e-6  # a tail below this is the rounding of a float32 sum, not mass


class RecordError(ValueError):
    """A record, unit or dataset that cannot be trusted: one line with what, where and how to mend it."""


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
        tokens, ids = np.asarray(tokens, np.int32), np.asarray(ids, np.int32)
        weights, probs, tail = (np.asarray(x, np.float32) for x in (weights, probs, tail))
        count = int((weights > 0).sum())
        assert tokens.ndim == 1 and tokens.shape == weights.shape and not weights[:1].any(), (
            "one weight a token, first 0"
        )
        assert ids.shape == probs.shape and ids.ndim == 2 and len(ids) == count and tail.shape == (count,)
        assert np.allclose(probs.sum(1) + tail, 1, atol=1e-3), "the mass of each token is 1"
        assert origin in ORIGINS, origin
        return cls(_example_id(tokens, weights, origin, lineage), tokens, weights, ids, probs, tail, origin, lineage)


def pack_targets(ids: np.ndarray, probs: np.ndarray, vocab_size: int, *, precision: str = "float16") -> bytes:
    """Packs kept ids [N, K] and probabilities [N, K] (0 where padded) into bits; the tail is what is missing from 1.

    `precision` picks how log-probabilities are stored, one of LOG_PROB_BITS. At K = 16, V = 152k with nothing left out
    a token takes 70, 56 and 54 bytes, at a KL of about 1e-7, 4e-5 and 2e-4 nats. Raises RecordError for an id outside
    the vocabulary or probabilities that are not a distribution.
    """
    ids_NK, probs_NK = np.asarray(ids), np.asarray(probs, np.float64)
    assert ids_NK.shape == probs_NK.shape and ids_NK.ndim == 2
    kept_NK = probs_NK > 0
    count_N = kept_NK.sum(1)
    tail_N = 1.0 - probs_NK.sum(1)
    if not (np.all(probs_NK >= 0) and np.all(tail_N > -1e-3)):
        raise RecordError(
            "targets: probabilities of a token are negative, NaN or sum to more than 1; check the teacher"
        )
    if np.any(kept_NK & ((ids_NK < 0) | (ids_NK >= vocab_size))):
        raise RecordError(f"targets: a kept id is outside the vocabulary of {vocab_size}; check the tokenizer")
    tail_N = np.where(tail_N < _ROUNDING, 0.0, tail_N)
    soft_N = (count_N != 1) | (tail_N > 0)
    entries_E = np.column_stack([probs_NK, tail_N])[np.column_stack([kept_NK & soft_N[:, None], soft_N])]
    bits = LOG_PROB_BITS[precision]
    widest = int(count_N.max(initial=1))
    streams = (
        _pack_bits(np.where(soft_N, count_N + 1, 0), (widest + 1).bit_length() if soft_N.any() else 0),
        _pack_bits(ids_NK[kept_NK], (vocab_size - 1).bit_length()),
        _pack_bits(_quantise(entries_E, bits), bits),
    )
    # K = 0 in the header says that all tokens are one-hot, so that their counts take no bits.
    return _HEADER.pack(SCHEMA, bits, widest if soft_N.any() else 0, len(ids_NK), vocab_size) + b"".join(streams)


def unpack_targets(blob: bytes, vocab_size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The ids int32 [N, K], probs float32 [N, K] and tail float32 [N] of a packed target; each token sums to 1.

    K is the largest count in the blob, at least 1; kept ids come first, in their order. Raises RecordError for a blob
    of another schema or vocabulary, or one cut short.
    """
    if len(blob) < _HEADER.size:
        raise RecordError(_CUT_SHORT)
    schema, bits, widest, size, vocab = _HEADER.unpack_from(blob)
    if (schema, vocab) != (SCHEMA, vocab_size) or bits not in LOG_PROB_BITS.values():
        raise RecordError(
            f"targets: schema {schema}, vocabulary {vocab}; need {SCHEMA}, {vocab_size}; write them again"
        )
    code_N, at = _unpack_bits(blob, _HEADER.size, size, (widest + 1).bit_length() if widest else 0)
    soft_N = code_N > 0
    count_N = np.where(soft_N, code_N - 1, 1)
    kept_NK = np.arange(max(widest, 1)) < count_N[:, None]
    flat_ids_E, at = _unpack_bits(blob, at, int(count_N.sum()), (vocab_size - 1).bit_length())
    flat_codes_E, _ = _unpack_bits(blob, at, int((count_N + 1)[soft_N].sum()), bits)
    ids_NK = np.zeros(kept_NK.shape, np.int32)
    ids_NK[kept_NK] = flat_ids_E
    mass_NK1 = np.column_stack([kept_NK & ~soft_N[:, None], np.zeros(size)]).astype(np.float64)
    mass_NK1[np.column_stack([kept_NK & soft_N[:, None], soft_N])] = _dequantise(flat_codes_E, bits)
    # Normalising jointly makes the quantisation error second order in the KL; 1 − Σp would wreck a small tail.
    mass_NK1 /= mass_NK1.sum(1, keepdims=True)
    return ids_NK, mass_NK1[:, :-1].astype(np.float32), mass_NK1[:, -1].astype(np.float32)


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
        return _write_dataset(fresh, directory, name, features, rows, description, metadata)


def _write_dataset(fresh: epath.Path, directory: epath.Path, name: str, features: tfds.features.FeaturesDict,
                   rows: Iterable[dict], description: str, metadata: dict) -> int:  # fmt: skip
    shard = fresh / f"{name}-train.array_record-00000-of-00001"
    encoded = (_in_order(features.serialize_example(row)) for row in rows)
    count, sha256 = _write_payloads(shard, encoded)
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


@contextlib.contextmanager
def whole(path: epath.PathLike) -> Iterator[epath.Path]:
    """A path beside `path` to write a file or a directory to. It takes the place of `path` when the block ends, on disk
    even if the power fails then; after an error it is removed and `path` is as it was."""
    path = epath.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh, old = (path.parent / f".{path.name}.{suffix}" for suffix in ("tmp", "old"))
    _remove(fresh)
    try:
        yield fresh
        for file in fresh.iterdir() if fresh.is_dir() else [fresh]:
            _sync(file)
    except BaseException:
        _remove(fresh)
        raise
    if path.is_dir():
        _remove(old)
        path.rename(old)
    fresh.replace(path)
    _sync(path.parent)
    _remove(old)


def _remove(path: epath.Path) -> None:
    path.rmtree(missing_ok=True) if path.is_dir() else path.unlink(missing_ok=True)


def write_examples(
    directory: epath.PathLike, examples: Iterable[Example], *, header: dict, precision: str = "float16"
) -> int:
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
            "targets": np.frombuffer(
                pack_targets(example.ids, example.probs, header["vocab_size"], precision=precision), np.uint8
            ),
            "origin": example.origin,
            "lineage": json.dumps(example.lineage, sort_keys=True),
        }
        for example in examples
    )
    metadata = {"K": widest, "precision": precision, "unwarped": True} | header
    return write_dataset(directory, "dataset", features(), rows, metadata=metadata)


def read_examples(directory: epath.PathLike, *, tokenizer: str | None = None) -> list[Example]:
    """Reads what `write_examples` wrote, checking the content, each example's id and, when given, the tokenizer's hash.

    Raises RecordError naming the file, and the example where there is one.
    """
    directory = epath.Path(directory)
    header_path, shard = directory / "record.json", directory / "dataset-train.array_record-00000-of-00001"
    if not header_path.exists():
        raise RecordError(f"{directory}: no training set here (record.json is missing); run the targets stage")
    header = json.loads(header_path.read_text())
    if header["schema"] != SCHEMA:
        raise RecordError(f"{header_path}: schema {header['schema']}, need {SCHEMA}; write the training set again")
    if tokenizer is not None and header["tokenizer"] != tokenizer:
        raise RecordError(
            f"{header_path}: tokenizer is {header['tokenizer']}, expected {tokenizer}; use the run's tokenizer"
        )
    decode = features().deserialize_example_np
    return [_example(shard, decode(payload), header) for payload in read_unit(shard, header["sha256"])]


def _in_order(serialized: bytes) -> bytes:
    """The same tf.train.Example with its features in order: protobuf maps come in another order in every process."""
    return tf_example_pb2.Example.FromString(serialized).SerializeToString(deterministic=True)


def write_unit(path: epath.PathLike, payloads: Iterable[bytes]) -> str:
    """Writes payloads as an ArrayRecord file, whole or not at all, and returns the sha256 of their content."""
    with whole(path) as fresh:
        _, sha256 = _write_payloads(fresh, payloads)
    return sha256


def read_unit(path: epath.PathLike, sha256: str | None = None) -> list[bytes]:
    """The payloads of a unit. Give `sha256`: a file cut short reads as an empty one, and only the hash tells.

    Raises RecordError when the file is missing, unreadable or not what was written.
    """
    path = epath.Path(path)
    if not path.exists():
        raise RecordError(f"{path}: the file is missing; resume the run to make it again")
    try:
        with contextlib.closing(ArrayRecordReader(os.fspath(path))) as reader:
            payloads = reader.read_all() if reader.num_records() else []
    except (RuntimeError, ValueError, IndexError) as error:
        reason = str(error).split(";")[0].split("\n")[0]
        raise RecordError(f"{path}: the file is damaged ({reason}); delete it and resume the run") from error
    digest = hashlib.sha256()
    for payload in payloads:
        _absorb(digest, payload)
    if sha256 not in (None, digest.hexdigest()):
        raise RecordError(f"{path}: the content does not match its sha256; delete it and resume the run")
    return payloads


def _example(shard: epath.Path, row: dict, header: dict) -> Example:
    name = row["id"].decode()
    try:
        targets = unpack_targets(row["targets"].tobytes(), header["vocab_size"])
    except RecordError as error:
        raise RecordError(f"{shard}: example {name}: {error}") from error
    lineage, origin = json.loads(row["lineage"]), row["origin"].decode()
    if name != _example_id(row["tokens"], row["weights"], origin, lineage):
        raise RecordError(f"{shard}: example {name}: the id does not match the content; write the training set again")
    return Example.create(row["tokens"], row["weights"], *targets, origin=origin, lineage=lineage)


def _example_id(tokens_T: np.ndarray, weights_T: np.ndarray, origin: str, lineage: dict) -> str:
    digest = hashlib.sha256()
    weighted_T = weights_T > 0
    for part in (tokens_T.astype("<i4").tobytes(), weighted_T.tobytes(), origin.encode()):
        _absorb(digest, part)
    _absorb(digest, json.dumps(lineage, sort_keys=True).encode())
    return digest.hexdigest()[:16]


def _absorb(digest, part: bytes) -> None:
    digest.update(len(part).to_bytes(8, "little") + part)  # the length keeps ["ab", "c"] apart from ["a", "bc"]


def _write_payloads(path: epath.Path, payloads: Iterable[bytes]) -> tuple[int, str]:
    digest, count = hashlib.sha256(), 0
    with contextlib.closing(ArrayRecordWriter(os.fspath(path), "group_size:1")) as writer:
        for payload in payloads:
            writer.write(payload)
            _absorb(digest, payload)
            count += 1
    return count, digest.hexdigest()


def _sync(path: epath.Path) -> None:
    if "://" in os.fspath(path):
        return  # object stores commit on close
    handle = os.open(path, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)


def _quantise(mass_E: np.ndarray, bits: int) -> np.ndarray:
    """Log-probabilities as float16 bits, or as steps down from 0 with the last code for no mass at all."""
    with np.errstate(divide="ignore"):
        depth_E = -np.log(mass_E)
    if bits == 16:
        return np.where(mass_E > 0, -np.minimum(depth_E, _LOG_FLOOR), -np.inf).astype(np.float16).view(np.uint16)
    empty = 2**bits - 1
    steps_E = np.rint(np.minimum(depth_E, _LOG_RANGE) * ((empty - 1) / _LOG_RANGE))
    return np.where(mass_E > 0, steps_E, empty).astype(np.uint16)


def _dequantise(codes_E: np.ndarray, bits: int) -> np.ndarray:
    if bits == 16:
        return np.exp(codes_E.astype(np.uint16).view(np.float16).astype(np.float64))
    empty = 2**bits - 1
    return np.where(codes_E == empty, 0.0, np.exp(codes_E * (-_LOG_RANGE / (empty - 1))))


def _pack_bits(values_E: np.ndarray, width: int) -> bytes:
    bits_EW = (values_E.astype(np.uint32)[:, None] >> np.arange(width, dtype=np.uint32)) & 1
    return np.packbits(bits_EW.astype(np.uint8), bitorder="little").tobytes()


def _unpack_bits(blob: bytes, at: int, size: int, width: int) -> tuple[np.ndarray, int]:
    """The `size` values that start at byte `at`, and the byte after them."""
    end = at + (size * width + 7) // 8
    if end > len(blob):
        raise RecordError(_CUT_SHORT)
    bits = np.unpackbits(np.frombuffer(blob[at:end], np.uint8), count=size * width, bitorder="little")
    return bits.reshape(size, width) @ (1 << np.arange(width, dtype=np.int64)), end
