"""What attends: matrix products, or a kernel that keeps its scores to itself (splash on TPU, cuDNN's on GPU).

Shapes as in `models.attention`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import splash_attention
from jax.sharding import NamedSharding, PartitionSpec

from ratchet.models import cudnn, programs
from ratchet.models.attention import Int8, attend, attend_packed, causal_mask

Attention = Literal["auto", "plain", "splash", "cudnn", "triton"]
"""What attends. "auto" chooses by device: splash on TPU, cudnn on GPU, plain elsewhere. "plain" is matrix products, the
reference. "splash" is the TPU's kernels (the one for pages is in `models.pages`); on other devices a slow interpreter
runs them. "cudnn" is the GPU's kernel. "triton" is auto, but steps of decoding on a GPU take the kernel of
`models.triton` where it fits; on a CPU an interpreter runs it."""
Laid = Literal["q", "kv", "pages", "rows", "all"]
LANES, LARGEST_BLOCK = 128, 512
"""Splash pads sequences to multiples of LANES, and works in the largest blocks that divide them, of LARGEST_BLOCK at
most."""


@dataclass(frozen=True)
class Scores:
    """How scores are made of q·k: times `scale`; then, with a `softcap`, cap·tanh(score/cap).

    Queries of sliding layers attend to the last `window` keys, their own included; 0: no layer slides.
    """

    scale: float
    softcap: float = 0.0
    window: int = 0


@dataclass(frozen=True)
class Kernel:
    """The kernel asked for, and how its operands lie over a mesh: `rows` names the axes of rows, then of heads.

    A bare spec is of the mesh that is set. A kernel that cannot take the operands leaves them to matrix products.
    """

    attention: Attention = "auto"
    rows: NamedSharding | PartitionSpec | None = None
    segments: int = 0
    """Segments that a packed row has at most; 0 where that is not known."""

    def chosen(self, q_BTHE: jax.Array, kv_heads: int, keys: int, scores: Scores) -> Attention:
        """The kernel that runs, asked inside jit, where the devices that it is compiled for are known.

        Raises ValueError when these do not have the one asked for.
        """
        platform, (rows, length, _, width) = self.platform, q_BTHE.shape
        if platform not in {"cudnn": ("gpu",), "triton": ("gpu", "cpu")}.get(self.attention, (platform,)):
            asked = f"train.engine.attention: {self.attention}"
            raise ValueError(f"{asked} needs a GPU and here is a {platform}; leave it at auto")
        by_device = {"tpu": "splash", "gpu": "cudnn"}.get(platform, "plain")
        name = by_device if self.attention in ("auto", "triton") else self.attention
        mesh, of_rows, of_heads = self.axes
        uneven = mesh and (rows % axis_size(mesh, of_rows) or kv_heads % axis_size(mesh, of_heads))
        odd = width % 8 or width > 128 or length % 2 or keys % 2
        old = name == "cudnn" and cudnn.capability() < 8
        refused = name == "cudnn" and (scores.softcap or q_BTHE.dtype == jnp.float32 or odd or old)
        return "plain" if uneven or refused else name

    @property
    def spec(self) -> PartitionSpec | None:
        """The axes of rows, then of heads."""
        return self.rows.spec if isinstance(self.rows, NamedSharding) else self.rows

    @property
    def platform(self) -> str:
        """Where it runs: "cpu", "gpu" or "tpu"."""
        return programs.platform(self.device)

    @property
    def device(self) -> jax.Device | None:
        """A device of the mesh; None where no mesh is given."""
        return self.rows.mesh.devices.flat[0] if isinstance(self.rows, NamedSharding) else None

    @property
    def joins(self) -> bool:
        """Whether a layer's matrices should lie side by side, for few and large products of few tokens: on GPUs, unless
        their heads are split."""
        mesh, _, of_heads = self.axes
        return self.platform == "gpu" and (not of_heads or axis_size(mesh, of_heads) == 1)

    @property
    def axes(self) -> tuple:
        """(mesh, axes of rows, axes of heads): those that are not split by hand already, as in (mesh, ("data",), ()).
        Without a mesh (None, (), ())."""
        around, given = jax.sharding.get_abstract_mesh(), isinstance(self.rows, NamedSharding)
        mesh = self.rows.mesh if given and around.empty else around
        if mesh.empty or self.spec is None:
            return None, (), ()
        named = [(axes,) if isinstance(axes, str) else tuple(axes or ()) for axes in self.spec]
        return mesh, *(tuple(axis for axis in axes if axis not in around.manual_axes) for axes in named)


def attend_rows(q_BTHE: jax.Array, k_BTGE: jax.Array, v_BTGE: jax.Array, segments_BT: jax.Array,
                sliding: jax.Array | bool | None, window: jax.Array | None, scores: Scores,
                kernel: Kernel) -> jax.Array:
    """Causal attention inside the segments of packed rows; a query of this layer attends to the last `window` keys."""
    t, g = k_BTGE.shape[1:3]
    name, slides = kernel.chosen(q_BTHE, g, t, scores), 0 < scores.window < t
    if name == "splash":
        k_BGTE, v_BGTE = k_BTGE.swapaxes(1, 2), v_BTGE.swapaxes(1, 2)
        return splash(q_BTHE, k_BGTE, v_BGTE, segments_BT, segments_BT, sliding, scores, kernel)
    most = 1 << kernel.segments.bit_length()  # padding is one more, and powers of two are few
    runs = kernel.segments == 1 or (1 < most <= cudnn.MOST_RUNS and cudnn.takes_runs())
    if name == "cudnn" and runs and (not slides or cudnn.takes_windows()):
        operands = (q_BTHE, k_BTGE, v_BTGE, segments_BT, sliding if slides else None)
        return in_runs(*operands, 1 if kernel.segments == 1 else most, scores, kernel)
    if name == "cudnn":
        columns_1T = jnp.arange(t)[None]
        mask_BTT = causal_mask(columns_1T, columns_1T, window) & (segments_BT[:, :, None] == segments_BT[:, None])
        return masked(q_BTHE, k_BTGE, v_BTGE, mask_BTT, scores.scale, kernel)
    return attend_packed(q_BTHE, k_BTGE, v_BTGE, segments_BT, window, scores.scale, scores.softcap)


def attend_cache(q_BTHE: jax.Array, k_BGSE: jax.Array | Int8, v_BGSE: jax.Array | Int8, positions_BT: jax.Array,
                 positions_BS: jax.Array, sliding: bool | None, window: jax.Array | None, scores: Scores,
                 kernel: Kernel, column: int | jax.Array) -> jax.Array:
    """Attention of new tokens, which were written at `column` of the cache, by position; below 0 is no token.

    Kernels are for many tokens at a known column, in a row whose tokens follow each other without gaps. A single token
    is left to matrix products, which read the cache once as a kernel would.
    """
    t, name = q_BTHE.shape[1], "plain"
    if t > 1 and isinstance(column, int) and not isinstance(k_BGSE, Int8):
        name = kernel.chosen(q_BTHE, *k_BGSE.shape[1:3], scores)
    if name == "splash":
        real_BT, real_BS = positions_BS[:, column : column + t] >= 0, positions_BS >= 0
        ids = real_BT.astype(jnp.int32), real_BS.astype(jnp.int32)
        return splash(q_BTHE, k_BGSE, v_BGSE, *ids, sliding, scores, kernel, column)
    mask_BTS = causal_mask(positions_BT, positions_BS, window)
    if name == "cudnn":
        k_BSGE, v_BSGE = k_BGSE.swapaxes(1, 2), v_BGSE.swapaxes(1, 2)
        slides = sliding and scores.window < t
        if t == len(k_BSGE[0]) and cudnn.takes_runs() and (not slides or cudnn.takes_windows()):
            real_BT = (positions_BS >= 0).astype(jnp.int32)
            return in_runs(q_BTHE, k_BSGE, v_BSGE, real_BT, True if slides else None, 2, scores, kernel)
        return masked(q_BTHE, k_BSGE, v_BSGE, mask_BTS, scores.scale, kernel)
    return attend(q_BTHE, k_BGSE, v_BGSE, mask_BTS, scores.scale, scores.softcap)


def splash(q_BTHE: jax.Array, k_BGSE: jax.Array, v_BGSE: jax.Array, segments_BT: jax.Array, segments_BS: jax.Array,
           sliding: jax.Array | bool | None, scores: Scores, kernel: Kernel, first: int = 0) -> jax.Array:
    """Causal attention of T queries, which stand at columns `first` and following of S keys, inside equal segments."""
    t, s, interpret = q_BTHE.shape[1], k_BGSE.shape[2], kernel.platform != "tpu"

    def own(q_BTHE, k_BGSE, v_BGSE, segments_BT, segments_BS, sliding) -> jax.Array:
        q_BHTE = (q_BTHE * scores.scale).swapaxes(1, 2)
        ids = splash_attention.SegmentIds(_filled(segments_BT, 1, -1), _filled(segments_BS, 1, -1))

        def run(window: int) -> Callable:
            one = _splash(t, s, first, window, q_BTHE.shape[2], scores.softcap, interpret)
            return lambda operands: jax.vmap(one)(*operands, ids)

        operands = tuple(_filled(x, 2) for x in (q_BHTE, k_BGSE, v_BGSE))
        mixed = jax.lax.cond(sliding, run(scores.window), run(0), operands) if scores.window else run(0)(operands)
        return mixed.swapaxes(1, 2)[:, :t].astype(q_BTHE.dtype)

    slides = jnp.asarray(False if sliding is None else sliding)
    operands = (q_BTHE, k_BGSE, v_BGSE, segments_BT, segments_BS, slides)
    return on_each_device(own, kernel, "q", "kv", "kv", "rows", "rows", "all")(*operands)


def in_runs(q_BTHE: jax.Array, k_BTGE: jax.Array, v_BTGE: jax.Array, segments_BT: jax.Array,
            sliding: jax.Array | bool | None, most: int, scores: Scores, kernel: Kernel) -> jax.Array:
    """Causal attention inside runs of equal numbers, of which a row has `most`, by cuDNN: 1, where it has one segment
    and padding behind. Whether a layer slides may be known in the program alone; None: it does not."""

    def run(window: int) -> Callable:
        of = {"scale": scores.scale, "window": window}
        return partial(cudnn.attend_causal, **of) if most == 1 else partial(cudnn.attend_runs, most=most, **of)

    def own(q_BTHE, k_BTGE, v_BTGE, segments_BT, slides) -> jax.Array:
        return jax.lax.cond(slides, run(scores.window), run(0), q_BTHE, k_BTGE, v_BTGE, segments_BT)

    operands = (q_BTHE, k_BTGE, v_BTGE, segments_BT)
    if sliding is None:
        return on_each_device(run(0), kernel, "q", "q", "q", "rows")(*operands)
    return on_each_device(own, kernel, "q", "q", "q", "rows", "all")(*operands, jnp.asarray(sliding))


def masked(
    q_BTHE: jax.Array, k_BSGE: jax.Array, v_BSGE: jax.Array, mask_BTS: jax.Array, scale: float, kernel: Kernel
) -> jax.Array:
    """Attention where the mask is True, by cuDNN."""
    own = partial(cudnn.attend_masked, scale=scale)
    return on_each_device(own, kernel, "q", "q", "q", "rows")(q_BTHE, k_BSGE, v_BSGE, mask_BTS)


def on_each_device(own: Callable, kernel: Kernel, *laid: Laid, out: Laid = "q") -> Callable:
    """The function on each device's own rows and heads, as the compiler cannot split a kernel: operands have heads in
    the third place (q), the second (kv) or the fourth (pages), rows alone, or lie everywhere."""
    mesh, of_rows, of_heads = kernel.axes
    if not (of_rows or of_heads):
        return own
    specs = {"q": PartitionSpec(of_rows, None, of_heads), "kv": PartitionSpec(of_rows, of_heads),
             "pages": PartitionSpec(of_rows, None, None, of_heads), "rows": PartitionSpec(of_rows),
             "all": PartitionSpec()}
    return jax.shard_map(
        own, mesh=mesh, in_specs=tuple(specs[one] for one in laid), out_specs=specs[out],
        axis_names={*of_rows, *of_heads}, check_vma=False,
    )


def _splash(t: int, s: int, first: int, window: int, heads: int, softcap: float, interpret: bool) -> Callable:
    """The kernel for lengths before padding; with a window of 0, all before is seen."""
    shape = (t + -t % LANES, s + -s % LANES)
    if window:
        mask = splash_attention.LocalMask(shape, (window - 1, 0), first)
    else:
        mask = splash_attention.CausalMask(shape, first)
    q, kv = (next(size for size in range(LARGEST_BLOCK, 0, -LANES) if n % size == 0) for n in shape)
    blocks = splash_attention.BlockSizes(
        block_q=q, block_kv=kv, block_kv_compute=kv, block_q_dkv=q, block_kv_dkv=kv, block_kv_dkv_compute=kv,
        block_q_dq=q, block_kv_dq=kv,
    )
    return splash_attention.make_splash_mha(
        splash_attention.MultiHeadMask([mask] * heads), block_sizes=blocks, head_shards=1, q_seq_shards=1,
        attn_logits_soft_cap=softcap or None, interpret=interpret,
    )


def _filled(x: jax.Array, axis: int, fill: int = 0) -> jax.Array:
    """Padded at the end of an axis to a multiple of LANES."""
    widths = [(0, -n % LANES if i == axis else 0) for i, n in enumerate(x.shape)]
    return jnp.pad(x, widths, constant_values=fill)


def axis_size(mesh, axes: tuple[str, ...]) -> int:
    """Devices along these axes of a mesh."""
    return math.prod(mesh.shape[axis] for axis in axes)
