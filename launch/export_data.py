"""The accepted transcripts of a run as a dataset that other trainers take: parquet and JSON lines, with a card.

`datasets.load_dataset(FOLDER)` opens it. `prompt` and `completion` are what TRL's SFT trainer reads, `prompt` and
`privileged_context` what its self-distillation trainers read.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath

from ratchet.bootstrap import loop, targets
from ratchet.bootstrap.ledger import Stage
from ratchet.bootstrap.lineage import reviewed, verdicts
from ratchet.bootstrap.run import Run
from ratchet.bootstrap.targets import Target
from ratchet.bootstrap.transcript import Capture, Review, Transcript
from ratchet.bootstrap.worlds.world import Document, Task
from ratchet.train.files import whole

ROWS = 1000
"""Transcripts written at a time."""
UNKNOWN = "unknown"
"""The licence of a source that names none."""
NAMED = (
    "apache-2.0", "artistic-2.0", "cc-by-2.0", "cc-by-2.5", "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-sa-3.0",
    "cdla-permissive-2.0", "epl-2.0", "eupl-1.1", "lgpl-2.1", "openrail",
    "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0",
    "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-4.0", "gpl-2.0", "gpl-3.0",
    "lgpl-3.0", "agpl-3.0", "mpl-2.0", "odc-by", "odbl", "pddl", "gfdl", "unlicense", "wtfpl", "isc", "zlib",
)  # fmt: skip
"""Licences that a card may name, of those that Hugging Face has."""
_FUNCTION = pa.struct({"name": pa.string(), "arguments": pa.string()})
_CALL = pa.struct({"id": pa.string(), "type": pa.string(), "function": _FUNCTION})
_MESSAGE = pa.struct({"role": pa.string(), "content": pa.string()})
_TURN = pa.struct({**{f.name: f.type for f in _MESSAGE}, "tool_calls": pa.list_(_CALL), "tool_call_id": pa.string()})
_VERDICT = pa.struct(
    {
        "criterion": pa.string(), "kind": pa.string(), "score": pa.float32(), "threshold": pa.float32(),
        "passed": pa.bool_(), "reason": pa.string(),
    }
)  # fmt: skip
_SOURCE = pa.struct(
    {"id": pa.string(), "document": pa.string(), "text": pa.string(), "license": pa.string(), "meta": pa.string()}
)
_TARGET = pa.struct(
    {
        "token": pa.int32(), "ids": pa.list_(pa.int32()), "probabilities": pa.list_(pa.float32()),
        "tail": pa.float32(),
    }
)  # fmt: skip
COLUMNS: dict[str, tuple[pa.DataType, str]] = {
    "id": (pa.string(), "the transcript's id, which `ratchet show` takes"),
    "generation": (pa.int32(), "the generation that it was written for"),
    "teacher": (pa.int32(), "the generation that reviewed it and, where `writer` is empty, wrote it"),
    "writer": (pa.string(), "the model at an address that wrote it, as its server names it; else empty"),
    "task": (pa.string(), "the task's id; several transcripts may answer one"),
    "prompt": (pa.list_(_MESSAGE), "what a user asks, and the student sees"),
    "completion": (pa.list_(_MESSAGE), "the answer that passed the review: the one thing to train on"),
    "messages": (pa.list_(_TURN), "the whole conversation, with the calls of tools that the teacher made"),
    "teacher_tools": (
        pa.string(), "the tools that it could call, in JSON; `[]` where it called none. Trainers show what they find "
        "under `tools` in the prompt, and the student sees none",
    ),
    "privileged_context": (pa.string(), "what the teacher saw and the student does not"),
    "soft_targets": (
        pa.list_(_TARGET), "by token of the completion, its end included: the token's id, the distribution to train on "
        "(likeliest ids of the run's tokenizer with their probabilities) and the mass outside; null where the "
        "transcript was accepted and not chosen for training",
    ),
    "verdicts": (pa.list_(_VERDICT), "every criterion with P(pass), the threshold that it passes from, and why not"),
    "sources": (pa.list_(_SOURCE), "the passages in view; `meta` is JSON, with the path and offsets where known"),
    "licences": (pa.list_(pa.string()), "the licences of the sources, each once"),
}  # fmt: skip
"""By name, the type of a column and what it holds."""
_SCHEMA = pa.schema([(name, kind) for name, (kind, _) in COLUMNS.items()])


def check(run: Run, generation: int) -> None:
    """Raises ValueError when nothing was accepted up to a generation."""
    if next(_rows(run, generation), None) is None:
        raise ValueError(
            f"export: no transcript of {run.directory} up to generation {generation} was accepted; give a later one"
        )


def write(run: Run, generation: int, folder: epath.Path) -> epath.Path:
    """Writes what was accepted up to a generation: train.parquet, train.jsonl and README.md, a dataset card.

    The folder appears whole. Raises ValueError when it is there already, and when nothing was accepted.
    """
    if folder.exists():
        raise ValueError(f"export: {folder} exists already; give another --to")
    check(run, generation)
    licences: Counter[str] = Counter()
    rows = 0
    with whole(folder) as fresh:
        fresh.mkdir()
        table, lines = pq.ParquetWriter(str(fresh / "train.parquet"), _SCHEMA), (fresh / "train.jsonl").open("w")
        with table, lines:
            for batch in _batches(_rows(run, generation)):
                table.write_table(pa.Table.from_pylist(batch, _SCHEMA))
                lines.write("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in batch))
                licences.update(licence for row in batch for licence in row["licences"])
                rows += len(batch)
        (fresh / "README.md").write_text(_card(run, generation, rows, licences))
    return folder


def _batches(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    batch = []
    for row in rows:
        batch.append(row)
        if len(batch) == ROWS:
            yield batch
            batch = []
    if batch:
        yield batch


def _rows(run: Run, last: int) -> Iterator[dict[str, Any]]:
    """What was accepted in each generation, in the order in which it was written. Corrections are left out: the wrong
    thoughts that they interrupt must carry no weight, which no column of other trainers can say."""
    tasks = {t.id: t for t in run.read(last)}
    passages = {p.id: p for p in run.passages(last)} if last else {}
    for number in range(1, last + 1):
        place = run.generation(number)
        transcripts, reviews = reviewed(place)
        made = {t.transcript_id: t for t in map(targets.from_json, Stage(place / "targets").committed())}
        before = loop.left_by(run, number - 1)
        teacher, writer = before.incumbent if before else 0, _writer(run, number)
        for t in transcripts.values():
            if t.source == "answer" and t.id in reviews and reviews[t.id].accepted:
                by = {"teacher": teacher, "writer": writer, "verdicts": _verdicts(run, place, reviews[t.id])}
                yield _row(run, t, tasks[t.task_id], passages, made.get(t.id)) | by


def _writer(run: Run, number: int) -> str:
    """The model at an address that wrote a generation's transcripts; "" where the run's own model did."""
    teacher = run.config.teacher
    if not teacher.url or number > teacher.generations:
        return ""
    return run.commits.read(run.directory / teacher.section / "probe.json")["model"]


def _row(
    run: Run, t: Transcript, task: Task, passages: Mapping[str, Document], target: Target | None
) -> dict[str, Any]:
    sources = [passages[i] for i in t.passages]
    licences = [_licence(source) for source in sources]
    tools = run.tools.described if any(m.get("tool_calls") for m in t.messages) else []
    return {
        "id": t.id,
        "generation": t.generation,
        "task": t.task_id,
        "prompt": [{"role": m["role"], "content": m["content"]} for m in task.messages],
        "completion": [{"role": "assistant", "content": t.text}],
        "messages": list(map(_turn, t.messages)),
        "teacher_tools": json.dumps([{"type": "function", "function": f} for f in tools]),
        "privileged_context": "\n\n".join(source.text for source in sources),
        "soft_targets": _soft(t, target.capture) if target else None,
        "sources": [
            {
                "id": s.id, "document": s.document_id, "text": s.text, "license": licence,
                "meta": json.dumps(s.meta, ensure_ascii=False),
            }
            for s, licence in zip(sources, licences, strict=True)
        ],
        "licences": list(dict.fromkeys(licences)),
    }  # fmt: skip


def _turn(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message with every field that one may have."""
    more = {"tool_calls": list(message.get("tool_calls") or ()) or None, "tool_call_id": message.get("tool_call_id")}
    return {"role": message["role"], "content": message.get("content"), **more}


