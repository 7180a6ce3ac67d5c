"""A teacher's server that fails: nothing is lost, nothing is paid for twice, and it is counted."""

import dataclasses
import json
import threading

import pytest
from etils import epath
from faulty import Faulty

from ratchet.bootstrap.config import Config, ConfigError, JudgeConfig, TeacherConfig
from ratchet.bootstrap.teacher import client as clients
from ratchet.bootstrap.teacher.client import (
    ATTEMPTS,
    FIRST,
    Client,
    Failed,
    ServerRefused,
    ServerStopped,
    checked,
)
from ratchet.bootstrap.teacher.pace import Pace
from ratchet.bootstrap.teacher.probing import Probed, probe
from ratchet.train.stopping import AGAIN

KEY = "RATCHET_TEACHER_KEY"


def say(body):
    return f"said {body['seed']}"


def bodies(count):
    return [{"model": "writer", "messages": [{"role": "user", "content": "a?"}], "seed": n} for n in range(count)]


def client(address, place, patience=60.0, **settings):
    config = TeacherConfig(url=address, **{"concurrency": 3} | settings)
    return Client(config, "writer", epath.Path(place), patience=patience, pause=0.01)


def texts(answers):
    return [text for text, _ in answers]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [(429, "429"), (500, "500"), (503, "503"), ("cut", "no connection"), ("malformed", "malformed JSON"),
     ("empty", "malformed answer"), ("stall", "silent for 3 s"),
     *(pytest.param(name, "not whole after 3 s", marks=pytest.mark.long) for name in ("drip", "drop"))],
)  # fmt: skip
def test_a_fault_that_passes_is_asked_over_and_counted(tmp_path, fault, reason):
    server, done = Faulty(say, {2: fault, 5: fault}), []
    with server.serving() as address:
        made = client(address, tmp_path, patience=3.0 if fault == "stall" else 60.0)
        made = dataclasses.replace(made, longest=3.0 if fault in ("drip", "drop") else 60.0)
        found = made.answers(bodies(8), done.append)
    assert texts(found) == [f"said {n}" for n in range(8)] and sum(done) == 8
    assert set(server.paid.values()) == {1} and len(server.paid) == 8
    (counted, times), = made.counts.again.items()
    assert counted.startswith(reason) and times == 2 and (made.counts.answered, made.counts.tokens) == (8, 80)
    assert reason in str(made.counts)


def test_what_was_answered_is_never_asked_for_again(tmp_path):
    server = Faulty(say)
    with server.serving() as address:
        first = client(address, tmp_path)
        first.answers(bodies(5), lambda n: None)
        second = client(address, tmp_path)
        found = second.answers([*bodies(7), bodies(1)[0]], lambda n: None)
    assert texts(found) == [*(f"said {n}" for n in range(7)), "said 0"]
    assert len(server.paid) == 7 and set(server.paid.values()) == {1}
    assert (second.counts.kept, second.counts.answered, second.counts.tokens) == (5, 2, 20)


def test_answers_cost_what_their_tokens_do_and_kept_ones_nothing_more(tmp_path):
    server, prices = Faulty(say), (2.0, 1e3)  # an answer takes 7 tokens of a prompt and 3 of its own
    with server.serving() as address:
        first, second, unpriced = (client(address, tmp_path, prices=given) for given in (prices, prices, ()))
        first.answers(bodies(4), lambda n: None)
        second.answers(bodies(6), lambda n: None)
        unpriced.answers(bodies(7), lambda n: None)
    assert first.counts.cost == pytest.approx(4 * 0.003014) and second.counts.cost == pytest.approx(2 * 0.003014)
    assert "40 tokens, which cost 0.01206" in str(first.counts)
    assert unpriced.counts.answered == 1 and "cost" not in str(unpriced.counts)


def test_a_dead_server_stops_with_one_line_and_the_rest_is_asked_later(tmp_path):
    server = Faulty(say, {4: "gone"})
    with server.serving() as address:
        with pytest.raises(ServerStopped, match=f"{ATTEMPTS} times in a row .* `ratchet resume` goes on") as dead:
            client(address, tmp_path).answers(bodies(9), lambda n: None)
        assert "\n" not in str(dead.value) and dead.value.status == AGAIN
        before = dict(server.paid)
        server.gone = False
        found = client(address, tmp_path).answers(bodies(9), lambda n: None)
    assert texts(found) == [f"said {n}" for n in range(9)]
    assert len(server.paid) == 9 and set(server.paid.values()) == {1} and before.items() <= server.paid.items()


@pytest.mark.parametrize(("held", "ends"), [("secret\n", "answers"), ("sec\nret", "what no key can hold"),
                                            ("sécret", "what no key can hold")])  # fmt: skip
