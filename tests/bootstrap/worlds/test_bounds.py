from dataclasses import dataclass, field

import pytest

from ratchet.bootstrap.worlds.bounds import BOUNDS, bounded, check


@dataclass(frozen=True)
class Inner:
    share: float = bounded(0.5, "from 0 to 1")
    steps: tuple[float, ...] = bounded((0.1, 2.0), "above 0")
    name: str = "free"


@dataclass(frozen=True)
class Outer:
    count: int = bounded(3, "at least 1")
    inner: Inner = field(default_factory=Inner)


def test_settings_within_their_bounds_pass():
    check(Outer())
    check(Outer(1, Inner(1.0, (), "anything")))


@pytest.mark.parametrize(
    ("config", "prefix", "line"),
    [
        (Outer(0), "", "config: count is 0; it must be at least 1"),
        (Outer(0), "world.", "config: world.count is 0; it must be at least 1"),
        (Outer(1, Inner(1.5)), "world.", "config: world.inner.share is 1.5; it must be from 0 to 1"),
        (Outer(1, Inner(steps=(1.0, 0.0))), "", "config: inner.steps is (1.0, 0.0); it must be above 0"),
    ],
)
def test_a_setting_out_of_its_bound_is_one_line_with_its_whole_name(config, prefix, line):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        check(config, prefix)
    assert str(caught.value) == line


@pytest.mark.parametrize(
    ("bound", "within", "without"),
    [
        ("at least 0", (0, 7), (-1,)),
        ("at least 1", (1, 7), (0, -1)),
        ("at least 2", (2, 7), (1,)),
        ("above 0", (0.01, 7), (0, -0.5)),
        ("from 0 to 1", (0, 0.5, 1), (-0.1, 1.1)),
        ("above 0 and at most 1", (0.1, 1), (0, 1.1)),
        ("at least 1, or -1 for all that is left", (1, 9, -1), (0, -2)),
    ],
)
def test_a_bound_holds_for_what_it_says(bound, within, without):
    assert all(map(BOUNDS[bound], within)) and not any(map(BOUNDS[bound], without))


def test_what_is_not_a_number_is_out_of_every_bound():
    assert not any(fits(float("nan")) for fits in BOUNDS.values())
