"""What decoders differ in apart from their size: the traits of a family, from a model's config.json or a recipe."""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp

Activation = Literal["relu2", "silu", "gelu_tanh"]
ACTIVATIONS = {
    "relu2": lambda x: jnp.square(jax.nn.relu(x)),
    "silu": jax.nn.silu,
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
}
NO_WINDOW = 2**30
"""More tokens than any sequence has."""


@dataclass(frozen=True)
class Family:
    """Traits of a decoder; the defaults are those of the laptop recipe's model."""

    architecture: str = ""
    """Its name in a Hugging Face config.json; empty: a model that no other library knows."""
    tied: bool = True
    """The embedding is the output projection as well."""
    scaled_embedding: bool = True
    """Embeddings times √D."""
    activation: Activation = "relu2"
    """Of the MLP; relu2 is max(x, 0)²."""
    gated: bool = False
    """An MLP of activation(gate)·up (arXiv 2002.05202) instead of activation(up)."""
    norm_epsilon: float = 1e-6
    norm_offset: bool = False
    """RMSNorm multiplies by 1 + weight."""
    post_norms: bool = False
    """RMSNorm also after attention and after the MLP."""
    query_key_norm: bool = False
    """RMSNorm of every query and key head before the rotation."""
    biases: tuple[str, ...] = ()
    """Which of query, key, value, output, gate, up and down add a bias."""
    query_scale: float = 0.0
    """What q·k is multiplied by; 0 for 1/√E."""
    attention_softcap: float = 0.0
    """Scores become cap·tanh(score/cap); 0 for none."""
    logit_softcap: float = 0.0
    """The same for logits."""
    rope_base: float = 10_000.0
    """Longest wavelength of the rotary positions, over 2π."""
    rope_factor: float = 1.0
    """What wavelengths are stretched by: all of them or, with `rope_bands`, some."""
    rope_bands: tuple[float, ...] = ()
    """Llama 3's (low, high, length), such as (1.0, 4.0, 8192.0): wavelengths below length / high stay, those above
    length / low are stretched, and those between in part."""
    sliding: tuple[bool, ...] = ()
    """By layer, whether its queries attend to the last `window` tokens only; empty: none does."""
    window: int = 0
    local_rope_base: float = 0.0
    """`rope_base`, unstretched, of the sliding layers; 0 for that of the others, stretched alike."""


def frequencies(family: Family, head_width: int) -> jax.Array:
    """Angles a position [E/2] of rotary embeddings (arXiv 2104.09864), stretched as in Llama 3.1 or linearly."""
    half = head_width // 2
    plain_E = family.rope_base ** (-jnp.arange(half) / half)
    if family.rope_factor == 1.0:
        return plain_E
    if not family.rope_bands:
        return plain_E / family.rope_factor
    low, high, length = family.rope_bands
    turns_E = length * plain_E / (2 * jnp.pi)  # over the length that the model was first trained on
    kept_E = jnp.clip((turns_E - low) / (high - low), 0.0, 1.0)
    return kept_E * plain_E + (1 - kept_E) * plain_E / family.rope_factor


def frequencies_and_window(
    family: Family, head_width: int, sliding: jax.Array | bool | None
) -> tuple[jax.Array, jax.Array | None]:
    """A layer's rotary frequencies [E/2], and to how many tokens a query attends, itself included; None for all."""
    far_E = frequencies(family, head_width)
    if sliding is None:
        return far_E, None
    half = head_width // 2
    near_E = family.local_rope_base ** (-jnp.arange(half) / half) if family.local_rope_base else far_E
    return jnp.where(sliding, near_E, far_E), jnp.where(sliding, family.window, NO_WINDOW)
