"""Rows of tokens that a folder names beside its tokenizer.json: known for untrained, begun as the mean, and trained
with adapters too."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from support import CHATML, LLAMA, SPECIAL, awaken, little_config, start, write_chat

from ratchet.bootstrap import run as runs
from ratchet.bootstrap.arms import arm_of, train_arm
from ratchet.bootstrap.examples import example, one_hot
from ratchet.bootstrap.given import base_model, base_weights
from ratchet.bootstrap.progress import Silent
from ratchet.launch import folders
from ratchet.models import decoder, huggingface, rows
from ratchet.models.chat import ChatTokenizer
from ratchet.models.tokenizer import load as load_tokenizer
from ratchet.train.sharding import MeshConfig, make_mesh, state_sharding

STOP = "<|stop|>"
TEMPLATE = CHATML.replace("<|im_end|>", "{{ eos_token }}")


def folder(place, scale, tied=False, template=TEMPLATE, special=SPECIAL[:2], name=STOP, scaled=("embedding", "head")):
    """A model with rows for more tokens than its tokenizer.json has, of which tokenizer_config.json names one. In the
    matrices that are `scaled`, the rows beyond are as long as those in use, times `scale`. One row in use is zeros."""
    place.mkdir()
    write_chat(place, template, special)
    settings = json.loads((place / "tokenizer_config.json").read_text())
    (place / "tokenizer_config.json").write_text(json.dumps(settings | {"eos_token": name}))
    used = len(json.loads((place / "tokenizer.json").read_text())["model"]["vocab"])
    config = dataclasses.replace(LLAMA, family=dataclasses.replace(LLAMA.family, tied=tied))
    params = awaken(decoder.create(config, 3)[1])
    factors = np.ones(config.vocab_size, np.float32)
    factors[3], factors[used:] = 0, scale
    by_row = lambda name, x: x * (factors if name == "head" else factors[:, None])
    params = jax.tree_util.tree_map_with_path(
        lambda path, x: by_row(path[0].key, x) if path[0].key in scaled else x, params
    )
    huggingface.save(place, config, params, "float32")
    return place, used


def begun(place, **changes):
    """What a run on the folder begins with, and what it says of it."""
    sizes = {"train__columns": 1024, "model__max_length": 1024}
    config, told = runs.with_base(little_config(base=str(place), **sizes | changes)), []
    return base_weights(config, make_mesh(config.mesh), told.append), told


def matrices(params):
    """The embedding and the head as rows by id."""
    return [x for x in (params["embedding"][...], params["head"][...].T if "head" in params else None) if x is not None]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("scale", [0.0, 0.01, 100.0])
def test_a_named_token_without_a_trained_row_begins_as_the_mean_of_the_rows_in_use(tmp_path, scale, tied):
    place, used = folder(tmp_path / "model", scale, tied)
    params, told = begun(place)
    for x_VD in matrices(params):
        np.testing.assert_allclose(x_VD[used], np.mean(x_VD[:used], axis=0), rtol=1e-5, atol=1e-7)
        assert scale or not np.any(x_VD[used + 1 :])  # what no token has stays as it is
    assert len(told) == 1 and told[0].startswith(f"{place}: no training shows in the rows of {STOP}, which its chat")


@pytest.mark.parametrize("scaled", ["embedding", "head"])
def test_a_row_that_is_trained_in_one_matrix_stays_there(tmp_path, scaled):
    """A token that was always said, and never read, has a row of the head alone."""
    place, used = folder(tmp_path / "model", 0.0, scaled=(scaled,))
    params, told = begun(place)
    own = base_model(str(place)).weights(lambda p: state_sharding(make_mesh(MeshConfig(-1, 1, 1)), p))
    for name, ours, theirs in zip(("embedding", "head"), matrices(params), matrices(own), strict=True):
        if name == scaled:
            np.testing.assert_allclose(ours[used], np.mean(theirs[:used], axis=0), rtol=1e-5, atol=1e-7)
        else:
            np.testing.assert_array_equal(ours, theirs)
    assert len(told) == 1


def test_the_layout_over_a_mesh_stays_and_the_rows_are_the_same(tmp_path):
    place, used = folder(tmp_path / "model", 0.0)
    tokenizer, meshes = ChatTokenizer.load(place, 400), (MeshConfig(1, 1, 1), MeshConfig(1, 2, 2))
    made = []
    for sizes in meshes:
        mesh = make_mesh(sizes, jax.devices()[: sizes.fsdp * sizes.tensor])
        params = base_model(str(place)).weights(lambda p, mesh=mesh: state_sharding(mesh, p))
        assert (found := rows.untrained(params, tokenizer)) == {"embedding": [used], "head": [used]}
        mended = rows.with_means(params, found, tokenizer)
        assert all(jax.tree.leaves(jax.tree.map(lambda a, b: a.sharding == b.sharding, params, mended)))
        made.append(mended)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-8), *made)


def test_rows_like_the_others_and_tokens_that_no_template_writes_stay_as_they_are(tmp_path):
    trained, _ = folder(tmp_path / "trained", 1.0)
    unwritten, used = folder(tmp_path / "unwritten", 0.0, template=CHATML, special=SPECIAL)
    known, _ = folder(tmp_path / "known", 0.0, special=SPECIAL, name=SPECIAL[2])
    for place in (trained, unwritten, known):
        params, told = begun(place)
        own = base_model(str(place)).weights(lambda p: state_sharding(make_mesh(MeshConfig(-1, 1, 1)), p))
        assert not told and all(np.array_equal(a, b) for a, b in zip(matrices(params), matrices(own), strict=True))


@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.long), 2])
def test_such_a_row_is_trained_whatever_the_rank(tmp_path, rank):
    place, used = folder(tmp_path / "model", 0.0)
    sizes = {"train__columns": 1024, "model__max_length": 1024, "train__lora": rank, "simulate__calls": 0}
    config = runs.with_base(little_config(base=str(place), **sizes))
    run = runs.prepare(start(tmp_path / "run", config), config, Silent())
    before = base_weights(config, run.mesh)
    said = (5, used, 6)
    learned = [example((7,), said, one_hot(said), "seed", {})]
    after = train_arm(run, before, arm_of(run, 1, "rows", [(learned, config.train.batch)], 3))
    run.metrics.close()
    for old, new in zip(matrices(before), matrices(after), strict=True):
        changed = [i for i in range(len(old)) if not np.array_equal(old[i], new[i])]
        assert used in changed and (not rank or changed == [used])
    assert load_tokenizer(run.directory / "tokenizer").late == {used}  # as those who go on with the run read it
    run.tokenizer.save(tmp_path / "export", of_run=False)
    assert not load_tokenizer(tmp_path / "export").late


def test_import_warns_of_such_a_token(tmp_path):
    place, _ = folder(tmp_path / "model", 0.0)
    chat = folders.read(str(place))["chat"]
    assert chat["base"] and STOP in chat["warning"] and "\n" not in chat["warning"]
