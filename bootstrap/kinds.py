"""Kinds of tasks as users write them: a YAML file of what a model is asked to propose about a document."""

from typing import Annotated, Literal

import pydantic
import yaml

Line = Annotated[str, pydantic.Field(min_length=1)]
LONGEST_NAME, LONGEST_QUESTION = 20, 140
"""Characters of what is proposed, without the mark that ends a question; a grammar ends it there."""
_ASKED = "?\uff1f\u061f"
"""What a question ends with: in Latin, Chinese and Arabic script."""


class Example(pydantic.BaseModel, frozen=True, extra="forbid"):
    """A question as the model should propose one. The examples of an open kind name the kind as well."""

    kind: str = ""
    question: Line


class Answer(pydantic.BaseModel, frozen=True, extra="forbid"):
    """A question about a text of the file, answered as tasks should be."""

    question: Line
    answer: Line


class Kind(pydantic.BaseModel, frozen=True, extra="forbid"):
    """A kind of task, and in which words students are asked it.

    Its questions are proposed, as the `instruction` says, `times` about each document; the two examples are what that
    was for the two texts of the file, and an `open` kind is named by the model. Or its `question` is the same about
    every document, with {title} for the document's id in words.
    """

    id: Line
    question: str = ""
    instruction: str = ""
    examples: tuple[Example, ...] = ()
    open: bool = False
    times: int = pydantic.Field(1, ge=1)
    wordings: tuple[Line, ...] = pydantic.Field(min_length=5)

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> "Kind":
        if self.question and (self.instruction or self.examples or self.open or self.times > 1):
            raise ValueError("a kind with a question of its own is not proposed; leave out what is for that")
        if not self.question and (not self.instruction or len(self.examples) != 2):
            raise ValueError("give an instruction and two examples, or a question")
        if any(bool(example.kind) != self.open for example in self.examples):
            raise ValueError("the examples of an open kind, and only they, have a kind")
        if strange := next((w for w in self.wordings if "{question}" not in w), None):
            raise ValueError(f"the wording {strange!r} has no {{question}}")
        return self

    @property
    def schema(self) -> dict:
        """What a proposal of this kind is, as a JSON schema: one question."""
        asked = {"type": "string", "pattern": f"^[^{_ASKED}]{{2,{LONGEST_QUESTION}}}[{_ASKED}]$"}
        name = {"kind": {"type": "string", "minLength": 1, "maxLength": LONGEST_NAME}} if self.open else {}
        parts = {**name, "question": asked}
        return {"type": "object", "properties": parts, "required": [*parts], "additionalProperties": False}


class Kinds(pydantic.BaseModel, frozen=True, extra="forbid"):
    """A file of kinds. `version` says what its fields mean. A proposal becomes a task from two bounds on: what its text
    adds to the answer (`gain`, in nats per token), and the share of the words of question and of answer that stand in
    the text (`grounded`)."""

    version: Literal[1]
    gain: float
    grounded: float = pydantic.Field(ge=0, le=1)
    texts: tuple[Line, Line]
    answers: tuple[Answer, ...] = ()
    """What the teacher is shown, with the texts, before each task."""
    kinds: tuple[Kind, ...] = pydantic.Field(min_length=1)


def read_kinds(text: str, where: str) -> Kinds:
    """Reads kinds from YAML. Raises ValueError, which begins with `where` and names the field and a remedy."""
    try:
        return Kinds.model_validate(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise ValueError(f"{where}: is no YAML: {' '.join(str(error).split())}; mend it") from error
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        said = first["msg"].removeprefix("Value error, ")
        raise ValueError(f"{where}: {place}: {said}; see bootstrap/worlds/tasks.yaml") from error
