"""Drafts and tool calls: what the teacher sees, and a model that looks something up before it answers."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from flax import nnx
from support import half_told, saying

from ratchet.bootstrap.passages import passages_of
from ratchet.bootstrap.retrieval import Index
from ratchet.bootstrap.simulate import Draft, Shown, check_later, draft, finish, longest_passage, shown_passages, shows
from ratchet.bootstrap.toolkit.source import Functions
from ratchet.bootstrap.tools import LOOKUP, Toolbox
from ratchet.bootstrap.worlds.world import Document, Material, Task, Tool, World
from ratchet.models import decoder
from ratchet.models.sampler import Sampled


@pytest.fixture(scope="module")
def index(little_run):
    return Index(little_run.passages(1))


@pytest.fixture(scope="module")
def drafts(torn, index, little_run):
    """Of each of two tasks one document is in view, and the model asks for the other."""
    texts = {p.id: p.text for p in index.passages}
    return [
        Draft(t, n, t.document_ids[:1], half_told(torn.tokenizer, t, texts), messages=t.messages)
        for t in little_run.tasks(1)
        for n in range(4)
    ]


@pytest.fixture(scope="module")
def said(torn, index, drafts):
    return finish(torn, index, drafts, generation=1, seed=3)


def with_config(writer, **changes):
    return replace(writer, config=replace(writer.config, **changes))


@pytest.mark.parametrize(("last", "closed"), [([9, 7, 3], [5, 7, 3]), ([9, 5, 3], [9, 5, 3])])
def test_what_ends_a_text_ends_a_turn_too(torn, last, closed):
    """A chat template may close a turn by another symbol than the one that the model was trained to end texts by."""
    end, other, asked = 5, 9, []
    probs = np.array([[0.6, 0.3, 0.1], [0.5, 0.2, 0.1]])

    def sampler(params, requests, *, stop, **ways):
        asked.append(stop)
        ids = np.array([[4, 1, 2], last])
        return [Sampled(np.array([4]), True, other, ids, probs.copy(), np.zeros(2)),
                Sampled(np.array([4]), True, 6, ids, probs.copy(), np.zeros(2)),
                Sampled(np.array([4, 1]), False, 0, ids, probs.copy(), np.zeros(2))]  # fmt: skip

    tokenizer = SimpleNamespace(end=end, special_ids={"eos_token_id": [end, other]})
    writer = replace(torn, sampler=sampler, tokenizer=tokenizer)
    one, call, cut = writer.sample([], seed=0, stop=(end, 6))
    assert asked == [(end, 6, other)] and (one.stop, call.stop, cut.finished) == (end, 6, False)
    assert one.ids.tolist() == [[4, 1, 2], closed] and call.ids[1].tolist() == last
    bare = replace(one, stop=other, ids=np.zeros((2, 0)), probs=np.zeros((2, 0)))
    (one_of_none,) = replace(writer, sampler=lambda *_, **__: [bare]).sample([], seed=0)
    assert one_of_none.stop == end, "also where nothing is captured"
    at = closed.index(end)
    assert one.probs[1, at] == (0.5 if closed[0] == end else 0.7) and one.probs.sum() == pytest.approx(probs.sum())
    assert one.probs[1, 0] == (0.5 if at == 0 else 0)


def calling(torn):
    """The ids that begin a call."""
    return torn.tokenizer.calls(LOOKUP["name"])


def test_a_passage_for_each_thing_sought_is_shown_and_then_what_the_question_finds(torn, world, index):
    config = replace(torn.config, withhold=0.0, passages=3)
    for task in world.slices[0].tasks:
        shown = [p.id for p in shown_passages(index, task, 0, config, "salt")]
        assert len(set(shown)) == 3 and set(task.document_ids) < set(shown)
        assert [p.id for p in shown_passages(index, task, 0, config, "salt")] == shown
        for sibling in range(8):
            two = shown_passages(index, task, sibling, replace(config, passages=2), "salt")
            assert {p.id for p in two} == set(task.document_ids), "nothing less to the point is taken for it"


def test_siblings_see_different_passages_in_different_orders_where_several_tell_the_same(torn, world):
    task = world.slices[0].tasks[0]
    told = [d for n in range(2) for d in (replace(d, id=f"{d.id} {n}") for d in world.slices[0].documents[:2])]
    index, config = Index(told), replace(torn.config, withhold=0.0, passages=2)
    shown = [tuple(p.id for p in shown_passages(index, task, sibling, config, "salt")) for sibling in range(16)]
    for ids in shown:
        assert {i.split()[0] for i in ids} == set(task.document_ids), "whichever they are, all that is sought is told"
    assert len({frozenset(ids) for ids in shown}) == 4 and len(set(shown)) > 4


def test_where_nothing_is_named_to_seek_the_question_finds_the_passages(torn, world, index):
    asked = replace(world.slices[0].tasks[0], seek=())
    shown = shown_passages(index, asked, 0, replace(torn.config, withhold=0.0, passages=2), "salt")
    assert {p.id for p in shown} == {p.id for p in index.search(asked.question, 2)}


@pytest.mark.parametrize("letters", ["", "in the text, as a number: 00007.", "what you do is up to you."])
def test_own_documents_are_in_view_whatever_their_names_and_texts_have_in_common(torn, letters):
    others = [Document(f"{n:05}", f"what you do about {n:05} is up to you.") for n in range(40)]
    own = Document("00007", f"quite another matter. {letters}")
    index, config = Index([*others[:7], own, *others[8:]]), replace(torn.config, withhold=0.0, passages=2)
    asked = Task("t", (own.id,), ({"role": "user", "content": "what do you do about 00009?"},))
    shown = [shown_passages(index, asked, sibling, config, "salt") for sibling in range(16)]
    assert all(own in view and len(view) == 2 for view in shown)
    assert len({tuple(p.id for p in view) for view in shown}) == 2, "in the sibling's own order"


def test_of_long_documents_the_best_passages_are_in_view_and_some_of_each(torn):
    given = [Document("a", "red lamp so so kettle mill"), Document("b", "tower dock kettle oil")]
    given.append(Document("c", "kettle"))
    index = Index(passages_of(given, 2))
    asked = Task("t", ("a", "b"), ({"role": "user", "content": "kettle mill?"},))
    view = lambda passages: {
        p.id for p in shown_passages(index, asked, 0, replace(torn.config, withhold=0.0, passages=passages), "salt")
    }
    assert view(1) == {"a#2"} and view(2) == {"a#2", "b#1"} and view(4) > {"a#2", "b#1"}
    assert {i.partition("#")[0] for i in view(5)} == {"a", "b"} and "c" in view(6)


def test_passages_of_other_documents_give_way_before_the_tasks_own_is_cut(torn):
    others = [Document(f"other {n}", f"what do lamps do? {n} " + "hums " * 40) for n in range(2)]
    own = Document("own", "quite another matter.")
    asked = Task("t", (own.id,), ({"role": "user", "content": "what do lamps do?"},))
    writer = replace(with_config(torn, withhold=0.0, passages=3), max_length=torn.config.new_tokens + 80)
    for sibling in range(6):
        d = draft(writer, Index([*others, own]), asked, sibling, "salt")
        assert len(d.prompt) <= 80 and own.id in d.passages and own.text in torn.tokenizer.decode(d.prompt)


def test_a_share_of_the_siblings_sees_one_passage_less(torn, world, index):
    task = world.slices[0].tasks[0]
    count = lambda withhold, passages: [
        len(shown_passages(index, task, n, replace(torn.config, withhold=withhold, passages=passages), "s"))
        for n in range(40)
    ]
    assert set(count(0.0, 3)) == {3} and set(count(1.0, 3)) == {2}
    assert 0.2 < np.mean(np.array(count(0.5, 3)) == 2) < 0.8
    assert set(count(1.0, 1)) == {1}, "one passage stays in view"


def test_a_request_goes_on_after_what_was_forced_and_begun(drafts):
    d = replace(drafts[0], forced=(7,))
    assert d.request(0, (8, 9)).prompt == (*d.prompt, 7, 8, 9)
    numbers = {one.request(turn).id for one in (d, *drafts) for turn in range(2)}
    assert len(numbers) == 2 * (1 + len(drafts)), "each is drawn by itself"


def test_a_draft_shows_passages_and_messages_whole_or_not_at_all(torn, world, index):
    task = world.slices[0].tasks[0]
    whole = draft(torn, index, task, 2, "salt")
    shown = shown_passages(index, task, 2, torn.config, "salt")
    assert (whole.task, whole.sibling, whole.passages) == (task, 2, tuple(p.id for p in shown))
    assert list(whole.prompt) == torn.tokenizer.render(task.messages, passages=[p.text for p in shown])
    narrow = replace(torn, max_length=torn.config.new_tokens + len(whole.prompt) - 5)
    fewer = draft(narrow, index, task, 2, "salt")
    texts = [p.text for p in shown if p.id in fewer.passages]
    assert list(fewer.prompt) == torn.tokenizer.render(task.messages, passages=texts)
    assert set(task.document_ids) <= set(fewer.passages) < set(whole.passages), "others give way before its own"


def test_of_a_long_document_the_passages_give_way_that_the_question_finds_last(torn):
    sentences = [f"the red hall lamp number {n} hums at noon in june." for n in range(12)]
    document = Document("own", " ".join([*sentences[:7], "children like the tower kettle.", *sentences[7:]]))
    index = Index(passages_of([document], 12))
    asked = Task("t", ("own",), ({"role": "user", "content": "who likes the kettle?"},))
    writer = replace(with_config(torn, withhold=0.0, passages=6), max_length=torn.config.new_tokens + 90)
    for sibling in range(4):
        d = draft(writer, index, asked, sibling, "salt")
        view = torn.tokenizer.decode(d.prompt)
        assert len(d.prompt) <= 90 and 0 < len(d.passages) < 6 and "children like the tower kettle." in view
        assert all(p.text in view for p in index.passages if p.id in d.passages)


def test_where_no_passage_fits_beside_the_question_nothing_is_cut_but_the_setting_is_named(torn, index, world):
    narrow = replace(torn, max_length=torn.config.new_tokens + 12)
    with pytest.raises(ValueError, match="simulate: a passage and .* a higher --model.max-length") as caught:
        draft(narrow, index, world.slices[0].tasks[0], 0, "salt")
    assert "\n" not in str(caught.value)


def test_a_passage_is_as_long_as_the_longest_questions_leave_room_for(torn, little_run):
    config, tools, tokenizer = little_run.config, Toolbox(), torn.tokenizer
    room = config.model.max_length - config.simulate.new_tokens
    asked = [(Task("t", (), ({"role": "user", "content": "so it is " * n},))) for n in (1, 10, 12)]
    world = lambda *slices: World(name="w", slices=slices, rubric="")
    limit = lambda some: longest_passage(tokenizer, config, tools, Shown(), world(Material((), some)))
    assert limit([]) == limit(asked[:1]) and 0.7 * room < limit([]) < 0.75 * room, "a quarter is kept free"
    most = limit(asked)
    prompt = tokenizer.render(asked[2].messages, passages=["so."])
    assert most == min(limit([]), room - len(prompt))
    with pytest.raises(ValueError, match="the question .so it is .* leaves no room for a passage in 144 tokens"):
        limit([Task("t", (), ({"role": "user", "content": "so it is " * 100},))])
    check = lambda n, text: check_later(tokenizer, config, tools, Shown(), world(Material((), asked[:1]), Material(
        (Document("d", text),), [Task("u", ("d",), ({"role": "user", "content": "so it is " * n},))]
    )))  # fmt: skip
    assert check(25, "so.") is check(1, "so it is. " * 50) is None
    with pytest.raises(ValueError, match="the question .so it is .* leaves no room for a passage in 144 tokens"):
        check(25, "so it is. " * 50)
    config = replace(config, model=replace(config.model, max_length=config.simulate.new_tokens + 2))
    with pytest.raises(ValueError, match="simulate: what is said beside every question leaves no room"):
        limit([])


def test_tools_are_described_where_they_may_be_called(torn, world, index):
    rendered = []
    tokenizer = SimpleNamespace(render=lambda messages, **given: rendered.append(given) or [7])
    for calls in (1, 0):
        writer = replace(with_config(torn, calls=calls), tokenizer=tokenizer)
        assert draft(writer, index, world.slices[0].tasks[0], 0, "salt").prompt == (7,)
    assert [given["tools"] for given in rendered] == [torn.tools.described, ()]


def test_a_call_is_json_of_its_schema_and_its_answer_comes_back(torn, index, drafts, said):
    tokenizer, calls = torn.tokenizer, 0
    for d, t in zip(drafts, said, strict=True):
        assert (t.task_id, t.sibling, t.generation, t.source) == (d.task.id, d.sibling, 1, "answer")
        for start, end in t.called:
            calls += 1
            call = t.prompt[start:end]
            assert call[: len(calling(torn))] == calling(torn) and call[-1] == tokenizer.end
            question, answered = t.messages[-3:-1]
            function = question["tool_calls"][0]["function"]
            assert function["name"] == LOOKUP["name"] and tokenizer.decode(call) == function["arguments"]
            assert [*json.loads(function["arguments"])] == ["query"] == [*t.calls[0][1]]
            assert answered["role"] == "tool" and answered["tool_call_id"] == question["tool_calls"][0]["id"]
            found = t.passages[len(d.passages) :]
            assert answered["content"] == next((p.text for p in index.passages if p.id in found), "nothing found.")
            assert list(t.prompt) == [*d.prompt, *call, *tokenizer.answered(answered["content"])]
    assert calls >= 6


def test_what_was_looked_up_is_in_view_from_then_on(said, little_run):
    documents = {t.id: set(t.document_ids) for t in little_run.tasks(1)}
    assert sum(set(t.passages) == documents[t.task_id] for t in said) >= 4


def test_a_transcript_keeps_what_was_sampled_and_what_it_was_drawn_from(torn, said):
    for t in said:
        assert t.text == torn.tokenizer.decode(t.tokens) == t.messages[-1]["content"]
        assert t.finished and t.tokens[-1] == torn.tokenizer.end
        assert t.capture.ids_NK.shape == t.capture.probs_NK.shape == (len(t.tokens), torn.sampler.keep)
        assert all(token in ids for token, ids in zip(t.tokens, t.capture.ids_NK, strict=True))
        np.testing.assert_allclose(t.capture.probs_NK.sum(1) + t.capture.tail_N, 1, atol=1e-4)
        assert not set(t.student_prompt) - set(t.prompt) and len(t.student_prompt) < len(t.prompt)
    assert len({t.id for t in said}) == len(said)


def test_arguments_keep_to_the_schema_whatever_the_model_would_say(torn, index, drafts):
    """Random weights, whose first turns are all said to be calls."""
    _, params = decoder.create(nnx.merge(torn.sampler.graphdef, torn.params).config, 5)
    call = calling(torn)[0]

    def calls_first(params, requests, **given):
        said = torn.sampler(params, requests, **given)
        if given["stop"][-1] != call:
            return said
        first = lambda s: {name: getattr(s, name)[:1] for name in ("ids", "probs", "tail")}
        return [replace(s, tokens=s.tokens[:0], finished=True, stop=call, **first(s)) for s in said]

    random = replace(with_config(torn, temperature=3.0), params=params, sampler=calls_first, max_length=1000)
    many = [replace(d, sibling=10 * n + d.sibling) for d in drafts for n in range(2)]
    made = finish(random, index, many, generation=1, seed=3)
    queries = [arguments["query"] for t in made for _, arguments in t.calls]
    assert all(t.text.startswith("(call) ") and not t.finished for t in made if not t.called)
    assert len(queries) > 2 and len(set(queries)) > 2


def test_whatever_is_sampled_goes_through_the_warp_of_the_settings(torn, index, drafts):
    told = []
    silent = saying(torn, "so.")
    seen = lambda params, requests, **how: told.append(how) or silent.sampler(params, requests)
    cut = replace(torn.config, temperature=0.7, top_k=5, top_p=0.9, min_p=0.1, calls=0)
    writer = replace(silent, sampler=seen, config=cut)
    finish(writer, index, drafts, generation=1, seed=0)
    writer.sample([drafts[0].request(0)], seed=0)
    writer.sample([drafts[0].request(0)], seed=0, temperature=0.0)
    warps = [{name: how[name] for name in ("temperature", "top_k", "top_p", "min_p")} for how in told]
    cuts = {"top_k": 5, "top_p": 0.9, "min_p": 0.1}
    *by_setting, greedy = warps
    assert len(by_setting) > 1 and all(warp == {"temperature": 0.7, **cuts} for warp in by_setting)
    assert greedy == {"temperature": 0.0, **cuts}


def test_without_calls_nothing_is_called(torn, index, drafts):
    for t in finish(with_config(torn, calls=0), index, drafts, generation=1, seed=3):
        assert not t.called and not t.calls and len(t.messages) == len(drafts[0].messages) + 1


def test_who_ends_at_once_has_called_nothing(torn, index, drafts):
    (t,) = finish(saying(torn, ""), index, drafts[:1], generation=1, seed=3)
    assert t.text == "" and t.finished and not t.called


def test_an_answer_whose_text_does_not_show_all_of_it_is_not_finished(torn, index, drafts):
    """A reviewer reads the text, and training would read the symbols too."""
    tokenizer = torn.tokenizer
    said, symbols = tokenizer.encode("so it is."), sorted({*tokenizer.left_out, tokenizer.vocab_size} - {tokenizer.end})
    answer = lambda tokens: finish(saying(torn, tokens), index, drafts[:1], generation=1, seed=3)[0]
    assert answer(said).finished and len(symbols) > 9
    for symbol in symbols:
        for tokens in ([symbol, *said], [*said[:2], symbol, *said[2:]], [*said, symbol]):
            assert not answer(tokens).finished, tokenizer.piece(symbol)
    for blanks in ("\n" * 3, " \n \n", "\n" * 99):
        assert shows(tokenizer, said) and not shows(tokenizer, [*tokenizer.encode(blanks), *said])


def test_after_the_last_lookup_a_call_is_the_turns_text(torn, index, drafts):
    call = torn.tokenizer.call(LOOKUP["name"], '{"query":" x"}')[:-1]
    (t,) = finish(saying(torn, call), index, drafts[:1], generation=1, seed=3)
    assert t.text == '(call) {"query":" x"}' and not t.called and not t.finished


def test_a_call_that_leaves_no_room_or_comes_after_text_is_no_finished_answer(torn, index, drafts):
    longest = []
    measured = lambda params, asked, **given: longest.extend(len(r.prompt) for r in asked) or torn.sampler(
        params, asked, **given
    )
    room = max(len(d.prompt) for d in drafts) + torn.config.new_tokens
    for more in (0, 1):
        narrow = replace(torn, max_length=room + more, sampler=measured)
        cramped = finish(narrow, index, drafts, generation=1, seed=3)
        assert all(not t.called for t in cramped)
        assert {t.finished for t in cramped if t.text.startswith("(call)")} == {False}
        assert max(longest) + torn.config.new_tokens <= narrow.max_length
    (ended,) = saying(torn, "so").sampler(None, [0])
    late = lambda params, requests, **_: [replace(ended, stop=calling(torn)[0])] * len(requests)
    (t,) = finish(replace(torn, sampler=late), index, drafts[:1], generation=1, seed=3)
    assert t.text == "so" and not t.finished and not t.called
    early = [replace(d, forced=tuple(torn.tokenizer.encode("the"))) for d in drafts]
    for t in finish(torn, index, early, generation=1, seed=3):
        assert t.finished == (t.tokens[-1] == torn.tokenizer.end)
        assert t.forced_text == "the" and t.answer == f"the {t.text}"


def calls_and_says(torn, arguments: str, answer: str):
    """A writer that calls a tool with these arguments, then answers."""
    (call,) = saying(torn, arguments).sampler(None, [0])
    (ended,) = saying(torn, answer).sampler(None, [0])
    turns = iter([replace(ended, tokens=ended.tokens[:0], stop=calling(torn)[0]), call, ended])
    return replace(torn, sampler=lambda params, requests, **_: [next(turns) for _ in requests])


def test_what_is_looked_up_is_what_was_asked(torn, drafts):
    told = drafts[0].task.question
    alike = Index([Document("a", f"{told} zebras"), Document("b", f"{told} lions"), Document("c", "nothing")])
    for query, found in (("zebras", "a"), ("lions", "b")):
        writer = calls_and_says(torn, f'{{"query":" {query}"}}', "so.")
        (t,) = finish(writer, alike, drafts[:1], generation=1, seed=3)
        assert t.passages == (*drafts[0].passages, found) and t.calls == (("lookup", {"query": f" {query}"}),)


def test_a_worlds_own_tool_answers(torn, index, drafts):
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    double = Tool("double", "Doubles.", schema, lambda arguments: str(2 * arguments["n"]))
    writer = replace(calls_and_says(torn, '{"n":21}', "it is 42."), tools=Toolbox([Functions([double])], lookup=False))
    (t,) = finish(writer, index, drafts[:1], generation=1, seed=3)
    assert t.calls == (("double", {"n": 21}),) and t.text == "it is 42."
    assert t.messages[-2]["content"] == "42" and t.passages == drafts[0].passages


def test_transcripts_are_the_same_again_and_differ_by_seed_and_sibling(torn, index, drafts, said):
    ended = []
    again = finish(torn, index, drafts, generation=1, seed=3, advance=ended.append)
    assert [(t.id, t.tokens) for t in again] == [(t.id, t.tokens) for t in said]
    assert sum(ended) == len(drafts) and min(ended) > 0
    warm = with_config(torn, temperature=2.0)
    one, other = (finish(warm, index, drafts, generation=1, seed=seed) for seed in (3, 4))
    assert [t.tokens for t in one] != [t.tokens for t in other]
    assert len({t.tokens for t in one if t.task_id == one[0].task_id}) > 1


def test_progress_is_told_as_sequences_end_and_one_that_calls_counts_once(torn, index, drafts):
    ended, seen = [], []

    def spied(params, requests, **given):
        made = torn.sampler(params, requests, **given)
        seen.append((len(requests), sum(ended)))
        return made

    made = finish(replace(torn, sampler=spied), index, drafts, generation=1, seed=3, advance=ended.append)
    assert any(t.called for t in made) and len(seen) > 1
    assert seen[0] == (len(drafts), len(drafts)), "within the turn, before anything else is known of it"
    assert sum(ended) == len(drafts)


def test_a_longer_look_at_nothing_new_finds_nothing(torn, drafts, little_run):
    """A look-up of what is in view already gets that answer, and no passage."""
    own = [d for d in little_run.passages(1) if d.id in drafts[0].passages]
    alone = Index([*own, Document("far", "quite another matter.")])
    made = finish(torn, alone, drafts[:4], generation=1, seed=3)
    assert {t.messages[-2]["content"] for t in made if t.called} == {"nothing found."}
    assert all(t.passages == drafts[0].passages for t in made)
