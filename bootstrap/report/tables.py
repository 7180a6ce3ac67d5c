"""Tables of the page that have a column for each generation and arm, so that they are as narrow as a phone.

Every row says its unit, and every share what it is out of where the files say so.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ratchet.bootstrap.report.numbers import count, decimals, duration, measure, percent, value_of
from ratchet.bootstrap.report.status import (
    EXPLAINED,
    FIXED,
    UNIT_STAGES,
    WHOLE_STAGES,
    cells,
    described,
    header,
    in_columns,
)

STEPS = {
    "asked": "transcripts asked for",
    "made": "written",
    "finished": "came to an end",
    "distinct": "different texts",
    "reviewed": "reviewed",
    "acceptable": "passed all criteria that decide",
    "passed": "and repeat no other",
    "kept": "kept for training",
    "branches": "branches reviewed",
    "branches_passed": "branches passed",
    "corrections": "corrections made",
    "corrections_passed": "corrections passed",
    "trained": "examples to train on",
}
"""What `funnel.json` counts."""
BY_LOT = "accepted at random"
"""What passed where the file counts no acceptable transcripts: there lots accept, whatever the verdicts are."""
NARROWING = {
    "Transcripts": ("made", "reviewed", "acceptable", "passed", "kept"),
    "Branches": ("branches", "branches_passed"),
    "Corrections": ("corrections", "corrections_passed"),
}
"""Counts of `funnel.json` of which each is a part of the one before."""

Record = Mapping[str, Any]
"""An object of a run's file."""


class Cell(NamedTuple):
    """A figure as text, what it is out of ("of 1,944"; "" where nothing is known), and a warning beside it."""

    text: str
    of: str = ""
    warning: str = ""


class Row(NamedTuple):
    """A name, what it means with its unit, one cell a column, and a label such as "guard"."""

    name: str
    cells: Sequence[Cell]
    meaning: str = ""
    label: str = ""


class Across(NamedTuple):
    """A table: heads of its columns, the rows, the columns that are arms, and those that were rolled back."""

    columns: Sequence[str]
    rows: Sequence[Row]
    arms: Sequence[str] = ()
    dropped: Sequence[str] = ()
    corner: str = "generation"


def generations(state: Record) -> Across | None:
    """The table of generations and arms; None before the first generation."""
    metrics, arms = in_columns(state["metrics"]), state["baselines"]
    rows = [*state["generations"], *arms.values()]
    if not rows:
        return None
    shown = list(zip(*(cells(row, metrics) for row in rows), strict=True))[1:]
    keys = [*(key if part is None else f"{key}.{part}" for _, key, part, _ in FIXED[1:]), *metrics, ""]
    meanings = EXPLAINED | {m["column"]: _with_unit(m) for m in metrics.values()}
    guards = {m["column"] for m in metrics.values() if m["guard"]}
    found = [
        Row(head, _out_of(texts, rows, key), meanings.get(head, ""), "guard" if head in guards else "")
        for head, key, texts in zip(header(metrics)[1:], keys, shown, strict=True)
    ]
    numbers = [str(row["generation"]) for row in state["generations"]]
    dropped = [str(row["generation"]) for row in state["generations"] if row["promoted"] is False]
    return Across([*numbers, *arms], found, list(arms), dropped)


def _out_of(texts: Sequence[str], rows: Sequence[Record], key: str) -> list[Cell]:
    """Figures with how many they are out of, which stands in each row under the figure's name."""
    return [_figure(text, row["out_of"].get(key)) for text, row in zip(texts, rows, strict=True)]


def _figure(text: str, number: int | None) -> Cell:
    """A figure that is out of so many; a share of nothing is none."""
    return Cell("–") if "–" in text or number == 0 else Cell(text, "" if number is None else f"of {count(number)}")


def _with_unit(metric: Record) -> str:
    """A metric's title with its unit, rates in per cent included, and whether less of it is better."""
    return described({**metric, "title": f"{metric['title']}, %"} if metric["unit"] == "%" else metric)


