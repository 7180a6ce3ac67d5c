"""Folders: which files are read, what their documents are called, and what is left out."""

import os
import socket
import sys

import pytest

from ratchet.bootstrap.documents.reading import read
from ratchet.bootstrap.worlds import DocumentsConfig
from ratchet.bootstrap.worlds.world import Document
from ratchet.models.extras import installing


def found(place, **settings):
    return read(DocumentsConfig(str(place), **settings))


def ids(place, **settings) -> list[str]:
    return [d.id for d in found(place, **settings).documents]


def refused(place, **settings) -> str:
    """The one line in which documents are refused."""
    with pytest.raises(ValueError, match="^documents: ") as caught:
        found(place, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def write(folder, *names: str) -> None:
    """Files of different texts."""
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"so it is in {name}, which is number {number}")


def test_a_folder_is_read_in_order_and_each_document_says_where_it_comes_from(tmp_path):
    write(tmp_path, "b.txt", "a.txt", "deep/c.md", "picture.png", "other.png", "README")
    reading = found(tmp_path, license="MIT")
    assert [d.id for d in reading.documents] == ["a", "b", "deep/c"]
    meta = {"source": "deep/c.md", "license": "MIT"}
    assert reading.documents[2] == Document("deep/c", "so it is in deep/c.md, which is number 2", meta)
    others = sorted((o.source, o.reason) for o in reading.account.of("other"))
    assert others == [("README", "without a suffix"), ("other.png", ".png"), ("picture.png", ".png")]


def test_files_of_one_name_in_several_folders_are_several_documents(tmp_path):
    write(tmp_path, *(f"{folder}v1.note.txt" for folder in ("", "deep/", "deep/er/", "other/")))
    assert ids(tmp_path) == ["deep/er/v1.note", "deep/v1.note", "other/v1.note", "v1.note"]


def test_an_id_has_no_suffix_unless_files_differ_by_nothing_else(tmp_path):
    write(tmp_path, "a.txt", "a.TXT", "a.md", "B.TXT", "c.html")
    assert ids(tmp_path) == ["B", "a.TXT", "a.md", "a.txt", "c"]


@pytest.mark.parametrize(
    ("globs", "wanted"),
    [
        (("*.md",), "a.md deep/b.md deep/er/c.md"),
        (("deep/*.md",), "deep/b.md"),
        (("deep/**/*.md",), "deep/b.md deep/er/c.md"),
        (("**/er/*",), "deep/er/c.md deep/er/d.txt"),
        (("deep/**",), "deep/b.md deep/er/c.md deep/er/d.txt"),
        (("?.md", "*.log"), "a.md deep/b.md deep/er/c.md notes.log"),
        (("[a-b].md",), "a.md deep/b.md"),
        (("[!a-b].md",), "deep/er/c.md"),
        (("deep[!x]b.md", "[z-a].md", "[]a].md", "x[+"), "a.md"),
    ],
)
def test_globs_say_which_files_of_a_folder_are_read(tmp_path, globs, wanted):
    write(tmp_path, "a.md", "deep/b.md", "deep/er/c.md", "deep/er/d.txt", "notes.log", "x+y.txt")
    sources = [d.meta["source"] for d in found(tmp_path, globs=globs).documents]
    assert sources == wanted.split()


def test_hidden_files_and_folders_are_passed_by_unless_globs_ask_for_them(tmp_path):
    folder = tmp_path / ".notes"
    write(folder, "a.txt", ".b.txt", ".git/c.md", "deep/.d/e.txt")
    found = read(DocumentsConfig(str(folder)))
    assert [d.id for d in found.documents] == ["a"]
    others = sorted((o.source, o.reason) for o in found.account.of("other"))
    assert others == [(".b.txt", "hidden"), (".git", "hidden"), ("deep/.d", "hidden")]
    assert ids(folder, globs=(".git/*.md", "deep/**/*.txt")) == [".git/c", "deep/.d/e"]


def test_a_single_file_is_read_too(tmp_path):
    write(tmp_path, "a.txt", "b.log")
    assert ids(tmp_path / "a.txt") == ["a"] and ids(tmp_path / "b.log") == ["b"]


@pytest.mark.parametrize(("globs", "said"), [((), "is one of .txt, .md,"), (("*.rst", "x"), r"matches \*.rst or x;")])
def test_a_folder_without_documents_is_one_clear_line(tmp_path, globs, said):
    write(tmp_path, "picture.png")
    with pytest.raises(ValueError, match=f"no file in it {said}"):
        found(tmp_path, globs=globs)
    assert "set --documents.path or --documents.globs" in refused(tmp_path, globs=globs)


