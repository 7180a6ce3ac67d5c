import csv
import io
import json

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pyarrow import parquet

from ratchet.bootstrap.documents.reading import read
from ratchet.bootstrap.documents.tables import comma_separated
from ratchet.bootstrap.worlds import DocumentsConfig
from ratchet.bootstrap.worlds.world import Document

ROWS = [
    {"name": "crow", "body": "A crow drank, and\nflew.", "year": 1900, "license": "CC0"},
    {"name": "fox", "body": "Un café; „zwei“", "year": 1901, "license": ""},
]


def as_jsonl(path, form="utf-8"):
    path.write_bytes("\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS).encode(form))


def as_csv(path, form="utf-8", delimiter=","):
    with path.open("w", encoding=form, newline="") as file:
        writer = csv.DictWriter(file, ROWS[0], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(ROWS)


def as_parquet(path):
    parquet.write_table(pa.Table.from_pylist(ROWS), path)


def as_arrow_file(path):
    table = pa.Table.from_pylist(ROWS)
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table)


def as_arrow_stream(path):
    table = pa.Table.from_pylist(ROWS)
    with pa.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table)


WRITERS = {
    "utf-8.jsonl": as_jsonl,
    "16.jsonl": lambda path: as_jsonl(path, "utf-16"),
    "plain.ndjson": as_jsonl,
    "plain.csv": as_csv,
    "bom.csv": lambda path: as_csv(path, "utf-8-sig", ";"),
    "16.csv": lambda path: as_csv(path, "utf-16"),
    "windows.csv": lambda path: as_csv(path, "cp1252", ";"),
    "tabs.tsv": lambda path: as_csv(path, delimiter="\t"),
    "plain.parquet": as_parquet,
    "file.arrow": as_arrow_file,
    "stream.arrow": as_arrow_stream,
}


@pytest.mark.parametrize("name", WRITERS)
def test_rows_of_a_table_are_documents_by_named_columns(tmp_path, name):
    WRITERS[name](tmp_path / name)
    for path, source in ((tmp_path, name), (tmp_path / name, name)):
        found = read(DocumentsConfig(str(path), text_key="body", id_key="name", license="MIT")).documents
        assert found == (
            Document("crow", ROWS[0]["body"], {"year": "1900", "source": f"{source}:1", "license": "CC0"}),
            Document("fox", ROWS[1]["body"], {"year": "1901", "source": f"{source}:2", "license": "MIT"}),
        )


def test_rows_without_a_name_are_named_by_file_and_number(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.jsonl").write_text('{"text": "one"}\n\n{"text": "two", "id": null}\n{"text": ""}\n')
    (tmp_path / "b.csv").write_text("text,id\nthree,007\n")
    found = read(DocumentsConfig(str(tmp_path)))
    assert {d.id: d.text for d in found.documents} == {"deep/a 1": "one", "deep/a 3": "two", "007": "three"}
    assert [one.source for one in found.account.left_out] == ["deep/a.jsonl:4"], "what is empty is listed"


@pytest.mark.parametrize(
    "row",
    [
        '{"text": "so \\ud800 it is", "\\ufeffid": "a\\udfff", "\\ud801": "\\udc00\\ud801"}',
        '{"\\ufefftext": "so \\udfff it is", "id": "\\ufeffa\\ud800", "\\udc00": "\\ufeff\\udc00\\ud801"}',
    ],
)
def test_half_letters_and_marks_in_a_row_are_none_in_its_document(tmp_path, row):
    """Everything of a document is written as UTF-8 sooner or later."""
    (tmp_path / "a.jsonl").write_text(row)
    meta = {"\ufffd": "\ufffd\ufffd", "source": "a.jsonl:1", "license": "unknown"}
    assert read(DocumentsConfig(str(tmp_path))).documents == (Document("a\ufffd", "so \ufffd it is", meta),)


def test_a_blank_name_is_none_and_blank_lines_before_those_of_columns_are_passed_over(tmp_path):
    (tmp_path / "a.csv").write_text('\ufeff\n \n"text","id"\none,\ntwo," "\n')
    assert [(d.id, d.text) for d in read(DocumentsConfig(str(tmp_path))).documents] == [("a 1", "one"), ("a 2", "two")]


def test_columns_that_meta_has_for_itself_are_kept_under_another_name(tmp_path):
    row = {"text": "one", "source": "the web", "start": 3, "document": "other", "tags": ["a"], "none": None}
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    (found,) = read(DocumentsConfig(str(tmp_path))).documents
    assert found.meta == {
        "column source": "the web", "column start": "3", "column document": "other", "source": "a.jsonl:1",
        "license": "unknown",
    }  # fmt: skip
    assert found.document_id == found.id == "a 1"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "a.jsonl:2 cannot be read (Expecting property name"),
        ("[1]", "a.jsonl:2 is no JSON object"),
        ("[" * 100_000, "a.jsonl:2 cannot be read ("),
        ('{"body": "so"}', "a.jsonl:2 has no 'text' (it has body); see --documents.text-key"),
        ('{"text": null}', "a.jsonl:2 has no 'text'"),
        ('{"text": 7}', "a.jsonl:2 has a 'text' that is no text"),
        ('{"text": ["so"]}', "a.jsonl:2 has a 'text' that is no text"),
        ('{"text": " "}', "a.jsonl:2 gives no text"),
        ('{"text": ""}', "a.jsonl:2 gives no text"),
    ],
)
def test_a_row_that_is_no_document_is_listed_by_its_line_and_the_others_are_read(tmp_path, line, reason):
    (tmp_path / "a.jsonl").write_text(f'{{"text": "one"}}\n{line}\n{{"text": "three"}}\n')
    found = read(DocumentsConfig(str(tmp_path)))
    assert [d.text for d in found.documents] == ["one", "three"]
    (one,) = found.account.left_out
    assert f"{one.source} {one.reason}".startswith(reason)


