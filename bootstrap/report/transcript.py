"""One transcript with all that became of it, for a terminal of 80 columns or more.

It is made from what `bootstrap/lineage.py` found, as `ratchet show --json` prints it. Words of a model are shown as
they are: nothing in them is markup.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ratchet.bootstrap.report.numbers import chance, decimals
from ratchet.bootstrap.report.terminal import shown
from ratchet.bootstrap.report.units import is_advisory

SHOWN = 8
"""Passages, targets, branches and corrections shown at most; JSON has all."""
PASSAGE = 150
"""Characters shown of a passage."""
Found = Mapping[str, Any]
"""What was found of a transcript, or a part of it."""


def transcript(found: Found) -> RenderableType:
    """Question, view, answer step by step, verdicts, targets, corrections, and where it was trained."""
    parts = [
        _title(found),
        *_section("Question", [_line(_question(found))]),
        *_section(_counted("In view", found["documents"], "nothing"), _passages(found["documents"])),
        *_section("Called", [_line(call) for call in called(found["messages"])]),
        *_section("Wrong thought, which is never trained on", _thought(found)),
        *_section("Answer, step by step", _steps(found)),
        *_section(_passed(found), [_verdicts(found["verdicts"])] if found["verdicts"] else []),
        *_section("Targets", _targets(found)),
        *_section(_counted("Branches reviewed", found["branches"]), _branches(found["branches"])),
        *_section(_counted("Corrections made from it", found["corrections"]), _corrections(found["corrections"])),
        *_section("Trained on in", _trained(found)),
    ]
    return Group(*parts)


def _title(found: Found) -> Text:
    """Id, generation, source, and whether the review accepted it, or lots that were drawn in its place."""
    kind = "an answer" if found["source"] == "answer" else f"a correction ({found['source']})"
    said = _verdict(found["accepted"], ("accepted", "rejected", "not reviewed"))
    lots = " at random, whatever its verdicts are" if found["at random"] else ""
    return Text.assemble((found["transcript"], "bold"), f": {kind} of generation {found['generation']}, ", said, lots)


def _verdict(passed: bool | None, words: Sequence[str]) -> Text:
    """One of three words, for true, false and unknown, in the colour of each."""
    if passed is None:
        return Text(words[-1], "dim")
    return Text(words[0], "green") if passed else Text(words[1], "red")


def _section(title: str, lines: Sequence[RenderableType]) -> list[RenderableType]:
    """A heading with indented lines below it; nothing where there are no lines."""
    return [Text(f"\n{title}", "bold"), *(Padding(line, (0, 0, 0, 2), expand=False) for line in lines)] if lines else []


def _counted(title: str, things: Sequence[Any] | Mapping[str, Any], none: str = "none") -> str:
    return f"{title}: {len(things) or none}"


def _line(text: str, style: str = "") -> Text:
    return shown(text, style, overflow="fold")


def _more(things: Sequence[Any]) -> list[Text]:
    """What is said where not everything is shown."""
    return [_line(f"and {len(things) - SHOWN} more; --json has all", "dim")] if len(things) > SHOWN else []


def _question(found: Found) -> str:
    """The last message of the user."""
    return next((m["content"] for m in reversed(found["messages"]) if m["role"] == "user"), "")


def called(messages: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each tool that was called in some messages, and one for what it answered."""
    said = []
    for message in messages:
        calls = [call["function"] for call in message.get("tool_calls", ())]
        said += [f"{call['name']} {call['arguments']}" for call in calls]
        said += [f"→ {shortened(message['content'])}"] if message["role"] == "tool" else []
    return said


def shortened(text: str) -> str:
    """A text on one line, cut where it is long."""
    flat = " ".join(text.split())
    return flat if len(flat) <= PASSAGE else flat[: PASSAGE - 2] + " …"


def _passages(documents: Mapping[str, str]) -> list[Text]:
    shown = list(documents.values())
    return [_line(f"· {shortened(text)}") for text in shown[:SHOWN]] + _more(shown)


def _thought(found: Found) -> list[Text]:
    if not found["wrong thought"]:
        return []
    of = [_line(f"it spoils the answer {found['corrects']}", "dim")] if found["corrects"] else []
    return [_line(found["wrong thought"], "red"), _line(f"interrupted because: {found['fault']}"), *of]


