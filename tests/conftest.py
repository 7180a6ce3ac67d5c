"""Freed memory kept as in a run, eight forced CPU devices, programs that compile fast, a compilation cache, and small
things that tests share."""

import dataclasses
import gc
import logging
import os
import shutil
import signal
from pathlib import Path

from processes import share_compiled

from ratchet.train import memory
from ratchet.train.together import be_patient

memory.keep_freed()
be_patient()
# Most programs of tests compile for longer than they run, and a third of that is LLVM's optimizations. Processes that
# tests start inherit this, so that they round alike.
os.environ["XLA_FLAGS"] = f"{os.environ['XLA_FLAGS']} --xla_backend_optimization_level=0"
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it in what it puts into the background

import jax  # noqa: E402

share_compiled(8)
logging.getLogger("absl").setLevel(logging.ERROR)

import little  # noqa: E402
import pytest  # noqa: E402
import stores  # noqa: E402
import support  # noqa: E402
from etils import epath  # noqa: E402
from filelock import FileLock  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

from ratchet.bootstrap import run  # noqa: E402
from ratchet.bootstrap.generation import Generation  # noqa: E402
from ratchet.models import decoder  # noqa: E402
from ratchet.models.decoder import DecoderConfig  # noqa: E402
from ratchet.train import sharding  # noqa: E402

settings.register_profile(
    "ratchet", deadline=None, max_examples=30, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("ratchet")

LONGEST = (
    "test_in_step.py", "test_resume.py", "test_huggingface.py", "test_few_programs.py", "test_calls.py",
    "test_trainer.py", "test_rollouts.py", "test_scorer.py", "test_loop.py", "test_serve.py", "test_sampler.py",
    "test_sandbox.py",
)  # fmt: skip
"""Files that take longest, longest first, and one that makes what others then need not make."""


MOST_MAPS = 10_000
"""Memory maps that a process of tests keeps. Linux allows 65,530, a compiled program takes several, and LLVM ends a
process that gets no more."""


def pytest_configure(config):
    """Signals are heeded as in a process of a terminal's, whoever started this one: nohup has SIGHUP ignored."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(items):
    """The longest files come first, so that in the end no worker waits for another."""
    rank = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))


@pytest.fixture(scope="module", autouse=True)
def few_maps():
    """Programs that earlier files compiled are let go before their memory maps become too many."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and len(maps.read_bytes().splitlines()) > MOST_MAPS:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(scope="session")
def gs():
    """A bucket of Google's kind."""
    with stores.google() as store:
        yield store


@pytest.fixture(scope="session")
def s3():
    """A bucket of Amazon's kind."""
    with stores.amazon() as store:
        yield store


@pytest.fixture(scope="session")
def world():
    """The little world."""
    return little.create()


@pytest.fixture(scope="session")
def deeds(world):
    """What every lamp of the little world does."""
    return little.deeds_of(world)


@pytest.fixture(scope="session")
def tokenizer(world):
    return support.train_tokenizer(world)


@pytest.fixture(scope="session")
def small():
    """(graphdef, params) of a decoder with grouped heads whose zero-initialised layers have been filled."""
    config = DecoderConfig(vocab_size=64, width=32, layers=2, heads=4, kv_heads=2, mlp_width=64, max_length=96)
    graphdef, params = decoder.create(config, 0)
    return graphdef, support.awaken(params)


@pytest.fixture(scope="session", autouse=True)
def one_device_runs():
    """Whole runs use one of the eight devices: on two cores, eight only cost time. Meshes have tests of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "make_mesh", lambda config: sharding.make_mesh(config, jax.devices()[:1]))
        yield


@pytest.fixture(scope="session")
def little_run(tokenizer, tmp_path_factory):
    """A run in the little world before its first stage."""
    return support.prepared(tmp_path_factory.mktemp("runs") / "little", support.little_config(), tokenizer)


@pytest.fixture(scope="session")
def torn(little_run):
    """A writer that has learned the first slice by heart, but answers wrongly now and then."""
    return little_run.writer(support.learn_by_heart(little_run, support.to_know(little_run)))


@pytest.fixture
def turn(little_run, torn, tmp_path):
    """Makes a generation that the torn writer writes, in a directory of its own, with some settings changed."""

    def make(number: int = 1, **changes) -> Generation:
        config = support.changed(little_run.config, **{"controls__random_share": 0.0} | changes)
        world = little.create(generations=config.generations)
        own = dataclasses.replace(little_run, directory=epath.Path(tmp_path), config=config, world=world)
        read = {t.id: t for t in own.read(number)}
        return Generation(own, number, number - 1, torn.params, own.fresh_weights(), own.tasks(number), read)

    return make


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory):
    """The directory of a whole run of the recipe `tiny`. One of pytest's workers makes it, and each has a copy."""
    mine = tmp_path_factory.getbasetemp()
    common = mine.parent if "PYTEST_XDIST_WORKER" in os.environ else mine
    with FileLock(common / "tiny.lock"):
        if not (common / "tiny").exists():
            support.run_tiny(common / "making").rename(common / "tiny")
    return epath.Path(shutil.copytree(common / "tiny", tmp_path_factory.mktemp("runs") / "tiny"))
