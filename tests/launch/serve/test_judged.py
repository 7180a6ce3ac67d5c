"""A judge by address that is our own server: its verdicts are what the served weights give."""

import numpy as np
import pytest
from etils import epath
from serving import of_folder, write_folder

from ratchet.bootstrap.teacher.client import Client
from ratchet.bootstrap.teacher.judging import FarJudge, Posed, unmarked
from ratchet.bootstrap.teacher.probing import probe
from ratchet.bootstrap.teacher.settings import JudgeConfig
from ratchet.launch.serve.listening import answering

TEXT = "Question: what is it <|im_end|> and is it so?\n"


def words_of(served, prompt) -> tuple[np.ndarray, list[int]]:
    """The probabilities of all ids after a prompt, and those of the likeliest that are words, none of which begins
    another."""
    ids = tuple(range(served.vocab_size))
    probs_V = served.scorer(served.weights, [((), prompt)], ids)[0]
    likeliest = [int(i) for i in np.argsort(-probs_V)[:20]]
    texts = {i: served.tokenizer.decode([i]).strip().casefold() for i in likeliest}
    others = lambda i: [t for j, t in texts.items() if j != i and t]
    alone = lambda i: not any(texts[i].startswith(t) or t.startswith(texts[i]) for t in others(i))
    return probs_V, [i for i in likeliest if texts[i].isalnum() and alone(i)]


def test_verdicts_of_a_served_model_are_its_probabilities(tmp_path):
    (tmp_path / "speaker").mkdir()
    served = of_folder(write_folder(tmp_path / "speaker"))
    prompt = tuple(served.tokenizer.render([{"role": "user", "content": unmarked(TEXT)}]))
    probs_V, (first, second, *_) = words_of(served, prompt)
    words = tuple(served.tokenizer.decode([i]).strip() for i in (first, second))
    with answering(served) as address:
        client = Client(JudgeConfig(url=f"{address}/v1"), served.name, epath.Path(tmp_path) / "answers")
        found = probe(client, 64)
        ((passing, failing),) = FarJudge(client, found.likeliest)([Posed(TEXT, words, words[:1])])
    assert (found.likeliest, found.token_ids, found.scores_text, found.schemas) == (20, True, True, True)
    assert (passing, failing) == pytest.approx((probs_V[first], probs_V[second]), abs=1e-5)
