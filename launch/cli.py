"""The `ratchet` command: what it can do, and how it ends."""

import os
import sys
from collections.abc import Sequence

from rich.console import Console

from ratchet.bootstrap import loop
from ratchet.launch.commands import look, measure, models, start
from ratchet.launch.options import UserError
from ratchet.train import stopping
from ratchet.train.trainer import TrainingDiverged

USAGE = """ratchet: grow a language model on reviewed simulations of what it should do

  ratchet run RECIPE [--out DIR] [--generations 5 --train.steps 800 ...]   a new run
  ratchet resume DIR [--generations 8]                                    go on from whatever is committed
  ratchet status DIR [--json]                                             stages, units, table of generations
  ratchet evaluate DIR --generation N                                     evaluate a generation again
  ratchet show DIR TRANSCRIPT_ID                                          one transcript with its whole lineage
  ratchet report DIR                                                      rebuild the page
  ratchet compare DIR --generation N --vary SETTING VALUE VALUE ...       arms from one generation's data, one table
  ratchet recipes                                                         list recipes
  ratchet preflight RECIPE --topology v5e:4x4 [--slices 2] [--json]       compile for TPUs without one: memory, traffic
  ratchet import DIR [--template FILE] [--json]                           read a Hugging Face folder, say what it is
  ratchet export DIR --generation N --to FOLDER                           write one that transformers loads
  ratchet run RECIPE --help                                               every setting
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status: 0, 1 for a failure, 2 for a mistake of the user, 130 or 143
    when stopped by Ctrl-C or SIGTERM."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    commands = {
        "run": start.run, "resume": start.resume, "status": look.status, "evaluate": measure.evaluate,
        "show": look.show, "report": look.report, "compare": measure.compare, "recipes": look.recipes,
        "preflight": measure.preflight, "import": models.import_folder, "export": models.export,
    }  # fmt: skip
    if not words or words[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    try:
        if words[0] not in commands:
            raise UserError(f"unknown command {words[0]!r}; there are {', '.join(commands)}")
        with stopping.heeded(_say, patient=words[0] in ("run", "resume", "compare"), end=_end):
            return commands[words[0]](words[1:])
    except (loop.RunEnded, TrainingDiverged, start.DiskFull) as ended:
        _say(str(ended))
        return 1
    except (UserError, ValueError, OSError) as error:
        _say(str(error))
        return 2
    except stopping.Stopped as stopped:
        _say(str(stopped))
        return stopped.status


def _say(line: str) -> None:
    print(f"ratchet: {line}", file=sys.stderr, flush=True)


def _end(status: int) -> None:
    """Ends the process whatever its other threads do, with the cursor shown that a bar may have hidden."""
    Console(file=sys.__stdout__).show_cursor()
    sys.__stdout__.flush()
    os._exit(status)


def entry() -> None:
    sys.exit(main())


if __name__ == "__main__":
    entry()
