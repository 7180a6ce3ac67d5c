import dataclasses
import json
from typing import Annotated

import jax
import numpy as np
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import awaken, full_logits, requests
from templates import write_folder

from ratchet.models import decoder, slots
from ratchet.models.chat import ChatTokenizer
from ratchet.models.decoder import DecoderConfig
from ratchet.models.grammar import Grammar, Pieces, refusal
from ratchet.models.sampler import Sampler
from ratchet.train.sharding import MeshConfig, make_mesh, slots_sharding, state_sharding


def object_of(**properties):
    return {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}


QUERY = object_of(query={"type": "string", "minLength": 1, "maxLength": 100})


class Person(pydantic.BaseModel, extra="forbid"):
    name: str = pydantic.Field(min_length=1, max_length=6)
    age: int = pydantic.Field(ge=0, le=150)
    likes: list[Annotated[str, pydantic.Field(max_length=4)]] = pydantic.Field(max_length=2)
    wise: bool


def speaks(tokenizer, **sizes):
    """A sampler and weights that say anything at all."""
    config = DecoderConfig(vocab_size=tokenizer.vocab_size + 40, width=32, layers=1, heads=2, kv_heads=2, mlp_width=64)
    graphdef, params = decoder.create(config, 0)
    return Sampler(graphdef, **{"slots": 4, "new_tokens": 150, "keep": 4, "bucket": 16} | sizes), awaken(params)


def guided(grammar, count=11, **kinds):
    return [dataclasses.replace(r, grammar=grammar) for r in requests(count, **kinds)]


def call_grammar(tokenizer):
    return Grammar.of_json(QUERY, tokenizer.spelled())


@pytest.fixture(scope="session", params=["pieces", "bytes", "metaspace"])
def any_tokenizer(request, tokenizer, tmp_path_factory):
    """SentencePiece, and tokenizer.json as Qwen and Llama 2 have it."""
    if request.param == "pieces":
        return tokenizer
    scheme = "always" if request.param == "metaspace" else ""
    return ChatTokenizer.load(write_folder(tmp_path_factory.mktemp("tokenizer"), "qwen", metaspace=scheme))


def test_whatever_a_model_says_is_json_of_its_schema(any_tokenizer):
    sampler, params = speaks(any_tokenizer)
    asked = guided(Grammar.of_json(Person.model_json_schema(), any_tokenizer.spelled()))
    told = sampler(params, asked, seed=0, temperature=1.0, stop=(any_tokenizer.end,))
    texts = [any_tokenizer.decode(s.tokens) for s in told if s.finished]
    assert len(texts) > 5 and len(set(texts)) > 5
    for text in texts:
        Person.model_validate_json(text, strict=True)
        assert "\n" not in text


@given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1), min_size=1, max_size=5, unique=True))
def test_of_given_values_one_is_said(tokenizer, values):
    sampler, params = speaks(tokenizer, new_tokens=400)
    grammar = Grammar.of_json(object_of(of={"enum": values}), tokenizer.spelled())
    told = sampler(params, guided(grammar, 3), seed=0, temperature=1.0, stop=(tokenizer.end,))
    assert all(json.loads(tokenizer.decode(s.tokens))["of"] in values for s in told if s.finished)
    assert any(s.finished for s in told) or max(map(len, values)) > 50


def test_slot_order_and_neighbours_do_not_matter_and_those_without_a_grammar_are_free(tokenizer):
    sampler, params = speaks(tokenizer, new_tokens=40)
    grammar, end = call_grammar(tokenizer), (tokenizer.end,)
    mixed = [dataclasses.replace(r, grammar=None if i % 3 else grammar) for i, r in enumerate(requests(11))]
    say = lambda asked: [(s.tokens.tolist(), s.finished) for s in sampler(params, asked, seed=3, temperature=1.0,
                                                                          stop=end)]
    together = say(mixed)
    assert together == say(mixed[::-1])[::-1] == [say([r])[0] for r in mixed]
    assert [said for i, said in enumerate(together) if i % 3] == say([r for r in mixed if not r.grammar])
    assert sum(tokenizer.decode(said[0]).startswith('{"query":"') for said in together) == 4


