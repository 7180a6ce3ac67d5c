import dataclasses
import json

import pytest
from etils import epath
from support import tiny_config

from ratchet.bootstrap import loop
from ratchet.bootstrap.config import Config, ConfigError, flat, from_json, nearest, with_settings
from ratchet.bootstrap.config_changes import changed, refusal
from ratchet.bootstrap.progress import Silent
from ratchet.launch.recipes import RECIPES
from ratchet.models.bounds import BOUNDS

CHANGED = tiny_config(wrongthink__lambdas=(0.5, 2.0), seed=3)


@pytest.mark.parametrize("config", [Config(), CHANGED, *(r.config for r in RECIPES.values())])
def test_a_config_comes_back_from_json_as_it_was(config):
    assert from_json(json.dumps(dataclasses.asdict(config))) == config


def altered(name, value, config=None):
    """The recipe `tiny` as JSON with one setting changed, which may be unknown."""
    fields = dataclasses.asdict(config or tiny_config())
    *sections, leaf = name.split(".")
    part = fields
    for section in sections:
        part = part[section]
    part[leaf] = value
    return json.dumps(fields)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("train.stepz", "train.steps"),
        ("generation", "generations"),
        ("simulate.temprature", "simulate.temperature"),
        ("steps", "steps"),
        ("controls.imitate", "controls.imitation"),
        ("stepz", "steps"),
        ("micro_batch", "train.engine.micro_batches"),
        ("sampels", "simulate.samples"),
    ],
)
def test_an_unknown_setting_names_the_nearest(name, near):
    with pytest.raises(ConfigError, match=f"unknown setting {name}; nearest is .*{near}"):
        from_json(altered(name, 1))
    assert nearest(name).endswith(near)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({}, ""),
        ({"generations": 3}, ""),
        ({"generations": 1}, "the run has 2 generations; --generations can be more, not fewer"),
        ({"train.columns": 200, "generations": 3}, ""),
        ({"train.columns": 160}, "the run has 176 columns; --train.columns can be more, not fewer"),
        ({"train.engine.save_every": 0, "train.engine.save_minutes": 1.0}, ""),
        ({"train.engine.stall_minutes": 1.0, "train.engine.profile": (1, 2)}, ""),
        ({"train.steps": 9}, "train.steps: 8 → 9 differs from the run; start a new run to change it"),
        (
            {"judge.url": "http://one/v1"},
            "judge.url: '' → 'http://one/v1' differs from the run; start a new run to change it",
        ),
        ({"train.columns": 200, "seed": 1}, "seed: 0 → 1 differs from the run; start a new run to change it"),
    ],
)
def test_a_run_goes_on_with_settings_on_which_nothing_that_was_made_depends(change, why):
    assert refusal(tiny_config(), with_settings(tiny_config(), change)) == why


@pytest.mark.parametrize("server", ["teacher", "judge"])
def test_a_server_may_move_and_neither_leave_nor_join(server):
    one, other = (tiny_config(**{f"{server}__url": f"http://{name}/v1"}) for name in ("one", "other"))
    assert refusal(one, other) == ""
    for before, after in ((one, tiny_config()), (tiny_config(), one)):
        assert "start a new run" in refusal(before, after)


def test_of_settings_that_end_alike_the_closest_is_named():
    assert nearest("trian.steps") == "train.steps" and nearest("wrongthinking.steps") == "wrongthink.steps"
    assert nearest("nonsense") is None
    with pytest.raises(ConfigError, match="unknown setting nonsense; `ratchet run RECIPE --help` lists all"):
        from_json(altered("nonsense", 1))


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("seed", "one", "int"),
        ("seed", True, "int"),
        ("train.steps", 1.5, "int"),
        ("controls.imitation", "yes", "bool"),
        ("model.width", None, "int"),
        ("documents.path", 3, "str"),
        ("simulate.temperature", "hot", "float"),
        ("train.seed_mixture.prose", 1.5, "int"),
    ],
)
def test_a_value_of_the_wrong_type_names_the_field_and_the_type(name, value, kind):
    with pytest.raises(ConfigError, match=f"{name} is .*; it must be of type {kind}"):
        from_json(altered(name, value))


@pytest.mark.parametrize("section", ["train", "train.optimizer"])
def test_a_section_that_is_no_object_is_named(section):
    with pytest.raises(ConfigError, match=f"config: {section} is 3; it must be an object"):
        from_json(altered(section, 3))


def test_a_value_outside_the_choices_lists_them():
    kinds = "one_hot, teacher, students, reviewed"
    with pytest.raises(ConfigError, match=f"targets.kind is 'soft'; it must be one of {kinds}"):
        from_json(altered("targets.kind", "soft"))


def test_one_model_at_most_thinks_wrongly():
    assert from_json(altered("wrongthink.sources", ["spoiled", "random"])).wrongthink.sources == ("spoiled", "random")
    with pytest.raises(ConfigError, match="wrongthink.sources is .*; inverted and contrast are models; choose one"):
        from_json(altered("wrongthink.sources", ["inverted", "spoiled", "contrast"]))


def fields_of(kind, prefix=""):
    """Every setting as (dotted name, default, metadata), but for a model's family, which is a description."""
    for f in dataclasses.fields(kind):
        value = getattr(kind, f.name)
        if not dataclasses.is_dataclass(value):
            yield f"{prefix}{f.name}", value, f.metadata
        elif f.name != "family":
            yield from fields_of(value, f"{prefix}{f.name}.")


