"""Programs whose traffic is known, compiled for eight CPU devices; and the notations that TPU programs use."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from ratchet.launch.preflight.collectives import NotationError, _groups, by_kind, collectives, memory_traffic
from ratchet.train.sharding import MeshConfig, make_mesh

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
)
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
    assert _groups("replica_groups=mesh['a'=2,'b'=1,'c'=2], device_ids=([2,2]T(1,0)) {'a'}, y") == [[0, 1], [2, 3]]
    assert _groups("replica_groups=mesh['a'=4], device_ids=([2,2]T(1,0)) {'a'}") == [[0, 2, 1, 3]]
    assert _groups("replica_groups={}, y") == []
    assert _groups("source_target_pairs={{0,1},{1,0}}") == [[0, 1], [1, 0]]


def test_pieces_of_one_collective_count_once():
    one = 'ENTRY %main (p: f32[8]) -> f32[8] {{\n{}\n}}\n'
    line = "  %g.{0} = f32[8]{{0}} all-gather(%p), channel_id={1}, replica_groups=[4,2]<=[8], dimensions={{0}}"
    text = one.format("\n".join([line.format(1, 7), line.format(2, 7), line.format(3, 8)]))
    assert [c.bytes for c in collectives(text, MESH)] == [32, 32]


def test_memory_traffic_of_a_product_is_its_operands_and_its_result():
    arrays = [jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in ((256, 512), (512, 128))]
    compiled = jax.jit(lambda a, b: (a @ b).astype(jnp.float32)).lower(*arrays).compile()
    assert memory_traffic(compiled.as_text()) >= 2 * 256 * 512 + 2 * 512 * 128 + 4 * 256 * 128


def test_what_is_copied_into_the_chip_ahead_of_its_use_is_read_once():
    text = """%f (a: bf16[64,32]) -> f32[64] {
  ROOT %r = f32[64]{0} reduce(%a)
}

%g (a: bf16[8,100]) -> bf16[8,100] {
  ROOT %u = bf16[8,100]{1,0} dynamic-update-slice(%a, %b, %i, %j)
}

ENTRY %main (p: bf16[64,32], c: bf16[8,100]) -> bf16[64] {
  %p = bf16[64,32]{1,0:T(8,128)} parameter(0)
  %c = bf16[8,100]{1,0:T(8,128)} parameter(1)
  %new = bf16[8,1]{1,0:T(8,128)S(1)} broadcast(%p)
  %copy-start.1 = (bf16[64,32]{1,0:T(8,128)S(1)}, bf16[64,32]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%p)
  %copy-done.1 = bf16[64,32]{1,0:T(8,128)S(1)} copy-done(%copy-start.1)
  %slice-start.1 = ((bf16[64,32]{1,0}), bf16[16,32]{1,0:S(1)}, s32[]{:S(2)}) slice-start(%p), slice={[0:16], [0:32]}
  %dynamic_update_slice.1 = bf16[8,100]{1,0:T(8,128)} dynamic-update-slice(%c, %new, %i, %j)
  %again = bf16[8,100]{1,0:T(8,128)} fusion(%dynamic_update_slice.1, %new), kind=kLoop, calls=%g
  ROOT %sum = f32[64]{0} fusion(%copy-done.1, %again), kind=kLoop, calls=%f
}
"""
    broadcast = copied = 2 * 64 * 32
    sliced, updated, summed = 2 * 16 * 32, 2 * 8, 4 * 64 + 2 * 8 * 100
    assert memory_traffic(text) == broadcast + copied + sliced + updated + summed


@pytest.mark.parametrize(("more", "read"), [("", 100), ("  %whole = f32[10,100]{1,0} negate(%a.1)\n", 1000)])
def test_of_what_a_fusion_within_a_fusion_slices_the_slice_counts(more, read):
    text = f"""%part (a: f32[10,100], i: s32[]) -> f32[1,100] {{
  %a = f32[10,100]{{1,0}} parameter(0)
  %i = s32[] parameter(1)
  ROOT %d = f32[1,100]{{1,0}} dynamic-slice(%a, %i), dynamic_slice_sizes={{1,100}}
}}

