"""Worlds: what there is to read, ask, check and spoil, as plain text. They import nothing of the loop.

world.py       the protocol: what a world offers; nothing else is known of one
bounds.py      what a number in a world's settings must be
answers.py     short answers against known ones
documents.py   the user's own documents            documents.yaml   their criteria
                                                   tasks.yaml       kinds of tasks about them
arithmetic.py  sums that grow: the world to copy   arithmetic.yaml  its criteria
lessons/       stories of unwise deeds
"""

import importlib
import inspect
from collections.abc import Callable

from ratchet.bootstrap.worlds import arithmetic, documents, lessons
from ratchet.bootstrap.worlds.arithmetic import ArithmeticConfig
from ratchet.bootstrap.worlds.documents import DocumentsConfig, Question, Source
from ratchet.bootstrap.worlds.lessons import LessonsConfig
from ratchet.bootstrap.worlds.world import World

__all__ = ["ArithmeticConfig", "DocumentsConfig", "LessonsConfig", "Question", "load"]


def load(
    name: str,
    settings: tuple[DocumentsConfig, LessonsConfig, ArithmeticConfig],
    seed: int,
    generations: int,
    read: Callable[[DocumentsConfig], Source],
) -> World:
    """Makes a world: an embedded one by name, or a user's own by "package.module:function".

    A user's function takes (seed, generations). `read` reads a user's documents. Raises ValueError when there is
    no such world or function, or its settings cannot be met.
    """
    of_documents, of_lessons, of_arithmetic = settings
    embedded = {
        "documents": lambda: documents.create(of_documents, seed, generations, read),
        "lessons": lambda: lessons.create(of_lessons, seed, generations),
        "arithmetic": lambda: arithmetic.create(seed, generations, of_arithmetic),
    }
    world = embedded[name]() if name in embedded else _own(name, seed, generations)
    for metric in world.metrics:
        if metric.guard and metric.less_is_better:
            raise ValueError(f"world: {metric.name} guards, and less of it is better; make a guard of what it leaves")
    _check_material(name, world, generations)
    return world


def _check_material(name: str, world: World, generations: int) -> None:
    """Raises ValueError for a world that has too little to read."""
    if not world.slices or not world.slices[0].documents:
        raise ValueError(f"world: {name} has no slice that begins with documents; give its first one some to read")
    if (count := len(world.slices)) < generations:
        raise ValueError(f"world: {name} has {count} slices, each generation reads one; lower --generations to that")
    if (world.seed.tasks or world.probes.tasks) and not (world.seed.documents or world.probes.documents):
        raise ValueError(f"world: {name} has worked tasks without documents; give its seed those that they are about")
    if world.known and not (world.seed.tasks or world.probes.tasks):
        raise ValueError(f"world: {name} grades worked tasks and has none; give it some, or leave out `known`")


def _own(name: str, seed: int, generations: int) -> World:
    """The world that a user's function makes."""
    module, _, function = name.partition(":")
    if not function:
        known = "documents, lessons and arithmetic"
        raise ValueError(f"world: there is no {name!r}; set --world to one of {known}, or to package.module:function")
    if not all(module.split(".")):
        raise ValueError(f"world: {name!r} names no module; set --world to package.module:function")
    try:
        imported = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ValueError(f"world: {error}; install the package of {name} or set PYTHONPATH to its folder") from None
    create = getattr(imported, function, None)
    if create is None:
        raise ValueError(f"world: the module {module} has no function {function}; set --world to one that it has")
    try:
        inspect.signature(create).bind(seed, generations)
    except TypeError as error:
        takes = "does not take a seed and the number of generations"
        raise ValueError(f"world: {name} {takes} ({error}); let it take these two") from None
    world = create(seed, generations)
    if not isinstance(world, World):
        kind = type(world).__name__
        raise ValueError(f"world: {name} returns a value of type {kind}; let it return a World of {World.__module__}")
    return world
