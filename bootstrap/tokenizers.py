"""The run's tokenizer: the folder's own beside `--base`, else one that is trained on the world's seed and first
slice."""

from typing import Any

from etils import epath

from ratchet.bootstrap.config import Config
from ratchet.bootstrap.review import Criterion
from ratchet.bootstrap.tools import call_text
from ratchet.bootstrap.worlds.world import World
from ratchet.models.chat import ChatTokenizer
from ratchet.models.tokenizer import Tokenizer, load
from ratchet.train.files import whole

PROSE_LINES = 1000
"""Lines of the world's prose that a tokenizer is trained on."""


def prepare_tokenizer(folder: epath.Path, config: Config, world: World, rubric: tuple[Criterion, ...]) -> Any:
    """The tokenizer in a run's folder, put there first when it is empty. Beside a chat model's lies its config.json,
    which an export reads."""
    try:
        return load(folder)
    except FileNotFoundError:
        tokenizer = _base_tokenizer(config) if config.base else _own_tokenizer(config, world, rubric)
    folder.mkdir(parents=True, exist_ok=True)
    if config.base:
        with whole(folder / "config.json") as fresh:
            fresh.write_bytes((epath.Path(config.base) / "config.json").read_bytes())
    tokenizer.save(folder)
    return tokenizer


def _base_tokenizer(config: Config) -> ChatTokenizer:
    return ChatTokenizer.load(epath.Path(config.base), config.model.vocab_size)


def _own_tokenizer(config: Config, world: World, rubric: tuple[Criterion, ...]) -> Tokenizer:
    return Tokenizer.train(_texts(config, world, rubric), config.model.vocab_size)


def _texts(config: Config, world: World, rubric: tuple[Criterion, ...]) -> list[str]:
    """Text of the seed and of prose, and as much of the first slice: a large corpus must not crowd the seed's words
    out, and more generations must not change the tokenizer."""
    tasks = world.seed.tasks
    asked = [m["content"] for t in tasks for messages in (t.messages, *t.askings) for m in messages]
    questions = " ".join(c.question for c in rubric if c.kind == "model").replace("{", "").replace("}", "")
    answers = [
        f"{t.answer} {config.wrongthink.interruption} {questions} {call_text(t.seek[0] if t.seek else t.question)}"
        for t in tasks
    ]
    prose = [" ".join(line) for line in world.prose[:PROSE_LINES]]
    own = [*(d.text for d in world.seed.documents), *asked, *answers, *prose]
    room, taken = max(sum(map(len, own)), 1_000_000 if not own else 0), []
    for document in world.slices[0].documents:
        room -= len(document.text)
        if room < 0:
            break
        taken.append(document.text)
    return [*own, *taken]
