"""What the commands do: each function takes the words after the command's name and returns the exit status.

start.py     `run` and `resume`
watch.py     `watch`
ui.py        `ui`
submit.py    `submit`
look.py      `status` and `recipes`
show.py      `show` and `report`
preview.py   `preview`
measure.py   `evaluate`, `compare` and `preflight`
labels.py    `calibrate` and `label`
models.py    `import`, `export` and `chat`
serve.py     `serve`
"""

COMMANDS: dict[str, tuple[str, str, str]] = {
    "run": ("start:run", "RECIPE [FOLDER] [--out DIR] [--config FILE] [--SETTING VALUE ...]", "a new run"),
    "preview": (
        "preview:preview", "RECIPE [FOLDER]|DIR [--tasks N] [--SETTING VALUE ...]",
        "a few tasks through simulate and review, with verdicts; writes nothing",
    ),
    "resume": ("start:resume", "DIR [--generations N]", "go on from whatever is committed, or for more generations"),
    "status": ("look:status", "DIR", "stages, units done, table of generations"),
    "watch": ("watch:watch", "DIR [DIR ...]", "the same, live, with rates, acceptance and where the time goes"),
    "ui": (
        "ui:ui", "DIR [DIR ...] [--port 8001]",
        "a page on this machine: reports live, transcripts to search and label",
    ),
    "chat": ("models:chat", "DIR [--generation N]", "talk to the newest promoted generation, line by line"),
    "show": ("show:show", "DIR ID", "one transcript with its whole lineage"),
    "report": ("show:report", "DIR", "rebuild the page"),
    "evaluate": ("measure:evaluate", "DIR --generation N", "evaluate a generation again: the same numbers"),
    "compare": (
        "measure:compare", "DIR ... [--generation N] --vary SETTING VALUE VALUE ...",
        "arms from one generation's data, one table",
    ),
    "label": ("labels:label", "DIR [--generation N]", "say of answers whether they are right, by one key each"),
    "calibrate": (
        "labels:calibrate", "DIR [--labels FILE] [--generation N]",
        "the review against labels: agreement, corrected rate, certificate",
    ),
    "recipes": ("look:recipes", "", "what there is to run, how long it takes, what it should reach"),
    "preflight": (
        "measure:preflight", "RECIPE [--topology v5e:4x4] [--step sample|score|generation]",
        "compile for TPUs or GPUs without one: memory, traffic, bound",
    ),
    "submit": (
        "submit:submit", "RECIPE --to gke|xpk|tpu-vm|slurm|local [--dry-run]",
        "a run for several processes, here or on a platform",
    ),
    "import": ("models:import_model", "MODEL [--template FILE]", "read a model that others trained, say what it is"),
    "serve": (
        "serve:serve", "DIR [--generation N] | --base MODEL [--port 8000]",
        "answer OpenAI's web API: chat, completions, log-probabilities, tokens",
    ),
    "export": (
        "models:export", "DIR --generation N --to FOLDER",
        "write a folder that transformers loads; for runs with --base or of qwen3-*",
    ),
}  # fmt: skip
"""By name: the function of this package that does it, what it takes, and what it does, in words for people.

A function is imported when its command is given: all of them together take seconds."""
