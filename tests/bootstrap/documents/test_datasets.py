"""TFDS datasets by folder and by name, and those that Hugging Face's library saved to disk."""

import json
import re
import shutil

import numpy as np
import pyarrow as pa
import pytest
import tensorflow_datasets as tfds
from etils import epath

from ratchet.bootstrap.documents.reading import read
from ratchet.bootstrap.worlds import DocumentsConfig
from ratchet.bootstrap.worlds.world import Document
from ratchet.train.files import write_unit
from ratchet.train.records import write_dataset

TEXT = tfds.features.Text()


def dataset(place, rows: list[dict], **features) -> epath.Path:
    """A TFDS dataset of these rows, as a user may have it."""
    place = epath.Path(place) / "corpus" / "1.0.0"
    write_dataset(place, "other", tfds.features.FeaturesDict(features), rows, metadata={})
    return place


def saved(place, rows: list[dict], files: int = 2, license: str = "") -> None:
    """What `save_to_disk` of Hugging Face's library writes: streams of arrow, and their names."""
    place.mkdir(parents=True)
    names = [f"data-{n:05}-of-{files:05}.arrow" for n in range(files)]
    schema = pa.Table.from_pylist(rows).schema
    for n, name in enumerate(names):
        with pa.ipc.new_stream(str(place / name), schema) as writer:
            writer.write_table(pa.Table.from_pylist(rows[n::files], schema=schema))
    (place / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    (place / "dataset_info.json").write_text(json.dumps({"license": license, "features": {}}))


def documents(place, **settings) -> list[Document]:
    return list(read(DocumentsConfig(str(place), **settings)).documents)


def refused(place, **settings) -> str:
    """The one line in which documents are refused."""
    with pytest.raises(ValueError, match="^documents: ") as caught:
        documents(place, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def told(number: int, license: str = "unknown", **more: str) -> dict[str, str]:
    """The meta of an example."""
    return more | {"source": f"example {number}", "license": license}


def test_documents_are_read_from_a_tfds_dataset(tmp_path, world):
    wanted = [*world.slices[0].documents, Document("é/1", "two\nlines <|yes|>")]
    place = dataset(tmp_path, [{"id": d.id, "text": d.text} for d in wanted], id=TEXT, text=TEXT)
    assert documents(place) == [Document(d.id, d.text, told(n)) for n, d in enumerate(wanted, 1)]


def test_the_folder_above_a_datasets_only_version_will_do(tmp_path):
    place = dataset(tmp_path, [{"text": "one"}], text=TEXT)
    assert documents(place.parent) == [Document("1", "one", told(1))]
    shutil.copytree(place, place.parent / "1.1.0")
    assert "holds several datasets (1.0.0, 1.1.0); set --documents.path to one of them" in refused(place.parent)


def test_columns_may_have_any_names_and_rows_none(tmp_path):
    place = dataset(tmp_path, [{"title": "a", "body": "one"}, {"title": "b", "body": "two"}], title=TEXT, body=TEXT)
    assert [(d.id, d.text) for d in documents(place, text_key="body", id_key="title")] == [("a", "one"), ("b", "two")]
    assert documents(place, text_key="body")[1] == Document("2", "two", told(2, title="b"))


@pytest.mark.parametrize(
    ("names", "split", "form", "named"),
    [
        (("id", "body"), "train", "array_record", "has no feature `text` .it has body, id.; set --documents.text-key"),
        (("id", "text"), "test", "array_record", "has no split `train` .it has test"),
        (("id", "text"), "train", "tfrecord", "is tfrecord, .* file_format"),
    ],
)
def test_a_dataset_that_cannot_be_used_is_one_clear_line(tmp_path, names, split, form, named):
    place = dataset(tmp_path, [dict.fromkeys(names, "x")], **dict.fromkeys(names, TEXT))
    info = place / "dataset_info.json"
    info.write_text(info.read_text().replace('"train"', f'"{split}"').replace("array_record", form))
    assert re.search(named, refused(place))


def test_an_id_column_that_was_asked_for_has_to_be_there(tmp_path):
    place = dataset(tmp_path, [{"text": "x"}], text=TEXT)
    assert "has no feature `name`" in refused(place, id_key="name") and [d.id for d in documents(place)] == ["1"]


def test_numbers_are_ids_too_and_other_features_become_meta(tmp_path):
    number = tfds.features.Scalar(np.int64)
    features = {"id": number, "text": TEXT, "genre": TEXT, "year": number, "meta": TEXT}
    row = {"id": 7, "text": "a story", "genre": "log", "year": 1900, "meta": "by hand"}
    place = dataset(tmp_path, [row], **features)
    assert documents(place) == [Document("7", "a story", told(1, genre="log", year="1900", meta="by hand"))]


def test_only_single_texts_and_numbers_of_a_dataset_are_looked_at(tmp_path):
    features = {
        "text": TEXT, "id": TEXT, "label": tfds.features.ClassLabel(names=["u", "v"]), "raw": TEXT,
        "image": tfds.features.Image(), "parts": tfds.features.Sequence({"x": np.int32}), "deep": {"a": TEXT},
    }  # fmt: skip
    row = {"id": "a", "text": "a story", "label": "v", "raw": "café".encode("latin-1"), "deep": {"a": "b"}}
    picture = tmp_path / "no picture"
    picture.write_bytes(b"not decoded")
    place = dataset(tmp_path, [row | {"image": str(picture), "parts": {"x": [1]}}], **features)
    assert documents(place) == [Document("a", "a story", told(1, label="1", raw="café"))]


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
    assert f"`text` of the dataset in {tmp_path}" in line


def test_two_rows_of_one_id_are_named(tmp_path):
    rows = [{"id": "a", "text": "a story"}, {"id": "a", "text": "another"}]
    place = dataset(tmp_path, rows, id=TEXT, text=TEXT)
    line = refused(place, id_key="id")
    assert "example 1 and example 2 in " in line and "the same id, 'a'; set --documents.id-key" in line
    assert [d.id for d in read(DocumentsConfig(str(place))).documents] == ["example 1", "example 2"]


def test_blank_examples_are_left_out_unless_there_are_no_others(tmp_path):
    blank, whole = {"id": "", "text": " \n"}, {"id": "a", "text": "a story"}
    place = dataset(tmp_path / "some", [blank, whole, {"id": "", "text": "\t"}], id=TEXT, text=TEXT)
    found = read(DocumentsConfig(str(place)))
    assert [d.id for d in found.documents] == ["a"]
    assert [o.source for o in found.account.left_out] == ["example 1", "example 3"]
    assert "holds no text (example 1 gives no text)" in refused(dataset(tmp_path / "all", [blank], id=TEXT, text=TEXT))


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


class LittleTales(tfds.core.GeneratorBasedBuilder):
    """A dataset of TFDS, known by name."""

    VERSION = tfds.core.Version("1.0.0")
    pkg_dir_path = epath.Path(__file__).parent

    def _info(self):
        features = tfds.features.FeaturesDict({"name": TEXT, "text": TEXT})
        return tfds.core.DatasetInfo(builder=self, features=features, license="CC0")

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for n in range(3):
            yield n, {"name": f"tale {n}", "text": f"so it is with number {n}"}


def test_a_dataset_is_known_by_its_name_and_prepared_when_it_is_not_yet(tmp_path, monkeypatch):
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path))
    for name in ("little_tales", "little_tales:1.0.0"):
        found = documents(name, id_key="name")
        assert {d.id: d.text for d in found} == {f"tale {n}": f"so it is with number {n}" for n in range(3)}
        assert {d.meta["license"] for d in found} == {"CC0"}
    assert (tmp_path / "little_tales" / "1.0.0" / "features.json").exists()


