"""One decoder-only transformer: rotary positions, grouped-query attention, an MLP, RMSNorm.

The defaults are the small model of the laptop recipe (squared ReLU, convolutions, tied embedding); `models.family`
has the traits that make it a Llama, Qwen, Gemma or Mistral.

Shapes: B batch, T new tokens, S all keys (cache and new), D width, H query heads, G key/value heads, E head width,
L layers, V vocabulary. Layers are stacked on a leading L axis and scanned.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import tyro
from flax import nnx
from jax.extend.core import Primitive
from jax.sharding import PartitionSpec

from ratchet.models import layer, pages, triton
from ratchet.models.attention import Int8, quantized
from ratchet.models.bounds import bounded
from ratchet.models.family import Family, frequencies_and_window
from ratchet.models.kernels import Kernel, Scores, attend_cache, attend_rows
from ratchet.models.pages import Pages
from ratchet.models.products import embed, joined, matmul
from ratchet.models.programs import platform
from ratchet.models.triton import Shared

INPUT_AXES = {"output": 2}
"""Axes of a layer's matrix that its product sums over; of all others the first."""
PLAIN = Kernel("plain")
"""Attention by matrix products."""
Remat = Literal["none", "dots", "full"]
REMAT = {
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}
"""What the forward pass of a layer keeps for the backward pass: the matrix products, or its input alone."""
_LONG = ("dot_general", "dot_product_attention_fwd_wrapper", "pallas_call")
"""What takes long: matrix products, and attention by a kernel (cuDNN's, splash)."""


@dataclass(frozen=True)
class DecoderConfig:
    """Size of a decoder."""

    vocab_size: int = bounded(1024, "at least 1")
    """Rows of the embedding; at least the tokenizer's size."""
    width: int = bounded(96, "at least 1")
    """Residual width D."""
    layers: int = bounded(3, "at least 1")
    heads: int = bounded(2, "at least 1")
    """Query heads H; without a `head_width` they must divide the width into an even head width."""
    kv_heads: int = bounded(2, "at least 1")
    """Key/value heads G; must divide `heads`."""
    mlp_width: int = bounded(256, "at least 1")
    max_length: int = bounded(1024, "at least 1")
    """Longest sequence in tokens, prompt and completion together."""
    conv: int = bounded(6, "at least 1")
    """Tokens that the causal depthwise convolutions before attention and before the MLP mix, itself included; 1 for
    none. They let a small model look things up in its context after hundreds of steps instead of thousands (Canon
    layers, Allen-Zhu)."""
    head_width: int = bounded(0, "at least 0")
    """Width of a head E; 0 for width / heads."""
    family: tyro.conf.Suppress[Family] = field(default_factory=Family)
    """What sets it apart from others of its size; it comes with weights or a recipe."""

    @property
    def head_size(self) -> int:
        """E, given or derived."""
        return self.head_width or self.width // self.heads

    @property
    def scores(self) -> Scores:
        """How its attention makes scores."""
        f = self.family
        return Scores(f.query_scale or self.head_size**-0.5, f.attention_softcap, f.window if any(f.sliding) else 0)


class Cache(NamedTuple):
    """Keys and values, the last C-1 inputs of attention and MLP, and the position of the token in each column.

    keys, values: by layer [B, G, S, E], so that a step of decoding writes one column in place instead of copying a
    stack, or `Pages` of both as keys and no values; last: by layer [B, C-1, 2D], for convolutions over C tokens;
    positions: int32 [B, S], -1 where there is none. But for pages, columns need be in no order: keys are rotated by
    their positions before they are kept.
    """

    keys: tuple[jax.Array | Int8 | Pages, ...]
    values: tuple[jax.Array | Int8 | None, ...]
    last: tuple[jax.Array, ...]
    positions: jax.Array


Layers = tuple[dict[str, jax.Array], ...]
"""The weights of each layer on their own: slices of the stacks cost a step of decoding a copy of every weight."""