def test_every_number_but_the_seed_has_a_bound_beside_it():
    numeric = lambda value: isinstance(value, int | float) and not isinstance(value, bool)
    numbers = [
        (name, metadata.get("bound"))
        for name, value, metadata in fields_of(Config())
        if numeric(value) or (isinstance(value, tuple) and value and all(map(numeric, value)))
    ]
    assert [name for name, bound in numbers if bound not in BOUNDS] == ["seed"]
    assert len(numbers) > 60


def test_there_are_few_enough_settings_to_read():
    """Add one only when a default cannot do."""
    assert len(list(fields_of(Config()))) <= 142


@pytest.mark.parametrize(
    ("name", "value", "bound"),
    [
        ("generations", 0, "at least 1"),
        ("simulate.passages", 0, "at least 1"),
        ("lessons.slice", -3, "at least 1"),
        ("train.batch", 1, "at least 2"),
        ("simulate.temperature", -0.1, "at least 0"),
        ("train.seed_mixture.interrupt", -1, "at least 0"),
        ("train.optimizer.rate", 0.0, "above 0"),
        ("wrongthink.lambdas", [0.5, 0.0], "above 0"),
        ("wrongthink.share", 1.01, "from 0 to 1"),
        ("simulate.withhold", float("nan"), "from 0 to 1"),
        ("controls.random_share", 2.0, "from 0 to 1"),
        ("mesh.data", 0, "at least 1, or -1"),
        ("mesh.tensor", -1, "at least 1"),
        ("model.heads", 0, "at least 1"),
        ("train.steps", 10**20, "at least 1, and at most 2147483647"),
        ("seed", 2**31, "from -2147483647 to 2147483647"),
        ("seed", -(2**31), "from -2147483647 to 2147483647"),
    ],
)
def test_a_number_out_of_bounds_names_setting_value_and_bound(name, value, bound):
    with pytest.raises(ConfigError, match=f"^config: {name} is .*; it must be {bound}") as caught:
        from_json(altered(name, value))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("train.renamed", 0),
        ("wrongthink.first_generation", 0),
        ("simulate.revisit", 0),
        ("controls.random_share", 1.0),
        ("wrongthink.lambdas", []),
        ("wrongthink.sources", []),
        ("mesh.data", -1),
        ("train.columns", 145),
        ("simulate.new_tokens", 175),
    ],
)
def test_what_is_just_within_bounds_is_fine(name, value):
    assert json.dumps(flat(from_json(altered(name, value)))[name]) == json.dumps(value)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("simulate.new_tokens", 192, "it must be below model.max_length, 192"),
        ("train.columns", 144, "it must be above 144, which a prompt"),
        ("simulate.keep", 1025, "model.vocab_size is 1024; lower it"),
        ("train.lora", 4, "random weights are not worth adapting; give --base"),
        ("train.optimizer.rate", float("inf"), "it must be a finite number"),
        ("train.engine.profile", [10], "it must have 2 parts"),
        ("train.engine.profile", [], "it must have 2 parts"),
        ("train.engine.profile", [1, 2, 3], "it must have 2 parts"),
        ("train.engine.profile", [13, 10], "comes after the first"),
        ("wrongthink.interruption", " ", "the supervisor has to say something"),
        ("rollouts.url", ["http://h:8000/v1"], "servers hold a model that others know; give its --base"),
        ("rollouts.url", ["http://h:8000/v1", "h:8000"], "give it as http://HOST:PORT/v1"),
    ],
)
def test_settings_at_odds_name_what_to_do(name, value, said):
    with pytest.raises(ConfigError, match=f"^config: {name} is .*{said}"):
        from_json(altered(name, value))


def test_a_row_holds_the_longest_answer_and_heads_divide_the_width():
    with pytest.raises(ConfigError, match="train.columns is 176; it must be above 176, .* or an answer "):
        from_json(altered("simulate.new_tokens", 176))
    with pytest.raises(ValueError, match="model: width 32 / heads 5 .* heads must divide width"):
        from_json(altered("model.heads", 5))


def test_whole_numbers_are_fine_where_fractions_are_expected():
    assert from_json(altered("simulate.temperature", 1)).simulate.temperature == 1.0


def test_what_changed_is_named_with_both_values():
    assert changed(Config(), Config()) == []
    assert changed(tiny_config(), tiny_config(seed=7)) == ["seed: 0 → 7"]
    assert changed(tiny_config(targets__kind="teacher"), tiny_config()) == ["targets.kind: 'teacher' → 'reviewed'"]


def test_flat_names_every_leaf_once():
    names = flat(Config())
    assert {"seed", "train.optimizer.rate", "train.seed_mixture.prose", "mesh.tensor"} <= names.keys()
    assert not any(dataclasses.is_dataclass(value) for value in names.values())


@pytest.mark.parametrize("left", ["gen-001", "checkpoints/loop-001"])
def test_a_run_is_not_begun_among_what_another_left(tmp_path, left):
    """Units and checkpoints do not say of which run they are."""
    (tmp_path / left).mkdir(parents=True)
    with pytest.raises(ConfigError, match=rf"{left} is what a run left whose config\.json is gone; give another --out"):
        loop.run(epath.Path(tmp_path), tiny_config(), Silent())
    assert not (tmp_path / "config.json").exists()
