"""The pages in a browser, on a phone and on a desk, in light and dark, by keyboard."""

import pytest
from browser import browsing
from evil_run import EVIL, TEXTS

pytestmark = pytest.mark.long

LIST = "/runs/0/transcripts"
PATHS = ("/", "/runs/0", LIST, f"{LIST}?words=lantern", f"{LIST}/aaaa0001", f"{LIST}/aaaa0004", "/nowhere")
CONTRAST = """(() => {
  const part = (v) => (v / 255 <= 0.03928 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4);
  const light = (colour) => {
    const [r, g, b] = colour.match(/[\\d.]+/g).map(part);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (one) => {
    for (; one; one = one.parentElement) {
      const colour = getComputedStyle(one).backgroundColor;
      if (!/rgba/.test(colour)) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const poor = [];
  for (const one of document.querySelectorAll("body *:not(svg *, script)")) {
    if (![...one.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim())) continue;
    const [a, b] = [light(getComputedStyle(one).color), light(behind(one))].sort((x, y) => y - x);
    const said = `${one.tagName} ${one.className}: ${one.textContent.trim().slice(0, 40)}`;
    if ((a + 0.05) / (b + 0.05) < 4.2) poor.push(said);
  }
  return poor;
})()"""
"""Texts that stand out too little from what is behind them; WCAG asks for 4.5, and chips have washes of their own."""


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    with browsing(tmp_path_factory.mktemp("profile")) as tab:
        yield tab


def drawn(tab) -> None:
    """Waits until the report is there."""
    tab.run("""new Promise((found) => {
      const look = () => (document.querySelector("#report svg") ? found() : setTimeout(look, 50));
      document.querySelector("#report") ? look() : found();
    })""")


def shown(tab) -> None:
    """Waits until a frame of the page was drawn, before which a browser gives the focus to what asks for it."""
    tab.run("new Promise((found) => requestAnimationFrame(() => requestAnimationFrame(found)))")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1400])
def test_nothing_overflows_everything_is_readable_and_no_policy_is_broken(tab, pages, width, dark):
    for path in PATHS:
        tab.open(pages.address + path, width, dark)
        drawn(tab)
        assert tab.run("document.documentElement.scrollWidth <= innerWidth"), path
        wide = "[...document.querySelectorAll('body *')].filter((e) => e.getBoundingClientRect().right > innerWidth + 1"
        assert tab.run(f"{wide} && !e.closest('.scroll, svg, .skip')).map((e) => e.outerHTML.slice(0, 90))") == [], path
        assert tab.run(CONTRAST) == [], path
        assert [line for line in tab.complaints() if "404" not in line] == [], path


def test_what_a_model_wrote_never_runs(tab, pages):
    for path in (LIST, f"{LIST}?words=lantern", f"{LIST}/aaaa0001", f"{LIST}/aaaa0002"):
        tab.open(pages.address + path)
        assert tab.run("document.title") not in ("stolen", "1")
        assert tab.run("document.querySelectorAll('main script, main img').length") == 0
    assert EVIL.split(">")[0] in tab.run("document.body.textContent")


def test_everything_is_reached_and_done_by_keyboard(tab, pages, run):
    """From the first page to a label, with Tab and Enter alone."""
    (run / "labels.jsonl").unlink(missing_ok=True)
    tab.open(f"{pages.address}{LIST}?words=lantern+flickers", 390)
    focused = "document.activeElement.name || document.activeElement.textContent.trim()"
    shown(tab)
    assert tab.run(focused) == "words", "one can type at once"

    def to(wanted: str) -> None:
        for _ in range(60):
            tab.press("Tab", 9)
            if tab.run(focused) == wanted:
                outline = tab.run("getComputedStyle(document.activeElement).outlineStyle")
                assert outline != "none", f"{wanted} does not look focused"
                return
        raise AssertionError(f"Tab does not lead to {wanted}")

    def enter() -> None:
        tab.press("Enter", 13, "\r")
        tab.wait("Page.loadEventFired")
        shown(tab)

    to("aaaa0001")
    enter()
    for _ in range(60):
        tab.press("Tab", 9)
        if tab.run("document.activeElement.value") == "true":
            break
    enter()
    assert "right, says a person" in tab.run("document.querySelector('#label').textContent")
    assert '"transcript": "aaaa0001", "criterion": "overall", "label": true' in (run / "labels.jsonl").read_text()
    assert tab.run(focused) == "next without a label", "Enter goes on"
    enter()
    assert tab.run("document.querySelector('h1').textContent") not in TEXTS or tab.run("location.pathname") != LIST
    (run / "labels.jsonl").unlink()


def test_what_goes_on_is_read_again_and_what_was_unfolded_stays_so(tab, pages, run):
    tab.open(pages.address + "/runs/0")
    drawn(tab)
    tab.run("document.querySelector('#now-0 details').open = true")
    tab.run("document.querySelector('#now-0').dataset.seen = 'yes'")
    before = tab.run("document.querySelector('#now-0').textContent")
    ended = run / "ended.json"
    ended.write_text('{"reason": "the reason of a test"}')
    try:
        tab.run("""new Promise((found) => {
          const there = () => /the reason of a test/.test(document.querySelector("#now-0").textContent);
          const look = () => (there() ? found() : setTimeout(look, 50));
          look();
        })""")
    finally:
        ended.unlink()
    assert "the reason of a test" not in before and tab.run("document.querySelector('#now-0').dataset.seen") == "yes"
    assert tab.run("document.querySelector('#now-0 details').open")