@pytest.mark.parametrize("name", ["no_such_tales", "no/such/place", "/no/such/place", "no such place.txt", "..nothing"])
def test_a_place_that_there_is_not_is_one_clear_line(name):
    assert f"there is no folder, file or TFDS dataset {name}; set --documents.path" in refused(name)


def test_a_dataset_saved_to_disk_is_read_file_after_file(tmp_path):
    rows = [{"id": f"n{n}", "text": f"so it is with {n}", "pages": n, "tags": ["x"]} for n in range(5)]
    saved(tmp_path / "set", rows, license="MIT")
    found = documents(tmp_path / "set")
    assert [d.id for d in found] == ["n0", "n2", "n4", "n1", "n3"]
    assert found[3] == Document("n1", "so it is with 1", told(4, "MIT", pages="1"))


def test_of_several_saved_splits_train_is_read_or_the_only_one(tmp_path):
    for split in ("test", "train"):
        saved(tmp_path / split, [{"text": f"{split}: so it is"}], files=1)
    several = tmp_path / "dataset_dict.json"
    several.write_text('{"splits": ["test", "train"]}')
    assert [d.text for d in documents(tmp_path)] == ["train: so it is"]
    several.write_text('{"splits": ["test"]}')
    assert [d.text for d in documents(tmp_path)] == ["test: so it is"]
    several.write_text('{"splits": ["test", "validation"]}')
    assert "has no split `train` (it has test, validation)" in refused(tmp_path)