class Decoder(nnx.Module):
    """The language model. Split it once with `nnx.split`, as `create` does, and merge it again inside jit to call
    it."""

    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs):
        c, e, f = config, config.head_size, config.family

        def normal(*shape: int, fan_in: int) -> nnx.Param:
            return nnx.Param(jax.random.normal(rngs.params(), shape) * fan_in**-0.5)

        def norm(*shape: int) -> nnx.Param:
            return nnx.Param(jnp.zeros(shape) if f.norm_offset else jnp.ones(shape))

        self.config = config
        self.embedding = normal(c.vocab_size, c.width, fan_in=c.width)
        layers = {
            "attention_norm": norm(c.layers, c.width),
            "query": normal(c.layers, c.width, c.heads, e, fan_in=c.width),
            "key": normal(c.layers, c.width, c.kv_heads, e, fan_in=c.width),
            "value": normal(c.layers, c.width, c.kv_heads, e, fan_in=c.width),
            "output": nnx.Param(jnp.zeros((c.layers, c.heads, e, c.width))),
            "mlp_norm": norm(c.layers, c.width),
            "up": normal(c.layers, c.width, c.mlp_width, fan_in=c.width),
            "down": nnx.Param(jnp.zeros((c.layers, c.mlp_width, c.width))),
        }
        if c.conv > 1:
            layers |= {
                name: nnx.Param(jnp.full((c.layers, c.conv, c.width), 0.5, jnp.float32).at[:, 0].set(1.0))
                for name in ("conv", "mlp_conv")
            }
        if f.gated:
            layers["gate"] = normal(c.layers, c.width, c.mlp_width, fan_in=c.width)
        if f.query_key_norm:
            layers |= {name: norm(c.layers, e) for name in ("query_norm", "key_norm")}
        if f.post_norms:
            layers |= {name: norm(c.layers, c.width) for name in ("attention_post_norm", "mlp_post_norm")}
        for name in f.biases:
            shape = layers[name].shape
            layers[f"{name}_bias"] = nnx.Param(jnp.zeros((shape[0], *shape[1 + INPUT_AXES.get(name, 1) :])))
        self.layers = nnx.Dict(layers)
        self.final_norm = norm(c.width)
        if not f.tied:
            self.head = normal(c.width, c.vocab_size, fan_in=c.width)

    def head_DV(self) -> jax.Array:
        """The output projection."""
        return self.embedding[...].T if self.config.family.tied else self.head[...]

    def logits(self, hidden_BD: jax.Array, head_DV: jax.Array) -> jax.Array:
        """Float32 logits [B, V] of a few hidden states; `head` is `head_DV()`, taken once outside a loop."""
        logits_BV = matmul(hidden_BD, head_DV, jnp.float32)
        return cap * jnp.tanh(logits_BV / cap) if (cap := self.config.family.logit_softcap) else logits_BV

    def __call__(
        self, tokens_BT: jax.Array, positions_BT: jax.Array, segments_BT: jax.Array, *,
        dtype: jax.typing.DTypeLike | None = None, remat: Remat = "none", kernel: Kernel = PLAIN,
        adapters: Mapping[str, jax.Array] = MappingProxyType({}),
    ) -> jax.Array:
        """Hidden states [B, T, D] of packed rows: attention is causal and stays inside a segment (0 is padding).

        Weights are cast to `dtype` before use (None: as they are). `remat` says what the backward pass computes again;
        with "none", and narrower numbers than float32, still norms, rotations and gates, whose inside is float32. What
        `kernel` says of a mesh also lays out what flows between layers, so that weights come to the rows and not the
        other way.
        `adapters` are low-rank changes of matrices (`train.lora`), stacked like them.
        """
        c = self.config
        stacked = {n: weight.astype(dtype or weight.dtype) for n, weight in (self.stacked() | adapters).items()}
        rows = None if kernel.spec is None else PartitionSpec(kernel.spec[0])
        lay = (lambda x: x) if rows is None else lambda x: jax.lax.with_sharding_constraint(x, rows)
        first_BTD = lay(self.embedded(tokens_BT, dtype, rows))
        nothing_BCD = jnp.zeros((len(first_BTD), c.conv - 1, c.width), first_BTD.dtype)
        sliding_L = jnp.array(c.family.sliding) if any(c.family.sliding) else None

        def one(x_BTD, xs):
            weights, sliding = xs
            frequencies_E, window = frequencies_and_window(c.family, c.head_size, sliding)
            normed_BTD = layer.norm(x_BTD, weights["attention_norm"], c.family)
            y_BTD, _ = layer.convolve(nothing_BCD, normed_BTD, positions_BT, weights.get("conv"))
            q, k, v = layer.queries_keys_values(y_BTD, positions_BT, frequencies_E, weights, c.family)
            mixed = attend_rows(q, k, v, segments_BT, sliding, window, c.scores, kernel)
            return lay(layer.finish(x_BTD, mixed, nothing_BCD, positions_BT, weights, c.family)[0]), None

        if remat != "none" or first_BTD.dtype != jnp.float32:
            one = jax.checkpoint(one, policy=REMAT.get(remat, _takes_long), prevent_cse=False)
        x_BTD, _ = jax.lax.scan(one, first_BTD, (stacked, sliding_L), unroll=self._unroll(remat))
        return self.normed(x_BTD)

    def new_cache(self, batch: int, length: int, int8: bool = False, paged: bool = False) -> Cache:
        """An empty cache of `length` columns a row, of the weights' dtype or, for keys and values, of a byte a number
        (`int8`); `paged` keys and values lie in pages."""
        c, dtype = self.config, self.embedding[...].dtype
        last_BC2D = jnp.zeros((batch, c.conv - 1, 2 * c.width), dtype)
        if paged:
            keys, values = pages.empty(batch, length, c.kv_heads, c.head_size, dtype), None
        else:
            empty_BGSE = jnp.zeros((batch, c.kv_heads, length, c.head_size), dtype)
            keys = values = quantized(empty_BGSE) if int8 else empty_BGSE
        per_layer = ((keys,) * c.layers, (values,) * c.layers, (last_BC2D,) * c.layers)
        return Cache(*per_layer, jnp.full((batch, length), -1, jnp.int32))

    def stacked(self) -> dict[str, jax.Array]:
        """The weights of all layers, by name, each a stack."""
        return {name: param[...] for name, param in self.layers.items()}

    def unstacked(self, join: bool = False) -> Layers:
        """The weights as `extend` takes them; call it outside of loops. With `join`, matrices that multiply the same
        input lie side by side."""
        stacked = joined(self.stacked()) if join else self.stacked()
        return tuple({name: weight[at] for name, weight in stacked.items()} for at in range(self.config.layers))

    def extend(
        self, layers: Layers | None, tokens_BT: jax.Array, real_BT: jax.Array, cache: Cache, column: int | jax.Array,
        kernel: Kernel = PLAIN, shared: Shared | None = None,
    ) -> tuple[jax.Array, Cache]:
        """Writes T new tokens at `column` of the cache; returns their hidden states [B, T, D] and the cache. Without
        `layers`, a loop goes over those of the model, and copies each.

        `real_BT` is False at padding; a token's position is the number of real tokens before it in its row. All rows
        write the same columns. Rows padded on the right can only be read, not extended again. Where rows are told which
        prompts they have `shared`, a single token of each attends by `models.triton`.
        """
        positions_BT = jnp.maximum(_length(cache)[:, None] + jnp.cumsum(real_BT, axis=1) - 1, 0)
        kept_BT = jnp.where(real_BT, positions_BT, -1)
        positions_BS = jax.lax.dynamic_update_slice(cache.positions, kept_BT, (0, column))

        def attend(kept, q, k, v, sliding, window):
            keys, values = (_written(old, new.swapaxes(1, 2), column) for old, new in zip(kept, (k, v), strict=True))
            scores, operands = self.config.scores, (q, keys, values, positions_BT, positions_BS)
            if shared is not None:
                mixed = triton.attend(*operands, scores.window if sliding else 0, scores, kernel, shared)
            else:
                mixed = attend_cache(*operands, sliding, window, scores, kernel, column)
            return mixed, keys, values

        return self._extended(layers, tokens_BT, cache, positions_BT, positions_BS, attend)

    def extend_pages(
        self, layers: Layers, tokens_B1: jax.Array, real_B1: jax.Array, cache: Cache, kernel: Kernel
    ) -> tuple[jax.Array, Cache]:
        """Writes each row's one new token after its last, in pages; returns hidden states [B, 1, D] and the cache.

        A row whose `real_B1` is False gets none, and its hidden state means nothing.
        """
        before_B1 = _length(cache)[:, None]
        positions_B1 = jnp.where(real_B1, before_B1, 0)  # of rows without a token no pages are read
        next_BS = (jnp.arange(cache.positions.shape[1]) == before_B1) & real_B1
        positions_BS = jnp.where(next_BS, before_B1, cache.positions)

        def attend(kept, q, k, v, sliding, window):
            keys = pages.written(kept[0], k, v, positions_B1[:, 0], kernel)
            return pages.attend(q, keys, positions_B1[:, 0], bool(sliding), self.config.scores, kernel), keys, None

        return self._extended(layers, tokens_B1, cache, positions_B1, positions_BS, attend)

    def _extended(
        self, layers: Layers | None, tokens_BT: jax.Array, cache: Cache, positions_BT: jax.Array,
        positions_BS: jax.Array, attend: Callable,
    ) -> tuple[jax.Array, Cache]:
        """All layers over new tokens; `attend` as in `layer_step`."""
        one, sliding = self.layer_step(positions_BT, attend), self.sliding
        x_BTD = self.embedded(tokens_BT)
        caches = list(zip(sliding, zip(cache.keys, cache.values, strict=True), cache.last, strict=True))
        if layers is None:
            together = jax.tree.map(lambda *own: jnp.stack(own), *caches)
            x_BTD, made = jax.lax.scan(one, x_BTD, (self.stacked(), *together))
            made = [jax.tree.map(lambda x_L, at=at: x_L[at], made) for at in range(self.config.layers)]
        else:
            made = []
            for weights, of_layer in zip(layers, caches, strict=True):
                x_BTD, own = one(x_BTD, (weights, *of_layer))
                made.append(own)
        return self.normed(x_BTD), Cache(*zip(*made, strict=True), positions_BS)

    @property
    def sliding(self) -> tuple[bool | None, ...]:
        """By layer, whether its queries attend to the last tokens only; None where none does."""
        sliding = self.config.family.sliding
        return sliding if any(sliding) else (None,) * self.config.layers

    def layer_step(self, positions_BT: jax.Array, attend: Callable) -> Callable:
        """A layer over new tokens, as a loop over layers takes it: (x, (weights, sliding, kept, last)) to what x is
        then and (keys, values, last), which are kept. `attend(kept, q, k, v, sliding, window)` gives what attention
        finds, and a layer's keys and values with the new ones among them."""
        family, dtype = self.config.family, self.embedding[...].dtype

        def one(x_BTD, xs):
            weights, sliding, kept, last_BC2D = xs
            weights = {name: weight.astype(dtype) for name, weight in weights.items()}
            last_BCD, last_mlp_BCD = jnp.split(last_BC2D, 2, axis=-1)
            frequencies_E, window = frequencies_and_window(family, self.config.head_size, sliding)
            normed_BTD = layer.norm(x_BTD, weights["attention_norm"], family)
            y_BTD, history_BTD = layer.convolve(last_BCD, normed_BTD, positions_BT, weights.get("conv"))
            q, k, v = layer.queries_keys_values(y_BTD, positions_BT, frequencies_E, weights, family)
            mixed, keys, values = attend(kept, q, k, v, sliding, window)
            x_BTD, mlp_history_BTD = layer.finish(x_BTD, mixed, last_mlp_BCD, positions_BT, weights, family)
            histories_BT2D = jnp.concatenate([history_BTD, mlp_history_BTD], axis=-1)
            return x_BTD, (keys, values, histories_BT2D[:, histories_BT2D.shape[1] - last_BCD.shape[1] :])

        return one

    def embedded(self, tokens_BT: jax.Array, dtype=None, rows: PartitionSpec | None = None) -> jax.Array:
        """Token embeddings; scaled, they have unit variance: what a token is outweighs what early layers add."""
        embedding_VD = self.embedding[...]
        x_BTD = embed(embedding_VD, tokens_BT, dtype or embedding_VD.dtype, rows)
        return x_BTD * self.config.width**0.5 if self.config.family.scaled_embedding else x_BTD

    def normed(self, x_BTD: jax.Array) -> jax.Array:
        """Hidden states: what the last layer gives, normed."""
        return layer.norm(x_BTD, self.final_norm[...].astype(x_BTD.dtype), self.config.family)

    def _unroll(self, remat: Remat) -> int:
        """A few layers run faster unrolled (0.9 times the step); many must not, or compile time grows with depth. On a
        GPU a loop copies what layers keep into stacks and back, a tenth of a step (28 layers compile in 12 seconds, not
        9). With remat it stays a loop: out of one XLA merges what is computed again with the first time."""
        unrolls = remat == "none" and (self.config.layers <= 8 or platform() == "gpu")
        return self.config.layers if unrolls else 1


