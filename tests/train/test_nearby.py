"""What lies in a bucket is read from a copy on this machine, which is made once."""

import contextlib
import fcntl
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import pytest
from etils import epath
from support import write_model

from ratchet.bootstrap.documents.reading import read
from ratchet.bootstrap.given import base_config, base_model
from ratchet.bootstrap.worlds import DocumentsConfig
from ratchet.train import nearby as nearby_module
from ratchet.train.buckets import StoreError, upload
from ratchet.train.nearby import nearby
from ratchet.train.sharding import MeshConfig, make_mesh, state_sharding


@pytest.fixture(params=["gs", "s3"])
def store(request, tmp_path, monkeypatch):
    """A bucket, and a home of its own."""
    store = request.getfixturevalue(request.param)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    nearby.cache_clear()
    return store


@pytest.fixture
def place(store, request):
    return store.bucket / request.node.name.replace("[", "-").rstrip("]")


def copies(kind=Path.is_dir):
    return sorted(path.name for path in (Path.home() / ".cache" / "ratchet" / "buckets").iterdir() if kind(path))


def content_of(name):
    """Refuses the content of an object, and no listing."""
    return lambda method, asked: 403 * (method == "GET" and name in asked and "prefix" not in asked)


def again(path):
    """As another process sees it, when all before it have ended."""
    nearby.cache_clear()
    while nearby_module._READING:
        os.close(nearby_module._READING.pop())
    return nearby(path)


def said(caplog):
    """The lines about copies; the stores of tests log as well."""
    return [record.getMessage() for record in caplog.records if record.name == nearby_module.__name__]


@contextlib.contextmanager
def reader(path):
    """Another process, which reads a path's copy until the block ends; gives the copy."""
    code = "import sys; from ratchet.train.nearby import nearby; print(nearby(sys.argv[1]), flush=True); input()"
    piped = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code, path], **piped) as process:
        yield Path(process.stdout.readline().strip())
        process.kill()


def test_a_folder_keeps_its_name_and_files_and_what_changed_is_copied_anew(store, place, tmp_path):
    (tmp_path / "in" / "deep" / "er").mkdir(parents=True)
    (tmp_path / "in" / "a.txt").write_text("a")
    (tmp_path / "in" / "deep" / "er" / "ü b.txt").write_text("ü" * 1000)
    upload(epath.Path(tmp_path / "in"), place / "folder")
    found = nearby(f"{place}/folder/")
    assert found.name == "folder" and (found / "a.txt").read_text() == "a"
    assert (found / "deep" / "er" / "ü b.txt").read_text() == "ü" * 1000
    one = nearby(f"{place}/folder/a.txt")
    assert one.name == "a.txt" and one.is_file() and one.read_text() == "a"
    before = copies()
    with store.refusing(content_of("a.txt")):
        assert again(f"{place}/folder") == found, "nothing was copied again"
    (place / "folder" / "a.txt").write_text("b")
    assert (again(f"{place}/folder") / "a.txt").read_text() == "b" and not found.exists()
    assert len(copies()) == len(before), "the new copy takes the old one's place"


def test_a_copy_that_another_process_reads_stays_until_that_has_ended(store, place, caplog):
    (place / "x.txt").write_text("first")
    with reader(f"{place}/x.txt") as read:
        (place / "x.txt").write_text("second")
        assert again(f"{place}/x.txt").read_text() == "second"
        assert read.read_text() == "first" and len(copies()) == 2 and not said(caplog)
    (place / "x.txt").write_text("third!")
    assert again(f"{place}/x.txt").read_text() == "third!"
    assert len(copies()) == len(copies(Path.is_file)) == 1 and len(said(caplog)) == 2
    assert said(caplog)[0].endswith(f"the copy of {place}/x.txt is gone, since that has changed")


def test_a_copy_that_was_long_unused_goes_when_another_is_made(store, place, caplog):
    for name in "abc":
        (place / name).write_text(name)
    old, fresh = again(f"{place}/a"), again(f"{place}/b")
    ago = time.time() - nearby_module.UNUSED
    os.utime(nearby_module._lock(old.parent), (ago - 1, ago - 1))
    os.utime(nearby_module._lock(fresh.parent), (ago + 999, ago + 999))
    assert again(f"{place}/b") == fresh and old.exists(), "nothing was made"
    made = again(f"{place}/c")
    assert made.exists() and fresh.exists() and not old.parent.exists()
    (line,) = said(caplog)
    assert line.endswith(f"the copy of {place}/a is gone, since it was not read for 7 days")
    assert again(f"{place}/a").read_text() == "a"


def test_a_lock_that_goes_while_it_is_waited_for_is_taken_anew(tmp_path, monkeypatch):
    """Else a reader would hold what lies there no more, and its copy were removed from under it."""
    place, flock, calls = tmp_path / "copy", fcntl.flock, []

    def slow(handle, how):
        calls.append(handle)
        if len(calls) == 1:
            nearby_module._lock(place).unlink()
        flock(handle, how)

    monkeypatch.setattr(nearby_module.fcntl, "flock", slow)
    with nearby_module._alone(place), pytest.raises(BlockingIOError), nearby_module._alone(place, fcntl.LOCK_NB):
        pytest.fail("two held it")
    assert len(calls) == 3