%product (a.1: f32[10,100], i.1: s32[], x: f32[1,100]) -> f32[1,100] {{
  %x = f32[1,100]{{1,0}} parameter(2)
  %a.1 = f32[10,100]{{1,0}} parameter(0)
{more}  %i.1 = s32[] parameter(1)
  %own = f32[1,100]{{1,0}} fusion(%a.1, %i.1), kind=kLoop, calls=%part
  ROOT %m = f32[1,100]{{1,0}} multiply(%x, %own)
}}

ENTRY %main (stack: f32[10,100], at: s32[], other: f32[1,100]) -> f32[1,100] {{
  %stack = f32[10,100]{{1,0}} parameter(0)
  %at = s32[] parameter(1)
  %other = f32[1,100]{{1,0}} parameter(2)
  ROOT %f = f32[1,100]{{1,0}} fusion(%stack, %at, %other), kind=kOutput, calls=%product
}}
"""
    assert memory_traffic(text) == 4 * (read + 1 + 100 + 100)


def test_loops_count_as_often_as_they_run_and_what_they_take_of_a_stack_alone():
    text = """%part (a: f32[10,100], i: s32[]) -> f32[100] {
  %a = f32[10,100]{1,0} parameter(0)
  %i = s32[] parameter(1)
  ROOT %d = f32[1,100]{1,0} dynamic-slice(%a, %i), dynamic_slice_sizes={1,100}
}

%slow (x: f32[50]) -> f32[50] {
  %x = f32[50]{0} parameter(0)
  ROOT %y = f32[50]{0} negate(%x)
}

%fast (x.1: f32[50]) -> f32[50] {
  %x.1 = f32[50]{0} parameter(0)
  ROOT %z = f32[50]{0} copy-done(%x.1)
}

%cond (c: (s32[], f32[10,100])) -> pred[] {
  %c = (s32[], f32[10,100]{1,0}) parameter(0)
  %limit = s32[] constant(10)
  ROOT %less = pred[] compare(%i.2, %limit), direction=LT
}