def check_sizes(config: DecoderConfig) -> None:
    """Raises ValueError when the heads fit neither the width nor each other."""
    derived = config.head_width == 0 and config.width % config.heads
    if derived or config.head_size % 2 or config.heads % config.kv_heads:
        raise ValueError(
            f"model: width {config.width} / heads {config.heads} / kv_heads {config.kv_heads} do not fit: "
            "heads must divide width into an even head width, and kv_heads must divide heads"
        )


def create(config: DecoderConfig, seed: int) -> tuple[nnx.GraphDef, nnx.State]:
    """A freshly initialised decoder, split once into its definition and its parameters. Raises ValueError when its
    heads do not fit."""
    check_sizes(config)
    return nnx.split(Decoder(config, nnx.Rngs(params=seed)))


def shapes(config: DecoderConfig) -> tuple[nnx.GraphDef, nnx.State]:
    """The definition of a decoder and the shapes of its parameters, without their numbers, which may be more than fit
    into memory. Raises ValueError as `create` does."""
    check_sizes(config)
    return nnx.split(nnx.eval_shape(lambda: Decoder(config, nnx.Rngs(params=0))))


def _takes_long(primitive: Primitive, *_, **__) -> bool:
    """Whether what an operation gives is kept for the backward pass, rather than computed again."""
    return primitive.name in _LONG


def _length(cache: Cache) -> jax.Array:
    """Tokens [B] that each row of a cache holds."""
    return jnp.max(cache.positions, axis=1) + 1


def _written(kept_BGSE: jax.Array | Int8, new_BGTE: jax.Array, column: jax.Array) -> jax.Array | Int8:
    """Keys or values of a cache with new ones from a column on."""
    new = quantized(new_BGTE) if isinstance(kept_BGSE, Int8) else new_BGTE
    put = lambda kept, new: jax.lax.dynamic_update_slice(kept, new, (0, 0, column, 0))
    return jax.tree.map(put, kept_BGSE, new)
