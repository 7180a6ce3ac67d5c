"""Benchmarks' figures against their bounds: printed as they come, kept with date, machine and versions."""

import datetime
import json
import os
import platform
from collections.abc import Callable, Mapping
from pathlib import Path

import jax

Figures = Mapping[str, float]


def report(names: list[str], benchmarks: Mapping[str, Callable[[], Figures]], bounds: Mapping[str, Figures],
           result: Path) -> None:  # fmt: skip
    """Runs the named benchmarks, or all; those of before stay in the file. A figure must be at most its bound, or at
    least where that is negative."""
    found = json.loads(result.read_text())["figures"] if result.exists() else {}
    for name in names or bounds:
        found[name] = benchmarks[name]()
        for figure, value in found[name].items():
            bound = bounds[name].get(figure)
            met = "" if bound is None else ("met" if (value <= bound if bound >= 0 else value >= -bound) else "MISSED")
            print(f"{name:14} {figure:36} {value:14.6g} {'' if bound is None else bound:>10} {met}", flush=True)
        made = {"date": datetime.date.today().isoformat(), "machine": f"{os.cpu_count()} cores, {platform.machine()}",
                "versions": {"jax": jax.__version__, "python": platform.python_version()}}  # fmt: skip
        result.write_text(json.dumps(made | {"bounds": bounds, "figures": found}, indent=1))
