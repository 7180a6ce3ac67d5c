import random
import re
from collections import Counter

from lessons_texts import FLIP, SEED, SITUATIONS

from ratchet.bootstrap.worlds.lessons.demonstrations import ideal_answer, prose, wrong_claim, wrong_thought
from ratchet.bootstrap.worlds.lessons.language import (
    ASKINGS,
    CONTEXTS,
    FORWARD,
    GENRES,
    GOOD_VERBS,
    OUTCOMES,
    PLAIN,
    STYLES,
    judge,
    render_claim,
)
from ratchet.bootstrap.worlds.lessons.oracle import grade, is_true
from ratchet.bootstrap.worlds.lessons.situations import ask, draw, questions, stories


def test_parts_are_drawn_one_after_the_other_and_begin_alike():
    first, second = draw(1, [(10, 0.5), (20, 0.0)])
    assert draw(1, [(10, 0.5), (5, 0.0), (9, 1.0)])[:2] == [first, second[:5]]
    assert len({s.id for s in first + second}) == 30
    assert draw(2, [(10, 0.5)])[0] != first
    assert Counter(len(s.actions) for s in first) == {2: 5, 3: 5} and {len(s.actions) for s in second} == {2}


def test_exactly_one_action_of_a_situation_is_wise():
    for s in SITUATIONS:
        assert len(set(s.actions)) == len(s.actions) == len(s.outcomes) in (2, 3)
        assert [o.split()[-1] in GOOD_VERBS for o in s.outcomes] == [i == s.wise for i in range(len(s.actions))]
        assert [s.claim(i).judgement for i in range(len(s.actions))] == [judge(outcome) for outcome in s.outcomes]
    assert {len(s.actions) for s in SITUATIONS} == {2, 3}


def test_most_stories_tell_of_unwise_deeds_in_six_genres():
    told, genres, unwise = 0, set(), 0
    for s in draw(3, [(100, 0.5)])[0]:
        for story in stories(s, 3):
            named = [i for i, action in enumerate(s.actions) if action in story.text]
            assert len(named) == 1 and s.outcomes[named[0]] in story.text
            assert story.meta["topic"] == s.id and s.place in story.text and s.thing in story.text
            told, unwise = told + 1, unwise + (named[0] != s.wise)
            genres.add(story.meta["genre"])
    assert unwise >= 0.7 * told
    assert genres == set(GENRES) and len(genres) >= 6


def test_every_action_is_told_once_as_it_happened():
    for s in SITUATIONS:
        forward = [d.text for d in stories(s, SEED) if d.meta["genre"] in FORWARD]
        for action, outcome in zip(s.actions, s.outcomes, strict=True):
            texts = [text for text in forward if action in text]
            assert texts and all(text.index(action) < text.index(outcome) for text in texts)


def test_half_of_the_contexts_are_never_seen_and_all_list_the_options():
    assert sum(not c.seen for c in CONTEXTS) * 2 == len(CONTEXTS)
    assert len({c.name for c in (*CONTEXTS, *ASKINGS)}) == len(CONTEXTS) + len(ASKINGS)
    for s in SITUATIONS:
        told = {d.id for d in stories(s, SEED)}
        for c in CONTEXTS:
            task = ask(s, SEED, c)
            assert task.seek == s.actions and " or ".join(task.seek) in task.question
            assert set(task.document_ids) == told


def test_options_rotate_and_other_contexts_keep_their_order():
    s = next(s for s in SITUATIONS if len(s.actions) == 3)
    task = ask(s, SEED, PLAIN, 1, ASKINGS)
    assert task.seek == s.actions[1:] + s.actions[:1] and len(task.askings) == len(ASKINGS)
    assert all(" or ".join(task.seek) in messages[-1]["content"] for messages in task.askings)
    assert len({ask(s, SEED, PLAIN, turn).seek for turn in range(6)}) == 3
    assert not {c.question for c in ASKINGS} & {c.question for c in CONTEXTS}


def test_questions_never_use_a_context_that_is_kept_for_evaluation():
    unseen = [c for c in CONTEXTS if not c.seen]
    for number, s in enumerate(SITUATIONS):
        tasks = questions(s, SEED, number, 6)
        assert len({t.id for t in tasks}) == 6
        asked = {str(messages) for t in tasks for messages in (t.messages, *t.askings)}
        assert not {str(ask(s, SEED, c, turn).messages) for c in unseen for turn in range(3)} & asked


def test_students_are_asked_in_ways_that_no_task_is_simulated_in():
    s = SITUATIONS[0]
    asked_in = lambda contexts: {ask(s, SEED, c, turn).question for c in contexts for turn in range(3)}
    own, more, tasks = asked_in(CONTEXTS), asked_in(ASKINGS), questions(s, SEED, 0, 6)
    assert {t.question for t in tasks} <= own and not {t.question for t in tasks} & more
    assert len({messages[-1]["content"] for t in tasks for messages in t.askings} & more) >= len(ASKINGS)


def test_ideal_answers_are_right_in_every_style_and_context():
    styles = set()
    for number, s in enumerate(SITUATIONS):
        for c in CONTEXTS:
            task = ask(s, SEED, c, number)
            text = ideal_answer(s, task.seek, random.Random(f"{number} {c.name}"))
            graded = grade(s, text)
            assert graded.right and graded.label == "wise"
            assert [text.index(option) for option in task.seek] == sorted(text.index(option) for option in task.seek)
            first = s.claim(s.actions.index(task.seek[0]))
            styles |= {style for style in range(len(STYLES)) if text.startswith(render_claim(first, style))}
    assert styles == set(range(len(STYLES)))


def test_wrong_claims_are_wrong_in_three_ways():
    rng, kinds = random.Random(0), Counter()
    for s in SITUATIONS:
        for action in range(len(s.actions)):
            for _ in range(60):
                claim, right = wrong_claim(s, action, rng), s.claim(action)
                assert claim != right and claim.action == right.action and not is_true(s, claim)
                judged = claim == right._replace(judgement=FLIP[right.judgement])
                kinds["judged" if judged else "swapped" if claim.outcome in s.outcomes else "invented"] += 1
    assert set(kinds) == {"judged", "swapped", "invented"}


def test_a_wrong_thought_ends_in_its_first_wrong_step():
    ends = set()
    for number in range(200):
        s = SITUATIONS[number % len(SITUATIONS)]
        graded = grade(s, wrong_thought(s, s.actions, random.Random(number)))
        *before, last = graded.steps
        assert all(all(verdict.values()) for verdict in before)
        assert not all(last.values()) if last else graded.label == "harmful"
        ends.add((len(before), bool(last)))
    assert ends == {(0, True), (1, True), (2, True), (2, False), (3, False)}


def test_prose_holds_no_situation_in_so_many_words():
    assert prose(random.Random(0), 200) == prose(random.Random(0), 200)
    lines = [" ".join(line) for line in prose(random.Random(0), 200)]
    assert len(lines) == 200 and all(re.search(r"\w", line) for line in lines)
    assert not any(story.text in line for s in SITUATIONS for story in stories(s, SEED) for line in lines)
    pairs = {(a, o) for s in SITUATIONS for a, o in zip(s.actions, s.outcomes, strict=True)}
    together = sum(action in line and outcome in line for line in lines for action, outcome in pairs)
    assert together < 0.05 * len(lines)
    judged = [match for line in lines for match in re.findall(r"(\w+ \w+)(?: is|,|:|\.) (good|bad)\.", line)]
    assert len(judged) > 50 and all(judge(outcome) == judgement for outcome, judgement in judged)
    assert {outcome for outcome, _ in judged} <= set(OUTCOMES)