def test_a_copy_that_broke_off_is_none(store, place, tmp_path):
    (tmp_path / "in").mkdir()
    for name in "ab":
        (tmp_path / "in" / f"{name}.txt").write_text(name)
    upload(epath.Path(tmp_path / "in"), place / "in")
    with store.refusing(content_of("b.txt")), pytest.raises(StoreError, match="^[^\n]*$") as failed:
        again(f"{place}/in")
    assert str(failed.value).startswith(f"{place}/in: ") and [c.endswith(".part") for c in copies()] == [True]
    assert sorted(path.name for path in again(f"{place}/in").iterdir()) == ["a.txt", "b.txt"]
    assert [c.endswith(".part") for c in copies()] == [False]


def test_processes_of_a_machine_that_want_it_at_once_copy_it_once(store, place, tmp_path, monkeypatch):
    (tmp_path / "x.txt").write_text("x" * 100)
    upload(epath.Path(tmp_path / "x.txt"), place / "x.txt")
    fetch, made = nearby_module._fetch, []
    monkeypatch.setattr(nearby_module, "_fetch", lambda *given: (made.append(1), time.sleep(0.2), fetch(*given)))
    with ThreadPoolExecutor(4) as pool:  # each has a lock of its own on the file, as a process has
        found = list(pool.map(lambda _: nearby.__wrapped__(f"{place}/x.txt"), range(4)))
    assert len(set(found)) == len(made) == 1 and found[0].read_text() == "x" * 100


def test_who_finds_none_waits_for_none_that_reads_what_another_made_meanwhile(store, place, monkeypatch):
    (place / "x.txt").write_text("x")
    is_read, first = nearby_module._is_read, []

    def made_just_after(copy):
        if not first:
            first.append(copy)
            assert not is_read(copy)
            again(f"{place}/x.txt")  # which holds it as a reader does
            return False
        return is_read(copy)

    monkeypatch.setattr(nearby_module, "_is_read", made_just_after)
    assert nearby.__wrapped__(f"{place}/x.txt").read_text() == "x"


def test_what_is_not_there_is_one_line(store, place):
    with pytest.raises(StoreError, match="^[^\n]*/none: nothing lies there for you; see to the path, or to your cred"):
        nearby(f"{place}/none")
    with pytest.raises(StoreError, match="^[^\n]*/none/config.json: nothing lies there for you"):
        base_config(f"{place}/none")


def test_a_path_on_a_disk_is_as_it_is():
    assert os.fspath(nearby("some/where")) == "some/where"


def test_without_the_stores_library_it_is_one_line_that_names_the_extra(monkeypatch):
    nearby.cache_clear()

    def missing(path):
        raise ImportError("Please install gcsfs to access Google Storage\nand more")

    monkeypatch.setattr("fsspec.core.url_to_fs", missing)
    with pytest.raises(StoreError, match="^gs://b/x: Please install gcsfs .*; `.*pip install 'ratchet.buckets.'`$"):
        nearby("gs://b/x")


def test_a_run_takes_its_model_and_its_documents_from_a_bucket(store, place, tmp_path):
    (tmp_path / "model").mkdir()
    upload(write_model(tmp_path / "model"), place / "model")
    (tmp_path / "texts" / "b").mkdir(parents=True)
    (tmp_path / "texts" / "a.txt").write_text("The red lamp hums.")
    (tmp_path / "texts" / "b" / "c.md").write_text("# Lamps\n\nThe blue one is still.")
    upload(epath.Path(tmp_path / "texts"), place / "texts")
    (tmp_path / "q.jsonl").write_text('{"question": "which hums?", "answer": "the red one", "document": "a"}\n')
    upload(epath.Path(tmp_path / "q.jsonl"), place / "q.jsonl")
    with store.refusing(content_of("model.safetensors")):
        config = base_config(f"{place}/model/")
    there, here = base_model(f"{place}/model"), base_model(str(tmp_path / "model"))
    assert config == there.config == here.config and there.tokenizer().hash == here.tokenizer().hash
    mesh = make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])
    weights = [of.weights(lambda params: state_sharding(mesh, params)) for of in (there, here)]
    assert weights[0]["embedding"][...].tolist() == weights[1]["embedding"][...].tolist()
    found = read(DocumentsConfig(path=f"{place}/texts", questions=f"{place}/q.jsonl"))
    alone = read(DocumentsConfig(path=str(tmp_path / "texts"), questions=str(tmp_path / "q.jsonl")))
    assert found.documents == alone.documents and found.questions == alone.questions and len(found.documents) == 2
    assert found.account.path == f"{place}/texts"