def test_a_row_with_words_beyond_the_last_name_is_listed_and_not_cut(tmp_path):
    (tmp_path / "a.csv").write_text('id,text\n1,The mill, by the river, is old.\n2,"A crow, so it is.",,\n')
    found = read(DocumentsConfig(str(tmp_path)))
    assert [d.text for d in found.documents] == ["A crow, so it is."], "empty cells are no words"
    (one,) = found.account.of("unread")
    assert one.source == "a.csv:1" and one.reason == "has cells beyond its 2 names; put texts with ',' in quotes"


@pytest.mark.parametrize("delimiter", ["\t", ","])
def test_a_text_that_begins_with_speech_holds_no_other_rows(tmp_path, delimiter):
    said = ['"Hello said the crow', "Second", '"Third', "Fourth", '"Fifth said" he', "Sixth"]
    rows = ["id\ttext", *(f"{n}\t{text}" for n, text in enumerate(said)), '6\t"Two\nlines"', '7\t"unclosed', "8\tlast"]
    (tmp_path / "a.csv").write_text("\n".join(rows).replace("\t", delimiter) + "\n")
    found = [d.text for d in read(DocumentsConfig(str(tmp_path))).documents]
    alone = said[4] if delimiter == "\t" else "Fifth said he"
    assert found == [*said[:4], alone, said[5], "Two\nlines", '"unclosed', "last"]


@pytest.mark.parametrize(
    ("lines", "rows"),
    [
        ('id,text,author\n1,"Two\nlines" ,me\n2,b,c\n', [["1", "Two\nlines ", "me"], ["2", "b", "c"]]),
        ('id,text\n1,"He came.\nHe said ""go"", so."\n2,b\n', [["1", 'He came.\nHe said "go", so.'], ["2", "b"]]),
        ('id,text\n1,"He came.\nHe said "go" and so."\n2,b\n', [["1", 'He came.\nHe said go" and so."'], ["2", "b"]]),
        ('id,author,text\n1,"Smith, J","Hello crow\n2,me,b\n', [["1", "Smith, J", '"Hello crow'], ["2", "me", "b"]]),
        ('id,text\n1,a\n2,"Hello crow', [["1", "a"], ["2", '"Hello crow']]),
        ('id,text\n1,"cut off\nin the middle\n', [["1", "cut off\nin the middle\n"]]),
        ('id, text\n1, "a, b"\n2, "c"\n', [["1", "a, b"], ["2", "c"]]),
    ],
)
def test_quotes_hold_together_what_they_are_meant_to(lines, rows):
    found = [row for _, row in comma_separated(io.BytesIO(lines.encode()), "a.csv")]
    assert [[*row.values()] for row in found] == rows


@example('",\n,\\, ","a,a', ",")
@example(',\\, ","a,a', ",")
@given(st.text('",;\t \n\r\\aé', max_size=60), st.sampled_from(",;\t|"))
def test_no_table_is_too_torn_to_be_read_to_its_end(torn, delimiter):
    text = f"id{delimiter}text\n{torn}\n7{delimiter}last"
    found = [row for _, row in comma_separated(io.BytesIO(text.encode()), "a.csv")]
    assert any("last" in str(row) for row in found)


@given(st.lists(st.lists(st.text('",;\t \n\'aé', min_size=1, max_size=8), min_size=2, max_size=2), max_size=5))
def test_whatever_is_written_as_it_should_be_is_read_as_it_was(rows):
    written = io.StringIO()
    csv.writer(written).writerows([["id", "text"], *rows])
    found = [[*row.values()] for _, row in comma_separated(io.BytesIO(written.getvalue().encode()), "a.csv")]
    assert found == rows