def test_a_key_from_a_file_may_end_in_a_line_and_what_is_no_key_is_said_without_it(tmp_path, monkeypatch, held, ends):
    monkeypatch.setenv(KEY, held)
    with Faulty(say, key="secret").serving() as address:
        made = client(address, tmp_path)
        if ends == "answers":
            assert texts(made.answers(bodies(1), lambda n: None)) == ["said 0"]
        else:
            with pytest.raises(ServerRefused, match=ends) as refused:
                made.answers(bodies(1), lambda n: None)
            assert "cret" not in str(refused.value)


def test_a_key_that_expires_on_the_way_stops_at_once_and_is_written_nowhere(tmp_path, monkeypatch):
    monkeypatch.setenv(KEY, "secret-1")
    server = Faulty(say, key="secret-1")
    with server.serving() as address:
        made = client(address, tmp_path)
        made.answers(bodies(2), lambda n: None)
        server.key = "secret-2"
        with pytest.raises(ServerRefused, match=f"or has expired .401.; set {KEY}") as expired:
            made.answers(bodies(6), lambda n: None)
        assert "secret" not in str(expired.value)
        monkeypatch.setenv(KEY, "secret-2")
        client(address, tmp_path).answers(bodies(6), lambda n: None)
    assert len(server.paid) == 6 and set(server.paid.values()) == {1}
    assert not any("secret" in file.read_text() for file in tmp_path.rglob("*.json"))


def test_a_question_that_the_server_never_takes_is_left_out_and_counted(tmp_path):
    server = Faulty(say, {1: 400})
    with server.serving() as address:
        made = client(address, tmp_path, concurrency=1)
        found = made.answers(bodies(3), lambda n: None)
    assert found[1] is None and texts([found[0], found[2]]) == ["said 0", "said 2"]
    assert made.counts.unaskable == 1 and "1 questions were refused" in str(made.counts)


def test_a_server_that_takes_no_question_at_all_is_asked_no_more(tmp_path):
    """It refuses what all of them have in common."""
    faults = dict.fromkeys(range(FIRST - 1), 400)
    with Faulty(say, faults).serving() as address:
        found = client(address, tmp_path / "some", concurrency=1).answers(bodies(FIRST), lambda n: None)
        assert found[:-1] == [None] * (FIRST - 1) and texts(found[-1:]) == [f"said {FIRST - 1}"]
    server = Faulty(say, dict.fromkeys(range(99), 400))
    with server.serving() as address, pytest.raises(ServerRefused, match="refuses every question .not now.; see to"):
        client(address, tmp_path / "none", concurrency=1).answers(bodies(99), lambda n: None)
    assert server.asked == FIRST


def test_an_answer_that_cannot_be_read_is_paid_for_and_counts(tmp_path):
    heard = []

    def read(answer):
        heard.append(answer)
        if len(heard) < 3:
            raise Failed("no log-probabilities")
        return checked(answer)

    server = Faulty(say)
    with server.serving() as address:
        made = client(address, tmp_path, prices=(1.0, 1.0), budget=25, concurrency=1)
        with pytest.raises(ServerStopped, match="budget of 25 tokens is spent"):
            made.answers(bodies(9), lambda n: None, read)
        asked = server.asked
        with pytest.raises(ServerStopped, match="budget of 25 tokens is spent"):
            client(address, tmp_path, budget=25).answers(bodies(9), lambda n: None)
    assert server.asked == asked, "what was spent is known after a new beginning"
    assert made.counts.tokens >= 30 and made.counts.tokens == 10 * round(made.counts.cost * 1e5)


def test_nothing_is_asked_beyond_the_budget_of_a_runs_whole_life(tmp_path):
    server = Faulty(say)
    with server.serving() as address:
        with pytest.raises(ServerStopped, match="the budget of 45 tokens is spent; .* raise --teacher.budget"):
            client(address, tmp_path, concurrency=1, budget=45).answers(bodies(9), lambda n: None)
        assert server.asked == 5
        with pytest.raises(ServerStopped, match="budget"):
            client(address, tmp_path, concurrency=1, budget=45).answers(bodies(9), lambda n: None)
        assert server.asked == 5
        client(address, tmp_path, budget=100).answers(bodies(9), lambda n: None)
    assert len(server.paid) == 9 and set(server.paid.values()) == {1}