%body (b: (s32[], f32[10,100])) -> (s32[], f32[10,100]) {
  %b = (s32[], f32[10,100]{1,0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%b), index=0
  %stack = f32[10,100]{1,0} get-tuple-element(%b), index=1
  %one = f32[1,100]{1,0:S(1)} fusion(%stack, %i.1), kind=kLoop, calls=%part
  %v = f32[50]{0} parameter(1)
  %chosen = f32[50]{0} conditional(%i.1, %v, %v), branch_computations={%slow, %fast}
  ROOT %t = (s32[], f32[10,100]{1,0}) tuple(%i.1, %stack)
}

ENTRY %main (p: (s32[], f32[10,100])) -> (s32[], f32[10,100]) {
  %p = (s32[], f32[10,100]{1,0}) parameter(0)
  ROOT %w = (s32[], f32[10,100]{1,0}) while(%p), condition=%cond, body=%body
}
"""
    number, part, branch = 4, 4 * 100, 2 * 4 * 50
    assert memory_traffic(text) == 10 * (part + number + branch)


def test_of_what_a_kernel_writes_in_place_only_what_comes_in_counts():
    text = """ENTRY %main (a: f32[1000], b: f32[10]) -> f32[1000] {
  %a = f32[1000]{0} parameter(0)
  %b = f32[10]{0} parameter(1)
  %one = f32[1000]{0} custom-call(%b, %a), custom_call_target="k", output_to_operand_aliasing={{}: (1, {})}
  ROOT %two = (f32[1000]{0}, f32[10]{0}) custom-call(%one, %b), output_to_operand_aliasing={{1}: (1, {})}
}
"""
    assert memory_traffic(text) == 4 * 10 + 2 * 4 * 1000


LOOP = "ENTRY %main (p: f32[8]) -> f32[8] {\n  %w = f32[8]{0} while(%p), body=%body\n}\n"
BRANCH = "ENTRY %main (p: f32[8]) -> f32[8] {\n  %w = f32[8]{0} conditional(%p, %p), branches={%a}\n}\n"
GROUPS = "ENTRY %main (p: f32[8]) -> f32[8] {\n  %g = f32[8]{0} all-reduce(%p), replica_groups=<4x2>, to_apply=%a\n}\n"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "has no ENTRY computation with instructions"),
        ("module @jit_f {\n  func.func public @main(%arg0: tensor<8xf32>) {\n  }\n}", "has no ENTRY computation"),
        ("ENTRY %main (p: f32[8]) -> f32[8] {\n  w: f32[8] = add(p, p)\n}\n", "has no ENTRY computation"),
        (LOOP, "has a loop without a condition"),
        (BRANCH, "has a conditional without branches"),
        (GROUPS, "has the groups replica_groups=<4x2>"),
    ],
)
def test_a_text_in_another_notation_is_one_line_and_never_counts_as_nothing(text, what):
    read = memory_traffic if what.endswith("branches") else lambda text: collectives(text, MESH)
    with pytest.raises(NotationError, match=f"the compiled program {what}.*use the version of constraints") as caught:
        read(text)
    assert "\n" not in str(caught.value)


def test_a_step_that_no_loop_has_is_one_line():
    compiled = jax.jit(lambda x: x + 1).lower(jax.ShapeDtypeStruct((8,), jnp.float32)).compile()
    with pytest.raises(NotationError, match="has no loop with operations of while/body"):
        memory_traffic(compiled.as_text(), "while/body")


IN_ONE = """%cond (c: (s32[])) -> pred[] {
  %c = (s32[]) parameter(0)
  ROOT %less = pred[] fusion(%c), kind=kLoop, calls=%compared
}

%body (b: (s32[])) -> (s32[]) {
  %b = (s32[]) parameter(0)
  %one = bf16[4,8]{1,0} get-tuple-element(%b), index=1
  %other = f32[2]{0} get-tuple-element(%b), index=2
  %long = f32[32]{0} get-tuple-element(%b), index=3
  %chip = f32[1]{0:S(1)} get-tuple-element(%b), index=4
  %g = ((bf16[4,8]{1,0}, f32[2]{0}), (bf16[32,8]{1,0}, /*index=1*/f32[16]{0})) all-gather-start(%one, %other), \
channel_id=1, replica_groups=[1,8]<=[8], dimensions={0}
  %got = (bf16[32,8]{1,0}, f32[16]{0}) all-gather-done(%g)
  %s = ((f32[32]{0}), f32[4]{0}) reduce-scatter-start(%whole), channel_id=2, replica_groups=[1,8]<=[8], dimensions={0}
  %sum = f32[4]{0} reduce-scatter-done(%s)
  %a = ((f32[32]{0}), f32[32]{0}) all-to-all-start(%long), channel_id=3, replica_groups=[1,8]<=[8], dimensions={0}
  %all = f32[32]{0} all-to-all-done(%a)
  %on = (f32[1]{0:S(1)}, f32[8]{0:S(1)}) all-gather-start(%chip), channel_id=4, replica_groups=[1,8]<=[8]
  ROOT %next = (s32[]) tuple(%i)
}

ENTRY %main (p: (s32[])) -> (s32[]) {
  %p = (s32[]) parameter(0)
  ROOT %w = (s32[]) while(%p), condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"7"},"x":1}
}
"""
"""A loop as GPUs' compiler writes it, which joins collectives and says how often the loop runs."""


def test_collectives_that_a_gpus_compiler_has_joined_count_with_all_of_their_arrays():
    gathered, scattered = 2 * 32 * 8 + 4 * 16, 4 * 4 * 8
    assert [(c.kind, c.bytes, c.times) for c in collectives(IN_ONE, MESH)] == [
        ("all-gather", gathered, 7), ("reduce-scatter", scattered, 7), ("all-to-all", 4 * 32, 7),
        ("all-gather", 4 * 8, 7),
    ]  # fmt: skip


def test_what_begins_and_ends_apart_moves_once():
    given, gathered, part = 2 * 4 * 8 + 4 * 2, 2 * 32 * 8 + 4 * 16, 4 * 4
    exchanged = 2 * 4 * 32
    assert memory_traffic(IN_ONE) == 7 * (given + gathered + part + exchanged), "but for what is on the chip itself"
