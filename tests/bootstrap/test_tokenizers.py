"""The tokenizer that a run trains for itself: on which texts, and that it comes back from its folder."""

import base64
import random
from dataclasses import replace

import little
from etils import epath
from support import little_config

from ratchet.bootstrap.rubric import load_rubric
from ratchet.bootstrap.tokenizers import FEWEST_LETTERS, MOST_OF_ONE, PROSE_LINES, evenly, make_tokenizer
from ratchet.bootstrap.worlds.world import Document, Material
from ratchet.models.tokenizer import load


def made(folder, world, **changes):
    return make_tokenizer(epath.Path(folder), little_config(**changes), world, load_rubric("", world))


def pieces_of(tokenizer, text: str) -> int:
    return len(tokenizer.encode(text))


def test_what_was_made_is_read_back_and_is_the_same_again(tmp_path, world):
    first, second = made(tmp_path / "a", world), made(tmp_path / "b", world)
    found = load(epath.Path(tmp_path) / "a")
    assert found.hash == first.hash == second.hash
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["model.spm"]


def test_words_of_the_seed_and_of_the_first_slice_are_whole(tmp_path, world):
    tokenizer = made(tmp_path / "a", world)
    texts = [world.seed.tasks[0].question, world.seed.tasks[0].answer, world.slices[0].documents[0].text]
    for word in " ".join(texts).replace(".", "").replace("?", "").split():
        assert pieces_of(tokenizer, word) == 1, word
    assert pieces_of(tokenizer, "deed") == 1 == pieces_of(tokenizer, "no"), "so are the rubric's and the supervisor's"


def test_more_generations_do_not_change_it(tmp_path):
    few, many = (made(tmp_path / str(n), little.create(generations=n)) for n in (1, 5))
    assert few.hash == many.hash


def test_a_large_first_slice_does_not_crowd_out_the_seed_but_fills_in_where_there_is_none(tmp_path, world):
    crowd = tuple(Document(f"d{n}", f"quixotic zephyrs vex jacks {n} " * 40) for n in range(60))
    crowded = replace(world, slices=(Material(crowd), *world.slices[1:]))
    some, alone = made(tmp_path / "a", crowded), made(tmp_path / "b", replace(crowded, seed=Material(), prose=()))
    assert pieces_of(some, "guest") == 1 < pieces_of(alone, "guest")
    assert pieces_of(alone, "zephyrs") == 1


def test_prose_is_read_up_to_a_limit(tmp_path, world):
    lines = tuple((f"line {n}", "goes on") for n in range(PROSE_LINES))
    a, b = (replace(world, prose=(*lines, *more)) for more in ((), (("xylophones xylophones", "xylophones"),) * 50))
    assert made(tmp_path / "a", a).hash == made(tmp_path / "b", b).hash


def test_a_long_first_document_shuts_out_no_other(tmp_path, world):
    giant = Document("0", "quixotic zephyrs " * 50_000)
    others = [Document(f"d{n}", "vexing jackals prowl. " * 30) for n in range(20)]
    tokenizer = made(tmp_path / "a", replace(world, slices=(Material((giant, *others)),)))
    assert pieces_of(tokenizer, "quixotic zephyrs vexing jackals prowl") == 5
    assert pieces_of(tokenizer, "guest") == 1, "nor the seed's words"


def test_a_long_document_that_is_no_text_shuts_out_no_word_of_others(tmp_path, world):
    noise = Document("0", base64.b64encode(random.Random(0).randbytes(300_000)).decode())
    words = [f"{a}{b}{c}" for a in ("tru", "blo", "gri") for b in ("ster", "mund", "vack") for c in ("ing", "o", "el")]
    others = [Document(f"d{n}", " ".join(words[n:] + words[:n])) for n in range(20)]
    tokenizer = made(tmp_path / "a", replace(world, slices=(Material((noise, *others)),)))
    assert pieces_of(tokenizer, " ".join(words)) < 2 * len(words)


def test_what_many_long_documents_begin_with_shuts_out_no_word_of_what_follows(tmp_path, world):
    licence = " ".join(f"{word} permission notice" for word in ("granted", "hereby", "warranty", "liable") * 45)
    words = [f"{a}{b}{c}" for a in ("tru", "blo", "gri") for b in ("ster", "mund", "vack") for c in ("ing", "o", "el")]
    texts = [f"{licence} {' '.join((words[n % 27:] + words[: n % 27]) * 4)}" for n in range(300)]
    crowd = tuple(Document(f"d{n}", text) for n, text in enumerate(texts))
    tokenizer = made(tmp_path / "a", replace(world, slices=(Material(crowd),)))
    assert len(licence) > 10**6 // 300 and pieces_of(tokenizer, " ".join(words)) < 2 * len(words)


def test_texts_are_taken_evenly_from_beginning_to_end():
    text = "".join(map(chr, range(1000)))
    assert evenly([text, "x"], 401) == [text[:100] + text[300:400] + text[600:700] + text[900:], "x"]
    assert [len(evenly([text], letters)[0]) for letters in range(100, 110)] == [*range(100, 110)]
    assert evenly(["a" * 90_000, "b" * 9000], 10**6) == ["a" * MOST_OF_ONE, "b" * 9000]
    assert evenly(["a" * 90_000, "b" * 30_000], 10**6) == ["a" * 30_000, "b" * 30_000]
    assert evenly(["ab", "c" * 500, "", "d" * 900], 420) == ["ab", "c" * 209, "", "d" * 209]
    assert evenly(["ab", "cd"], 1000) == ["ab", "cd"] and evenly([], 10) == []
    crowd = [f"{n:04}" * 100 for n in range(1000)]
    taken = evenly(crowd, 10 * FEWEST_LETTERS)
    assert [t[:4] for t in taken] == [f"{n:04}" for n in range(0, 1000, 100)]
    assert {len(t) for t in taken} == {FEWEST_LETTERS}
