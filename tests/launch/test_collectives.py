"""Programs whose traffic is known, compiled for eight CPU devices; and the notations that TPU programs use."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from launch.collectives import _groups, by_kind, collectives
from train.sharding import MeshConfig, make_mesh

MESH = make_mesh(MeshConfig(2, 2, 2), jax.devices()[:8])


def sent(body, in_spec, out_spec, shape=(8, 16)):
    program = jax.shard_map(body, mesh=MESH, in_specs=in_spec, out_specs=out_spec, check_vma=False)
    array = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(MESH, in_spec))
    return collectives(jax.jit(program).lower(array).compile().as_text(), MESH)


@pytest.mark.parametrize(
    ("body", "in_spec", "out_spec", "kind", "axes", "size"),
    [
        (lambda x: jax.lax.psum(x, "tensor"), P("tensor"), P(), "all-reduce", ("tensor",), 4 * 16 * 4),
        (lambda x: jax.lax.psum(x, ("data", "fsdp")), P(), P(), "all-reduce", ("data", "fsdp"), 8 * 16 * 4),
        (lambda x: jax.lax.all_gather(x, "fsdp", tiled=True), P("fsdp"), P(), "all-gather", ("fsdp",), 8 * 16 * 4),
        (lambda x: jax.lax.psum_scatter(x, "data", tiled=True), P(), P("data"), "reduce-scatter", ("data",),
         8 * 16 * 4),
        (lambda x: jax.lax.ppermute(x, "data", [(0, 1), (1, 0)]), P("data"), P("data"), "collective-permute", ("data",),
         4 * 16 * 4),
    ],
)  # fmt: skip
def test_kind_axes_and_bytes(body, in_spec, out_spec, kind, axes, size):
    (found,) = sent(body, in_spec, out_spec)
    assert (found.kind, found.axes, found.bytes, found.times) == (kind, axes, size, 1)


def test_a_collective_in_a_loop_counts_as_often_as_it_runs():
    def body(x):
        step = lambda y, _: (jnp.sin(jax.lax.psum(y, "tensor")), None)
        return jax.lax.scan(lambda y, _: (jax.lax.scan(step, y, None, 3)[0], None), x, None, 5)[0]

    found = sent(body, P(), P())
    assert by_kind(found) == {"all-reduce": {"tensor": 15 * 8 * 16 * 4}}


def test_groups_in_every_notation():
    assert _groups("replica_groups={{0,1},{2,3}}, x") == [[0, 1], [2, 3]]
    assert _groups("replica_groups=[2,2]<=[4]") == [[0, 1], [2, 3]]
    assert _groups("replica_groups=[2,2]<=[2,2]T(1,0)") == [[0, 2], [1, 3]]
    assert _groups("replica_groups=mesh['a'=2,'b'=2] {'b'}, y") == [[0, 1], [2, 3]]
    assert _groups("replica_groups=mesh['a'=2,'b'=2] {'a'}, y") == [[0, 2], [1, 3]]
    assert _groups("source_target_pairs={{0,1},{1,0}}") == [[0, 1], [1, 0]]


def test_pieces_of_one_collective_count_once():
    one = 'ENTRY %main (p: f32[8]) -> f32[8] {{\n{}\n}}\n'
    line = "  %g.{0} = f32[8]{{0}} all-gather(%p), channel_id={1}, replica_groups=[4,2]<=[8], dimensions={{0}}"
    text = one.format("\n".join([line.format(1, 7), line.format(2, 7), line.format(3, 8)]))
    assert [c.bytes for c in collectives(text, MESH)] == [32, 32]
