"""Tokens that the files beside a tokenizer.json add to it, as transformers adds them: those that tokenizer_config.json
lists, those of added_tokens.json, and special tokens that are only named."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from tokenizers import AddedToken
from tokenizers import Tokenizer as FastTokenizer

LISTED = "added_tokens_decoder"
"""What tokenizer_config.json calls its own list."""
_EXTRA = ("extra_special_tokens", "additional_special_tokens")
_FLAGS = ("lstrip", "rstrip", "normalized", "single_word", "special")


class Added(NamedTuple):
    """A token to add. One that `replaces` also takes the place of a token of its name and another nature; `is_written`
    tells whether a chat template can write it."""

    token: AddedToken
    replaces: bool
    is_written: bool


def additions(
    settings: Mapping[str, Any],
    legacy: Mapping[str, int],
    named: Mapping[str, str],
    is_written: Callable[[str], bool],
) -> tuple[Added, ...]:
    """What tokenizer_config.json, added_tokens.json and special tokens by name add, in order. Raises TypeError and
    ValueError for what is no list of tokens."""
    extra = next((given for name in _EXTRA if (given := settings.get(name))), ())
    special = [*named.values(), *(map(_content, extra) if isinstance(extra, list) else ())]
    if (listed := settings.get(LISTED)) is not None:
        flags = lambda token: {f: token[f] for f in _FLAGS if f in token}
        given = {int(id): {"content": token["content"], **flags(token)} for id, token in listed.items()}
    else:
        given = {int(id): {"content": name, "special": name in special} for name, id in legacy.items()}
    found = [(AddedToken(**given[id]), listed is not None) for id in sorted(given)]
    found += [(AddedToken(name, special=True), False) for name in dict.fromkeys(special)]
    return tuple(Added(token, replaces, is_written(token.content)) for token, replaces in found)


def merged(whole: Mapping[str, Any], added: Sequence[Added]) -> list[dict[str, Any]]:
    """The added tokens of a parsed tokenizer.json, with those of other files.

    The last ones that no template writes are left out: folders name tokens for which their model has no row.
    """
    own = {token["content"]: token for token in whole["added_tokens"]}
    if not (wanted := [one for one in added if _is_new(one, own)]):
        return whole["added_tokens"]
    made = FastTokenizer.from_str(json.dumps(whole))
    before = {*made.get_vocab().values()}
    made.add_tokens([one.token for one in wanted])
    found = json.loads(made.to_str())["added_tokens"]
    written = {one.token.content for one in wanted if one.is_written}
    last = max((t["id"] for t in found if t["content"] in written), default=-1)
    return [t for t in found if t["id"] in before or t["id"] <= last]


def _is_new(one: Added, own: Mapping[str, Mapping[str, Any]]) -> bool:
    there = own.get(one.token.content)
    return there is None or (one.replaces and any(there.get(f) != getattr(one.token, f) for f in _FLAGS))


def _content(token: Any) -> str:
    return token["content"] if isinstance(token, Mapping) else token
