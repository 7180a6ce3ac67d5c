"""What is measured of an answer: words in the sources, agreement, and likelihood by a model."""

from dataclasses import replace

import numpy as np
import pytest
from support import full_probs, transcript

from ratchet.bootstrap.rubric import Criterion
from ratchet.bootstrap.signals import TURNED, agreement, grounded, roles, turned, verbatim, words
from ratchet.bootstrap.worlds.world import Case, Document, Step, Task, sentences

CROW = (Document("crow", "A crow, half-dead with thirst, came upon a pitcher. It dropped 12 pebbles into it."),)
RAVEN = (Document("raven", "乌鸦把石头放进水罐里。 कौए ने घड़े में कंकड़ डाले। Ворона бросила камешки."),)


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("The crow dropped pebbles.", 1.0),
        ("the CROW, dropped; PEBBLES!", 1.0),
        ("The crow dropped a coin.", 2 / 3),
        ("A row dropped 1 pebble.", 1 / 4),  # whole words: no part of one stands there
        ("It was to be.", 1 / 4),  # stop words alone count as words
        ("The cr\u200bow", 1.0),  # letters of no width
        ("ｐｅｂｂｌｅｓ", 1.0),  # letters as wide as ideographs
        ("coin coin coin crow", 1 / 2),  # saying a word again changes nothing
    ],
)
def test_words_that_stand_in_no_passage_are_counted(text, share):
    found = grounded(text, CROW)
    assert found.score == pytest.approx(share)
    strange = {w for w in words(text) if w not in words(CROW[0].text)} - {"the", "a", "it", "was", "to", "be"}
    assert all(word in found.doubt for word in strange)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [("石头放进水罐", "石头放进河里"), ("कौए ने कंकड़ डाले", "कुत्ते ने हड्डी डाली"), ("ворона бросила", "собака бросила")],
)
def test_words_of_any_script_are_whole(right, wrong):
    assert grounded(right, RAVEN).score == 1.0 == max(verbatim(right, RAVEN).score, grounded(right, RAVEN).score)
    assert grounded(wrong, RAVEN).score < 0.75


def test_nothing_in_view_grounds_nothing_and_no_words_cannot_be_read():
    assert grounded("The crow", ()).score == 0.0
    for empty in ("", " ", ":", ".", "\u200b", "?!"):
        assert grounded(empty, CROW).doubt.startswith("unreadable")
        assert verbatim(empty, CROW).score == 0.0


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("half-dead with thirst", 1.0),
        ("Half dead, with thirst.", 1.0),
        ("12 pebbles", 1.0),
        ("2 pebbles", 0.0),
        ("alf-dead with thirst", 0.0),
        ("thirst with half-dead", 0.0),
        ("石头放进水罐", 1.0),
        ("水罐放进石头", 0.0),
    ],
)
def test_a_span_of_a_passage_is_verbatim(text, score):
    assert verbatim(text, (*CROW, *RAVEN)).score == score


def test_agreement_is_the_share_of_other_answers_that_say_the_same():
    said = ["It dropped a pebble.", "a pebble", "The crow dropped it", "no idea"]
    found = agreement("The pebble!", said)
    assert found.score == 2 / 4 and found.doubt == "2 of 4 other answers say the same"
    assert agreement("it dropped the pebble", said).score == 3 / 4
    assert agreement("pebble", ()).doubt.startswith("unreadable")
    assert agreement("", ["", "a"]).score == 0.0, "nothing is not the same as nothing"


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("The bees stung Joost.", "Joost stung the bees."),
        ("The crow took the hawk's youngest chick.", "The hawk took the crow's youngest chick."),
        ("Joost told old Maren, his aunt.", "Maren told old Joost, his aunt."),
        ("An old frog told Osk so.", "Osk told an old frog so."),
        ("Mr. Finch met Ola Nowak.", "Ola Nowak met Mr. Finch."),
        ("They sold Åland to Östen.", "They sold Östen to Åland."),
        ("Maren asked Joost. Nobody told the bees.", "Maren asked the bees. Nobody told Joost."),
    ],
)
def test_names_change_places_with_their_articles(text, other):
    assert other in turned(text)
    if text.split()[0] not in ("Joost", "They"):
        assert text in turned(other), "and back again"


