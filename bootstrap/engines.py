"""What a run samples and scores with, by its settings."""

import jax
from flax import nnx

from ratchet.bootstrap.config import Config
from ratchet.models.sampler import Sampler
from ratchet.models.scorer import Scorer
from ratchet.train.sharding import slots_sharding


def check_slots(config: Config, parts: int) -> None:
    """Raises ValueError when the sampler's slots do not divide over so many parts of a mesh."""
    if config.simulate.slots % parts:
        raise ValueError(
            f"simulate.slots: {config.simulate.slots} do not divide over {parts} devices; make it a multiple of {parts}"
        )


def sampler(
    config: Config, graphdef: nnx.GraphDef, mesh: jax.sharding.Mesh, unused: tuple[int, ...] = ()
) -> Sampler:
    """The sampler, its slots over the mesh. Raises ValueError when they do not fill it, or the vocabulary does not
    divide over its chips, as the loss needs it."""
    c, engine, tensor = config.simulate, config.train.engine, mesh.shape["tensor"]
    check_slots(config, mesh.shape["data"] * mesh.shape["fsdp"])
    if config.model.vocab_size % tensor:
        raise ValueError(
            f"mesh.tensor: a vocabulary of {config.model.vocab_size} does not divide over {tensor} devices; take 1, or "
            "--mesh.fsdp instead"
        )
    return Sampler(
        graphdef,
        slots=c.slots,
        new_tokens=c.new_tokens,
        keep=c.keep,
        int8=c.int8_cache,
        dtype=engine.dtype,
        rows=_rows(mesh),
        attention=engine.attention,
        deterministic=engine.deterministic,
        unused=unused,
    )


def scorer(config: Config, graphdef: nnx.GraphDef, mesh: jax.sharding.Mesh, unused: tuple[int, ...]) -> Scorer:
    """The scorer, which asks as many questions at a time as the sampler has slots, laid out as those are."""
    engine = config.train.engine
    return Scorer(
        graphdef,
        questions=config.simulate.slots,
        dtype=engine.dtype,
        rows=_rows(mesh),
        attention=engine.attention,
        deterministic=engine.deterministic,
        unused=unused,
    )


def _rows(mesh: jax.sharding.Mesh) -> jax.sharding.NamedSharding | None:
    return slots_sharding(mesh) if mesh.size > 1 else None
