"""Rubrics as users write them: what is read, and what is refused in one line."""

from dataclasses import replace

import pytest

from ratchet.bootstrap.rubric import PACKS, Criterion, load_rubric, seated


def written(criteria: str, head: str = "version: 1") -> str:
    return f"{head}\ncriteria:\n{criteria}"


def test_a_rubric_is_the_worlds_own_or_the_users(tmp_path, world):
    rubric = load_rubric("", world)
    assert [c.id for c in rubric][-2:] == ["grounded", "sure"] and len({c.id for c in rubric}) == len(rubric)
    file = tmp_path / "rubric.yaml"
    file.write_text(written("- {id: kind, kind: model, of: step, question: 'is {anything} kind?', threshold: 0.25}"))
    (own,) = load_rubric(str(file), world)
    assert (own.id, own.threshold, own.required, own.show, own.named) == ("kind", 0.25, True, (), {"anything"})


def test_what_is_measured_has_a_usual_threshold_until_it_is_calibrated(world):
    """Nats may be any number; a share and a probability are from 0 to 1."""
    names = ("gain", "likely", "agreement", "roles")
    own = "".join(f"- {{id: {name}, kind: likelihood, question: q}}\n" for name in names)
    found = load_rubric("", replace(world, rubric=written(own + "- {id: grounded, kind: rule, question: q}")))
    assert [c.threshold for c in found] == [0.0, -1.0, 0.5, 0.5, 0.5]
    low = written("- {id: likely, kind: likelihood, question: q, threshold: -7}")
    assert load_rubric("", replace(world, rubric=low))[0].threshold == -7


def test_what_stands_for_advisory_decides_nothing(world):
    own = "".join(
        f"- {{id: m{n}, kind: model, question: q, standing: {standing}}}\n"
        for n, standing in enumerate(("required", "always", "earned", "advisory"))
    )
    assert [c.required for c in load_rubric("", replace(world, rubric=written(own)))] == [True, True, False, False]


def test_a_judge_by_address_is_asked_by_who_names_it_or_else_takes_the_place_of_the_model_itself():
    of = [("rule", "rule", "self"), ("own", "model", "self"), ("seeds", "model", "seed"), ("far", "model", "address")]
    made = [Criterion(id=name, kind=kind, question="?", judge=judge) for name, kind, judge in of]
    judges = lambda criteria: [c.judge for c in criteria]
    assert judges(seated(made, True)) == ["self", "self", "seed", "address"]
    assert judges(seated(made[:3], True)) == ["self", "address", "seed"]
    assert judges(seated(made[:3], False)) == ["self", "self", "seed"]
    with pytest.raises(ValueError, match="rubric: far asks a judge by address; set --judge.url, or its judge to self"):
        seated(made, False)
    with pytest.raises(ValueError, match="judge.url: no criterion of the rubric asks it; leave it out"):
        seated([made[0], made[2]], True)