def test_as_much_is_under_way_as_was_said_and_no_more(tmp_path, monkeypatch):
    ask, under_way, most, together = Client.ask, [], [], threading.Barrier(3, timeout=60)

    def watched(made, path, body=None):
        under_way.append(body)
        most.append(len(under_way))
        try:
            if body["seed"] < 3:
                together.wait()  # which it does for three at a time alone
            return ask(made, path, body)
        finally:
            under_way.remove(body)

    monkeypatch.setattr(Client, "ask", watched)
    with Faulty(say).serving() as address:
        client(address, tmp_path, concurrency=3).answers(bodies(20), lambda n: None)
    assert max(most) == 3


def test_less_is_under_way_where_the_server_is_busy_and_more_again_when_it_answers():
    pace, held = Pace(4), []
    pace.busy()
    for _ in range(2):
        pace.__enter__()
    thread = threading.Thread(target=lambda: (pace.__enter__(), held.append(True)))
    thread.start()
    thread.join(0.05)
    assert thread.is_alive() and not held, "half of four are under way"
    for _ in range(2):
        pace.answered()
    thread.join(60)
    assert held, "as many answers as questions make room for one more"


def test_a_server_may_say_how_long_to_wait(tmp_path, monkeypatch):
    """It says 0.05 s, and the first wait of our own would be more than half a minute."""
    waits, wait = [], threading.Event.wait
    short = lambda event, timeout=None: waits.append((event, timeout)) or wait(event, timeout and min(timeout, 0.05))
    own = lambda: [seconds for event, seconds in waits if event is made._over]  # other threads wait as well
    monkeypatch.setattr(threading.Event, "wait", short)
    with Faulty(say, {0: 429}).serving() as address:
        made = dataclasses.replace(client(address, tmp_path), pause=60.0)
        made.answers(bodies(1), lambda n: None)
    assert own() == [0.05]
    made = dataclasses.replace(client(address, tmp_path), pause=60.0)
    for asked in (0.0, -5.0):  # at once, or at a time that has passed
        made.rest(0, asked)
    assert len(own()) == 2 and min(own()) >= 30.0, "as long as one waits by oneself"


def test_kept_answers_are_read_again_for_a_budget_alone(tmp_path, monkeypatch):
    """A run may keep hundreds of thousands, and each is a request where they lie in a bucket."""
    with Faulty(say).serving() as address:
        client(address, tmp_path).answers(bodies(3), lambda n: None)
        monkeypatch.setattr(clients, "all_kept", None)
        client(address, tmp_path).answers(bodies(5), lambda n: None)
        with pytest.raises(TypeError):
            client(address, tmp_path, budget=1000).answers(bodies(5), lambda n: None)


def test_a_probe_finds_what_a_server_can_do_and_says_what_it_means(tmp_path):
    can = lambda body: json.dumps({"fit": "yes"}) if "response_format" in body else "one"
    with Faulty(can).serving() as address:
        found = probe(client(address, tmp_path), 500)
    assert found == Probed("writer", 4096, 0, True, True, True, True, False)
    line = "writer at URL: no log-probabilities, token ids, scoring of given text, answers kept to a schema"
    assert line in found.line("URL")


def test_a_server_that_is_busy_while_it_is_met_is_asked_again(tmp_path):
    can = lambda body: json.dumps({"fit": "yes"}) if "response_format" in body else "one"
    with Faulty(can).serving() as address:
        found = probe(client(address, tmp_path), 500)
    with Faulty(can, {0: 429, 1: 503, 3: 429, 6: 429}).serving() as address:
        assert probe(client(address, tmp_path), 500) == found
    for answered in (0, 1):
        busy = Faulty(can, dict.fromkeys(range(answered, 99), 429))
        with busy.serving() as address, pytest.raises(ServerStopped, match="too busy to show what it can do") as ended:
            probe(client(address, tmp_path), 500)
        assert ended.value.status == AGAIN and busy.asked == answered + ATTEMPTS


@pytest.mark.parametrize("fault", [502, "cut", 504, "malformed"])
def test_a_fault_that_passes_does_not_make_a_server_less_able(tmp_path, fault):
    """What a probe finds holds for a run's life."""
    can = lambda body: json.dumps({"fit": "yes"}) if "response_format" in body else "one"
    with Faulty(can).serving() as address:
        found = probe(client(address, tmp_path), 500)
    for number in range(1, 5):
        with Faulty(can, {number: fault, number + 1: fault}).serving() as address:
            assert probe(client(address, tmp_path), 500) == found