@pytest.mark.long
def test_over_a_mesh_the_same_is_said_by_one_program(tokenizer):
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    alone, params = speaks(tokenizer, new_tokens=40, slots=8)
    spread, _ = speaks(tokenizer, new_tokens=40, slots=8, rows=slots_sharding(mesh))
    laid, asked = jax.device_put(params, state_sharding(mesh, params)), guided(call_grammar(tokenizer), 20)
    say = lambda make, params: make(params, asked, seed=3, temperature=1.0, stop=(tokenizer.end,))
    told, before = say(alone, params), slots.dispatch.jitted(alone)._cache_size()
    for a, b in zip(told, say(spread, laid), strict=True):
        assert a.tokens.tolist() == b.tokens.tolist()
    assert slots.dispatch.jitted(alone)._cache_size() == before + 1


def test_parts_of_a_mesh_that_starve_get_more_to_do(tokenizer):
    """Short and long ones in turn, dealt to two parts: those of one end long before the others."""
    mesh = make_mesh(MeshConfig(data=2), jax.devices()[:2])
    sampler, params = speaks(tokenizer, new_tokens=40, slots=4, rows=slots_sharding(mesh))
    short, long = ({"const": 1}, {"type": "string", "minLength": 30, "maxLength": 60})
    grammars = [Grammar.of_json(schema, tokenizer.spelled()) for schema in (short, long)]
    asked = [dataclasses.replace(r, grammar=grammars[i % 2]) for i, r in enumerate(requests(24, shortest=8, longest=8))]
    laid = jax.device_put(params, state_sharding(mesh, params))
    sampler(laid, asked, seed=0, temperature=1.0, stop=(tokenizer.end,))
    assert sampler.meter.busy > 0.7


def test_the_likeliest_of_what_is_allowed_is_taken_and_what_is_captured_knows_no_grammar(tokenizer):
    sampler, params = speaks(tokenizer, new_tokens=30)
    digits = Grammar.of_json({"enum": ["abc", "abd", 12]}, tokenizer.spelled())
    asked = guided(digits, 4)
    for r, s in zip(asked, sampler(params, asked, seed=0, temperature=0.0, stop=(tokenizer.end,)),
                    strict=True):
        logits = full_logits(sampler.graphdef, params, [*r.prompt, *s.tokens.tolist()])[len(r.prompt) - 1 :]
        probs = np.exp(logits - logits.max(-1, keepdims=True))
        probs /= probs.sum(-1, keepdims=True)
        matcher = digits.start.deep_copy()
        for n, token in enumerate([*s.tokens.tolist(), s.stop]):
            bits = np.frombuffer(matcher.compute_bitmask(), np.uint8)
            allowed = np.flatnonzero(np.unpackbits(bits, bitorder="little"))
            assert token == allowed[logits[n, allowed].argmax()]
            np.testing.assert_allclose(s.probs[n], probs[n, s.ids[n]], atol=1e-5)
            assert matcher.consume_token(token)


def test_it_compiles_once_and_keeps_what_is_free_as_it_was(tokenizer):
    sampler, params = speaks(tokenizer, new_tokens=30)
    given = {"seed": 0, "temperature": 1.0, "stop": (tokenizer.end,)}
    sampler(params, guided(call_grammar(tokenizer)), **given)
    before = slots.dispatch.jitted(sampler)._cache_size()
    sampler(params, guided(Grammar.of_json({"type": "integer"}, tokenizer.spelled()), 5, seed=2), **given)
    assert slots.dispatch.jitted(sampler)._cache_size() == before


def test_a_schema_that_cannot_be_kept_to_is_refused_in_one_line(tokenizer):
    for schema in ({"type": "nothing"}, {"type": "string", "pattern": "("}, {"anyOf": []}):
        with pytest.raises(ValueError, match=r"^grammar: .*; mend the schema$"):
            Grammar.of_json(schema, tokenizer.spelled())


