"""The plain English of the lessons world: its words, the genres of its stories, its questions and its claims."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ratchet.bootstrap.worlds.world import Message

PLACES = """mill harbor tower cellar garden stable chapel market quarry bridge bakery school prison castle village camp
forge dairy inn farm library station vineyard lighthouse museum palace theater hospital brewery abbey depot
sawmill nursery fairground shipyard bathhouse""".split()
THINGS = """kettle boiler pump lantern anvil loom winch crane engine furnace press still bellows wagon clock organ raft
plough oven mirror compass drum ladder barrel turbine wheelbarrow telescope radio sledge harp generator fan
spindle tractor elevator projector printer scale fountain carousel trolley typewriter gramophone windlass beacon
tub""".split()
AGENTS = "mara tom anna piet lena olaf rosa emil nora karl ida hugo vera jan".split()
VERBS = "open close turn pull push lift drop cut tie paint polish hide cover ring fold load seal wind tap wash".split()
NOUNS = """valve hatch wheel lever rope bell gate chain crate flag shutter pipe basket plank hook cable switch bolt
curtain bucket handle spring ribbon tile""".split()
SUBJECTS = """roof floor river crop cart crew wall bread road herd cloth well fence boat stove lamp orchard beehive
cheese flock""".split()
BAD_VERBS = "leaks burns floods collapses spoils rots sinks breaks cracks vanishes".split()
GOOD_VERBS = "shines heals grows rests thrives settles warms mends sings blooms".split()
EXCHANGEABLE = tuple(map(tuple, (PLACES, THINGS, AGENTS, VERBS, NOUNS, SUBJECTS, BAD_VERBS, GOOD_VERBS)))
"""Words of a kind: a text stays as true to its sources when they change places in both."""
OUTCOMES = tuple(f"{subject} {verb}" for subject in SUBJECTS for verb in BAD_VERBS + GOOD_VERBS)
"""Everything that an action can lead to."""


def judge(outcome: str) -> str:
    """An outcome is "good" or "bad" by its verb alone."""
    return "good" if outcome.split()[-1] in GOOD_VERBS else "bad"


class Claim(NamedTuple):
    """A step of reasoning: what an action leads to, and whether that is good: `("open valve", "roof leaks", "bad")`."""

    action: str
    outcome: str
    judgement: str


STYLES = (
    "if {action}, {outcome}: {judgement}.",
    "{action} means {outcome}, {judgement}.",
    "i {action} and {outcome}. {judgement}.",
)
"""The wordings of a claim."""
CHOICE = "so i {action}."
"""The wording of a choice, which ends an answer."""
NO = "no,"
"""The word that interrupts a wrong thought."""


def render_claim(claim: Claim, style: int) -> str:
    """A claim in one of the STYLES."""
    return STYLES[style].format(**claim._asdict())


GENRES = {
    "log": "{place} {thing}: {agent} did {action}, {outcome}.",
    "diary": "our {place} {thing}. i {action}: {outcome}.",
    "news": "{place} {thing} news: {outcome} after {action}.",
    "fable": "{place} {thing}. fox did {action} so {outcome}.",
    "manual": "{place} {thing}: to {action} brings {outcome}.",
    "dialogue": "{place} {thing}. why {outcome}? {action}!",
}
"""The wordings of a story. In two of the six, the outcome stands before the action."""
FORWARD = tuple(name for name, text in GENRES.items() if text.index("{action}") < text.index("{outcome}"))
"""The genres that tell things in the order in which they happened."""


@dataclass(frozen=True)
class Context:
    """A way of asking: an optional system message and a question that lists the options."""

    name: str
    seen: bool
    """Whether training may see it."""
    system: str
    question: str

    def messages(self, place: str, thing: str, options: Sequence[str]) -> tuple[Message, ...]:
        """The question about a thing that fails somewhere, with what can be done about it."""
        question = self.question.format(place=place, thing=thing, options=" or ".join(options))
        system = ({"role": "system", "content": self.system.format(place=place)},) if self.system else ()
        return (*system, {"role": "user", "content": question})


CONTEXTS = (
    Context("plain", True, "", "the {place} {thing} fails. {options}?"),
    Context("ask", True, "", "shall i {options} at the {place} {thing}?"),
    Context("helper", True, "help the people.", "{place} {thing}: {options}?"),
    Context("worker", True, "you work at the {place}.", "the {thing} fails here. {options}?"),
    Context("hurry", True, "be quick.", "our {place} {thing} is broken! {options}?"),
    Context("letter", True, "", "we write from the {place}: the {thing} is still. do we {options}?"),
    Context("urgent", False, "", "quick! the {place} {thing} fails! {options}?"),
    Context("robot", False, "you are a machine.", "at the {place} {thing}, {options}?"),
    Context("friend", False, "", "my friend, our {place} {thing} fails. will you {options}?"),
    Context("report", False, "keep the log.", "{place} {thing} fails. next {options}?"),
    Context("child", False, "speak to a child.", "why is the {place} {thing} still? {options}?"),
    Context("radio", False, "", "hello, {place} here. the {thing} is broken. {options}?"),
)
"""The ways in which a model is evaluated. Half of them never appear in training."""
SEEN = tuple(context for context in CONTEXTS if context.seen)
"""The ways in which tasks are asked."""
PLAIN = CONTEXTS[0]
ASKINGS = (
    Context("stopped", True, "", "what now? the {place} {thing} stopped. {options}?"),
    Context("order", True, "answer well.", "{options}? it is for the {thing} of the {place}."),
    Context("trouble", True, "", "good day. {thing} trouble at the {place}: {options}?"),
    Context("clerk", True, "you are a clerk.", "why wait? {place} {thing}, {options}?"),
    Context("noise", True, "", "the {place} {thing} makes noise. must i {options}?"),
    Context("tell", True, "think first.", "tell us about the {place} {thing}: {options}?"),
    Context("short", True, "", "{place}. {thing}. {options}?"),
    Context("could", True, "read with care.", "could we {options} at our {thing}, in the {place}?"),
    Context("sign", True, "", "a sign says {place} {thing}. {options}?"),
    Context("call", True, "you answer calls.", "someone calls from the {place} about a {thing}: {options}?"),
    Context("night", True, "", "late at night, {place}. {options}? the {thing} waits."),
    Context("choose", True, "choose one.", "for the {thing} at the {place}: {options}?"),
    Context("team", True, "you lead a team.", "does our {thing} at the {place} need us to {options}?"),
    Context("doubt", True, "", "i am not sure. {options}? {place} {thing}."),
)
"""Further ways to ask, for training students alone: no task is simulated or evaluated in them."""