def test_where_no_two_names_stand_nothing_is_turned_and_of_many_the_nearest_come_first():
    assert all(turned(text) == [] for text in ("", "two", "It fell twice.", "The bell fell.", "石头"))
    many = " ".join(f"Name{n} saw" for n in range(9))
    found = turned(many)
    assert len(found) == len(set(found)) == TURNED
    assert found[0].startswith("Name1 saw Name0 saw Name2") and found[7].endswith("Name8 saw Name7 saw")
    assert found[8].startswith("Name2 saw Name1 saw Name0")


def test_of_long_texts_fewer_are_made():
    long = lambda words: " ".join(f"Name{n} saw" for n in range(words // 2))
    assert [len(turned(long(words))) for words in (40, 80, 200, 400, 4000)] == [TURNED, 5, 2, 1, 1]


def test_what_is_likelier_the_other_way_round_has_less_than_half():
    assert roles(-5.0, [], []).score == 1.0
    assert roles(-5.0, [-5.0, -9.0], ["a", "b"]).score == 0.5
    found = roles(-5.0, [-9.0, -4.0, -8.0], ["a", "b", "c"])
    assert found.score == pytest.approx(1 / (1 + np.e)) and found.doubt == "likelier the other way round: b"
    assert roles(-5.0, [-1e6], ["a"]).score == 1.0 and roles(-1e6, [-5.0], ["a"]).score < 1e-300
    for strange in (roles(-5.0, [np.nan], ["a"]), roles(-np.inf, [0.0], ["a"])):
        assert strange.score == 0.0 and strange.doubt.startswith("unreadable")


QUESTION = Task("t", ("crow",), ({"role": "user", "content": "what do lamps do?"},))
LIKELY, GAIN = (Criterion(id=name, kind="likelihood", question="?", threshold=-50) for name in ("likely", "gain"))


def case(text: str, passages=CROW, **fields) -> Case:
    return Case(QUESTION, text, fields.pop("before", ""), True, (), sentences(text), tuple(passages), (), **fields)


@pytest.fixture(scope="module")
def reviewer(little_run, torn):
    return replace(little_run.reviewer(torn.params), criteria=(LIKELY, GAIN))


def by_hand(reviewer, prompt, begun, text) -> float:
    """The mean log-probability of the tokens of a text after others, by the full forward pass."""
    said = reviewer.tokenizer.encode(text)
    probs = full_probs(reviewer.scorer.graphdef, reviewer.params, [*prompt, *begun, *said])
    rows = probs[len(prompt) + len(begun) - 1 : -1]
    return float(np.log(rows[np.arange(len(said)), said]).mean())


def test_likelihoods_are_those_of_the_full_forward_pass(reviewer):
    text = "the red hall lamp hums. nobody minds."
    (found,) = reviewer.verdicts([case(text)])
    prompts = [reviewer.tokenizer.render(QUESTION.messages, passages=[p.text for p in view]) for view in (CROW, ())]
    with_sources, without = (by_hand(reviewer, prompt, (), text) for prompt in prompts)
    assert found["likely"].score == pytest.approx(with_sources, abs=1e-4)
    assert found["gain"].score == pytest.approx(with_sources - without, abs=1e-4)


def test_an_answer_is_weighed_against_itself_with_names_exchanged(reviewer):
    """As a whole, and in steps, each after those before it."""
    names, text = Criterion(id="roles", kind="likelihood", question="?"), "It hums. The lamp hums at the hall."
    by_name = replace(reviewer, criteria=(names,))
    prompt = reviewer.tokenizer.render(QUESTION.messages, passages=[CROW[0].text])
    total = lambda said, begun=(): by_hand(reviewer, prompt, begun, said) * len(reviewer.tokenizer.encode(said))
    (found,) = by_name.verdicts([case(text)])
    others = turned(text)
    own, other = total(text), max(map(total, others))
    assert "It hums. The hall hums at the lamp." in others
    assert found["roles"].score == pytest.approx(1 / (1 + np.exp(other - own)), abs=1e-4)
    assert found["roles"].passed == (own >= other)
    (found,) = replace(reviewer, criteria=(names.model_copy(update={"of": "step"}),)).verdicts([case(text)])
    begun = reviewer.tokenizer.encode("It hums.")
    own, other = (max(total(said, begun) for said in of) for of in ([text[8:]], [t[8:] for t in others]))
    assert found["roles"].score == pytest.approx(1 / (1 + np.exp(other - own)), abs=1e-4)
    assert by_name.verdicts([case("It hums.")])[0]["roles"].score == 1.0


def test_sources_that_are_too_long_are_read_in_parts_and_the_likeliest_counts(reviewer):
    """The gain is over no sources, of which there is one reading."""
    text, parts = "the red hall lamp hums.", (*CROW, Document("pond", "The pond is dry. No bird comes to it."))
    said = reviewer.tokenizer.encode(text)
    prompts = [reviewer.tokenizer.render(QUESTION.messages, passages=[p.text for p in view])
               for view in (parts, parts[:1], parts[1:], ())]  # fmt: skip
    narrow = replace(reviewer, room=len(prompts[0]) + len(said) - 1)
    (found,) = narrow.verdicts([case(text, parts)])
    likely = [by_hand(reviewer, prompt, (), text) for prompt in prompts]
    assert found["likely"].score == pytest.approx(max(likely[1:3]), abs=1e-4)
    assert found["gain"].score == pytest.approx(max(likely[1:3]) - likely[3], abs=1e-4)
    (found,) = replace(reviewer, room=10).verdicts([case(text, parts)])
    assert not found["likely"].readable and not found["gain"].readable


def test_who_did_what_is_told_by_the_sources_that_make_an_answer_likeliest(reviewer):
    """To those that do not speak of it, both ways round are as good as alike, and a little luck would do."""
    text, pond = "The lamp hums at the hall.", Document("pond", "The pond is dry. No bird comes to it.")

    class Reader:
        """Knows from the crow's passage that it is the other way round; the pond's has it guess."""

        def log_likelihoods(self, params, given, reached):
            knows = [CROW[0].text in reviewer.tokenizer.decode(prompt) for prompt, _ in given]
            said = [reviewer.tokenizer.decode(tokens) for _, tokens in given]
            of = {(True, True): -2.0, (True, False): -1.0, (False, True): -5.0, (False, False): -5.1}
            totals = [of[known, words.strip() == text] for known, words in zip(knows, said, strict=True)]
            return [np.array([total], np.float32) for total in totals]

    names = Criterion(id="roles", kind="likelihood", question="?")
    judge = replace(reviewer, criteria=(names,), scorer=Reader())
    prompt = reviewer.tokenizer.render(QUESTION.messages, passages=[CROW[0].text, pond.text])
    for room in (len(prompt) + 50, len(prompt) - 1):  # read at once, and in two parts
        (found,) = replace(judge, room=room).verdicts([case(text, (CROW[0], pond))])
        assert not found["roles"].passed and found["roles"].score < 0.3


def test_after_a_wrong_thought_a_correction_is_as_likely_as_there(reviewer):
    (found,) = reviewer.verdicts([case("no, it hums.", before="it drips.")])
    prompt = reviewer.tokenizer.render(QUESTION.messages, passages=[p.text for p in CROW])
    begun = reviewer.tokenizer.encode("it drips.")
    assert found["likely"].score == pytest.approx(by_hand(reviewer, prompt, begun, " no, it hums."), abs=1e-4)


def test_of_steps_the_least_likely_counts_after_those_before_it(reviewer):
    text = "the red hall lamp hums. it sleeps at noon."
    by_step = replace(reviewer, criteria=(LIKELY.model_copy(update={"of": "step"}),))
    prompt = reviewer.tokenizer.render(QUESTION.messages, passages=[p.text for p in CROW])
    first = by_hand(reviewer, prompt, (), "the red hall lamp hums.")
    second = by_hand(reviewer, prompt, reviewer.tokenizer.encode("the red hall lamp hums."), " it sleeps at noon.")
    (found,) = by_step.verdicts([case(text)])
    assert found["likely"].score == pytest.approx(min(first, second), abs=1e-4)
    between = (first + second) / 2
    strict = replace(reviewer, criteria=(LIKELY.model_copy(update={"of": "step", "threshold": between}),))
    assert strict.first_faults([case(text)])[0][0] == int(second < first)


def test_the_same_prompt_is_read_once_for_all_answers(reviewer):
    asked = []
    scorer = reviewer.scorer

    class Counting:
        def log_likelihoods(self, params, given, reached):
            asked.extend(given)
            return scorer.log_likelihoods(params, given)

    said = ["it hums.", "it drips.", "the red hall lamp hums."]
    replace(reviewer, scorer=Counting()).verdicts([case(text) for text in said])
    assert len({context for context, _ in asked}) == 2, "one with the sources and one without"
    assert len(set(asked)) == 2 * len(said)


def test_an_answer_without_words_has_no_likelihood(reviewer):
    for empty in ("", "  "):
        (found,) = reviewer.verdicts([case(empty)])
        assert not found["likely"].passed and not found["gain"].readable


def test_a_likelihood_that_is_no_number_is_a_rejection(reviewer):
    class Broken:
        def log_likelihoods(self, params, given, reached):
            return [np.full(len(tokens), np.nan, np.float32) for _, tokens in given]

    (found,) = replace(reviewer, scorer=Broken()).verdicts([case("it hums.")])
    assert not found["gain"].passed and found["gain"].reason.startswith("unreadable")


def test_only_well_formed_other_answers_to_the_same_task_have_a_vote(reviewer, world):
    agree = Criterion(id="agreement", kind="likelihood", question="?")
    by_rule = lambda name, **fields: Criterion(id=name, kind="rule", question="?", **fields)
    judge = replace(
        reviewer,
        criteria=(by_rule("finished", of="form"), by_rule("calm"), agree),
        checks={"calm": lambda case: "mad" if "roars" in case.text else ""},
    )
    a, b = world.seed.tasks[:2]
    said = [
        transcript(a, "it hums."),
        transcript(a, "it hums, they say.", sibling=1),
        transcript(a, "he roars loudly.", sibling=2),  # fails another criterion and is well formed
        transcript(a, "it hums.", sibling=3, finished=False),
        transcript(b, "it hums."),
        transcript(a, "it hums.", sibling=4, source="junk"),
    ]
    found = judge.review(said, {t.id: t for t in (a, b)}, {})
    scores = [r.verdicts["agreement"].score for r in found]
    assert scores[:3] == [1 / 2, 1 / 2, 0.0] and not found[4].verdicts["agreement"].readable
    assert scores[3] == 2 / 3 and scores[5] == 2 / 3
    (alone,) = judge.review(said[:1], {a.id: a}, {}, siblings=said[1:3])
    assert alone.verdicts["agreement"].score == 1 / 2


def test_a_judge_may_be_the_seed_model(little_run, torn):
    """Its weights give the answers, those of the reviewer give all others."""
    own, seed = torn.params, little_run.fresh_weights()
    by_seed = (LIKELY.model_copy(update={"judge": "seed"}),)
    first = replace(little_run.reviewer(own), criteria=by_seed, seed=lambda: seed)
    second = replace(little_run.reviewer(seed), criteria=(LIKELY,))
    text = case("the red hall lamp hums.")
    assert first.verdicts([text])[0] == second.verdicts([text])[0]
    assert first.verdicts([text])[0] != replace(second, params=own).verdicts([text])[0]


def test_a_step_of_a_share_is_measured_by_itself(reviewer):
    strict = Criterion(id="grounded", kind="rule", question="?", of="step")
    judge = replace(reviewer, criteria=(strict,), checks={})
    text = "The crow came upon a pitcher. It found a coin."
    (found,) = judge.verdicts([case(text)])
    assert not found["grounded"].passed and found["grounded"].reason == "in no passage: coin, found"
    assert judge.first_faults([case(text)]) == [(1, "grounded: in no passage: coin, found")]
    assert judge.verdicts([replace(case(text), steps=(Step(0, 29),))])[0]["grounded"].score == 1.0


def test_what_a_question_is_asked_with_need_not_stand_in_a_source():
    view = [Document("a", "The miller sent the widow home.")]
    assert grounded("What did the miller say to the widow?", view).score == pytest.approx(2 / 3)
    assert grounded("What should he do?", view).score == 0.0, "a text of nothing else is compared by all its words"
