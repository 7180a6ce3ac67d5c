"""What ends a run on devices is told apart: too little memory, a peer that is gone, errors of this process alone."""

import jax
import pytest
from etils import epath

from ratchet.launch.commands.start import OutOfMemory, _with_remedy
from ratchet.train.together import ALONE, PeerGone, Together

HERE = epath.Path("runs/x")
TWO = Together(0, 2)


@pytest.mark.parametrize("together", [ALONE, TWO])
def test_too_little_memory_is_never_called_a_peer_that_is_gone(together):
    error = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 17179869184 bytes.")
    said = _with_remedy(error, HERE, together)
    assert isinstance(said, OutOfMemory) and "too little memory" in str(said) and "\n" not in str(said)


def test_a_failed_exchange_means_that_a_peer_is_gone_also_where_a_library_wrapped_it():
    gloo = jax.errors.JaxRuntimeError("UNKNOWN: Gloo all-reduce failed: Connection closed by peer")
    wrapped = ValueError("what lies here is no checkpoint")
    wrapped.__cause__ = gloo
    for error in (gloo, wrapped):
        said = _with_remedy(error, HERE, TWO)
        assert isinstance(said, PeerGone) and "Connection closed by peer" in str(said)
        assert _with_remedy(error, HERE, ALONE) is error


def test_other_errors_of_one_of_two_processes_are_its_own():
    error = ValueError("a mistake")
    assert _with_remedy(error, HERE, TWO) is error
