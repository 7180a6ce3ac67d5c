"""The run's tokenizer: the folder's own beside `--base`, else one that is trained on the world's seed and first
slice."""

from typing import Any

from etils import epath

from ratchet.bootstrap.config import Config
from ratchet.bootstrap.review import Criterion
from ratchet.bootstrap.tools import call_text
from ratchet.bootstrap.worlds.world import World
from ratchet.models.chat import ChatTokenizer
from ratchet.models.tokenizer import Tokenizer
from ratchet.train.files import whole

PROSE_LINES = 1000
"""Lines of the world's prose that a tokenizer is trained on."""


def load_tokenizer(folder: epath.Path) -> Any:
    """The tokenizer that lies in a folder: SentencePiece's, or a chat model's; None where there is neither."""
    own = folder / "model.spm"
    if own.exists():
        return Tokenizer.load(own)
    return ChatTokenizer.load(folder) if (folder / "tokenizer.json").exists() else None


def make_tokenizer(folder: epath.Path, config: Config, world: World, rubric: tuple[Criterion, ...]) -> Any:
    """Puts a tokenizer into an empty folder and returns it."""
    if config.base:
        tokenizer = ChatTokenizer.load(epath.Path(config.base))
        with whole(folder) as fresh:
            fresh.mkdir()
            tokenizer.save(fresh)
        return tokenizer
    tokenizer = Tokenizer.train(_texts(config, world, rubric), config.model.vocab_size)
    with whole(folder / "model.spm") as fresh:
        fresh.write_bytes(tokenizer.model)
    return tokenizer


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