def _steps(found: Found) -> list[Text]:
    """The steps by number; a text that has none stands as it is."""
    steps = found["steps"] or [found["text"]]
    cut = [] if found["finished"] else [_line("cut off before its end", "red")]
    return [_line(f"{number}. {step.strip()}") for number, step in enumerate(steps, 1)] + cut


def _passed(found: Found) -> str:
    verdicts = found["verdicts"].values()
    overruled = sum(not v["passed"] and is_advisory(v) for v in verdicts)
    advisory = f"; advisory, and failed: {overruled}" if overruled else ""
    return f"Verdicts: {sum(v['passed'] for v in verdicts)} of {len(verdicts)} passed{advisory}"


def _verdicts(verdicts: Mapping[str, Found]) -> Table:
    """A row a criterion: its verdict, its score beside the threshold that it passes from, and why not."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    for name, justify in (("criterion", "left"), ("verdict", "left"), ("by", "left"), ("score", "right")):
        table.add_column(name, justify=justify, no_wrap=True)
    table.add_column("passes from", justify="right")
    table.add_column("why not", overflow="fold")
    for name, v in verdicts.items():
        figures = (decimals(v["score"]), decimals(v["threshold"]))
        said = _verdict(v["passed"], ("passed", "failed", ""))
        by = f"{v['kind']}, advisory" if is_advisory(v) else v["kind"]
        table.add_row(Text(name), said, by, *figures, Text(v["reason"] or ""))
    return table


def _targets(found: Found) -> list[Text]:
    """How many tokens have a certain target, and the target of each other one after what was said before it."""
    rows = found["targets"]
    if not rows:
        return [_line("none: it was not kept for training", "dim")]
    open_at = [number for number, row in enumerate(rows) if len(row["target"]) > 1]
    lines = [_line(f"{len(rows)} tokens, {len(rows) - len(open_at)} of them all on the one that was said")]
    for number in open_at[:SHOWN]:
        before = "".join(row["token"] for row in rows[:number])[-24:]
        likely = sorted(rows[number]["target"].items(), key=lambda item: -item[1])
        where = f"after “{before}”" if before else "at the start"
        lines.append(_line(f"{where}: " + ", ".join(f"“{piece}” {chance(p)}" for piece, p in likely)))
    return lines + _more(open_at)


def _branches(branches: Sequence[Found]) -> list[Text]:
    """The likeliest branches first: token and its probability, how it goes on, and why it failed."""
    lines = []
    for b in sorted(branches, key=lambda b: -b["probability"])[:SHOWN]:
        line = _verdict(b["passed"], ("passed", "failed", ""))
        line.append(f" “{b['piece']}” {chance(b['probability'])}: ", "bold").append(shortened(b["text"]), "none")
        lines.append(line.append(f" ({b['reason']})" if b["reason"] else "", "dim"))
    return lines + _more(branches)


def _corrections(corrections: Sequence[Found]) -> list[RenderableType]:
    """Id, verdict, the wrong thought and what interrupts it."""
    lines: list[RenderableType] = []
    for one in corrections[:SHOWN]:
        line = Text.assemble((one["transcript"], "bold"), f", generation {one['generation']}, ")
        line.append_text(_verdict(one["accepted"], ("accepted", "rejected", "")))
        said = Group(_line(one["wrong thought"], "red"), _line(one["text"], "green"))
        lines += [line, Padding(said, (0, 0, 0, 2), expand=False)]
    return lines + _more(corrections)


def _trained(found: Found) -> list[Text]:
    """Examples by dataset and origin, with the tokens of each that carry weight."""
    if not found["trained"]:
        return [_line("nothing", "dim")]
    keys = ("dataset", "origin", "trained tokens", "teacher")
    counted = Counter(tuple(e[key] for key in keys) for e in found["trained"])
    examples = lambda n: "example" if n == 1 else "examples"
    return [
        _line(f"{dataset}: {n} {origin} {examples(n)} of {tokens} trained tokens, targets by {teacher}")
        for (dataset, origin, tokens, teacher), n in counted.items()
    ]
