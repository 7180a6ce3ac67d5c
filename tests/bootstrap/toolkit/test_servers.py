"""Files of MCP servers: every mistake is one line that names file, field and remedy."""

import pytest

from ratchet.bootstrap.toolkit.servers import read_servers

WHOLE = """
version: 1
servers:
- name: notes
  command: [python, notes.py]
  environment: [NOTES_KEY]
  allow: [search]
- name: weather
  url: http://127.0.0.1:8000/mcp
  token: WEATHER_KEY
  allow: [forecast, today]
  timeout: 5
  concurrency: 4
"""


def written(tmp_path, text: str) -> str:
    (tmp_path / "servers.yaml").write_text(text)
    return str(tmp_path / "servers.yaml")


def test_a_file_is_read(tmp_path):
    notes, weather = read_servers(written(tmp_path, WHOLE))
    assert (notes.command, notes.environment, notes.timeout, notes.concurrency) == (
        ("python", "notes.py"), ("NOTES_KEY",), 30.0, 1,
    )  # fmt: skip
    assert (weather.url, weather.token, weather.allow) == (
        "http://127.0.0.1:8000/mcp", "WEATHER_KEY", ("forecast", "today"),
    )  # fmt: skip


def test_a_secret_that_another_one_begins_with_hides_none_of_it(tmp_path, monkeypatch):
    file = written(tmp_path, WHOLE.replace("[NOTES_KEY]", "[SHORT, LONG]"))
    monkeypatch.setenv("SHORT", "abcdef")
    monkeypatch.setenv("LONG", "abcdefghi")
    assert read_servers(file)[0].without_secrets("abcdefghi abcdef") == "(LONG) (SHORT)"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("  allow: [search]\n", "", "servers.0.allow: Field required"),
        ("allow: [search]", "allow: []", "servers.0.allow: Tuple should have at least 1 item"),
        ("allow: [search]", "allow: search", "servers.0.allow: Input should be a valid tuple"),
        ("name: notes", "name: weather", "the file: two servers are called weather; rename one"),
        ("name: notes", "name: my notes", "servers.0.name: String should match pattern"),
        ("name: notes", "names: notes", "servers.0.name: Field required"),
        ("  command: [python, notes.py]\n", "", "servers.0: give a command or a url"),
        ("  url: http", "  command: [a]\n  url: http", "servers.1: give a command or a url"),
        ("http://127.0.0.1", "http://me:secret@127.0.0.1", "servers.1: give the url as http://HOST:PORT/PATH, without"),
        ("/mcp", "/mcp?key=secret", "servers.1: give the url as http://HOST:PORT/PATH, without a name or a key"),
        ("http://127", "ftp://127", "servers.1: give the url as http://HOST:PORT/PATH"),
        ("  token: WEATHER_KEY", "  environment: [WEATHER_KEY]", "servers.1: environment is for a command; name"),
        ("  environment: [NOTES_KEY]", "  token: NOTES_KEY", "servers.0: token is for a url; name"),
        ("timeout: 5", "timeout: 0", "servers.1.timeout: Input should be greater than 0"),
        ("concurrency: 4", "concurrency: 0", "servers.1.concurrency: Input should be greater than or equal to 1"),
        ("concurrency: 4", "retries: 4", "servers.1.retries: Extra inputs are not permitted"),
        ("version: 1", "version: 2", "version: Input should be 1"),
        (WHOLE, "", "the file: Input should be a valid dictionary"),
        (WHOLE, "a: [", "is no YAML: "),
        (WHOLE, "!!python/object/apply:os.system [ls]", "is no YAML: could not determine a constructor"),
    ],
)
def test_mistakes_are_one_line(tmp_path, old, new, said):
    assert old in WHOLE
    path = written(tmp_path, WHOLE.replace(old, new))
    with pytest.raises(ValueError, match="simulate.mcp: ") as caught:
        read_servers(path)
    assert path in str(caught.value) and said in str(caught.value) and "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_file_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(ValueError, match="simulate.mcp: .*none.yaml cannot be read .*; give a YAML file"):
        read_servers(str(tmp_path / "none.yaml"))
