"""A world that says nothing but what there is to read and ask, and by which criteria: `--world mute:create`."""

from ratchet.bootstrap.worlds.world import Document, Material, Task, World

RUBRIC = """
version: 1
criteria:
- {id: interrupts, kind: rule, question: a wrong thought is interrupted once}
- {id: original, kind: rule, question: no passage is pasted}
- {id: brief, kind: model, of: step, show: [passages], question: "is this brief: {step}"}
"""


def create(seed: int, generations: int) -> World:
    """Three documents for each generation and a question about each."""
    return World("mute", tuple(_slice(seed, number) for number in range(generations)), RUBRIC)


def _slice(seed: int, number: int) -> Material:
    names = [f"{seed} {number} {n}" for n in range(3)]
    documents = tuple(Document(f"page {name}", f"Page {name} is about it. It was brief and doubled.") for name in names)
    asked = [({"role": "user", "content": f"what is it on page {name}"},) for name in names]
    return Material(
        documents, tuple(Task(f"ask {n}", (d.id,), m) for n, d, m in zip(names, documents, asked, strict=True))
    )
