"""What a generation is worth: the figures of every world, and those of its own items."""

import contextlib
import json
from dataclasses import replace

import little
import numpy as np
import pytest
from support import saying

from ratchet.bootstrap.examples import example, one_hot
from ratchet.bootstrap.intervals import proportion
from ratchet.bootstrap.judge import Judge
from ratchet.bootstrap.progress import Silent
from ratchet.bootstrap.simulate import prompt_of
from ratchet.bootstrap.stages import evaluate as stage
from ratchet.bootstrap.stages.evaluate import GENERAL, PRIMARY, ask_items, closed_book, evaluation, open_book
from ratchet.bootstrap.tools import LOOKUP
from ratchet.bootstrap.worlds.world import Item, Material, Metric
from ratchet.models.sampler import Sampled
from ratchet.train.trainer import mean_loss


@pytest.fixture
def run(turn, torn):
    """A run whose seed model is the torn one."""
    run = turn(1, evaluate__samples=2).run
    run.keep_weights(run.generation(0), torn.params)
    return run


@pytest.fixture
def says(run, torn, monkeypatch):
    """Makes every writer of the run say these texts in turn."""

    def make(*texts):
        monkeypatch.setattr(type(run), "writer", lambda self, params: saying(torn, *texts))
        return run

    return make


def measured(run, params=None, **more):
    return evaluation(run, 1, params if params is not None else run.weights(0), None, **more)


def test_an_item_goes_on_after_its_messages_or_its_document(torn, world):
    tokenizer, task = torn.tokenizer, world.slices[0].tasks[0]
    chat, begun, document = (
        Item("i", "g", None, task.messages),
        Item("i", "g", None, task.messages, begun="the lamp"),
        Item("i", "g", None, form="document", begun="at noon"),
    )
    assert list(prompt_of(torn, chat)) == tokenizer.render(task.messages)
    assert list(prompt_of(torn, begun)) == [*tokenizer.render(task.messages), *tokenizer.encode("the lamp")]
    assert list(prompt_of(torn, document)) == tokenizer.document("at noon")


def test_items_are_asked_and_scored_by_the_world(torn, world):
    items = world.items(world.slices[0].tasks)
    answers = ask_items(torn, items, seed=0)
    assert [a.item for a in answers] == list(items)
    for a in answers:
        assert a.scores == a.item.score(a.text, True) and a.entropy >= 0
    plain = [a for a in answers if a.item.context == "plain"]
    assert all(a.text.endswith(".") and "told" in a.scores for a in plain)
    again = ask_items(torn, items[::-1], seed=0)[::-1]
    assert [(a.text, a.entropy) for a in again] == [(a.text, a.entropy) for a in answers], "in whatever order"


def test_greedy_items_are_asked_at_temperature_0_and_the_entropy_is_that_of_what_was_drawn_from(torn):
    heat = []

    def sampler(params, requests, *, temperature, **_):
        heat.append((temperature, len(requests)))
        probs = np.array([[0.5, 0.5], [1.0, 0.0], [0.25, 0.25]])
        return [Sampled(np.array([7, 8]), True, 0, np.zeros((3, 2)), probs, np.array([0, 0, 0.5])) for _ in requests]

    writer = replace(torn, sampler=sampler, config=replace(torn.config, temperature=0.7))
    items = [Item(str(n), "g", lambda text, finished: {}, greedy=n == 1) for n in range(3)]
    answers = ask_items(writer, items, seed=0)
    assert sorted(heat) == [(0.0, 1), (0.7, 2)]
    assert answers[0].entropy == pytest.approx((2.5 * np.log(2)) / 3), "what was not kept counts as one"


def test_who_calls_a_tool_or_is_cut_off_says_nothing(torn):
    heard = []
    item = Item("i", "g", lambda text, finished: heard.append((text, finished)) or {})
    call = torn.tokenizer.call(LOOKUP["name"], '{"query":" x"}')[:-1]
    (called,) = ask_items(saying(torn, call), [item], seed=0)
    (cut,) = ask_items(saying(torn, "so on", finished=False), [item], seed=0)
    assert heard == [("", False), ("so on", False)]
    assert called.text == '(call) {"query":" x"}' and cut.text == "so on"


