"""What a GPU earns, beside peers on the same card: python tests/benchmarks/gpu.py [NAME [PART ...]], or make bench-gpu.

Figures are printed as they come and kept in results/gpu-NAME.json after each, with card, date and versions. A part that
fails is written down with its error, one that was not asked for is named. On a CPU, sizes are toys'. Nothing is
fetched. The code that is measured is the `ratchet` that Python finds: with another checkout on PYTHONPATH, and another
NAME, two can be compared. Times are medians.
"""

import datetime
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).resolve().parent
ENGINE = ("train", "loss", "attention", "decode_64", "decode_256", "decode_1", "cache", "shared",
          "decode_64_triton", "decode_256_triton", "decode_1_triton", "shared_triton",
          "train_small", "deterministic_step", "peaks", "train_remat")  # fmt: skip
PEERS = ("train_torch", "sampling_torch")
Said = Iterator[tuple[str, str, float | str]]


_RUN = """
import atexit, json, sys, threading, time
from ratchet.launch.__main__ import entry
from ratchet.models import programs
import jax
if "--few" in sys.argv:
    sys.argv.remove("--few")
    programs.few = lambda device=None: True
spent = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, seconds, fun_name="", **_: spent.append(
        (time.time(), seconds, fun_name, threading.current_thread().name.startswith("compiling")))
    if event.startswith("/jax/core/compile/backend") else None)
atexit.register(lambda: print("compiled", json.dumps(spent)))
sys.argv[0] = "ratchet"
entry()
"""
"""Runs the command line, and says last when each program was compiled, in seconds since 1970, how long it took, of
which function it is, and whether a thread compiled it ahead. With --few, arrays have the shapes of accelerators."""


_DIFFERENT = "import sys, runs; print(*runs.different(*sys.argv[1:]), sep=chr(10))"
"""Compares two runs as the tests do."""
_COMPILING = """
import sys
from etils import epath
from ratchet.bootstrap.report.goodput import goodput
print(goodput(epath.Path(sys.argv[1]))["badput_time"].get("PROGRAM_STARTUP", 0.0))
"""
"""Says for how many seconds a run did nothing but compile, or wait for what a thread compiled."""


def _told(script: str, *given: str) -> str:
    """What a script says, in a process that leaves the card alone."""
    around = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join([str(HERE.parent), *sys.path])}
    run = subprocess.run([sys.executable, "-c", script, *given], env=around, capture_output=True, text=True)
    assert not run.returncode, run.stderr[-1500:]
    return run.stdout


