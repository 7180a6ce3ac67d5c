import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from etils import epath
from hypothesis import given
from hypothesis import strategies as st

from ratchet.bootstrap import documents
from ratchet.bootstrap.transcript import Document
from ratchet.train.records import write_dataset


def test_documents_come_back_from_a_tfds_dataset(tmp_path, world):
    written = [*world.documents(), Document("é/1", "two\nlines <|yes|>", {"genre": "log", "n": "1"})]
    place = epath.Path(tmp_path) / "corpus" / "1.0.0"
    documents.write(place, written)
    assert documents.read(place) == written


def test_the_dataset_opens_with_tfds_and_without_tensorflow(tmp_path, world):
    place = epath.Path(tmp_path) / "corpus" / "1.0.0"
    documents.write(place, world.documents())
    script = (
        "import sys, tensorflow_datasets as tfds\n"
        f"source = tfds.builder_from_directory({str(place)!r}).as_data_source(split='train')\n"
        "assert 'tensorflow' not in sys.modules\n"
        "print(len(source), source[0]['text'].decode())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    first = world.documents()[0]
    assert done.stdout.strip() == f"{len(world.documents())} {first.text}", done.stderr


def test_a_folder_of_text_files_is_read_in_order(tmp_path):
    (tmp_path / "b.txt").write_text("second")
    (tmp_path / "a.txt").write_text("first é")
    (tmp_path / "blank.txt").write_text(" \n")
    (tmp_path / "note.md").write_text("no")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "c.txt").write_text("third")
    found = documents.read(epath.Path(tmp_path))
    assert [(d.id, d.text) for d in found] == [("a", "first é"), ("b", "second"), ("deep/c", "third")]


def test_files_of_one_name_in_several_folders_are_several_documents(tmp_path):
    for folder in (".", "deep", "deep/er", "other"):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "v1.note.txt").write_text(folder)
    found = {d.id: d.text for d in documents.read(epath.Path(tmp_path))}
    assert found == {"v1.note": ".", "deep/v1.note": "deep", "deep/er/v1.note": "deep/er", "other/v1.note": "other"}


@pytest.mark.parametrize(
    ("names", "split", "form", "named"),
    [(("name", "text"), "train", "array_record", "has no feature `id` .it has name, text"),
     (("id", "body"), "train", "array_record", "has no feature `text` .it has body, id"),
     (("id", "text"), "test", "array_record", "has no split `train` .it has test"),
     (("id", "text"), "train", "tfrecord", "is tfrecord, .* file_format")],
)  # fmt: skip
def test_a_dataset_that_cannot_be_used_is_one_clear_line(tmp_path, names, split, form, named):
    place = epath.Path(tmp_path) / "1.0.0"
    features = tfds.features.FeaturesDict({name: tfds.features.Text() for name in names})
    write_dataset(place, "other", features, [dict.fromkeys(names, "x")], metadata={})
    info = place / "dataset_info.json"
    info.write_text(info.read_text().replace('"train"', f'"{split}"').replace("array_record", form))
    with pytest.raises(ValueError, match=f"documents: .*{named}") as caught:
        documents.read(place)
    assert "\n" not in str(caught.value)


def test_numbers_are_ids_too_and_other_features_become_meta(tmp_path):
    place, text = epath.Path(tmp_path) / "1.0.0", tfds.features.Text()
    features = tfds.features.FeaturesDict({"id": tfds.features.Scalar(np.int64), "text": text, "genre": text})
    write_dataset(place, "own", features, [{"id": 7, "text": "a story", "genre": "log"}], metadata={})
    assert documents.read(place) == [Document("7", "a story", {"genre": "log"})]


@pytest.mark.parametrize("place", ["", "missing", "file.txt"])
def test_a_place_without_documents_is_one_clear_line(tmp_path, place):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").write_text("x")
    with pytest.raises(ValueError, match="no .txt files; set --documents.path") as caught:
        documents.read(epath.Path(tmp_path) / (place or "empty"))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_text_is_named(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"caf\xe9 \xff")
    with pytest.raises(ValueError, match="a.txt"):
        documents.read(epath.Path(tmp_path))


def test_a_folder_of_blank_files_is_one_clear_line(tmp_path):
    (tmp_path / "a.txt").write_text(" \n")
    with pytest.raises(ValueError, match="documents: .*text"):
        documents.read(epath.Path(tmp_path))


@given(count=st.integers(0, 200), words=st.integers(1, 50))
def test_passages_cover_a_document_word_for_word(count, words):
    document = Document("d", "  ".join(f"w{i}" for i in range(count)), {"k": "v"})
    made = documents.passages([document], words)
    assert [w for p in made for w in p.text.split()] == document.text.split()
    assert all(len(p.text.split()) <= words for p in made)
    if len(made) > 1:
        assert [p.id for p in made] == [f"d#{i}" for i in range(len(made))]
        assert all(p.meta == {"k": "v", "document": "d"} for p in made)
    else:
        assert made == [document]


def test_material_without_tasks_gets_one_question_a_document():
    made = documents.tasks([Document("the_fox-and_crow", "text"), Document("other", "text")])
    assert made[0].question == "the fox and crow. what do you do?"
    assert made[0].document_ids == ("the_fox-and_crow",)
    assert len({t.id for t in made}) == 2
