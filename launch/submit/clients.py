"""The platforms' own clients, which submissions are handed to."""

import shutil
import subprocess
from collections.abc import Sequence

from ratchet.launch.lines import UserError

FROM = {
    "kubectl": "install kubectl and `gcloud container clusters get-credentials CLUSTER`",
    "xpk": "`pip install xpk`, which needs gcloud and kubectl",
    "gcloud": "install the Google Cloud CLI and `gcloud auth login`",
    "bash": "install bash",
    "sbatch": "submit from a machine of the Slurm cluster",
}
"""By client: where it comes from."""


def hand_over(words: Sequence[str], text: str = "") -> int:
    """Runs a client with a text on its standard input; returns its exit code. What it says is shown as it is.

    Raises UserError, which names the remedy, where this machine does not have the client.
    """
    needed(words[0])
    return subprocess.run(words, input=text, text=True).returncode


def told(words: Sequence[str]) -> str:
    """What a client answers, "" where it fails. What it says of that is shown as it is. Raises as `hand_over` does."""
    needed(words[0])
    ran = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    return ran.stdout.strip() if ran.returncode == 0 else ""


def needed(client: str) -> None:
    """Raises UserError unless a client is there."""
    if shutil.which(client) is None:
        raise UserError(f"submit: {client} is not on this machine; {FROM[client]}, or see --dry-run")
