"""Kinds of tasks as users write them: a YAML file of what a model is asked to propose about a document."""

from typing import Annotated, Literal

import pydantic
import yaml

Line = Annotated[str, pydantic.Field(min_length=1)]
LONGEST_NAME, LONGEST_QUESTION, LONGEST_ANSWER = 20, 140, 120
"""Characters of what is proposed, without the mark that ends it; a grammar ends it there."""
_ASKED, _SAID = "?\uff1f\u061f", ".!?\u3002\uff01\uff1f\u061f"
"""What a question, and a sentence, ends with: of Latin, Chinese and Arabic script."""


class Example(pydantic.BaseModel, frozen=True, extra="forbid"):
    """A task with its answer, as the model should propose one. The examples of an open kind name the kind as well."""

    kind: str = ""
    question: Line
    answer: Line


class Kind(pydantic.BaseModel, frozen=True, extra="forbid"):
    """What the model is told to propose, what that was for the two texts of the file, and in which words the student is
    asked; `open` kinds are named by the model."""

    id: Line
    instruction: Line
    examples: tuple[Example, Example]
    wordings: tuple[Line, ...] = pydantic.Field(min_length=5)
    open: bool = False

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> "Kind":
        if any(bool(example.kind) != self.open for example in self.examples):
            raise ValueError("the examples of an open kind, and only they, have a kind")
        if strange := next((w for w in self.wordings if "{question}" not in w), None):
            raise ValueError(f"the wording {strange!r} has no {{question}}")
        return self

    @property
    def schema(self) -> dict:
        """What a proposal of this kind is, as a JSON schema: a question with one mark that ends it, and a sentence."""
        sentence = lambda ends, longest: {"type": "string", "pattern": f"^[^{ends}]{{2,{longest}}}[{ends}]$"}
        parts = {"question": sentence(_ASKED, LONGEST_QUESTION), "answer": sentence(_SAID, LONGEST_ANSWER)}
        name = {"type": "string", "minLength": 1, "maxLength": LONGEST_NAME}
        parts = {"kind": name, **parts} if self.open else parts
        return {"type": "object", "properties": parts, "required": [*parts], "additionalProperties": False}


class Kinds(pydantic.BaseModel, frozen=True, extra="forbid"):
    """A file of kinds. `version` says what its fields mean; `gain` and `likely` are in nats per token of the answer,
    `grounded` is a share of the words of question and answer."""

    version: Literal[1]
    gain: float
    likely: float
    grounded: float = pydantic.Field(ge=0, le=1)
    texts: tuple[Line, Line]
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
