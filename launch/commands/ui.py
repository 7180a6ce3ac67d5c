"""`ui`: runs in a browser on this machine."""

import contextlib
import json
from dataclasses import dataclass

import tyro

from ratchet.launch.commands.serve import listening
from ratchet.launch.lines import UserError, tell
from ratchet.launch.options import AsLine, described, located, needed_for, parse
from ratchet.launch.output import quiet

HOST = "127.0.0.1"
Directories = described(
    tyro.conf.Positional[tuple[str, ...]], "the directories of runs", metavar="DIR [DIR ...]",
    help_behavior_hint="(required)",
)  # fmt: skip


@dataclass(frozen=True)
class Ui:
    """Shows runs in a browser: their reports live, generations side by side, and transcripts, which can be searched,
    filtered and labelled. Only this machine can reach it. Of a run it changes nothing but labels.jsonl."""

    directories: Directories
    port: int = 8001
    """0: any that is free."""
    json: AsLine = False


def ui(words: list[str]) -> int:
    asked = parse("ui", Ui, words)
    if not asked.directories:
        raise UserError("ui: give DIR, the directory of a run, such as runs/lessons")
    quiet()
    places = [located(place) for place in asked.directories]
    needed_for("ui", "serve", "starlette", "uvicorn")
    import jax
    import uvicorn

    jax.config.update("jax_platforms", "cpu")  # an accelerator is for the run that works beside the pages
    from ratchet.launch.serve.ending import answer
    from ratchet.launch.ui.app import Site
    from ratchet.launch.ui.following import following

    with contextlib.closing(listening("ui", HOST, asked.port)) as listener, following(places) as runs:
        address = f"http://{HOST}:{listener.getsockname()[1]}"
        if asked.json:
            print(json.dumps({"url": address, "runs": len(runs)}), flush=True)
        else:
            tell(f"{address} shows {len(runs)} run{'s' * (len(runs) > 1)}; Ctrl-C ends it")
        # Without a `log_config`, which would close the handlers that libraries have set up.
        config = uvicorn.Config(
            Site(runs).app(), log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=1
        )
        return answer(config, listener)