def _soft(t: Transcript, capture: Capture) -> list[dict[str, Any]]:
    rows = zip(t.tokens, capture.ids_NK.tolist(), capture.probs_NK.tolist(), capture.tail_N.tolist(), strict=True)
    kept = lambda ids, probs: [(i, p) for i, p in zip(ids, probs, strict=True) if p > 0]
    return [
        {"token": token, "ids": [i for i, _ in both], "probabilities": [p for _, p in both], "tail": tail}
        for token, ids, probs, tail in rows
        for both in [kept(ids, probs)]
    ]


def _verdicts(run: Run, place: epath.Path, review: Review) -> list[dict[str, Any]]:
    return [
        {
            "criterion": name, "kind": v["kind"], "score": v["score"], "threshold": v["threshold"],
            "passed": v["passed"], "reason": v["reason"],
        }
        for name, v in verdicts(run, place, review).items()
    ]  # fmt: skip


def _licence(source: Document) -> str:
    return source.meta.get("license") or UNKNOWN


def _card(run: Run, generation: int, rows: int, licences: Counter[str]) -> str:
    """README.md, as Hugging Face's datasets have it: facts for programs first, then for people."""
    writers = {_writer(run, number) for number in range(1, generation + 1)} - {""}
    foreign = f" Some are by {' and '.join(sorted(writers))}, whose terms hold for them (`writer`)." if writers else ""
    only = _named(next(iter(licences))) if len(licences) == 1 else "other"
    counted = "".join(f"* {licence}: {count}\n" for licence, count in licences.most_common())
    columns = "".join(f"| `{name}` | {said} |\n" for name, (_, said) in COLUMNS.items())
    return f"""---
license: {json.dumps(only)}
size_categories:
- {_size(rows)}
tags:
- ratchet
- synthetic
configs:
- config_name: default
  data_files:
  - split: train
    path: train.parquet
---

# What passed the review up to generation {generation}

{rows:,} answers to tasks of the world `{run.world.name}`. In each generation a model wrote them with sources in view,
and many criteria, each asked on its own, reviewed them. Only what passed is here.{foreign} train.jsonl has the rows of
train.parquet.

| column | holds |
|---|---|
{columns}
Train on `completion` alone: messages of tools, `privileged_context` and `sources` quote what is read and never trained
on. Ids in `soft_targets` are those of the run's tokenizer, {run.tokenizer.hash}.

Licences of the sources, by transcripts that had one in view:

{counted}"""


def _named(licence: str) -> str:
    """A licence as Hugging Face's cards name it; "other" where they have no name for it, and refuse the card."""
    name = "-".join(licence.lower().split())
    return name if name in NAMED else "other"


def _size(rows: int) -> str:
    """The size as Hugging Face's cards name it."""
    bounds = (1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M")
    return next((name for bound, name in bounds if rows < bound), "1M<n<10M")
