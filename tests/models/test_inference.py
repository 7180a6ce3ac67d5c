"""Two processes on this machine, each with its own devices, say what one says."""

import subprocess
import sys
from pathlib import Path

import portpicker

SPEAKER = Path(__file__).with_name("speaker.py")


def said(processes):
    """The lines that all processes have to agree on."""
    port = str(portpicker.pick_unused_port())
    started = [
        subprocess.Popen([sys.executable, SPEAKER, port, str(processes), str(number)],
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for number in range(processes)
    ]  # fmt: skip
    outs = [process.communicate(timeout=120) for process in started]
    assert not any(process.returncode for process in started), outs[0][1][-2000:]
    lines = [[line for line in out.splitlines() if line.startswith("said")] for out, _ in outs]
    assert all(mine == lines[0] for mine in lines)
    return lines[0]


def test_two_processes_say_and_foresee_what_one_does():
    one = said(1)
    assert len(one) == 9 + 9 and len(set(one)) > 12
    assert said(2) == one
