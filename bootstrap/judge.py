"""Who says whether an answer is right: the world's oracle or, where there is none, the review.

A judge stays the same for a whole run: the review is that of the seed model, so that both sides of a comparison are
judged alike. Its thresholds are calibrated on the seed model's own answers where the world knows right ones, and are
the rubric's elsewhere; where no criterion is better than chance, or the target is out of reach, all keep their say,
since a judge of nothing, or of rules alone that do not reach it, would pass nonsense. Evaluation alone asks it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import groupby

from ratchet.bootstrap.probes import calibration_of_seed, judged_by_seed
from ratchet.bootstrap.review import AGREEMENT, Reviewer, with_thresholds
from ratchet.bootstrap.rubric import Criterion
from ratchet.bootstrap.run import Run
from ratchet.bootstrap.worlds.world import Case, Document
from ratchet.bootstrap.wrongthink import Said, as_cases


class Judge:
    """Judges answers of a run; `name` says by what."""

    def __init__(self, run: Run):
        self._run = run
        self.name = "oracle" if run.world.oracle else "review"

    @cached_property
    def _reviewer(self) -> Reviewer:
        run = self._run
        reviewer = run.reviewer(run.seed_weights)
        if judged_by_seed(run):
            made = calibration_of_seed(run)
            criteria = made["criteria"]
            by_nothing = all(c["standing"] == "advisory" for name, c in criteria.items() if name != AGREEMENT)
            if by_nothing or "below_floor" in made:
                criteria = {c.id: criteria[c.id] | {"standing": c.standing} for c in run.rubric}
            reviewer = with_thresholds(reviewer, made | {"criteria": criteria})
        alone = tuple(c for c in reviewer.criteria if c.id != AGREEMENT)  # no two answers here are to the same task
        decided = any(c.required for c in run.rubric)
        if decided and not run.world.oracle and not any(c.required for c in alone):
            raise ValueError(
                f"evaluate: of the rubric's criteria none but {AGREEMENT} is required, and a single answer agrees with "
                "no other; give it one more that is required"
            )
        return replace(reviewer, criteria=alone)

    @property
    def supervisor(self) -> Reviewer:
        """Who interrupts in an evaluation: the review's rules of steps, where there are any."""
        rules = tuple(c for c in self._reviewer.criteria if c.kind == "rule")
        by_rule = any(c.of == "step" and c.required for c in rules)
        return replace(self._reviewer, criteria=rules) if by_rule else self._reviewer

    @property
    def supervises(self) -> bool:
        """Whether there is anything by which the supervisor could interrupt a step."""
        return any(c.of == "step" and c.required for c in self.supervisor.criteria)

    def __call__(self, said: Sequence[Said], passages: Sequence[Document]) -> list[bool]:
        """Whether each answer is right."""
        return self.after([""] * len(said), said, passages)[0]

    def after(
        self, before: Sequence[str], said: Sequence[Said], passages: Sequence[Document]
    ) -> tuple[list[bool], list[bool]]:
        """Whether each answer ends right after the wrong thought `before` it, and whether all that stands after that is
        true; a review says both of what it accepts."""
        if not (oracle := self._run.world.oracle):
            right = self._reviewed(said, passages, before)
            return right, right
        grades = [oracle(s.task, s.text, b) for s, b in zip(said, before, strict=True)]
        ended = lambda of: [s.finished and ok for s, ok in zip(said, of, strict=True)]
        return ended(grade.right for grade in grades), ended(grade.mended for grade in grades)

    def _reviewed(self, said: Sequence[Said], passages: Sequence[Document], before: Sequence[str]) -> list[bool]:
        """Whether each answer passes all required criteria, of which those that take longer are asked only of what has
        passed the others; as in `Reviewer.review`, finished ones that pass are then each other's siblings."""
        cases = as_cases(self._reviewer, said, passages, ())
        cases = [replace(case, before=b) for case, b in zip(cases, before, strict=True)]
        left = list(range(len(cases)))
        required = sorted((c for c in self._reviewer.criteria if c.required), key=_cost)
        for _, criteria in groupby(required, _cost):
            left = self._passing(tuple(criteria), {n: cases[n] for n in left})
        heard = tuple(cases[n].text for n in left if cases[n].finished)
        among = {n: replace(cases[n], siblings=heard, among=cases[n].finished) for n in left}
        passed = set(self._passing(tuple(c for c in required if c.kind == "rule"), among))
        return [n in passed for n in range(len(cases))]

    def _passing(self, criteria: tuple[Criterion, ...], cases: Mapping[int, Case]) -> list[int]:
        """The numbers of the cases that pass all these criteria."""
        found = replace(self._reviewer, criteria=criteria).verdicts(list(cases.values()))
        return [n for n, of in zip(cases, found, strict=True) if all(v.passed for v in of.values())]


def _cost(criterion: Criterion) -> int:
    """0 for what is decided by the text, 2 for what has a model read many texts, 1 for all between."""
    return 0 if criterion.kind == "rule" else 2 if criterion.id == "roles" else 1
