import dataclasses
import json

import pytest
from support import tiny_config

from bootstrap.config import Config, ConfigError, changed, flat, from_json, nearest, to_json


@pytest.mark.parametrize("config", [Config(), tiny_config(wrongthink__lambdas=(0.5, 2.0), seed=3)])
def test_a_config_comes_back_from_json_as_it_was(config):
    assert from_json(to_json(config)) == config


def altered(name, value):
    fields = dataclasses.asdict(Config())
    *sections, leaf = name.split(".")
    part = fields
    for section in sections:
        part = part[section]
    part[leaf] = value
    return json.dumps(fields)


@pytest.mark.parametrize(
    ("name", "near"),
    [("train.stepz", "train.steps"), ("generation", "generations"), ("simulate.temprature", "simulate.temperature"),
     ("steps", "steps")],
)  # fmt: skip
def test_an_unknown_setting_names_the_nearest(name, near):
    with pytest.raises(ConfigError, match=f"unknown setting {name}; nearest is .*{near}"):
        from_json(altered(name, 1))
    assert nearest(name).endswith(near)


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [("seed", "one", "int"), ("train.steps", 1.5, "int"), ("imitation", "yes", "bool"), ("model.width", None, "int"),
     ("documents.path", 3, "str"), ("simulate.temperature", "hot", "float"), ("seed", True, "int")],
)  # fmt: skip
def test_a_value_of_the_wrong_type_names_the_field_and_the_type(name, value, kind):
    with pytest.raises(ConfigError, match=f"{name} is .*; it must be of type {kind}"):
        from_json(altered(name, value))


def test_a_value_outside_the_choices_lists_them():
    with pytest.raises(ConfigError, match="targets.kind is 'soft'; it must be one of one_hot, teacher, reviewed"):
        from_json(altered("targets.kind", "soft"))


def test_one_model_at_most_thinks_wrongly():
    assert from_json(altered("wrongthink.sources", ["spoiled", "random"])).wrongthink.sources == ("spoiled", "random")
    with pytest.raises(ConfigError, match="wrongthink.sources names 2 models .inverted, random.; choose one"):
        from_json(altered("wrongthink.sources", ["inverted", "spoiled", "random"]))


def test_whole_numbers_are_fine_where_fractions_are_expected():
    assert from_json(altered("simulate.temperature", 1)).simulate.temperature == 1.0


def test_what_changed_is_named_with_both_values():
    assert changed(Config(), Config()) == []
    assert changed(tiny_config(), tiny_config(seed=7)) == ["seed: 0 → 7"]
    assert changed(tiny_config(targets__kind="teacher"), tiny_config()) == ["targets.kind: 'teacher' → 'reviewed'"]


def test_flat_names_every_leaf_once():
    names = flat(Config())
    assert {"seed", "train.optimizer.rate", "mesh.tensor"} <= names.keys()
    assert not any(dataclasses.is_dataclass(value) for value in names.values())
