"""cuDNN's attention on GPUs, which is told where segments lie, or given a mask in memory where that cannot be said.

Shapes as in `models.attention`; M runs of a row: its segments, and what is padding.
"""

import jax
import jax.numpy as jnp

try:  # by its private name until JAX has a public one for packed rows (its pull request 29731)
    from jax._src.cudnn.fused_attention_stablehlo import MaskType
    from jax._src.cudnn.fused_attention_stablehlo import check_cudnn_version as _version
    from jax._src.cudnn.fused_attention_stablehlo import dot_product_attention as _with_offsets
except ImportError:
    _with_offsets = None


MOST_RUNS = 64
"""Runs a row beyond which cuDNN is given a mask in memory. On an H100, attention of eight rows takes 2.3 to 3.1 ms with
room for 64 runs each, most of them empty, 1.0 to 1.8 ms with room for 16, and 4.0 ms with a mask."""


def takes_runs() -> bool:
    """Whether cuDNN can be told of runs: on Hopper and later, by a JAX whose offsets are right where heads share keys;
    before 0.11.1 they were not, in silence."""
    return _with_offsets is not None and jax.__version_info__ >= (0, 11, 1) and capability() >= 9


def takes_windows() -> bool:
    """Whether cuDNN can be told that a query sees the last keys alone, in packed rows too: since 9.6, but for 9.14.0,
    by what NVIDIA's own TransformerEngine asks of it."""
    return _with_offsets is not None and (version := _version()) >= 90600 and version != 91400


def capability() -> float:
    """NVIDIA's number for what the GPU here can do, such as 9.0 of an H100; 0 for all other devices, of which AMD's
    have names, such as gfx942. cuDNN's attention needs 8."""
    said = str(getattr(jax.local_devices()[0], "compute_capability", ""))
    return float(said) if said.replace(".", "", 1).isdecimal() else 0.0


def attend_runs(q_BTHE: jax.Array, k_BTGE: jax.Array, v_BTGE: jax.Array, segments_BT: jax.Array, most: int,
                scale: float, window: int = 0) -> jax.Array:
    """Causal attention inside runs of equal numbers, padding among them, of which a row has `most`, at least two. With
    a `window`, a query attends to so many tokens, itself included.

    With more runs than that the result is NaN, rather than wrong.
    """
    starts_BM, lengths_BM, fits = runs(segments_BT, most)
    offsets_BM = jnp.pad(starts_BM, ((0, 0), (0, 1)), constant_values=-1)
    return _with_offsets(
        jnp.where(fits, q_BTHE, jnp.nan), k_BTGE, v_BTGE, q_seqlen=lengths_BM, kv_seqlen=lengths_BM,
        q_offsets=offsets_BM, kv_offsets=offsets_BM, scale=scale, mask_type=MaskType.PADDING_CAUSAL,
        sliding_window_length=window or None,
    )


def attend_causal(q_BTHE: jax.Array, k_BTGE: jax.Array, v_BTGE: jax.Array, segments_BT: jax.Array,
                  scale: float, window: int = 0) -> jax.Array:
    """Causal attention in rows of one segment, with padding behind it, whose own results mean nothing; `window` as in
    `attend_runs`.

    With a second segment the result is NaN, rather than wrong.
    """
    another_BT = (segments_BT[:, 1:] != segments_BT[:, :-1]) & (segments_BT[:, 1:] != 0)
    q_BTHE = jnp.where(jnp.any(another_BT), jnp.nan, q_BTHE)
    return jax.nn.dot_product_attention(
        q_BTHE, k_BTGE, v_BTGE, scale=scale, is_causal=True, local_window_size=(window - 1, 0) if window else None,
        implementation="cudnn",
    )


def attend_masked(
    q_BTHE: jax.Array, k_BSGE: jax.Array, v_BSGE: jax.Array, mask_BTS: jax.Array, scale: float
) -> jax.Array:
    """Attention where the mask is True, which lies in memory once for all heads."""
    return jax.nn.dot_product_attention(
        q_BTHE, k_BSGE, v_BSGE, mask=mask_BTS[:, None], scale=scale, implementation="cudnn"
    )


def runs(segments_BT: jax.Array, most: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(starts [B, M], lengths [B, M], whether these are all): where runs of equal numbers begin, and how long they are,
    in order; -1 where a row has fewer than `most`."""
    t = segments_BT.shape[1]
    begins_BT = jnp.pad(segments_BT[:, 1:] != segments_BT[:, :-1], ((0, 0), (1, 0)), constant_values=True)
    columns_BT = jnp.sort(jnp.where(begins_BT, jnp.arange(t, dtype=jnp.int32), t), axis=1)
    bounds_BM = jnp.pad(columns_BT, ((0, 0), (0, most + 1)), constant_values=t)[:, : most + 1]
    starts_BM, real_BM = bounds_BM[:, :-1], bounds_BM[:, :-1] < t
    lengths_BM = jnp.where(real_BM, bounds_BM[:, 1:] - starts_BM, -1)
    return jnp.where(real_BM, starts_BM, -1), lengths_BM, jnp.all(bounds_BM[:, -1] == t)
