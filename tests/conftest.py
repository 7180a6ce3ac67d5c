"""Freed memory kept as in a run, eight forced CPU devices, a compilation cache, and small things that tests share."""

import logging
import os

from processes import PATIENT, keep_compiled

from ratchet.launch.__main__ import keep_freed_memory

keep_freed_memory()
os.environ["XLA_FLAGS"] = PATIENT

import jax  # noqa: E402

jax.config.update("jax_platforms", "cpu")  # libtpu, which preflight needs, would look for a TPU
jax.config.update("jax_num_cpu_devices", 8)
keep_compiled()
for chatty in ("absl", "bm25s"):
    logging.getLogger(chatty).setLevel(logging.ERROR)

import pytest  # noqa: E402
import support  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

from ratchet.bootstrap import seed  # noqa: E402
from ratchet.models import decoder  # noqa: E402
from ratchet.models.decoder import DecoderConfig  # noqa: E402
from ratchet.train import sharding  # noqa: E402

settings.register_profile(
    "ratchet", deadline=None, max_examples=30, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("ratchet")


@pytest.fixture(scope="session")
def world():
    """A few situations of the lessons world, two and three options among them."""
    return support.small_world()


@pytest.fixture(scope="session")
def tokenizer(world):
    return support.train_tokenizer(world)


@pytest.fixture(scope="session")
def small():
    """(graphdef, params) of a decoder with grouped heads whose zero-initialised layers have been filled."""
    config = DecoderConfig(vocab_size=64, width=32, layers=2, heads=4, kv_heads=2, mlp_width=64, max_length=96)
    graphdef, params = decoder.create(config, 0)
    return graphdef, support.awaken(params)


@pytest.fixture(scope="session")
def speaker(tokenizer):
    """(graphdef, params) of a decoder over the tokenizer's vocabulary."""
    size = -(-tokenizer.vocab_size // 8) * 8
    config = DecoderConfig(vocab_size=size, width=32, layers=1, heads=2, kv_heads=2, mlp_width=64, max_length=192)
    graphdef, params = decoder.create(config, 0)
    return graphdef, support.awaken(params)


@pytest.fixture(scope="session")
def torn(world, tokenizer, speaker):
    """A decoder that has learned, by heart, two right answers and a harmful one to each of two questions."""
    return support.learn_by_heart(world, tokenizer, speaker)


@pytest.fixture(scope="session", autouse=True)
def one_device_runs():
    """Whole runs use one of the eight devices: on two cores, eight only cost time. Meshes have tests of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seed, "make_mesh", lambda config: sharding.make_mesh(config, jax.devices()[:1]))
        yield


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory):
    """The directory of a whole run of the recipe `tiny`, made in this process once."""
    return support.run_tiny(tmp_path_factory.mktemp("runs") / "tiny")
