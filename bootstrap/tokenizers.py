"""The run's tokenizer: that of the model beside `--base`, else one that is trained on the world's seed and first
slice."""

import json
from collections.abc import Sequence
from typing import Any

from etils import epath

from ratchet.bootstrap.config import Config
from ratchet.bootstrap.given import base_model
from ratchet.bootstrap.rubric import Criterion
from ratchet.bootstrap.tools import call_text
from ratchet.bootstrap.worlds.world import World
from ratchet.models.tokenizer import Tokenizer
from ratchet.train.commits import Commits
from ratchet.train.files import typed, whole

TOKENIZER = "tokenizer"
"""The folder of it in a run's directory."""
PROSE_LINES = 1000
"""Lines of the world's prose that a tokenizer is trained on."""
DOCUMENT_LETTERS = 1_000_000
"""Letters of documents that a tokenizer is trained on: a few seconds' work."""
FEWEST_LETTERS = 100
"""Letters of a document that are worth taking."""
PARTS = 4
"""Parts in which a long text is taken."""
MOST_OF_ONE = 20_000
"""Letters of a document that are taken though it has more of them than all others together. They teach a vocabulary of
2,048 almost as much as 150,000 do: 1.57 pieces a word of old prose instead of 1.45."""


def keep_tokenizer(
    directory: epath.Path, config: Config, world: World, rubric: tuple[Criterion, ...], writes: bool
) -> None:
    """Makes the tokenizer in the run's directory, and commits its files, where one of them is missing. Raises
    ValueError there unless the run `writes`."""
    folder, commits = directory / TOKENIZER, Commits(directory)
    files = commits.within(folder)
    if files and all(file.exists() for file in files):
        return
    if not writes:
        raise ValueError(f"{folder}: files are missing; `ratchet resume {typed(directory)}` makes them again")
    with whole(folder) as fresh:
        make_tokenizer(fresh, config, world, rubric)
        commits.adopt(folder, fresh.iterdir())


def make_tokenizer(folder: epath.Path, config: Config, world: World, rubric: tuple[Criterion, ...]) -> Any:
    """Makes the tokenizer of a run in its folder. Beside a chat model's lies its config.json, which an export reads."""
    base = base_model(config.base) if config.base else None
    vocabulary = config.model.vocab_size
    tokenizer = base.tokenizer() if base else Tokenizer.train(_texts(config, world, rubric), vocabulary)
    folder.mkdir(parents=True, exist_ok=True)
    if base:
        with whole(folder / "config.json") as fresh:
            fresh.write_text(json.dumps(base.config_json, indent=1))
    tokenizer.save(folder)
    return tokenizer


def _texts(config: Config, world: World, rubric: tuple[Criterion, ...]) -> list[str]:
    """Text of the seed and of prose, and of every document of the first slice: more generations must not change the
    tokenizer. Where documents are more than the rest, the rest is said again, or they would crowd its words out."""
    tasks = world.seed.tasks
    asked = [m["content"] for t in tasks for messages in (t.messages, *t.askings) for m in messages]
    questions = " ".join(c.question for c in rubric if c.kind == "model").replace("{", "").replace("}", "")
    answers = [
        f"{t.answer} {config.wrongthink.interruption} {questions} {call_text(t.seek[0] if t.seek else t.question)}"
        for t in tasks
    ]
    prose = [" ".join(line) for line in world.prose[:PROSE_LINES]]
    own = [*(d.text for d in world.seed.documents), *asked, *answers, *prose]
    read = evenly([d.text for d in world.slices[0].documents], DOCUMENT_LETTERS)
    times = -(-sum(map(len, read)) // max(1, sum(map(len, own))))
    return [*own * max(1, times), *read]


def evenly(texts: Sequence[str], letters: int) -> list[str]:
    """About `letters` letters of texts in all: the whole of short ones, and as much of each longer one as of any other,
    in PARTS from its beginning to its end, since many may begin with the same licence; of one that is longer than all
    others together, as much as of those, or MOST_OF_ONE: it may be no text at all. Of very many texts, only every
    so-manyth is taken."""
    some = texts[:: max(1, -(-len(texts) * FEWEST_LETTERS // letters))]
    left, share = letters, letters
    for at, length in enumerate(sorted(map(len, some))):
        share = left // (len(some) - at)
        if length > share:
            break
        left -= length
    *others, _ = sorted(map(len, some)) or [0]
    most = min(share, max(MOST_OF_ONE, sum(others)))
    return [_spread(text, most) for text in some]


def _spread(text: str, letters: int) -> str:
    """So many letters of a text, in PARTS that are equally far from one another."""
    if len(text) <= letters:
        return text
    ends = [(n + 1) * letters // PARTS for n in range(PARTS)]
    lengths = [end - begin for begin, end in zip([0, *ends], ends, strict=False)]
    starts = [n * (len(text) - lengths[-1]) // (PARTS - 1) for n in range(PARTS)]
    return "".join(text[start : start + length] for start, length in zip(starts, lengths, strict=True))
