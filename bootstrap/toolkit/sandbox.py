"""Programs in Python, run in WebAssembly: CPython in a component that imports nothing, so that there are no files, no
network, no environment, no clock and no other programs. Equal programs get equal answers.

The component is made of `guest.py` and compiled for this machine once, which takes half a minute, and kept in
~/.cache/ratchet.
"""

import contextlib
import hashlib
import os
import platform
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

from ratchet.bootstrap.toolkit.source import Answered, Asked, timed
from ratchet.models.extras import installing

FUEL = 5 * 10**9
"""Instructions that a program may take, some seconds."""
SECONDS = 60.0
"""The most that it may take on a slow machine."""
MAKING = 600.0
"""Seconds that the component may take to be made."""
MEMORY = 256 << 20
"""Bytes that it may take, Python's own among them."""
STACK = 2 << 20
LONGEST_PROGRAM = 2000
PYTHON = {
    "name": "python",
    "description": "Runs a program in Python and gives what it prints. It may import modules such as math, statistics, "
    "datetime and json; there are no files and no network.",
    "parameters": {
        "type": "object",
        "properties": {"code": {"type": "string", "minLength": 1, "maxLength": LONGEST_PROGRAM}},
        "required": ["code"],
        "additionalProperties": False,
    },
}
_GUEST = Path(__file__).with_name("guest.py")
_INTERFACE = "package ratchet:python;\nworld program { export run: func(code: string) -> string; }\n"
_MAKE = "import sys, componentize_py; sys.argv[1:1] = ['--quiet']; componentize_py.script()"
_LIBRARIES = ("wasmtime", "componentize-py")
_STOPPED = {
    "all fuel consumed": "it takes too long",
    "interrupt": "it takes too long",
    "call stack exhausted": "its calls go too deep",
    "unreachable": "it asks for files, a network, a clock or another program, and there are none",
}
"""Why a program was stopped, by what wasmtime calls it."""


class Sandbox:
    """The tool `python`."""

    described = (PYTHON,)

    def ready(self, say: Callable[[str], None]) -> None:
        """Makes the component where there is none yet, and says so. Raises ValueError when a library is missing or
        makes none."""
        try:
            there = self._file.exists()
        except metadata.PackageNotFoundError as error:
            raise ValueError(
                f"simulate.tools: python needs the library {error.name}; {installing('tools')}"
            ) from error
        if not there:
            say("making the sandbox of Python, for half a minute; the next run finds it in ~/.cache/ratchet")
        _ = self._component

    def answers(self, asked: Sequence[Asked]) -> list[Answered]:
        _ = self._component  # made here, if nobody has done so, since no program shall be stopped for it
        return [timed(lambda one=one: self._run(one.arguments["code"], min(one.seconds, SECONDS))) for one in asked]

    def _run(self, code: str, seconds: float) -> str:
        """What a program prints in an instance of its own, or why it was stopped."""
        import wasmtime
        from wasmtime import component

        store = wasmtime.Store(self._engine)
        store.set_fuel(FUEL)
        store.set_limits(memory_size=MEMORY)
        store.set_epoch_deadline(1)
        clock = threading.Timer(seconds, self._engine.increment_epoch)
        clock.start()
        try:
            instance = component.Linker(self._engine).instantiate(store, self._component)
            said = instance.get_func(store, "run")(store, code)
        except wasmtime.WasmtimeError as error:
            last = str(error).strip().rpartition("\n")[2]
            reason = next((why for name, why in _STOPPED.items() if name in last), "it has broken the interpreter")
            return f"stopped: {reason}"
        finally:
            clock.cancel()
            clock.join()  # the next program's time shall not end by it
        return said.strip() or "nothing is printed"

    @cached_property
    def _engine(self) -> Any:
        import wasmtime

        config = wasmtime.Config()
        config.consume_fuel = config.epoch_interruption = True
        config.max_wasm_stack = STACK
        config.cranelift_opt_level = "none"  # compiles in a third of the time, and runs hardly slower
        return wasmtime.Engine(config)

    @cached_property
    def _file(self) -> Path:
        """Where the compiled component is kept: another one for each version of what it is made with and of."""
        made = [*map(metadata.version, _LIBRARIES), platform.machine(), str(STACK), _INTERFACE, _GUEST.read_text()]
        digest = hashlib.sha256("\0".join(made).encode()).hexdigest()[:16]
        return Path.home() / ".cache" / "ratchet" / "python" / f"{digest}.cwasm"

    @cached_property
    def _component(self) -> Any:
        import wasmtime
        from wasmtime import component

        with contextlib.suppress(wasmtime.WasmtimeError):  # it is torn, or was compiled for another kind of processor
            if self._file.exists():
                return component.Component.deserialize_file(self._engine, str(self._file))
        found = component.Component(self._engine, _made())
        with contextlib.suppress(OSError):  # where nothing can be kept, it is made each time
            self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            fresh = self._file.with_suffix(f".{os.getpid()}")
            fresh.write_bytes(found.serialize())
            fresh.replace(self._file)
        return found


def _made() -> bytes:
    """CPython with the guest in it, as a component that imports nothing. Raises ValueError when it cannot be made."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "guest.wit").write_text(_INTERFACE)
        (folder / "guest.py").write_text(_GUEST.read_text())
        words = ["-d", "guest.wit", "-w", "program", "componentize", "--stub-wasi", "-p", place, "guest", "-o", "made"]
        # Nothing of this machine shall get into it: no environment, and no packages of a virtual one.
        how = {"cwd": place, "env": {"VIRTUAL_ENV": place}, "capture_output": True, "text": True, "timeout": MAKING}
        try:
            done = subprocess.run([sys.executable, "-c", _MAKE, *words], **how)
            why = " ".join(done.stderr.split())[-300:] or f"exit code {done.returncode}" if done.returncode else ""
        except subprocess.TimeoutExpired:
            why = f"it was not done after {MAKING:g} seconds"
        if why:
            raise ValueError(
                f"simulate.tools: componentize-py makes no sandbox of python ({why}); leave python out, or install "
                "another version of it"
            )
        return (folder / "made").read_bytes()
