"""Models that others trained: what one is, read onto the mesh to be sure; and a generation written as a folder."""

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import jax
import tyro
from etils import epath
from flax import nnx
from rich.table import Table
from rich.text import Text

from ratchet.bootstrap.given import base_model, base_weights
from ratchet.bootstrap.run import Run
from ratchet.models import architectures, huggingface, peft, rows
from ratchet.models.architectures import FolderError
from ratchet.models.pretrained import Pretrained
from ratchet.train.buckets import place_of
from ratchet.train.files import whole
from ratchet.train.sharding import MeshConfig, make_mesh, state_sharding


@dataclass(frozen=True)
class Export:
    """What is written as a folder, and where."""

    generation: int
    """Which generation to write."""
    to: Annotated[str, tyro.conf.arg(metavar="FOLDER")]
    """A directory that does not exist yet."""
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    """In which the files hold the weights."""
    adapters: bool = False
    """Of runs with --train.lora: what was trained alone, which PEFT adds to the model of --base, as a folder."""


def read(named: str, template: str = "") -> dict[str, Any]:
    """Reads a model's weights over all devices; returns what they are. `template` names a file with a chat template in
    place of the model's own. Raises FolderError for what cannot be read."""
    written = _template(template) if template else ""
    base, mesh = base_model(named), make_mesh(MeshConfig(1, -1, 1))
    config, weights = base.config, base.weights(lambda params: state_sharding(mesh, params))
    sizes = {f.name: getattr(config, f.name) for f in dataclasses.fields(config) if f.name not in ("family", "conv")}
    return {
        "model": named, "parameters": sum(x.size for x in jax.tree.leaves(weights)),
        **sizes, "family": dataclasses.asdict(config.family), "chat": _chat(base, weights, written),
    }


def _template(named: str) -> str:
    """A file's chat template. Raises FolderError where there is none."""
    mend = "give --template a file with a chat template"
    try:
        text = place_of(named).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise FolderError(f"{named}: cannot be read ({error}); {mend}") from error
    if not text.strip():
        raise FolderError(f"{named}: is empty; {mend}")
    return text


def _chat(base: Pretrained, weights: nnx.State, template: str) -> dict[str, Any]:
    """Whether a run can start from the model, by its tokenizer and chat template, its own unless another is given, and
    what they can do. What is wrong with them is a warning: the weights are described all the same."""
    said = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    try:
        own = base.tokenizer(template)
        own.check()
        found = own.chat(said).said.any()
    except FolderError as error:
        return {"base": False, "warning": f"a run with --base refuses this model: {error}"}
    marks = "by the template" if own.marks else "by how turns open and close" if found else "not at all"
    new = rows.untrained(weights, own)
    mended = f"{rows.described(new, own)}; a run begins them as the mean of the others, and trains them"
    found = {"base": True, "tokens": own.vocab_size, "calls_tools": own.can_call, "marks": marks}
    return found | {"warning": mended if new else ""}


def _sentence(chat: dict[str, Any]) -> str:
    """What a model's chat is good for."""
    if not chat["base"]:
        return "no run can start from it with --base; see below"
    calls = "calls tools" if chat["calls_tools"] else "calls no tools (leave --simulate.calls at 0)"
    told = f"what the assistant says is marked {chat['marks']}"
    return f"a run can start from it with --base: {chat['tokens']:,} tokens; the template {calls}; {told}"


def table(found: dict[str, Any]) -> Table:
    """The same for people, with a warning below; traits that a family does not have are left out."""
    made = Table("model", found["family"]["architecture"], box=None, caption_justify="left")
    made.add_row("parameters", f"{found['parameters']:,}")
    for name, value in {**found, **found["family"], "chat": _sentence(found["chat"])}.items():
        if name not in ("parameters", "family", "model", "architecture") and value not in (0, "", (), []):
            made.add_row(name.replace("_", " "), f"{sum(value)} layers" if name == "sliding" else str(value))
    if warning := found["chat"]["warning"]:
        made.caption = Text(f"warning: {warning}")
    return made


def write(run: Run, asked: Export) -> epath.Path:
    """Writes a finished generation's weights, config.json, the ids that answers end with, and the tokenizer: that of
    the base folder with its chat template, else the SentencePiece model.

    Raises FolderError when the directory exists, for a decoder that transformers does not have, and for adapters where
    more was trained.
    """
    place = place_of(asked.to)
    if place.exists():
        raise FolderError(f"export: {place} exists already; give another --to")
    model = run.config.model
    if asked.adapters:
        check_adapted(run)
    if run.config.base:
        longest = architectures.read_config(run.directory / "tokenizer").max_length
        model = dataclasses.replace(model, max_length=longest)
    weights = run.weights(asked.generation)
    with whole(place) as fresh:
        if asked.adapters:
            before = base_weights(run.config, run.mesh)
            peft.save(fresh, model, (before, weights), _rank(run, asked.generation), run.config.base, asked.dtype)
        else:
            huggingface.save(fresh, model, weights, asked.dtype, run.tokenizer.special_ids)
        if run.config.base:
            run.tokenizer.save(fresh, of_run=False)
        else:
            (fresh / "tokenizer.model").write_bytes(run.tokenizer.model)
    return place


def check_adapted(run: Run) -> None:
    """Raises FolderError for a run that trains no adapters, or rows of new tokens beside them."""
    if not run.config.train.lora:
        raise FolderError("export: the run trains whole weights (train.lora is 0); leave out --adapters")
    if run.tokenizer.late:
        raise FolderError("export: rows of new tokens are trained too, which no adapters hold; leave out --adapters")


def _rank(run: Run, number: int) -> int:
    """The rank of all that adapters changed up to a generation: its own or, where each goes on from the last, of all;
    and of the seed model's, where there are worked tasks."""
    trained = number if run.config.controls.start == "last" else min(number, 1)
    return run.config.train.lora * (trained + bool(run.shown))