def test_a_tokenizer_that_cannot_spell_it_is_refused_in_one_line():
    letters = Pieces([b"a", b"b", b""], [2], 2).spelled()
    with pytest.raises(ValueError, match=r"^grammar: the tokenizer cannot spell 0123456789cde.*; use one .*$"):
        Grammar.of_json(QUERY, letters)


def test_a_grammar_that_is_lost_on_the_way_is_no_end_of_it():
    """Its one value has a letter that these ASCII pieces cannot spell."""
    pieces = Pieces([b"", *(bytes([byte]) for byte in range(1, 127))], [0], 0)
    config = DecoderConfig(vocab_size=128, width=32, layers=1, heads=2, kv_heads=2, mlp_width=64)
    graphdef, params = decoder.create(config, 0)
    grammar = Grammar.of_json({"enum": ["é"]}, pieces.spelled())
    with pytest.raises(ValueError, match=r"^grammar: [^\n]*; give it a simpler schema"):
        Sampler(graphdef, slots=4, new_tokens=8, keep=2)(
            params, guided(grammar, 2), seed=0, temperature=1.0, stop=(0,)
        )


def test_a_call_as_the_tokenizer_writes_it_keeps_to_the_grammar(any_tokenizer):
    grammar = call_grammar(any_tokenizer)
    begin, end = any_tokenizer.calls("find"), any_tokenizer.call_end
    for query in ("pull the lever", "café", "a" * 100, 'say "so"\\', "<tool_call> <|im_end|> <|end|>"):
        arguments = json.dumps({"query": query}, separators=(",", ":"), ensure_ascii=False)
        tokens, matcher = any_tokenizer.call("find", arguments)[len(begin) : -len(end)], grammar.start.deep_copy()
        assert matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()
        assert matcher.consume_token(any_tokenizer.end)
        assert json.loads(any_tokenizer.decode(tokens)) == {"query": query}
    words = any_tokenizer.encode("pull the lever")
    assert grammar.start.deep_copy().try_consume_tokens(words) < len(words), "a space at most"


@pytest.mark.parametrize("spaces", ["", "always"])
def test_one_of_several_calls_keeps_to_what_leads_to_it_and_to_its_own_schema(tmp_path, spaces):
    """A lead may hold a symbol, which no text spells."""
    own = ChatTokenizer.load(write_folder(tmp_path, "qwen", metaspace=spaces))
    symbol, digit = own.calls("find")[0], object_of(n={"type": "integer"})
    calls = [(("find(",), QUERY), (("add", symbol, "("), digit), ((), object_of(m={"type": "integer"}))]
    grammar = Grammar.of_calls(calls, own.spelled())

    def allows(*parts: str | int) -> bool:
        tokens = [t for part in parts for t in ([part] if isinstance(part, int) else own.encode(part))]
        matcher = grammar.start.deep_copy()
        return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()

    assert allows('find({"query":"x"}') and allows('find( {"query":"x"}')
    assert allows("add", symbol, '({"n":1}') and allows('{"m":1}')
    assert not allows('add({"n":1}') and not allows("add", symbol, '({"query":"x"}') and not allows('find({"n":1}')


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        (QUERY, ""),
        ({"type": "array", "uniqueItems": True}, 'Unimplemented keys: ["uniqueItems"]'),
        ({"type": "string", "pattern": "(?=a)b"}, "regex parse error"),
        ({"type": "wrong"}, "Invalid type"),
    ],
)
def test_what_no_grammar_can_keep_to_is_known_before_there_is_a_tokenizer(schema, why):
    said = refusal(schema)
    assert why in said and bool(why) == bool(said) and "\n" not in said


def test_no_symbol_is_allowed_within_a_value(any_tokenizer):
    matcher = call_grammar(any_tokenizer).start.deep_copy()
    begun = any_tokenizer.encode('{"query":"a')
    assert matcher.try_consume_tokens(begun) == len(begun)
    allowed = np.flatnonzero(np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little"))
    assert len(allowed) > 100 and not {any_tokenizer.end, any_tokenizer.calls("find")[0]} & {*allowed.tolist()}
