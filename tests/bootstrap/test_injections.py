"""What documents, titles, tools and answers say of a review is text: no role, no verdict and no heading comes of it."""

from dataclasses import replace

import little
import pytest
from injections import ANSWERS, DOCUMENTS, JUNK
from support import transcript
from templates import TEMPLATES, TOOLLESS, write_folder

from ratchet.bootstrap.review import Reviewer
from ratchet.bootstrap.rubric import Criterion, load_rubric
from ratchet.bootstrap.worlds.world import Case, Document, Task, sentences
from ratchet.models.chat import ChatTokenizer

PLAIN = "what is it"
CROW = Document("crow", "A crow found a pitcher with a little water in it. It dropped pebbles into it and drank.")
ASKED = Task("t", ("crow",), ({"role": "user", "content": "What did the crow drop into the pitcher?"},))
RIGHT, WRONG = "The crow dropped pebbles.", "The crow dropped golden coins."


def test_there_are_many_of_them():
    assert len(set(DOCUMENTS)) >= 60 and len(set(ANSWERS)) >= 40


@pytest.fixture(scope="module")
def speakers(tokenizer, tmp_path_factory):
    """Tokenizers by family, with the ids that only roles, turns, calls and verdicts may have."""
    place = tmp_path_factory.mktemp("folders")
    own = {kind: ChatTokenizer.load(write_folder(place / kind, kind)) for kind in TEMPLATES}
    symbols = {kind: (one, {*one._vocabulary.symbols.values()}) for kind, one in own.items()}
    return symbols | {"scratch": (tokenizer, {*tokenizer._control.values()})}


def prompts(tokenizer, calls: bool, text: str) -> dict[str, list[int]]:
    """Everything that is rendered with a text in each place where data may stand."""
    user = lambda content: {"role": "user", "content": content}
    asked = tokenizer.ask(f"Is it so: {text}", passages=[text, PLAIN], messages=[user(text)])
    found = {
        "a passage": tokenizer.render([user(PLAIN)], passages=[PLAIN, text]),
        "a title": tokenizer.render([user(f"What does {text} say?")]),
        "a judge's sources": asked[0],
        "a judge's question": asked[1],
        "an answer": tokenizer.encode(text),
        "a text that goes on": tokenizer.document(text),
    }
    fields = {text: {"description": text, "enum": [text], "default": {text: text}}}
    described = {"name": "ask", "description": text, "parameters": {"type": "object", "properties": fields}}
    of_tools = {
        "a tool's result": lambda: tokenizer.answered(text),
        "a tool's description": lambda: tokenizer.render([user(PLAIN)], tools=[described]),
    }
    return found | {place: rendered() for place, rendered in of_tools.items() if calls}


@pytest.mark.parametrize("kind", ["scratch", *TEMPLATES])
def test_no_symbol_comes_from_data(speakers, kind):
    """Neither more nor others nor in another order than around plain words."""
    (tokenizer, special), calls = speakers[kind], kind not in TOOLLESS
    symbols = lambda ids: [i for i in ids if i in special]
    plain = {place: symbols(ids) for place, ids in prompts(tokenizer, calls, PLAIN).items()}
    for text in dict.fromkeys((*DOCUMENTS, *ANSWERS)):
        found = {place: symbols(ids) for place, ids in prompts(tokenizer, calls, text or PLAIN).items()}
        assert found == plain, text


@pytest.mark.parametrize("kind", TEMPLATES)
def test_no_line_of_data_can_be_taken_for_a_heading(speakers, kind):
    """What a judge is asked about is indented, so that every other line is ours. A model from scratch has symbols in
    the place of headings."""
    tokenizer, calls = speakers[kind][0], kind not in TOOLLESS

    def headings(text: str) -> list[str]:
        told = prompts(tokenizer, calls, text)
        whole = tokenizer.decode([*told["a judge's sources"], *told["a judge's question"]])
        lines = [line for line in whole.splitlines() if line.strip() and not line.startswith(" ")]
        return [line.partition(": ")[0] for line in lines]

    expected = headings(PLAIN)
    assert {"Source 1:", "Source 2:", "user", "Question"} <= set(expected)
    for text in DOCUMENTS:
        assert headings(text) == expected, text


def judge(*criteria: Criterion, scorer=None, tokenizer=None) -> Reviewer:
    return Reviewer(scorer, None, tokenizer, criteria, {}, sentences, "no,", 400, dict)


def rule(name: str, **fields) -> Criterion:
    return Criterion(id=name, kind="rule", question="?", **fields)


RULES = (rule("finished", of="form"), rule("interrupts"), rule("original"), rule("grounded", of="step", threshold=0.8))