def measured(state: Record) -> Across | None:
    """The metrics that have no column among the generations."""
    metrics = {name: metric for name, metric in state["metrics"].items() if not metric["column"]}
    found = {str(row["generation"]): row for row in state["generations"]} | state["baselines"]
    found = {head: row for head, row in found.items() if any(row["metrics"].get(n) is not None for n in metrics)}
    if not found:
        return None
    rows = [
        Row(
            _with_unit(metric),
            _out_of([measure(row["metrics"].get(n), metric["unit"]) for row in found.values()], [*found.values()], n),
        )
        for n, metric in metrics.items()
    ]
    return Across(list(found), rows, [head for head in found if head in state["baselines"]])


def forms(state: Record, incumbent: Record | None) -> Across | None:
    """The incumbent's and other arms' means in every form, where an arm was asked in another one than the incumbent."""
    others = {n: row for n, row in state["baselines"].items() if incumbent and row["form"] != incumbent["form"]}
    if not others:
        return None
    found = {f"generation {incumbent['generation']}": incumbent} | others
    asked = {(n, form) for row in found.values() for n, means in row["forms"].items() for form in means}
    pairs = [(n, form) for n in state["metrics"] for form in sorted(form for name, form in asked if name == n)]
    shown = lambda n, form: [Cell(percent(row["forms"].get(n, {}).get(form))) for row in found.values()]
    rows = [Row(f"{state['metrics'][n]['title']}: {form}, %", shown(n, form)) for n, form in pairs]
    return Across(list(found), rows, list(others), corner="")


def funnel(files: Mapping[int, Record]) -> Across | None:
    """Everything that `funnel.json` counts, of every generation that has one."""
    found = {str(number): f for number, f in files.items() if f}
    names = [name for name in STEPS if any(name in f for f in found.values())]
    called = _steps(found.values())
    rows = [Row(called[name], [Cell(count(f.get(name))) for f in found.values()]) for name in names]
    return Across(list(found), rows) if found else None


def _steps(funnels: Iterable[Record]) -> Mapping[str, str]:
    """What the counts of a run's funnels are called."""
    return STEPS if any("acceptable" in f for f in funnels) else STEPS | {"passed": BY_LOT}


def narrowing(funnel: Record) -> list[dict[str, Any]]:
    """Bars of one generation's funnel in groups of one scale and colour.

    `whole` is the first count of a group, of which every other is a part; `bars` are (label, count).
    """
    groups, called = [], _steps([funnel])
    for colour, (title, names) in enumerate(NARROWING.items(), 1):
        bars = [(called[name], funnel[name]) for name in names if name in funnel]
        if bars and bars[0][1]:
            groups.append({"title": title, "colour": colour, "whole": bars[0][1], "bars": bars})
    return groups


def passing(files: Mapping[int, Record]) -> Across | None:
    """The share of the reviewed transcripts that pass each criterion; the one that passes fewest in the end first."""
    found = {str(number): f for number, f in files.items() if f.get("accepted_by_criterion")}
    if not found:
        return None
    shares = [f["accepted_by_criterion"] for f in found.values()]
    names = dict.fromkeys(name for by_name in shares for name in by_name)
    newest = lambda name: [v for s in shares if (v := value_of(s.get(name))) is not None][-1:]
    order = sorted(names, key=newest)
    rows = [Row(name, [Cell(percent(s.get(name))) for s in shares]) for name in order]
    rows.append(Row("reviewed transcripts", [Cell(count(f.get("reviewed"))) for f in found.values()]))
    return Across(list(found), rows)


def audit(files: Mapping[int, Record]) -> Across | None:
    """What of the datasets must not be there."""
    shown: Sequence[tuple[str, Callable[[Record], str]]] = (
        ("raw tokens", lambda a: count(a.get("raw_tokens"))),
        ("tokens in pieces of a document", lambda a: count(a.get("raw_pieces"))),
        ("rejected tokens, which must be 0", lambda a: count(a.get("rejected_tokens"))),
        ("tokens that nothing accounts for, which must be 0", lambda a: count(a.get("unaccounted_tokens"))),
        ("tokens about what is for measuring alone, which must be 0", lambda a: count(a.get("untaught_tokens"))),
        ("overlap with raw documents, %", lambda a: percent((a.get("overlap") or {}).get("raw"))),
        ("overlap with rejected transcripts, %", lambda a: percent((a.get("overlap") or {}).get("rejected"))),
        ("probability that no review backs, % a token", lambda a: percent(a.get("unreviewed_mass"))),
    )
    return _by_generation(files, shown)


