"""Soft targets as bits: the kept ids of next-token distributions with their log-probabilities in float16.

A packed target is a 16-byte header and three bit streams, each padded to a byte: one count per token (0 for one-hot,
k + 1 for k kept ids), the kept ids of all tokens in ceil(log2 V) bits, then for tokens that are not one-hot the
log-probabilities in nats of the kept ids and of the tail. A one-hot token costs its id and nothing else.

Shapes: N weighted tokens, K kept ids, V vocabulary, E entries of a stream.
"""

import struct

import numpy as np

from ratchet.train.files import RecordError

SCHEMA = 1
"""The version of packed targets, and of datasets that hold them; others are refused."""

_BITS = 16
"""Bits of a log-probability."""
_WORD = np.dtype("<u2")
"""So many bits, the lowest first, which are read and written as they lie in memory."""
_HEADER = struct.Struct("<BBxxIII")
"""Schema, bits of a log-probability, K, N, vocabulary."""
_LOG_FLOOR = 80.0
"""Nats below 0 at which log-probabilities are cut off: a smaller one would become 0 in float32, which means padding."""
_ROUNDING = 1e-6
"""A tail below this is the rounding of a float32 sum, not mass."""
_CUT_SHORT = "targets: the packed targets are cut short"


def pack_targets(ids: np.ndarray, probs: np.ndarray, vocab_size: int) -> bytes:
    """Packs kept ids [N, K] and probabilities [N, K] (0 where padded) into bits; the tail is what is missing from 1.

    At K = 16 and V = 152k a token takes 70 bytes, at a KL of about 1e-7 nats. Raises RecordError for an id outside the
    vocabulary or probabilities that are not a distribution.
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
    widest = int(count_N.max(initial=1))
    streams = (
        _pack_bits(np.where(soft_N, count_N + 1, 0), (widest + 1).bit_length() if soft_N.any() else 0),
        _pack_bits(ids_NK[kept_NK], (vocab_size - 1).bit_length()),
        _pack_bits(_codes(entries_E), _BITS),
    )
    # K = 0 in the header says that all tokens are one-hot, so that their counts take no bits.
    return _HEADER.pack(SCHEMA, _BITS, widest if soft_N.any() else 0, len(ids_NK), vocab_size) + b"".join(streams)


def unpack_targets(blob: bytes, vocab_size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The ids int32 [N, K], probs float32 [N, K] and tail float32 [N] of a packed target; each token sums to 1.

    K is the largest count in the blob, at least 1; kept ids come first, in their order. Raises RecordError for a blob
    of another schema or vocabulary, or one cut short.
    """
    if len(blob) < _HEADER.size:
        raise RecordError(_CUT_SHORT)
    schema, bits, widest, size, vocab = _HEADER.unpack_from(blob)
    if (schema, bits, vocab) != (SCHEMA, _BITS, vocab_size):
        raise RecordError(
            f"targets: schema {schema}, {bits} bits, vocabulary {vocab}; need {SCHEMA}, {_BITS}, {vocab_size}; "
            "write them again"
        )
    code_N, at = _unpack_bits(blob, _HEADER.size, size, (widest + 1).bit_length() if widest else 0)
    soft_N = code_N > 0
    count_N = np.where(soft_N, code_N - 1, 1)
    kept_NK = np.arange(max(widest, 1)) < count_N[:, None]
    flat_ids_E, at = _unpack_bits(blob, at, int(count_N.sum()), (vocab_size - 1).bit_length())
    flat_codes_E, _ = _unpack_bits(blob, at, int((count_N + 1)[soft_N].sum()), _BITS)
    ids_NK = np.zeros(kept_NK.shape, np.int32)
    ids_NK[kept_NK] = flat_ids_E
    mass_NK1 = np.column_stack([kept_NK & ~soft_N[:, None], np.zeros(size)]).astype(np.float64)
    mass_NK1[np.column_stack([kept_NK & soft_N[:, None], soft_N])] = _masses(flat_codes_E)
    # Normalising jointly makes the quantisation error second order in the KL; 1 − Σp would wreck a small tail.
    mass_NK1 /= mass_NK1.sum(1, keepdims=True)
    return ids_NK, mass_NK1[:, :-1].astype(np.float32), mass_NK1[:, -1].astype(np.float32)


def _codes(mass_E: np.ndarray) -> np.ndarray:
    """Log-probabilities as the bits of float16, −inf for no mass at all."""
    with np.errstate(divide="ignore"):
        depth_E = -np.log(mass_E)
    return np.where(mass_E > 0, -np.minimum(depth_E, _LOG_FLOOR), -np.inf).astype(np.float16).view(np.uint16)


def _masses(codes_E: np.ndarray) -> np.ndarray:
    """Probabilities of such codes."""
    return np.exp(codes_E.astype(np.uint16).view(np.float16).astype(np.float64))


def _pack_bits(values_E: np.ndarray, width: int) -> bytes:
    """Whole numbers in so many bits each, the lowest first."""
    if width == _BITS:
        return values_E.astype(_WORD).tobytes()
    bits_EW = (values_E.astype(np.uint32)[:, None] >> np.arange(width, dtype=np.uint32)) & 1
    return np.packbits(bits_EW.astype(np.uint8), bitorder="little").tobytes()


def _unpack_bits(blob: bytes, at: int, size: int, width: int) -> tuple[np.ndarray, int]:
    """The `size` values that start at byte `at`, and the byte after them."""
    end = at + (size * width + 7) // 8
    if end > len(blob):
        raise RecordError(_CUT_SHORT)
    if width == _BITS:
        return np.frombuffer(blob, _WORD, size, at), end
    bits = np.unpackbits(np.frombuffer(blob[at:end], np.uint8), count=size * width, bitorder="little")
    return bits.reshape(size, width) @ (1 << np.arange(width, dtype=np.int64)), end
