"""Generation 0: the worked tasks as demonstrations, and the seed model that is trained on them."""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import asdict

from flax import nnx

from ratchet.bootstrap import examples
from ratchet.bootstrap.arms import arm_of, forget_checkpoints, train_arm
from ratchet.bootstrap.config import SeedMixture
from ratchet.bootstrap.given import base_weights
from ratchet.bootstrap.run import Run
from ratchet.train.records import Example

Skills = Mapping[str, list[Example]]
"""Examples by the skill that they teach: simulate, interrupt, review and prose."""


def demonstrations(run: Run, params: nnx.State) -> Skills:
    """The worked tasks as examples by skill, and general prose. `params` are any weights: nothing is sampled.

    A reviewer's examples are many, and are made only where the seed's mixture has a share of them. Examples longer than
    a row of training are left out. Raises ValueError when no answer is left.
    """
    world, c = run.world, run.config
    if not run.shown:
        return {"simulate": [], "interrupt": [], "review": [], "prose": []}
    writer, reviewer, index = run.writer(params), run.reviewer(params), run.seed_index
    heard = tuple(t.answer for t in run.shown)
    made: dict[str, list[Example]] = {"simulate": [], "interrupt": [], "review": []}
    for task in run.shown:
        made["simulate"].append(examples.answer_demonstration(writer, index, task))
        interruption = c.wrongthink.interruption
        if shown := examples.interrupt_demonstration(writer, index, world, task, heard, interruption):
            made["interrupt"].append(shown)
        if world.known and c.train.seed_mixture.review:
            made["review"] += examples.review_demonstrations(writer, index, world, reviewer, task, heard)
    for skill, shown in made.items():
        made[skill] = [copy for e in shown for copy in examples.renamed(world.names, run.tokenizer, e, c.train.renamed)]
    made["prose"] = [examples.prose_example(run.tokenizer, *line) for line in world.prose]
    fit = {skill: run.fitting(shown, f"seed {skill}") for skill, shown in made.items()}
    if not fit["simulate"]:
        longest = max(len(e.tokens) for e in made["simulate"])
        raise ValueError(
            f"seed: all {len(made['simulate'])} demonstrations are longer than train.columns, {c.train.columns} "
            f"tokens; {run.longer_rows(longest)}"
        )
    return fit


def blend(made: Skills, mixture: SeedMixture) -> list[Example]:
    """The seed examples as one pool in the seed model's mixture; a skill with few examples repeats them."""
    unit = len(made["simulate"])
    shares = [(made[name], share) for name, share in asdict(mixture).items() if made[name]]
    return [e for pool, share in shares for e in itertools.islice(itertools.cycle(pool), unit * share)]


def train_seed_model(run: Run, skills: Callable[[], Skills]) -> nnx.State:
    """A decoder from scratch, or from the weights of `base`, trained on the demonstrations and general prose, never on
    the corpus. Without demonstrations the weights of `base` are the seed model."""
    place, c = run.generation(0), run.config
    if run.has_weights(place):
        return run.seed_weights
    made = skills()
    params = base_weights(c, run.mesh, run.progress.line) if c.base else run.fresh_weights()
    pools = [(made[skill], share) for skill, share in asdict(c.train.seed_mixture).items() if made[skill] and share]
    if pools:
        params = train_arm(run, params, arm_of(run, 0, "seed", pools, c.train.seed_steps))
    run.keep_weights(place, params)
    forget_checkpoints(run, 0)
    return run.seed_weights