def graded(oracles: Mapping[int, Record]) -> Across | None:
    """The review, and the corrections that it accepted, against the oracle."""
    shown: Sequence[tuple[str, Callable[[Record], Any]]] = (
        ("accepted transcripts that are right, %", lambda o: o.get("precision")),
        ("right transcripts that are accepted, %", lambda o: o.get("recall")),
        ("transcripts that are right, %", lambda o: o.get("pass_rate")),
        ("accepted corrections that are right, %", lambda o: (o.get("corrections") or {}).get("right")),
        ("whose reason names the wrong step and is true, %", lambda o: (o.get("corrections") or {}).get("reason")),
    )
    return _by_generation(oracles, [(name, lambda o, of=of: share_of(of(o))) for name, of in shown])


def criteria(oracles: Mapping[int, Record]) -> Across | None:
    """Precision / recall of the model criteria against the oracle; None where nothing is known of them."""
    found = {str(number): o["criteria"] for number, o in oracles.items() if o.get("criteria")}
    names = dict.fromkeys(name for by_name in found.values() for name in by_name)
    both = lambda m: _figure(f"{percent(m.get('precision'))} / {percent(m.get('recall'))}", m.get("n"))
    rows = [Row(name, [both(by_name.get(name) or {}) for by_name in found.values()]) for name in names]
    return Across(list(found), rows) if found else None


def share_of(metric: Any) -> Cell:
    """A share in per cent, with the number that it is out of where it is known."""
    return _figure(percent(metric), metric.get("n") if isinstance(metric, Mapping) else None)


def wrong_thinkers(found: Record | None) -> Across | None:
    """Every generation's wrong-thinker beside its control, and its corrections, from what `wrongthink` found."""
    shown: Sequence[tuple[str, Callable[[Record], Cell | str]]] = (
        ("source of wrong thoughts", lambda h: h["source"] or "–"),
        ("λ of the wrong-thinker", lambda h: _plain(h["chosen"].get("lambda"))),
        ("well formed, % of its thoughts", lambda h: percent(h["chosen"].get("formed"))),
        ("wrong, % of its thoughts", lambda h: percent(h["chosen"].get("wrong"))),
        ("perplexity, times the incumbent's", lambda h: decimals(h["chosen"].get("perplexity"))),
        ("λ of the random vector", lambda h: _plain(h["control"].get("lambda"))),
        ("wrong, % of the random vector's thoughts", lambda h: percent(h["control"].get("wrong"))),
        ("log-likelihood of wrong steps before, nats a token", lambda h: decimals(h["likelihood"].get("before"))),
        ("and after training", lambda h: Cell(decimals(h["likelihood"].get("after")), "", h["warning"])),
        ("corrections made", lambda h: count(h["made"])),
        ("of these, passed", lambda h: count(h["passed"])),
    )
    return _by_generation({h["generation"]: h for h in found["history"]}, shown) if found else None


def _plain(value: Any) -> str:
    return "–" if value is None else f"{value:g}"


def _by_generation(
    files: Mapping[int, Record], shown: Sequence[tuple[str, Callable[[Record], Cell | str]]]
) -> Across | None:
    """A row for each (name, figure of one generation's object), for the generations that have such an object."""
    found = {str(number): f for number, f in files.items() if f}
    as_cell = lambda value: value if isinstance(value, Cell) else Cell(value)
    rows = [Row(name, [as_cell(of(f)) for f in found.values()]) for name, of in shown]
    return Across(list(found), rows) if found else None


def time(spent: Mapping[str, Record]) -> Across | None:
    """How long every stage of each generation and arm took."""
    found = {name: {s: v for s, v in took.items() if value_of(v) is not None} for name, took in spent.items()}
    found = {name: took for name, took in found.items() if took}
    order = dict.fromkeys((*UNIT_STAGES, *WHOLE_STAGES, *(s for took in found.values() for s in took)))
    stages = [stage for stage in order if any(stage in took for took in found.values())]
    rows = [Row(stage, [Cell(duration(took.get(stage))) for took in found.values()]) for stage in stages]
    rows.append(Row("all", [Cell(duration(sum(took.values()))) for took in found.values()]))
    return Across(list(found), rows, corner="") if found else None