@pytest.mark.parametrize(
    ("criteria", "line", "named"),
    [
        ("- {id: a, kind: model, question: q, weight: 2}", 3, "criterion a: weight: "),
        ("- id: a\n  kind: model\n  question: q\n  weight: 2", 6, "criterion a: weight: "),
        ("- {id: a, kind: model}", 3, "criterion a: question: "),
        ("- {kind: model, question: q}", 3, "criterion 1: id: "),
        ("- {id: a, kind: judge, question: q}", 3, "criterion a: kind: "),
        ("- {id: a, kind: model, of: word, question: q}", 3, "criterion a: of: "),
        ("- {id: a, kind: model, question: q, judge: anyone}", 3, "criterion a: judge: "),
        ("- {id: grounded, kind: rule, question: q, judge: address}", 3, "grounded asks no judge by address"),
        ("- {id: a, kind: model, question: q, standing: no}", 3, "criterion a: standing: "),
        ("- 3", 3, "criterion 1: "),
        ("- {id: a, kind: rule, question: q}", 3, "there is no rule a; there are finished, .*grounded"),
        ("- {id: a, kind: likelihood, question: q}", 3, "there is no likelihood a; there are gain, likely, agreement"),
        *(
            (f"- {{id: {name}, kind: model, question: q}}", 3, f"{name} is the name of a likelihood; call the model")
            for name in ("gain", "likely", "agreement", "roles")
        ),
        ("- {id: agreement, kind: likelihood, of: step, question: q}", 3, "agreement is of a whole answer"),
        ("- {id: a, kind: model, question: q, threshold: 1.5}", 3, "criterion a: threshold: must be from 0 to 1"),
        ("- {id: a, kind: model, question: q, threshold: -1}", 3, "criterion a: threshold: "),
        ("- {id: original, kind: rule, question: q, limit: 0}", 3, "criterion original: limit: "),
        ("- {id: a, kind: model, question: q, standing: advisory}", 2, "no criterion is required"),
        ("- &a {id: a, kind: model, question: q}\n- *a", 2, "two criteria have the id a"),
        ("- {id: a, kind: model, question: 'is {step} fine?'}", 3, "names {step}; there are {answer}, {question}"),
        ("- {id: a, kind: model, of: step, question: 'is {the lamp} fine?'}", 3, "names {the lamp}"),
        ("- {id: a, kind: model, of: step, question: '{}?'}", 3, "names {}"),
        *(
            (f"- {{id: a, kind: model, of: step, question: '{wrong}'}}", 3, "question of a cannot be filled in")
            for wrong in ("is {", "is }", "{step!z}", "{step:d}", "{step:{x}}")
        ),
        ("- {id: finished, kind: rule, question: q, labels: [a, b], passing_labels: [a]}", 3, "finished asks no judge"),
        ("- {id: a, kind: model, question: q, labels: [a, b]}", 3, "passing_labels of a must be some of its labels"),
        ("- {id: a, kind: model, question: q, passing_labels: [a]}", 3, "passing_labels of a must be some"),
        ("- {id: a, kind: model, question: q, labels: [b, c], passing_labels: [b, c]}", 3, "and not all"),
        ("- {id: a, kind: model, question: q, labels: [s, so], passing_labels: [s]}", 3, "'s' of a begins another"),
        ("- {id: a, kind: model, question: q, examples: [{words: {}, passes: 3}]}", 3, "a: examples: 0: passes"),
        (
            "- {id: a, kind: model, question: '{answer}', examples: [{words: {step: x}, passes: true}]}",
            3,
            "example of a must have the words answer",
        ),
        (
            "- {id: a, kind: model, question: '{answer}}', examples: [{words: {answer: x}, passes: true}]}",
            3,
            "question of a cannot be filled in",
        ),
        (" []", 2, "criteria: "),
        (" just text", 2, "criteria: "),
        (" 3", 2, "criteria: "),
        (" null", 2, "criteria: "),
    ],
)
def test_a_bad_criterion_is_one_line_with_file_line_and_field(tmp_path, world, criteria, line, named):
    file = tmp_path / "rubric.yaml"
    file.write_text(written(criteria))
    with pytest.raises(ValueError, match=named) as caught:
        load_rubric(str(file), world)
    assert f"{file}, line {line}: " in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("head", "line", "named"),
    [
        ("version: 2", 1, "version: "),
        ("", 1, "version: "),
        ("version: 1\non_unreadable: accept", 2, "on_unreadable: .*reject"),
        ("version: 1\njudges: [x]", 2, "judges: "),
    ],
)
def test_a_bad_head_is_one_line_too(tmp_path, world, head, line, named):
    file = tmp_path / "rubric.yaml"
    file.write_text(written("- {id: a, kind: model, question: q}", head))
    with pytest.raises(ValueError, match=named) as caught:
        load_rubric(str(file), world)
    assert f", line {line if head else 2}: " in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(("text", "named"), [("- [", "is no YAML"), ("\tversion: 1", "is no YAML"), ("", "line 1: ")])
def test_what_is_no_rubric_at_all_is_named(tmp_path, world, text, named):
    file = tmp_path / "rubric.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=named) as caught:
        load_rubric(str(file), world)
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)


def test_a_rubric_that_cannot_be_read_is_named(tmp_path, world):
    with pytest.raises(ValueError, match="nowhere.yaml is missing; set --review.rubric"):
        load_rubric(str(tmp_path / "nowhere.yaml"), world)
    with pytest.raises(ValueError, match=r"cannot be read \(Is a directory\); set --review.rubric"):
        load_rubric(str(tmp_path), world)
    with pytest.raises(ValueError, match="rubric: of the world lamps is no YAML"):
        load_rubric("", replace(world, rubric="- ["))


@pytest.mark.parametrize("pack", PACKS)
def test_packs_are_taken_by_name_and_fit_any_world(world, pack):
    """Their questions name nothing that only some worlds have, and none is about form alone."""
    bare = replace(world, checks={})
    found = load_rubric(pack, bare)
    assert found == load_rubric(str(PACKS[pack]), bare)
    assert {c.kind for c in found} >= {"rule", "model"} and all(c.question.endswith(("?", "}")) for c in found)
    assert {name for c in found for name in c.named} <= {"step", "answer", "question", "calls"}
    assert {c.kind for c in found if c.required and c.of != "form"} >= {"rule", "model"}


def test_the_packs_are_grounded_knowledge_agent_safety_and_tool_use():
    assert list(PACKS) == ["agent-safety", "grounded-knowledge", "tool-use"]
