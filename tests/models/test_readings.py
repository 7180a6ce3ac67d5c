"""Texts that go on after others, against the full forward pass of each with all before it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from support import awaken

from ratchet.models import decoder
from ratchet.models.decoder import DecoderConfig
from ratchet.models.family import Family
from ratchet.models.kernels import Kernel
from ratchet.models.readings import Reading, follow
from ratchet.models.scorer import Scorer

SIZES = {"vocab_size": 64, "width": 32, "layers": 3, "heads": 4, "kv_heads": 2, "mlp_width": 64, "max_length": 32}
KERNEL = Kernel("plain")


def readings(apart: bool = True) -> tuple[list[Reading], list[np.ndarray]]:
    """Two beginnings, if they are read apart, three contexts, padded on the left, and four questions, padded on the
    right; and by question all of its tokens."""
    rng = np.random.default_rng(0)
    some = lambda *shape: rng.integers(2, 64, shape)
    begun, contexts, questions = some(2, 7 if apart else 0), some(3, 6), some(4, 5)
    begins, about = np.array([1, 0, 1]), np.array([2, 0, 1, 2])
    real, asked = np.arange(6) >= np.array([[2], [0], [5]]), np.arange(5) < np.array([[5], [1], [3], [4]])
    given = [
        *([Reading(begun, np.ones((2, 7), bool), np.zeros(2, int))] if apart else []),
        Reading(contexts, real, begins if apart else np.zeros(3, int)),
        Reading(questions, asked, about),
    ]
    whole = lambda q, c: np.concatenate([begun[begins[c]], contexts[c][real[c]], questions[q][asked[q]]])
    return given, [whole(q, c) for q, c in enumerate(about)]


def forward(model: decoder.Decoder, tokens: np.ndarray) -> np.ndarray:
    """Hidden states [T, D] of one text by itself."""
    one = tokens[None]
    return np.asarray(model(one, np.arange(len(tokens))[None], np.ones_like(one)))[0]


FAMILIES = [Family(), Family(sliding=(True, False, True), window=4, local_rope_base=100.0)]


@pytest.mark.parametrize("loops", [False, True])
@pytest.mark.parametrize(("family", "conv"), [(FAMILIES[0], 6), (FAMILIES[1], 1)])
def test_what_follows_is_read_as_in_one_text(family, conv, loops):
    graphdef, params = decoder.create(DecoderConfig(**SIZES, conv=conv, family=family), 0)
    params = awaken(params)

    def found(params):
        model = nnx.merge(graphdef, params)
        return follow(model, None if loops else model.unstacked(), given, KERNEL)

    given, texts = readings(apart=conv == 1)  # a convolution would see padding
    found_BTD = jax.jit(found)(params)
    for row, (text, count) in enumerate(zip(texts, given[-1].real_BT.sum(1), strict=True)):
        alone_TD = forward(nnx.merge(graphdef, params), text)
        np.testing.assert_allclose(found_BTD[row, :count], alone_TD[-count:], atol=2e-5)


def test_no_layer_leaves_keys_to_another():
    graphdef, params = decoder.create(DecoderConfig(**SIZES), 0)
    given, _ = readings()
    traced = jax.make_jaxpr(lambda of: follow(nnx.merge(graphdef, of), None, given, KERNEL))(params)
    (loop,) = (one for one in traced.eqns if one.primitive.name == "scan")
    assert loop.params["length"] == SIZES["layers"]
    assert [x.aval.shape for x in loop.outvars] == [(*reading.tokens_BT.shape, SIZES["width"]) for reading in given]


@pytest.mark.parametrize(("platform", "layers", "stacks"), [
    ("tpu", 1, True), ("gpu", 9, False), ("cpu", 8, False), ("cpu", 9, True),
])
def test_weights_stay_stacked_where_a_loop_reads_them(platform, layers, stacks, monkeypatch):
    monkeypatch.setattr(Kernel, "platform", platform)
    monkeypatch.setattr(Kernel, "joins", False)
    graphdef, params = decoder.create(DecoderConfig(**SIZES | {"layers": layers, "width": 4, "heads": 2}), 0)
    scorer = Scorer(graphdef, questions=1, dtype="bfloat16")
    made, shapes = scorer.weights(params), scorer.shapes(params)
    assert jax.tree.map(jnp.shape, made) == jax.tree.map(lambda x: x.shape, shapes)
    assert len(made.layers) == (0 if stacks else layers)
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert sum(x.size for x in made.read) == count and {x.dtype.name for x in made.read} == {"bfloat16"}