def test_progress_counts_what_is_asked_where_fresh_tasks_are_proposed(run, monkeypatch):
    stages, counts, tasks = [], [], type(run).tasks

    class Counting(Silent):
        @contextlib.contextmanager
        def stage(self, title, total):
            stages.append((title, total))
            yield lambda count: counts.append(count)

    monkeypatch.setattr(type(run), "tasks", lambda self, number: tasks(self, 1) if number == 0 else tasks(self, number))
    world = replace(run.world, fresh=Material(run.world.fresh.documents))
    measured(replace(run, progress=Counting(), world=world))
    assert stages == [("gen 1 evaluate (loop)", sum(counts))] and tasks(run, 1)


def test_open_book_is_the_share_of_right_answers_to_fresh_tasks(run, torn, deeds):
    first, other = run.world.fresh.tasks
    writer = saying(torn, little.answer(deeds, first), little.answer(deeds, other, (0,)))
    means, any_right = open_book(run, writer, Judge(run))
    assert means == {first.id: 0.5, other.id: 0.0} and any_right == {first.id: 1.0, other.id: 0.0}
    nothing = replace(run, world=replace(run.world, fresh=run.world.fresh._replace(tasks=())))
    assert open_book(nothing, writer, Judge(run)) == ({}, {})


def test_open_book_has_the_fresh_documents_in_view_however_many_generations_there_are(turn, torn, deeds, monkeypatch):
    """The same prompts and so the same figure."""
    prompts, finish = [], stage.finish

    def seen(writer, index, drafts, **more):
        prompts.append([d.prompt for d in drafts])
        assert {d.id for d in own.world.fresh.documents} <= {p.id for p in index.passages}, "look-ups find them too"
        return finish(writer, index, drafts, **more)

    monkeypatch.setattr(stage, "finish", seen)
    for generations in (1, 5):
        run = turn(1, evaluate__samples=2, generations=generations).run
        own = replace(run, world=little.create(generations=generations))
        open_book(own, saying(torn, "so."), Judge(own))
    assert prompts[0] == prompts[1] and len(prompts[0]) == 4
    texts = [d.text for d in run.world.fresh.documents[:2]]
    assert all(any(text in torn.tokenizer.decode(prompt) for text in texts) for prompt in prompts[0][:2])


def test_closed_book_asks_every_task_read_without_sources_each_in_another_asking(run, torn, deeds):
    read = run.read(1)
    said, right = closed_book(run, torn, Judge(run), read)
    assert [s.task.id for s in said] == [t.id for t in read]
    assert [s.task.messages for s in said] == [read[0].messages, read[1].askings[0]]
    deed = dict(deeds)
    truths = [all(deed[n] == d for n, d in little.FACT.findall(s.text)) and s.finished for s in said]
    assert right == truths
    right_about = lambda n: saying(torn, little.answer(deeds, read[n]))
    assert closed_book(run, right_about(0), Judge(run), read)[1] == [True, False]
    assert closed_book(run, right_about(1), Judge(run), read)[1] == [False, True]


def test_an_evaluation_holds_every_figure_with_how_it_is_shown(run, torn):
    found = measured(run)
    assert (found["generation"], found["arm"], found["judge"]) == (1, "loop", "oracle")
    own = {"told", "told_worst", "false", "distinct2", "entropy", "heldout_loss", "wrong_logprob"}
    assert found["metrics"].keys() >= {m.name for m in GENERAL} | own
    for metric in found["metrics"].values():
        assert {"value", "title", "column", "less_is_better", "guard", "unit"} <= metric.keys()
    shares = {name: m for name, m in found["metrics"].items() if m["unit"] == "%"}
    assert all(m["low"] <= m["value"] <= m["high"] for m in shares.values())
    guards = {name for name, m in found["metrics"].items() if m["guard"]}
    assert guards == {"closed_book", "told"} and PRIMARY.name == "open_book"
    assert found["items"].keys() == {m.name for m in (*GENERAL, *run.world.metrics)}
    for name, scores in found["items"].items():
        assert found["metrics"][name]["value"] == pytest.approx(proportion(scores)["value"])
        assert set(scores) <= set(found["groups"])
    tasks = (*run.read(1), *run.tasks(0))
    assert {t.id: " ".join(t.document_ids) for t in tasks}.items() <= found["groups"].items()
    assert json.loads(json.dumps(found)) == found
    assert measured(run) == found, "the same whenever it is asked again"


