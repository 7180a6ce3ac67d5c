import os
import re
import shutil
import socket

import numpy as np
import pytest
import tensorflow_datasets as tfds
from etils import epath

from ratchet.bootstrap import documents
from ratchet.bootstrap.worlds.world import Document
from ratchet.train.files import write_unit
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


def refused(place) -> str:
    """The one line in which documents are refused."""
    with pytest.raises(ValueError, match="^documents: ") as caught:
        documents.read(str(place))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def ids(place) -> list[str]:
    return [d.id for d in documents.read(str(place))]


def test_links_are_followed_and_each_file_is_read_once(tmp_path):
    folder, elsewhere = tmp_path / "own", tmp_path / "other"
    for place in (folder / "in", elsewhere):
        place.mkdir(parents=True)
        (place / "b.txt").write_text("second")
    (folder / "c.txt").write_text("third")
    links = {"0": ".", "1": ".", "2": "in", "3": elsewhere, "in/up": "..", "a.txt": "c.txt", "gone": "nowhere"}
    for name, target in links.items():
        os.symlink(target, folder / name)
    os.link(folder / "c.txt", folder / "d.txt")
    assert ids(folder) == ["3/b", "c", "in/b"]


def test_what_is_no_regular_file_is_passed_by(tmp_path):
    (tmp_path / "a.txt").write_text("first")
    os.mkfifo(tmp_path / "b.txt")
    os.symlink("/dev/zero", tmp_path / "c.txt")
    with socket.socket(socket.AF_UNIX) as heard:
        heard.bind(str(tmp_path / "d.txt"))
        assert ids(tmp_path) == ["a"]


@pytest.mark.parametrize("target", ["nowhere", "a.txt"])
def test_a_text_that_cannot_be_opened_is_named(tmp_path, target):
    os.symlink(target, tmp_path / "a.txt")
    assert f"{tmp_path / 'a.txt'} cannot be read" in refused(tmp_path)


def test_a_suffix_may_be_in_capitals_but_one_id_is_one_text(tmp_path):
    (tmp_path / "B.TXT").write_text("second")
    (tmp_path / "a.txt").write_text("first")
    assert ids(tmp_path) == ["B", "a"]
    (tmp_path / "a.TXT").write_text("third")
    assert "a.TXT and a.txt in " in refused(tmp_path)


def test_a_name_that_is_no_utf8_becomes_one_that_is(tmp_path):
    (tmp_path / os.fsdecode(b"caf\xe9.txt")).write_text("first")
    (found,) = documents.read(str(tmp_path))
    assert found == Document("caf\\xe9", "first", {"source": "caf\\xe9.txt"})


def test_a_byte_order_mark_before_a_text_is_no_part_of_it(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeff\ufefffirst".encode())
    (tmp_path / "b.txt").write_bytes("\ufeff \n".encode())
    (tmp_path / "c.txt").write_bytes("in\ufeffside".encode())
    found = [Document("a", "first"), Document("c", "in\ufeffside")]
    assert [(d.id, d.text) for d in documents.read(str(tmp_path))] == [(d.id, d.text) for d in found]
    rows = [{"id": "a", "text": "\ufefffirst"}, {"id": "b", "text": "\ufeff"}, {"id": "c", "text": "in\ufeffside"}]
    assert documents.read(str(dataset(tmp_path / "set", rows, id=TEXT, text=TEXT))) == found


@pytest.mark.parametrize("form", ["utf-16", "utf-16-le", "utf-32", "latin-1"])
def test_a_file_in_another_encoding_is_named(tmp_path, form):
    (tmp_path / "a.txt").write_bytes("un café".encode(form))
    assert "a.txt in " in (line := refused(tmp_path)) and "is not UTF-8 text" in line


def test_only_single_texts_and_numbers_of_a_dataset_are_looked_at(tmp_path):
    features = {
        "text": TEXT, "id": TEXT, "label": tfds.features.ClassLabel(names=["u", "v"]), "raw": TEXT, "meta": TEXT,
        "image": tfds.features.Image(), "parts": tfds.features.Sequence({"x": np.int32}), "deep": {"a": TEXT},
    }  # fmt: skip
    row = {"id": "a", "text": "a story", "label": "v", "raw": b"caf\xe9", "meta": "prose", "deep": {"a": "b"}}
    picture = tmp_path / "no picture"
    picture.write_bytes(b"not decoded")
    place = dataset(tmp_path, [row | {"image": str(picture), "parts": {"x": [1]}}], **features)
    meta = {"label": "1", "raw": "caf\ufffd", "meta": "prose"}
    assert documents.read(str(place)) == [Document("a", "a story", meta)]


@pytest.mark.parametrize(
    ("feature", "value"),
    [
        (tfds.features.Tensor(shape=(None,), dtype=np.int32), [1, 2]),
        (tfds.features.Scalar(np.int64), 1),
        (tfds.features.Sequence(TEXT), ["a"]),
        (tfds.features.FeaturesDict({"en": TEXT}), {"en": "a"}),
    ],
)
def test_a_feature_that_is_not_one_text_is_named(tmp_path, feature, value):
    line = refused(dataset(tmp_path, [{"id": "a", "text": value}], id=TEXT, text=feature))
    assert str(tmp_path) in line and f"`text` of the dataset in {tmp_path}" in line


@pytest.mark.parametrize(
    ("second", "said"),
    [
        ({"id": "b", "text": b"caf\xe9"}, "example 1 of the dataset in .* not UTF-8"),
        ({"id": b"\xff", "text": "a story"}, "example 1 of the dataset in .* not UTF-8"),
        ({"id": "a", "text": "another"}, "example 0 and example 1 in .* have the same id, 'a'"),
    ],
)
def test_an_example_that_cannot_be_used_is_named_by_its_number(tmp_path, second, said):
    place = dataset(tmp_path, [{"id": "a", "text": "a story"}, second], id=TEXT, text=TEXT)
    assert re.search(said, refused(place)) and str(place) in refused(place)


def test_blank_examples_are_left_out_unless_there_are_no_others(tmp_path):
    blank, whole = {"id": "", "text": " \n"}, {"id": "a", "text": "a story"}
    assert ids(dataset(tmp_path / "some", [blank, whole, blank], id=TEXT, text=TEXT)) == ["a"]
    assert "there is no text" in refused(dataset(tmp_path / "all", [blank], id=TEXT, text=TEXT))


@pytest.mark.parametrize(
    "damage",
    [
        lambda place: (place / "dataset_info.json").write_text(""),
        lambda place: (place / "dataset_info.json").write_text("[1]"),
        lambda place: (place / "features.json").write_text("prose"),
        lambda place: (place / "features.json").unlink(),
        lambda place: next(place.glob("*array_record*")).unlink(),
        lambda place: write_unit(next(place.glob("*array_record*")), [b"no example"]),
        lambda place: shutil.copy2(place / "features.json", next(place.glob("*array_record*"))),
    ],
)
def test_a_damaged_dataset_is_one_clear_line(tmp_path, damage):
    place = dataset(tmp_path, [{"id": "a", "text": "a story"}], id=TEXT, text=TEXT)
    damage(place)
    line = refused(place)
    assert str(place) in line and "cannot be read" in line


def test_a_folder_of_blank_files_is_one_clear_line(tmp_path):
    (tmp_path / "a.txt").write_text(" \n")
    with pytest.raises(ValueError, match="documents: .*text"):
        documents.read(str(tmp_path))
