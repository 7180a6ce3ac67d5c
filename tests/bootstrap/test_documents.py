import numpy as np
import pytest
import tensorflow_datasets as tfds
from etils import epath

from ratchet.bootstrap import documents
from ratchet.bootstrap.worlds.world import Document
from ratchet.train.records import write_dataset

TEXT = tfds.features.Text()


def dataset(place, rows: list[dict], **features) -> epath.Path:
    """A TFDS dataset of these rows, as a user may have it."""
    place = epath.Path(place) / "corpus" / "1.0.0"
    write_dataset(place, "other", tfds.features.FeaturesDict(features), rows, metadata={})
    return place


def test_documents_are_read_from_a_tfds_dataset(tmp_path, world):
    wanted = [*world.slices[0].documents, Document("é/1", "two\nlines <|yes|>")]
    place = dataset(tmp_path, [{"id": d.id, "text": d.text} for d in wanted], id=TEXT, text=TEXT)
    assert documents.read(str(place)) == wanted


def test_a_folder_of_text_files_is_read_in_order(tmp_path):
    (tmp_path / "b.txt").write_text("second")
    (tmp_path / "a.txt").write_text("first é")
    (tmp_path / "blank.txt").write_text(" \n")
    (tmp_path / "note.md").write_text("no")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "c.txt").write_text("third")
    found = documents.read(str(tmp_path))
    assert [(d.id, d.text) for d in found] == [("a", "first é"), ("b", "second"), ("deep/c", "third")]


def test_files_of_one_name_in_several_folders_are_several_documents(tmp_path):
    for folder in (".", "deep", "deep/er", "other"):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "v1.note.txt").write_text(folder)
    found = {d.id: d.text for d in documents.read(str(tmp_path))}
    assert found == {"v1.note": ".", "deep/v1.note": "deep", "deep/er/v1.note": "deep/er", "other/v1.note": "other"}


@pytest.mark.parametrize(
    ("names", "split", "form", "named"),
    [
        (("name", "text"), "train", "array_record", "has no feature `id` .it has name, text"),
        (("id", "body"), "train", "array_record", "has no feature `text` .it has body, id"),
        (("id", "text"), "test", "array_record", "has no split `train` .it has test"),
        (("id", "text"), "train", "tfrecord", "is tfrecord, .* file_format"),
    ],
)
def test_a_dataset_that_cannot_be_used_is_one_clear_line(tmp_path, names, split, form, named):
    place = dataset(tmp_path, [dict.fromkeys(names, "x")], **dict.fromkeys(names, TEXT))
    info = place / "dataset_info.json"
    info.write_text(info.read_text().replace('"train"', f'"{split}"').replace("array_record", form))
    with pytest.raises(ValueError, match=f"documents: .*{named}") as caught:
        documents.read(str(place))
    assert "\n" not in str(caught.value)


def test_numbers_are_ids_too_and_other_features_become_meta(tmp_path):
    number = tfds.features.Scalar(np.int64)
    features = {"id": number, "text": TEXT, "genre": TEXT, "year": number}
    place = dataset(tmp_path, [{"id": 7, "text": "a story", "genre": "log", "year": 1900}], **features)
    assert documents.read(str(place)) == [Document("7", "a story", {"genre": "log", "year": "1900"})]


def test_a_feature_named_meta_is_one_like_others(tmp_path):
    row = {"id": "a", "text": "a story", "meta": "by hand"}
    assert documents.read(str(dataset(tmp_path, [row], **dict.fromkeys(row, TEXT)))) == [
        Document("a", "a story", {"meta": "by hand"})
    ]


@pytest.mark.parametrize("place", ["", "missing", "file.txt"])
def test_a_place_without_documents_is_one_clear_line(tmp_path, place):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").write_text("x")
    with pytest.raises(ValueError, match="no .txt files; set --documents.path") as caught:
        documents.read(str(tmp_path / (place or "empty")))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_text_is_named(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"caf\xe9 \xff")
    with pytest.raises(ValueError, match="a.txt"):
        documents.read(str(tmp_path))


def test_a_folder_of_blank_files_is_one_clear_line(tmp_path):
    (tmp_path / "a.txt").write_text(" \n")
    with pytest.raises(ValueError, match="documents: .*text"):
        documents.read(str(tmp_path))