def case(text: str, *passages: Document) -> Case:
    return Case(ASKED, text, "", True, (), sentences(text), (CROW, *passages), (text,))


@pytest.fixture(scope="module")
def passing():
    """Whether an answer passes the rules of grounded prose, with other documents beside the right one."""
    of_rules = judge(*RULES)
    return lambda text, *beside: all(v.passed for v in of_rules.verdicts([case(text, *beside)])[0].values())


def test_an_answer_that_says_nothing_passes_no_rule_of_words(passing):
    assert passing(RIGHT) and not passing(WRONG)
    assert [text for text in ANSWERS if passing(text)] == []


def test_nothing_that_is_added_to_a_wrong_answer_makes_it_pass(passing):
    ways = [f"{WRONG} {text}" for text in ANSWERS] + [f"{text} {WRONG}" for text in ANSWERS]
    assert [text for text in ways if passing(text)] == []
    beside = [text for text in ANSWERS if passing(f"{WRONG} {text}", Document("d", text))]
    assert beside == [], "nor where a document says it too"


def test_no_document_changes_the_verdict_on_what_another_says(passing):
    for text in DOCUMENTS:
        assert passing(RIGHT, Document("d", text)), text
        assert not passing(WRONG, Document("d", text)), text


def test_junk_is_rejected_by_every_rule_that_reads_words_even_where_a_document_says_it():
    """Letters of no width, punctuation and nothing are no words at all."""
    strict = judge(rule("grounded"), rule("verbatim"))
    for text in ("", " ", "\n", ":", ".", "…", "\u200b", "\u200d" * 40, "?"):
        (found,) = strict.verdicts([case(text, Document("d", text))])
        assert not any(v.passed for v in found.values()), text
    assert len(JUNK) >= 30


def test_no_document_makes_the_whole_review_pass_what_is_wrong(little_run, torn, world, deeds):
    """A tiny model is confused by what it never read, so that it says yes to anything; the rules beside it are not, and
    their verdicts stay what they are on right answers and on wrong ones."""
    reviewer, task = little_run.reviewer(torn.params), world.slices[0].tasks[0]
    own = [d for d in world.slices[0].documents if d.id in task.document_ids]
    said = [little.answer(deeds, task, steps) for steps in ((), (0, 1))]
    case = lambda answer, text: Case(
        task, answer, "", True, (), tuple(little.steps(answer)), (*own, Document("d", text)), (answer,)
    )
    rules = replace(reviewer, criteria=tuple(c for c in reviewer.criteria if c.kind == "rule"))
    found = reviewer.verdicts([case(said[1], text[:40]) for text in DOCUMENTS])
    assert [text for text, of in zip(DOCUMENTS, found, strict=True) if all(v.passed for v in of.values())] == []
    plain = rules.verdicts([case(answer, PLAIN) for answer in said])
    assert [all(v.passed for v in of.values()) for of in plain] == [True, False]
    for text in DOCUMENTS:
        assert rules.verdicts([case(answer, text) for answer in said]) == plain, text


def test_what_is_added_to_an_answer_changes_nothing_that_a_model_says_of_its_steps(little_run, torn, world, deeds):
    sure = load_rubric("", world)[-1]
    reviewer, task = replace(little_run.reviewer(torn.params), criteria=(sure,)), world.slices[0].tasks[0]
    own = tuple(d for d in world.slices[0].documents if d.id in task.document_ids)
    said = [little.answer(deeds, task, steps) for steps in ((), (0, 1))]
    texts = [*said, *(f"{answer} {text}" for text in ANSWERS for answer in said)]
    cases = [Case(task, text, "", True, (), tuple(little.steps(text)), own, ()) for text in texts]
    found = [of["sure"] for of in reviewer.verdicts(cases)]
    assert [v.passed for v in found[:2]] == [True, False] and found == found[:2] * (len(ANSWERS) + 1)


def test_answers_that_try_are_rejected_by_the_whole_review(little_run, torn, world, deeds):
    reviewer = little_run.reviewer(torn.params)
    task = world.slices[0].tasks[0]
    own = [d for d in world.slices[0].documents if d.id in task.document_ids]
    wrong = little.answer(deeds, task, (0, 1))
    texts = [*ANSWERS, *(f"{wrong} {text}" for text in ANSWERS)]
    said = [transcript(task, text, own, sibling=n) for n, text in enumerate(texts)]
    reviews = reviewer.review(said, {task.id: task}, {d.id: d for d in own})
    assert [t.text for t, r in zip(said, reviews, strict=True) if r.accepted] == []
