"""Who says whether an answer is right: the world's oracle or, where there is none, the review.

A judge stays the same for a whole run: the review is that of the seed model, so that both sides of a comparison are
judged alike. Its thresholds are calibrated on the seed model's own answers where the world knows right ones, and are
the rubric's elsewhere; where no criterion is better than chance, all keep their say, since a judge of nothing would
pass everything. Evaluation alone asks it.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

from ratchet.bootstrap.probes import calibration_of_seed, judged_by_seed
from ratchet.bootstrap.review import AGREEMENT, Reviewer, with_thresholds
from ratchet.bootstrap.run import Run
from ratchet.bootstrap.worlds.world import Document
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
            if all(c["standing"] == "advisory" for c in criteria.values()):
                criteria = {c.id: criteria[c.id] | {"standing": c.standing} for c in run.rubric}
            reviewer = with_thresholds(reviewer, made | {"criteria": criteria})
        alone = tuple(c for c in reviewer.criteria if c.id != AGREEMENT)  # what is judged here has no siblings
        return replace(reviewer, criteria=alone)

    @property
    def supervisor(self) -> Reviewer:
        """Who interrupts in an evaluation: the review's rules of steps, where there are any."""
        rules = tuple(c for c in self._reviewer.criteria if c.kind == "rule")
        by_rule = any(c.of == "step" and c.required for c in rules)
        return replace(self._reviewer, criteria=rules) if by_rule else self._reviewer

    def __call__(
        self, said: Sequence[Said], passages: Sequence[Document], before: Sequence[str] | None = None
    ) -> list[bool]:
        """Whether each answer is right or, after the wrong thoughts `before`, ends right."""
        before = [""] * len(said) if before is None else before
        if oracle := self._run.world.oracle:
            return [s.finished and oracle(s.task, s.text, b).right for s, b in zip(said, before, strict=True)]
        return self._reviewed(said, passages, before)

    def mended(self, said: Sequence[Said], passages: Sequence[Document], before: Sequence[str]) -> list[bool]:
        """Whether all that stands after each of the wrong thoughts `before`, in the end, is true; a review says so of
        what it accepts."""
        if oracle := self._run.world.oracle:
            return [s.finished and oracle(s.task, s.text, b).mended for s, b in zip(said, before, strict=True)]
        return self._reviewed(said, passages, before)

    def _reviewed(self, said: Sequence[Said], passages: Sequence[Document], before: Sequence[str]) -> list[bool]:
        heard = tuple(s.text for s in said)
        cases = as_cases(self._reviewer, said, passages, heard)
        cases = [replace(case, before=b) for case, b in zip(cases, before, strict=True)]
        required = [c.id for c in self._reviewer.criteria if c.required]
        return [all(found[name].passed for name in required) for found in self._reviewer.verdicts(cases)]