def test_names_of_columns_have_no_space_around_them_and_ids_neither(tmp_path):
    (tmp_path / "a.csv").write_text("id, text\na ,one\n")
    assert [(d.id, d.text) for d in read(DocumentsConfig(str(tmp_path))).documents] == [("a", "one")]


def test_numbers_of_rows_that_begin_anew_in_each_file_are_no_ids(tmp_path):
    for name in "ab":
        rows = {"id": 0, "text": f"{name} one"}, {"id": name, "text": f"{name} 2"}
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    asked = [{"question": "who?", "answer": "a", "document": document} for document in ("0", "b.jsonl:1")]
    (tmp_path / "questions.jsonl").write_text("\n".join(map(json.dumps, asked)))
    config = DocumentsConfig(str(tmp_path), globs=("?.jsonl",), questions=str(tmp_path / "questions.jsonl"))
    found = read(config)
    assert [d.id for d in found.documents] == ["a.jsonl:1", "a", "b.jsonl:1", "b"]
    assert [q.document for q in found.questions] == ["b.jsonl:1"]
    (two,) = found.account.of("unread")
    assert "which the documents 'a.jsonl:1' and 'b.jsonl:1' are both called" in two.reason


def test_columns_that_nobody_reads_lose_no_rows(tmp_path):
    table = pa.table({
        "text": pa.array(["one", "two"]), "kind": pa.array(["a", "b"]).dictionary_encode(), "many": [[1], [2]],
        "at": pa.array([1700000000123456789, 1], pa.timestamp("ns")), "day": pa.array([10**7, 1], pa.date32()),
    })  # fmt: skip
    parquet.write_table(table, tmp_path / "a.parquet")
    found = read(DocumentsConfig(str(tmp_path)))
    assert [(d.text, d.meta["kind"], len(d.meta)) for d in found.documents] == [("one", "a", 3), ("two", "b", 3)]
    with pytest.raises(ValueError, match=r"a.parquet:1 has no 'x' .it has text, kind, many, at, day.; see"):
        read(DocumentsConfig(str(tmp_path), text_key="x"))
    with pytest.raises(ValueError, match="a.parquet:1 has a 'many' that is no text"):
        read(DocumentsConfig(str(tmp_path), text_key="many"))


def test_texts_in_a_table_may_be_long_and_have_lines(tmp_path):
    long = "so it is, said he.\n" * 20_000
    with (tmp_path / "a.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["id", "text"], ["a", long], ["b", 'he said "no"']])
    assert {d.id: d.text for d in read(DocumentsConfig(str(tmp_path))).documents} == {"a": long, "b": 'he said "no"'}


def test_marks_of_files_that_were_put_together_are_no_part_of_rows_and_names(tmp_path):
    one, mark = b'{"text": "one two", "id": "a"}\n', b"\xef\xbb\xbf"
    (tmp_path / "a.jsonl").write_bytes(mark * 2 + one + mark + one.replace(b"o", b"0").replace(b'"a"', b'"b"') + mark)
    (tmp_path / "b.csv").write_bytes(mark * 2 + b"id,text\nc," + mark + b"three\n")
    found = read(DocumentsConfig(str(tmp_path)))
    assert [(d.id, d.text) for d in found.documents] == [("a", "one two"), ("b", "0ne tw0"), ("c", "three")]
    assert found.documents[2].meta.keys() == {"source", "license"} and not found.account.left_out


def test_a_column_that_is_no_text_takes_none_away(tmp_path):
    row = {"text": "a text", "id": "a", "raw": bytes(range(256)), "year": 7}
    parquet.write_table(pa.Table.from_pylist([row]), tmp_path / "a.parquet")
    (found,) = read(DocumentsConfig(str(tmp_path))).documents
    assert (found.text, found.meta) == ("a text", {"year": "7", "source": "a.parquet:1", "license": "unknown"})


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.csv", "a.jsonl"])
def test_a_table_that_is_none_is_listed(tmp_path, name):
    (tmp_path / name).write_bytes(bytes(range(256)) * 8)
    (tmp_path / "b.txt").write_text("a text")
    found = read(DocumentsConfig(str(tmp_path)))
    assert [d.id for d in found.documents] == ["b"] and {o.source for o in found.account.left_out} == {name}


def test_a_column_that_no_row_has_is_named_with_those_that_there_are(tmp_path):
    as_parquet(tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="has no 'text' .it has name, body, year, license.; see --documents.text-key"):
        read(DocumentsConfig(str(tmp_path)))
