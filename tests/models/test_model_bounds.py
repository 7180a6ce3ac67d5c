import dataclasses
from dataclasses import dataclass, field

import pytest

from ratchet.models.bounds import BOUNDS, bounded, check
from ratchet.models.decoder import DecoderConfig
from ratchet.train.optimizer import OptimizerConfig
from ratchet.train.sharding import MeshConfig
from ratchet.train.trainer import EngineConfig


@dataclass(frozen=True)
class Inner:
    share: float = bounded(0.5, "from 0 to 1")
    kind: str = "plain"


@dataclass(frozen=True)
class Outer:
    batch: int = bounded(64, "at least 2")
    window: tuple[int, int] = bounded((0, 3), "at least 0")
    inner: Inner = field(default_factory=Inner)


def numbers(config):
    """Every number of a config with its field's metadata; a family is a description, not settings."""
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if dataclasses.is_dataclass(value) and f.name != "family":
            yield from numbers(value)
        elif type(value) in (int, float) or isinstance(value, tuple):
            yield f.name, value, f.metadata


@pytest.mark.parametrize(
    ("config", "line"),
    [
        (Outer(batch=1), "config: batch is 1; it must be at least 2"),
        (Outer(window=(2, -1)), "config: window is (2, -1); it must be at least 0"),
        (Outer(inner=Inner(share=1.5)), "config: inner.share is 1.5; it must be from 0 to 1"),
        (Outer(inner=Inner(share=float("nan"))), "config: inner.share is nan; it must be from 0 to 1"),
    ],
)
def test_a_number_out_of_its_bound_is_one_line_that_names_its_field(config, line):
    with pytest.raises(ValueError, match="must be") as caught:
        check(config)
    assert str(caught.value) == line
    with pytest.raises(ValueError, match=r"^config: train\."):
        check(config, "train.")


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("at least 0", (0, 7), (-1, -1e-9)),
        ("at least 1", (1, 2), (0, -1)),
        ("at least 2", (2, 64), (1, 0)),
        ("above 0", (1e-9, 3.0), (0, -1)),
        ("from 0 to 1", (0, 1), (-0.1, 1.1)),
        ("above 0 and at most 1", (0.1, 1), (0, 1.1)),
        ("at least 1, or -1 for all that is left", (1, -1), (0, -2)),
    ],
)
def test_bounds_are_what_their_words_say(text, inside, outside):
    assert all(map(BOUNDS[text], inside)) and not any(map(BOUNDS[text], outside))


@pytest.mark.parametrize("config", [DecoderConfig(), OptimizerConfig(), MeshConfig(), EngineConfig()])
def test_every_number_of_a_config_has_a_bound_that_its_default_keeps(config):
    check(config)
    found = list(numbers(config))
    assert found and all(metadata["bound"] in BOUNDS for _, _, metadata in found)


def test_bounds_change_nothing_about_how_a_config_is_made():
    assert OptimizerConfig("muon", 3e-2) == OptimizerConfig(kind="muon", rate=3e-2)
    assert MeshConfig(2, 1, 4).tensor == 4 and DecoderConfig().layers == 3
