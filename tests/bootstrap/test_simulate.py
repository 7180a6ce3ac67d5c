"""Tool calls of a model that has learned, by heart, to look something up before it answers."""

import dataclasses
import json

import jax
import pytest
from flax import nnx
from support import claims_of, ideal, told

from ratchet.bootstrap.config import SimulateConfig
from ratchet.bootstrap.examples import example, one_hot
from ratchet.bootstrap.retrieval import Index
from ratchet.bootstrap.simulate import Draft, Writer, complete
from ratchet.bootstrap.tools import LOOKUP, call_text
from ratchet.bootstrap.transcript import content_id
from ratchet.bootstrap.worlds.language import CONTEXTS
from ratchet.models import decoder
from ratchet.models.sampler import Sampler
from ratchet.train.batches import Batches
from ratchet.train.optimizer import OptimizerConfig
from ratchet.train.sharding import MeshConfig, make_mesh
from ratchet.train.trainer import EngineConfig, Training, fit

CONFIG = SimulateConfig(new_tokens=60, lookups=1)


@pytest.fixture(scope="module")
def case(world, tokenizer, speaker):
    """(writer, index, drafts): of each of two questions one story is in view, and the model asks for another."""
    control, made, drafts = tokenizer.control, [], []
    index = Index([d for s in world.situations[:2] for d in told(world, s)])
    for s in world.situations[:2]:
        task = world.task(s, CONTEXTS[0])
        prompt = tuple(tokenizer.chat(task.messages))
        drafts += [Draft(task, n, (told(world, s)[0].id,), prompt, messages=task.messages) for n in range(4)]
        call = [control["call"], *tokenizer.encode(call_text(claims_of(s, task)[-1].action)), control["end"]]
        asked = example(prompt, call, one_hot(call), "seed", {"n": 1})
        texts = {d.text for d in told(world, s)} | {"nothing found."}
        for text in sorted(texts):
            turn = [*prompt, *call, *tokenizer.turn("tool", text), control["assistant"]]
            said = [*tokenizer.encode(ideal(s, task)), control["end"]]
            made += [asked, example(turn, said, one_hot(said), "seed", {"text": text})]
    graphdef, params = decoder.create(nnx.merge(*speaker).config, 0)
    batches = Batches([(made, len(made))], seed=0, steps=120, columns=256)
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    training = Training(graphdef, batches, OptimizerConfig("adamw", 1e-2), mesh, EngineConfig(), {})
    params = fit(training, params, None, lambda step, values: None)
    return Writer(Sampler(graphdef, slots=8, new_tokens=60, keep=6), params, tokenizer, 192), index, drafts


def say(case, config=CONFIG, writer=None):
    own, index, drafts = case
    return complete(writer or own, index, drafts, config, generation=1, seed=3)


def test_a_call_is_json_of_its_schema_and_its_answer_comes_back(case):
    control, asked = case[0].tokenizer.control, 0
    for d, t in zip(case[2], say(case), strict=True):
        for start, end in t.called:
            asked += 1
            call = t.prompt[start:end]
            assert (call[0], call[-1]) == (control["call"], control["end"])
            question, answer = t.messages[-3:-1]
            function = question["tool_calls"][0]["function"]
            assert function["name"] == LOOKUP["name"] and case[0].tokenizer.decode(call) == function["arguments"]
            assert [*json.loads(function["arguments"])] == ["query"] and len(t.queries[0]) >= 1
            assert answer["role"] == "tool" and answer["tool_call_id"] == question["tool_calls"][0]["id"]
            assert (len(t.passages) > len(d.passages)) == (answer["content"] != "nothing found.")
            turn = [*d.prompt, *call, *case[0].tokenizer.turn("tool", answer["content"]), control["assistant"]]
            assert [*t.prompt] == turn
    assert asked >= 4


def test_arguments_keep_to_the_schema_whatever_the_model_would_say(case):
    """Random weights, whose first turns are all said to be calls."""
    writer, call = case[0], case[0].tokenizer.control["call"]
    _, params = decoder.create(nnx.merge(writer.sampler.graphdef, writer.params).config, 5)

    longer = dataclasses.replace(writer.sampler, new_tokens=150)

    def calls(s):
        first = {name: getattr(s, name)[:1] for name in ("ids", "probs", "tail")}
        return dataclasses.replace(s, tokens=s.tokens[:0], finished=True, stop=call, **first)

    def calls_first(params, requests, **given):
        said = longer(params, requests, **given)
        return list(map(calls, said)) if given["stop"][-1] == call else said

    random = dataclasses.replace(writer, params=params, sampler=calls_first, max_length=1000)
    queries = [q for t in say(case, dataclasses.replace(CONFIG, temperature=3.0), random) for q in t.queries]
    assert len(queries) > 2 and len(set(queries)) > 2


def test_without_lookups_a_call_is_the_turns_text_and_no_call_is_made(case):
    for t in say(case, dataclasses.replace(CONFIG, lookups=0)):
        assert not t.called and not t.queries and len(t.messages) == len(case[2][0].messages) + 1
        if t.tokens[0] == case[0].tokenizer.control["call"]:
            assert t.text.startswith("(call) ") and t.finished


def test_a_call_that_leaves_no_room_or_comes_after_text_is_no_finished_answer(case):
    narrow = dataclasses.replace(case[0], max_length=len(case[2][0].prompt) + 61)
    assert {t.finished for t in say(case, writer=narrow) if t.text.startswith("(call)")} == {False}
    assert all(not t.called for t in say(case, writer=narrow))
    early = [dataclasses.replace(d, forced=tuple(case[0].tokenizer.encode("so i"))) for d in case[2]]
    for t in complete(*case[:2], early, CONFIG, generation=1, seed=3):
        assert t.finished == (t.tokens[-1] == case[0].tokenizer.control["end"])


def test_transcripts_are_the_same_again_and_differ_by_seed(case):
    first, again = say(case), say(case)
    assert [t.id for t in first] == [t.id for t in again]
    assert content_id(*(t.tokens for t in first)) == content_id(*(t.tokens for t in again))
    own, index, drafts = case
    other = complete(own, index, drafts, CONFIG, generation=1, seed=4)
    assert [t.tokens for t in other] != [t.tokens for t in first]
