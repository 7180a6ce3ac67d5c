from dataclasses import replace

from support import ideal, transcript

from ratchet.bootstrap.dedupe import distinct_transcripts
from ratchet.bootstrap.transcript import Review
from ratchet.bootstrap.worlds.language import CONTEXTS


def review(t, accepted=True):
    return Review(t.id, {}, accepted)


def test_a_repeated_sibling_is_rejected_with_its_reason(world):
    s = world.situations[0]
    task = world.task(s, CONTEXTS[0])
    text = ideal(s, task)
    twice = [transcript(task, text, sibling=n) for n in range(2)]
    first, second = distinct_transcripts(twice, [review(t) for t in twice])
    assert first.accepted and not second.accepted
    assert second.verdicts["distinct"].reason == "repeats an accepted sibling"


def test_other_words_other_tasks_and_rejected_siblings_are_left_alone(world):
    a, b = world.situations[:2]
    tasks = [world.task(s, CONTEXTS[0]) for s in (a, b)]
    made = [
        transcript(tasks[0], ideal(a, tasks[0])),
        transcript(tasks[1], ideal(a, tasks[0])),
        transcript(tasks[0], "quite another thing is said here."),
        transcript(tasks[1], ideal(b, tasks[1]), sibling=1),
        transcript(tasks[1], ideal(b, tasks[1]), sibling=2),
    ]
    given = [review(t, accepted=n != 3) for n, t in enumerate(made)]
    assert distinct_transcripts(made, given) == given


def test_a_sibling_that_looked_it_up_repeats_none_that_was_shown_it(world):
    s = world.situations[0]
    task = world.task(s, CONTEXTS[0])
    shown, looked_up, again = (transcript(task, ideal(s, task), sibling=n) for n in range(3))
    called = [shown, replace(looked_up, called=((3, 6),)), replace(again, called=((3, 7),))]
    assert [r.accepted for r in distinct_transcripts(called, [review(t) for t in called])] == [True, True, False]
