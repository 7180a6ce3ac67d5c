"""Weights are handed over by one process as by several, of which one writes; and what servers with them are asked."""

from pathlib import Path
from types import SimpleNamespace

import giver
import jax
import numpy as np
import processes
import pytest
from etils import epath
from safetensors.numpy import load_file

from ratchet.bootstrap.config import SimulateConfig
from ratchet.bootstrap.rollouts import handover
from ratchet.bootstrap.rollouts.writing import Rollouts
from ratchet.models.sampler import Request
from ratchet.train.sharding import make_mesh
from ratchet.train.together import ALONE


@pytest.mark.long
def test_two_processes_hand_over_what_one_does(tmp_path):
    one = giver.give(make_mesh(giver.LAID, jax.devices()[:4]), epath.Path(tmp_path / "one"), ALONE)
    ended = processes.run(Path(giver.__file__), 2, tmp_path / "two")
    assert not any(process.returncode for process in ended), ended[0].stderr[-2000:] + ended[1].stderr[-2000:]
    told = [[line for line in process.stdout.splitlines() if line.startswith("said")] for process in ended]
    assert told == [[" ".join(["said", one.folder, *sorted(one.known)])]] * 2
    name = one.folder.removeprefix("/seen/")
    alone, together = (load_file(tmp_path / of / name / "model.safetensors") for of in ("one", "two"))
    assert alone.keys() == together.keys() and len(alone) > 10
    for tensor in alone:
        np.testing.assert_array_equal(alone[tensor], together[tensor])
    for of in ("one", "two"):
        assert [path.name for path in (tmp_path / of).glob("gen-*")] == [name]
        assert len(list((tmp_path / of / "logs").iterdir())) == 2


CUT = {"top_k": 5, "top_p": 0.9, "min_p": 0.1}


@pytest.mark.parametrize(("cuts", "said"), [({}, (-1, 1.0, 0.0)), (CUT, (5, 0.9, 0.1))])
def test_a_server_is_asked_for_all_that_it_might_take_from_a_models_own_settings(monkeypatch, cuts, said):
    """vLLM cuts and penalises as generation_config.json says where a request says nothing."""
    asked, params = [], object()
    monkeypatch.setattr(Rollouts, "_said", lambda self, bodies, advance: asked.extend(bodies) or ((), ()))
    tokenizer = SimpleNamespace(end=7, special_ids={"eos_token_id": [7, 9]})
    own = lambda *_, **__: []
    writer = SimpleNamespace(params=params, tokenizer=tokenizer, config=SimulateConfig(), room=100, sampler=own)
    scribe = SimpleNamespace(writer=writer, sampled=lambda *_: ["answer"])
    rollouts = Rollouts((), None, scribe, epath.Path("nowhere"), print, ALONE)
    found = rollouts(params, [Request(3, (1, 2))], seed=0, temperature=0.5, stop=(7, 9), **cuts)
    (body,) = asked
    assert found == ["answer"] and body["stop_token_ids"] == [7, 9] and body["temperature"] == 0.5
    assert (body["top_k"], body["top_p"], body["min_p"]) == said
    ways = {"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
    assert ways.items() <= body.items()


@pytest.mark.parametrize("content", [None, b"", b"[[-1.0", b"\xff", b"{}", b"[1.0]", b"[" * 100_000])
def test_what_some_weights_were_told_by_is_told_anew_where_it_is_damaged(tmp_path, content):
    file = epath.Path(tmp_path) / "weights.json"
    if content is not None:
        file.write_bytes(content)
    assert handover._kept(file) is None
    file.write_bytes(b"[[-1.0, -2.5]]")
    assert handover._kept(file) == [[-1.0, -2.5]]
