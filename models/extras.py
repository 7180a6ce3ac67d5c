"""The pip commands that install optional libraries."""

import shlex
import shutil
import sys
from pathlib import Path


def installing(extra: str) -> str:
    """The command, in backquotes, that adds an extra such as `documents` to the Ratchet that runs here."""
    return f"`{installer()} 'ratchet[{extra}]'`"


def installer() -> str:
    """`pip install` of this very Python. Another one's pip would not find this Ratchet installed, and would fetch what
    others have published under its name."""
    ours = Path(sys.executable).with_name("pip")
    pip = "pip" if shutil.which("pip") == str(ours) else f"{shlex.quote(sys.executable)} -m pip"
    return f"{pip} install"