def test_links_are_followed_and_each_file_is_read_once(tmp_path):
    folder, elsewhere = tmp_path / "own", tmp_path / "other"
    write(folder, "in/b.txt", "c.txt")
    elsewhere.mkdir()
    (elsewhere / "b.txt").write_text("another text")
    links = {"0": ".", "1": ".", "2": "in", "3": elsewhere, "in/up": "..", "a.txt": "c.txt", "gone": "nowhere"}
    for name, target in links.items():
        os.symlink(target, folder / name)
    os.link(folder / "c.txt", folder / "d.txt")
    assert ids(folder) == ["3/b", "c", "in/b"]


def test_what_is_no_regular_file_is_passed_by(tmp_path):
    write(tmp_path, "a.txt")
    os.mkfifo(tmp_path / "b.txt")
    os.symlink("/dev/zero", tmp_path / "c.txt")
    with socket.socket(socket.AF_UNIX) as heard:
        heard.bind(str(tmp_path / "d.txt"))
        assert ids(tmp_path) == ["a"]


def test_a_path_to_a_pipe_or_a_device_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "a.txt")
    write(tmp_path, "b.txt")
    for place in (tmp_path / "a.txt", "/dev/zero"):
        assert refused(place).startswith(f"documents: {place} is neither a file nor a folder; set --documents.path")
        line = refused(tmp_path / "b.txt", questions=str(place))
        assert line == f"documents: {place} is no file; mend --documents.questions"


def test_what_cannot_be_opened_is_listed_with_the_reason_and_counted(tmp_path):
    write(tmp_path, "z.txt")
    for name, target in (("a.txt", "nowhere"), ("b.txt", "b.txt")):
        os.symlink(target, tmp_path / name)
    left_out = {o.source: o.reason for o in found(tmp_path).account.of("unread")}
    assert left_out.keys() == {"a.txt", "b.txt"} and ids(tmp_path) == ["z"]
    assert left_out["a.txt"] == "cannot be read (No such file or directory)"


def test_strict_stops_at_what_cannot_be_read_and_at_nothing_else(tmp_path):
    write(tmp_path, "a.txt", "picture.png")
    (tmp_path / "b.txt").write_text("So it is in a.txt: which is number 0!")
    assert ids(tmp_path, strict=True) == ["a"]
    (tmp_path / "c.pdf").write_bytes(b"no pdf")
    line = refused(tmp_path, strict=True)
    assert "c.pdf cannot be read (" in line and "leave out --documents.strict" in line


def test_a_name_that_is_no_utf8_becomes_one_that_is(tmp_path):
    (tmp_path / os.fsdecode(b"caf\xe9.txt")).write_text("first")
    (document,) = found(tmp_path).documents
    assert (document.id, document.meta["source"]) == ("caf\\xe9", "caf\\xe9.txt")


def test_a_name_of_several_lines_is_told_in_one(tmp_path):
    for name, content in (("a\nb.txt", b"first"), ("c\u2028d.txt", b"")):
        (tmp_path / name).write_bytes(content or b"\0" * 9)
    reading = found(tmp_path)
    assert [d.id for d in reading.documents] == ["a\\nb"]
    assert [o.source for o in reading.account.of("unread")] == ["c\\u2028d.txt"]


def test_a_library_that_is_not_installed_is_named_with_its_extra(tmp_path, monkeypatch):
    (tmp_path / "a.pdf").write_bytes(b"%PDF-1.4\n")
    monkeypatch.setitem(sys.modules, "pypdf", None)
    assert refused(tmp_path) == f"documents: a.pdf needs pypdf; {installing('documents')}"
    (tmp_path / "b.txt").write_text("plain text needs nothing")
    assert ids(tmp_path, globs=("*.txt",)) == ["b"]


TALE = " ".join(f"the crow dropped pebble {n} and looked." for n in range(40))


@pytest.mark.parametrize(
    "again",
    [
        TALE,
        f"\n {TALE.upper()} \n",
        TALE.replace(".", ";").replace(" the", "\nthe"),
        TALE.replace("pebble 7", "stone 7"),
        TALE + " the end.",
    ],
)
def test_of_documents_that_say_nearly_the_same_the_first_is_read_once(tmp_path, again):
    (tmp_path / "a.txt").write_text(TALE)
    (tmp_path / "b.txt").write_text(again)
    write(tmp_path, "c.txt")
    reading = found(tmp_path)
    assert [d.id for d in reading.documents] == ["a", "c"]
    assert reading.account.of("repeated")[0][:2] == ("b.txt", "says nearly the same as a.txt")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (TALE, TALE.replace("pebble", "stone")),
        ("the red hall lamp hums at noon.", "the blue hall lamp hums at noon."),
        ("step 12 took 7 s", "step 13 took 7 s"),
        ("江水流过山谷，渔夫在船上唱歌。", "江水流过山谷，渔夫在船上睡觉。"),
    ],
)
def test_documents_that_differ_in_what_they_say_are_both_read(tmp_path, one, other):
    (tmp_path / "a.txt").write_text(one)
    (tmp_path / "b.txt").write_text(other)
    assert ids(tmp_path) == ["a", "b"]