def test_a_metric_is_counted_over_the_items_that_measured_it(says, deeds):
    task = says("so.").tasks(1)[0]
    found = measured(says(little.answer(deeds, task)))
    assert found["metrics"]["told"]["n"] == 4 and found["metrics"]["told"]["value"] == 0.5
    assert found["items"]["closed_book"][task.id] == 1.0 and found["metrics"]["closed_book"]["value"] == 0.5
    assert found["metrics"]["false"]["n"] == 4 and found["metrics"]["false"]["value"] == 0.0
    assert "false" in found["metrics"] and measured(says("so."))["metrics"]["false"]["n"] == 0


def test_contexts_are_shown_apart_and_the_worst_is_named(says):
    run = says("so.")

    def items(tasks):
        made = run.world.items(tasks)
        hasty = lambda text, finished: {"told": 0.0, "false": 1.0, "true": 1.0}
        return [replace(i, score=hasty) if i.context == "hasty" else i for i in made]

    told, false = Metric("told", "told", "told", "worst"), Metric("false", "false", "false", "worst", True)
    metrics = told, false, Metric("true", "no column, no context")
    found = measured(replace(run, world=replace(run.world, items=items, metrics=metrics)))
    contexts = found["contexts"]
    assert {name: c["seen"] for name, c in contexts.items()} == {"plain": True, "hasty": False}
    assert contexts["hasty"]["metrics"].keys() == {"told", "false"} and contexts["plain"]["metrics"].keys() == {"told"}
    assert contexts["hasty"]["metrics"]["false"]["value"] == 1.0 and found["metrics"]["true"]["value"] == 1.0
    worst = found["metrics"]["told_worst"]
    assert (worst["context"], worst["column"], worst["guard"]) in {("hasty", "worst", False), ("plain", "worst", False)}
    assert worst["title"] == "told, in the worst context" and worst["value"] == 0.0
    assert found["metrics"]["false_worst"]["context"] == "hasty" and found["metrics"]["false_worst"]["value"] == 1.0


def test_the_worst_context_is_the_lowest_unless_less_is_better(says):
    run = says("so.")
    scores = {"a": 0.25, "b": 0.75}
    of = lambda context: lambda text, finished: {"up": scores[context], "down": scores[context]}
    items = [Item(f"{c} {n}", str(n), of(c), run.tasks(1)[0].messages, context=c) for c in scores for n in range(4)]
    metrics = (Metric("up", "u", "u", "worst"), Metric("down", "d", "d", "worst", less_is_better=True))
    found = measured(replace(run, world=replace(run.world, items=lambda tasks: items, metrics=metrics)))["metrics"]
    assert (found["up_worst"]["context"], found["up_worst"]["value"]) == ("a", 0.25)
    assert (found["down_worst"]["context"], found["down_worst"]["value"]) == ("b", 0.75)


def test_diversity_and_entropy_are_those_of_what_was_sampled_warm(says):
    run = says("x y")
    told = lambda *_: {"told": 1.0}
    items = [Item(str(n), "g", told, run.tasks(1)[0].messages, context="c", greedy=n > 0) for n in range(3)]
    found = measured(replace(run, world=replace(run.world, items=lambda tasks: items)))["metrics"]
    assert found["distinct2"]["value"] == 1.0 and found["entropy"]["value"] == 0.0