def _start(*asked: str, home: str, out: str, share: float = 0.75) -> subprocess.Popen:
    """`ratchet run RECIPE` and its options, whose compiled programs lie at home."""
    around = os.environ | {"HOME": home, "XLA_PYTHON_CLIENT_MEM_FRACTION": str(share)}
    given = [sys.executable, "-c", _RUN, "run", *asked, "--out", out]
    return subprocess.Popen(given, env=around, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _compiled(run: subprocess.Popen) -> list[tuple[float, float, str, bool]]:
    """When the programs of a run were compiled, how long each took, what it is, and whether it was compiled ahead, once
    the run has ended."""
    said = run.communicate()[0]
    assert not run.returncode, said[-1500:]
    return json.loads(said.rpartition("compiled")[2].strip().splitlines()[0])


def tiny() -> Iterator[tuple[str, float]]:
    """With nothing compiled before, and with all of it."""
    with tempfile.TemporaryDirectory() as place:
        for name in ("cold", "warm"):
            began = time.perf_counter()
            spent = _compiled(_start("tiny", home=place, out=f"{place}/{name}"))
            yield f"{name}_seconds", time.perf_counter() - began
            yield f"{name}_programs", len(spent)
            yield f"{name}_compiling_seconds", sum(seconds for _, seconds, *_ in spent)


def lessons() -> Iterator[tuple[str, float]]:
    """Two generations with nothing compiled before: how much of the time goes into compiling, how many programs are
    compiled once the first generation has ended, and how many of these the run itself has to compile, since no thread
    has done so ahead. On a CPU they are those of `tiny`, in the shapes of accelerators."""
    asked = ["tiny", "--few"] if card().startswith("no GPU") else ["lessons"]
    with tempfile.TemporaryDirectory() as place:
        began, out = time.perf_counter(), f"{place}/run"
        spent = _compiled(_start(*asked, "--generations", "2", "--controls.no-imitation", home=place, out=out))
        taken = time.perf_counter() - began
        ended = (Path(out) / "gen-001" / "DONE.json").stat().st_mtime
        compiling = float(_told(_COMPILING, out))
    yield "seconds", taken
    yield "compiling_share", compiling / taken
    yield "compiled_seconds_in_all_threads", sum(seconds for _, seconds, *_ in spent)
    yield "programs", len(spent)
    late = [(of, ahead) for when, _, of, ahead in spent if when > ended]
    print("compiled after generation 1:", *(of + " (ahead)" * ahead for of, ahead in late), flush=True)
    yield "programs_after_generation_1", len(late)
    yield "not_ahead_after_generation_1", sum(not ahead for _, ahead in late)


def deterministic() -> Iterator[tuple[str, float]]:
    """Two runs, at once, each of which compiles for itself, and in how much of what counts they differ."""
    with tempfile.TemporaryDirectory() as place:
        same = "--train.engine.deterministic"
        for run in [_start("tiny", same, home=f"{place}/home{n}", out=f"{place}/{n}", share=0.3) for n in (1, 2)]:
            _compiled(run)
        differ = _told(_DIFFERENT, f"{place}/1", f"{place}/2").split()
        print("differ:", *differ[:60], flush=True)
        yield "files_that_differ", len(differ)


def inside(names: list[str]) -> None:
    """Runs parts in this process, and says each figure on a line that begins with @."""
    import gpu_parts

    if names[0] in PEERS:
        import gpu_peers as module
    else:
        module = gpu_parts
    for name in names:
        try:
            for figure, value in getattr(module, name)():
                print("@", json.dumps([name, figure, value]), flush=True)
            print("@", json.dumps([name, "", 0]), flush=True)
        except Exception as error:
            print("@", json.dumps([name, "failed", f"{type(error).__name__}: {error}"[:500]]), flush=True)


def outside(names: list[str]) -> Said:
    """What parts say that run in a process of their own, so that nothing stays in the card's memory. When it dies, the
    part that killed it has failed, and another process goes on."""
    while names:
        run = subprocess.Popen([sys.executable, __file__, "--inside", *names], stdout=subprocess.PIPE, text=True)
        for line in run.stdout:
            if line.startswith("@"):
                name, figure, value = json.loads(line[1:])
                names = names[names.index(name) + (figure in ("", "failed")) :]
                if figure:
                    yield name, figure, value
            else:
                print(line, end="", flush=True)
        if names and run.wait():
            yield names[0], "failed", f"the process ended with {run.returncode}"
            names = names[1:]


def here(part: Callable[[], Iterator[tuple[str, float]]]) -> Said:
    try:
        yield from ((part.__name__, *found) for found in part())
    except Exception as error:
        yield part.__name__, "failed", f"{type(error).__name__}: {error}"[-1500:]


def everything(asked: list[str]) -> Said:
    chosen = lambda names: [name for name in names if not asked or name in asked]
    yield from outside(chosen(ENGINE))
    yield from outside(chosen(PEERS))
    for part in (tiny, deterministic, lessons):
        if chosen([part.__name__]):
            yield from here(part)


def ratios(found: dict[str, dict[str, float | str]]) -> Iterator[tuple[str, float]]:
    """Ours beside peers', where both were measured."""
    take = lambda part, figure: found.get(part, {}).get(figure)
    steps = take("train_torch", "8x2048_ms"), take("train", "8x2048_none_1_ms")
    if all(steps):
        yield "speed_to_compiled_torch_step", steps[0] / steps[1]
    peers = [speed for speed in found.get("sampling_torch", {}).values() if isinstance(speed, float)]
    ours = take("decode_256", "256_slots_tokens_per_second_in_all")
    if peers and ours:
        yield "sampling_to_transformers", ours / max(peers)


def card() -> str:
    asked = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return f"no GPU, {platform.machine()}"


def main(name: str, asked: list[str]) -> None:
    path, found = HERE / "results" / f"gpu-{name}.json", {}
    there = filter(importlib.util.find_spec, ("jax", "torch", "transformers"))
    versions = {package: metadata.version(package) for package in there}
    made = {"date": datetime.date.today().isoformat(), "card": card(), "versions": versions}
    began = time.perf_counter()

    def keep(part: str, figure: str, value: float | str) -> None:
        found.setdefault(part, {})[figure] = value
        bound = BOUNDS.get(part, {}).get(figure)
        met = "" if bound is None else ("met" if (value <= bound if bound >= 0 else value >= -bound) else "MISSED")
        shown = f"{value:14.6g}" if isinstance(value, float | int) else value
        print(f"{part:18} {figure:34} {shown} {'' if bound is None else bound} {met}", flush=True)
        parts = *ENGINE, *PEERS, "tiny", "deterministic", "lessons"
        left_out = [part for part in parts if "failed" in found.get(part, {"failed": ""})]
        path.write_text(json.dumps(made | {"left_out": left_out, "bounds": BOUNDS, "figures": found}, indent=1))

    for part, figure, value in everything(asked):
        keep(part, figure, value)
    for figure, value in ratios(found):
        keep("beside", figure, value)
    for part in BOUNDS if not asked else filter(found.get, BOUNDS):
        for figure in BOUNDS[part].keys() - found.get(part, {}).keys():
            print(f"{part:18} {figure:34} {'not measured':>14} {BOUNDS[part][figure]} MISSED")
    print(f"{time.perf_counter() - began:.0f} seconds; left out:", *json.loads(path.read_text())["left_out"])


BOUNDS = {
    "train": {
        "8x2048_none_1_mfu": -0.42, "8x2048_none_8_mfu": -0.40, "8x2048_none_1_peak_so_far_to_predicted": 1.1,
        "8x2048_none_1_predicted_to_peak_so_far": 1.1,
    },
    "train_small": {"32x1024_none_1_mfu": -0.30},
    "attention": {
        "one_error": 0.01, "eight_error": 0.01, "uneven_error": 0.01, "sliding_one_error": 0.01, "sliding_error": 0.01,
    },
    "loss": {"time_to_dense": 1.1, "memory_to_dense": 0.25},
    "decode_64": {"64_slots_share_of_bound": -0.70},
    "decode_256": {"256_slots_share_of_bound": -0.60},
    "decode_1": {"1_slots_share_of_bound": -0.40},
    "cache": {"64x1024_triton_difference": 0.01, "256x512_triton_difference": 0.01},
    "shared": {"speed_to_own_prompts": -1.5},
    "deterministic_step": {"sums_that_differ": 0},
    "tiny": {"cold_seconds": 90, "warm_seconds": 25},
    "deterministic": {"files_that_differ": 0},
    "lessons": {"compiling_share": 0.25, "programs_after_generation_1": 0, "not_ahead_after_generation_1": 0},
    "beside": {"speed_to_compiled_torch_step": -1.0, "sampling_to_transformers": -3.0},
}
"""What each figure must be at most, or at least where it is negative."""


if __name__ == "__main__":
    if sys.argv[1:2] == ["--inside"]:
        inside(sys.argv[2:])
    else:
        main(sys.argv[1] if sys.argv[1:] else "here", sys.argv[2:])