def test_a_server_that_cannot_be_heard_is_not_taken_for_one_that_cannot(tmp_path, monkeypatch):
    one = lambda body: "one"
    lost = Faulty(one, dict.fromkeys(range(1, 99), 502))
    with lost.serving() as address, pytest.raises(ServerStopped, match="show what it can do .502") as ended:
        probe(client(address, tmp_path), 500)
    assert ended.value.status == AGAIN
    can = lambda body: json.dumps({"fit": "yes"}) if "response_format" in body else "one"
    for fault in (500, "cut"):  # as to what it does not know: it answers a plain question after that
        with Faulty(can, dict.fromkeys((4, 5, 6), fault)).serving() as address:
            assert not probe(client(address, tmp_path), 500).schemas
    rests = []
    monkeypatch.setattr(Client, "rest", lambda self, attempt, asked: rests.append(attempt))
    with Faulty(can, dict.fromkeys((4, 5, 6), "cut") | {7: 400}).serving() as address:  # a refusal is an answer
        assert not probe(client(address, tmp_path), 500).schemas and rests == [0, 1]


def test_a_question_that_is_never_answered_readably_is_left_out_and_many_in_a_row_stop_the_run(tmp_path):
    """Such as one of which a filter lets no answer through."""
    server = Faulty(say, dict.fromkeys(range(1, 1 + ATTEMPTS), "empty"))
    with server.serving() as address:
        made = client(address, tmp_path / "one", concurrency=1)
        found = made.answers(bodies(3), lambda n: None)
    assert found[1] is None and texts([found[0], found[2]]) == ["said 0", "said 2"]
    assert made.counts.unread == 1 and "1 were answered by nothing that can be read" in str(made.counts)
    server = Faulty(say, dict.fromkeys(range(1, 999), "empty"))
    with server.serving() as address, pytest.raises(ServerStopped, match="answers most questions by nothing that can"):
        client(address, tmp_path / "all", concurrency=1).answers(bodies(99), lambda n: None)
    assert server.asked == 1 + FIRST * ATTEMPTS


def test_few_that_are_never_answered_readably_among_many_stop_nothing_now_or_after_a_resume(tmp_path):
    """They come last, since they are asked again and again."""
    filtered = lambda body: body["seed"] % 4 == 0
    server = Faulty(lambda body: {"content": 7} if filtered(body) else say(body))
    with server.serving() as address:
        for _ in range(2):
            made = client(address, tmp_path, concurrency=8)
            found = made.answers(bodies(40), lambda n: None)
            assert [answer is None for answer in found] == [n % 4 == 0 for n in range(40)]
            assert made.counts.unread == 10 and made.counts.answered + made.counts.kept == 30


def test_a_model_that_is_there_no_more_is_one_line_that_can_be_heeded(tmp_path):
    gone = Faulty(say, {0: 404})
    with gone.serving() as address, pytest.raises(ServerRefused, match="have it serve that, or see to --teacher.url"):
        client(address, tmp_path).answers(bodies(1), lambda n: None)


def test_a_server_that_takes_echo_and_scores_its_own_words_alone_is_found_out(tmp_path):
    """As llama.cpp's does."""
    with Faulty(lambda body: "one", echoes=False).serving() as address:
        config = client(address, tmp_path)
        found = probe(dataclasses.replace(config), 500)
    assert not found.scores_text and not found.schemas
    assert "no scoring of given text (echo), no schemas" in found.line("URL")


@pytest.mark.parametrize(
    ("server", "settings", "line"),
    [
        ({"models": ("a", "b")}, {}, "has 2 models; set --teacher.model to a or b"),
        ({}, {"model": "writter"}, "has no model 'writter'; set --teacher.model to writer"),
        ({"key": "x"}, {}, f"the key is wrong or has expired .401.; set {KEY}"),
        ({"context": 100}, {}, "reads 100 tokens, and a prompt with its answer may take 500"),
        ({"faults": {0: 500}}, {}, "does not answer a chat .500."),
    ],
)
def test_a_probe_stops_a_run_in_one_line_before_anything_is_spent(tmp_path, server, settings, line):
    with Faulty(say, **server).serving() as address, pytest.raises(ServerRefused, match=line) as refused:
        probe(client(address, tmp_path, **settings), 500)
    assert "\n" not in str(refused.value)


def test_an_address_where_nothing_listens_is_one_line(tmp_path):
    with Faulty(say).serving() as address:
        pass
    with pytest.raises(ServerRefused, match="does not answer .no connection"):
        probe(client(address, tmp_path), 500)


@pytest.mark.parametrize("section", ["teacher", "judge"])
@pytest.mark.parametrize("url", ["http://me:secret@host/v1", "host:8000", "https://host/v1?key=secret", "file:///x"])
def test_a_key_in_an_address_is_refused(url, section):
    simulate, kind = dataclasses.replace(Config().simulate, calls=0), {"teacher": TeacherConfig, "judge": JudgeConfig}
    with pytest.raises(ConfigError, match=f"{section}.url .* without a name or a key"):
        Config(simulate=simulate, **{section: kind[section](url=url)})