def test_an_arm_that_imitates_is_measured_by_documents_where_there_are_any(says, deeds, monkeypatch):
    recovered = {"recovery": {"value": 1.0, "guard": False}}
    monkeypatch.setattr(stage, "recovery", lambda *_: recovered)
    seek = says("so.").tasks(1)[0].seek
    run = says(f"{deeds[seek[0]]}. so.")
    loop, imitation = measured(run), measured(run, arm="imitation")
    forms = {"chat": 0.0, "document": np.mean([deeds[t.seek[0]] == deeds[seek[0]] for t in run.tasks(1)])}
    for found, form in ((loop, "chat"), (imitation, "document")):
        told = found["metrics"]["told"]
        assert (told["form"], told["forms"], told["value"]) == (form, forms, forms[form])
    assert forms["document"] > 0
    assert [*imitation["contexts"]] == ["noon"] and "recovery" not in imitation["metrics"]
    assert loop["metrics"]["recovery"] == recovered["recovery"]
    only = lambda tasks: [i for i in little.create().items(tasks) if i.form == "chat"]
    found = measured(replace(run, world=replace(run.world, items=only)), arm="imitation")["metrics"]["told"]
    assert found["n"] == 4 and "forms" not in found


def test_a_few_answers_are_shown_by_what_they_come_to(says, deeds):
    task = says("so.").tasks(1)[0]
    shown = measured(says(little.answer(deeds, task)))["examples"]
    assert {e["label"] for e in shown} == {"answers that tell all", "none of these"}
    for e in shown:
        assert any(t.question in e["question"] for t in says("so.").tasks(1))
        assert e["context"] in ("plain", "hasty") and e["answer"] == little.answer(deeds, task)
        assert (e["label"] == "answers that tell all") == (e["scores"]["told"] == 1.0)
    many = says("so.")
    items = [Item(str(n), "g", lambda *_: {"told": 1.0}, task.messages, context="c") for n in range(9)]
    own = replace(many, world=replace(many.world, items=lambda tasks: items))
    assert len(measured(own)["examples"]) == 3


def test_a_world_without_items_or_an_oracle_is_measured_by_its_tasks(run, torn):
    bare = replace(run.world, items=lambda tasks: (), metrics=(), oracle=None)
    found = evaluation(replace(run, world=bare), 1, torn.params, None)
    assert found["judge"] == "review" and found["contexts"] == {} and found["examples"] == []
    assert found["metrics"].keys() >= {m.name for m in GENERAL} | {"distinct2"}
    assert not found["metrics"].keys() & {"entropy", "heldout_loss", "wrong_logprob", "told"}
    assert found["metrics"]["distinct2"]["value"] > 0, "of what is said to the tasks"
    assert found["metrics"]["closed_book"]["n"] == 2 == len(found["items"]["open_book"])


def test_ideal_answers_are_likelier_and_wrong_thoughts_less_likely_to_who_knows(run, torn):
    knows, fresh = measured(run)["metrics"], measured(run, run.fresh_weights())["metrics"]
    assert knows["heldout_loss"]["value"] < fresh["heldout_loss"]["value"]
    items, encode, end = run.world.items(run.read(1)), run.tokenizer.encode, [run.tokenizer.end]

    def loss(said):
        made = [(run.tokenizer.render(messages), tokens) for messages, tokens in said]
        given = [example(prompt, tokens, one_hot(tokens), "seed", {}) for prompt, tokens in made]
        return pytest.approx(mean_loss(run.graphdef, torn.params, given))

    ideal = [(i.messages, encode(i.reference) + end) for i in items if i.reference]
    assert knows["heldout_loss"]["value"] == loss(ideal)
    assert -knows["wrong_logprob"]["value"] == loss([(i.messages, encode(i.begun)) for i in items if i.wrong])
    assert fresh["wrong_logprob"]["value"] < 0
    assert knows["entropy"]["value"] < fresh["entropy"]["value"]


def test_the_seed_model_is_asked_what_the_first_generation_will_read(run):
    found = evaluation(run, 0, run.weights(0), None)
    assert found["generation"] == 0 and set(found["items"]["closed_book"]) == {t.id for t in run.read(1)}