@pytest.mark.parametrize("name", ["state.json", "data-00000-of-00001.arrow"])
@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"prose"])
def test_a_damaged_saved_dataset_is_one_clear_line(tmp_path, name, content):
    saved(tmp_path / "set", [{"text": "so it is"}], files=1)
    (tmp_path / "set" / name).write_bytes(content)
    assert "cannot be read" in refused(tmp_path / "set")


def of_factory(place):
    """What a folder of files to train on has beside them."""
    (place / "dataset_info.json").write_text('{"tales": {"file_name": "tales.jsonl"}}')


def of_notes(place):
    (place / "state.json").write_text('{"open": ["crow.txt"]}')


def of_broken_notes(place):
    (place / "state.json").write_bytes(b"\xff{")


def of_maps(place):
    for name in ("north", "south"):
        (place / name).mkdir()
        (place / name / "features.json").write_text('{"type": "FeatureCollection"}')


@pytest.mark.parametrize("beside", [of_factory, of_notes, of_broken_notes, of_maps])
def test_a_folder_is_no_dataset_by_the_name_of_a_file(tmp_path, beside):
    (tmp_path / "crow.txt").write_text("A crow drank.")
    beside(tmp_path)
    assert [d.text for d in documents(tmp_path)] == ["A crow drank."]


def test_files_that_are_asked_for_are_read_from_a_dataset_too(tmp_path):
    place = dataset(tmp_path, [{"id": "a", "text": "a story"}], id=TEXT, text=TEXT)
    (place / "README.md").write_text("So it is.")
    assert [d.text for d in documents(place, globs=("*.md",))] == ["So it is."]
    saved(tmp_path / "set", [{"text": "so it was"}], files=1)
    (tmp_path / "set" / "notes.txt").write_text("So it will be.")
    assert [d.text for d in documents(tmp_path / "set", globs=("*.txt",))] == ["So it will be."]


@pytest.mark.parametrize("said", ['{"splits": []}', '{"splits": [3, 4]}'])
def test_a_saved_dataset_without_a_split_to_read_is_one_clear_line(tmp_path, said):
    (tmp_path / "dataset_dict.json").write_text(said)
    assert f"the dataset in {tmp_path} has no split `train`" in refused(tmp_path)


def test_a_damaged_list_of_splits_names_the_dataset(tmp_path):
    saved(tmp_path / "train", [{"text": "so it was"}], files=1)
    for said in (b"\xff", b"[1]", b"{"):
        (tmp_path / "dataset_dict.json").write_bytes(said)
        assert f"the dataset in {tmp_path} cannot be read" in refused(tmp_path)
