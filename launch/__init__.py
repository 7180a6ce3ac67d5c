"""How a run starts, and how its results are used: the command, and from Python `api`.

__main__.py     where the process begins
cli.py          the command `ratchet`: its table of commands, and how it ends
commands/       what each command does
options.py      what a command is asked, in words
lines.py        what is said to people a line at a time
output.py       what commands print on
api.py          a run's generations from Python: to talk to, to measure
extending.py    gives a run that has begun other settings
compare.py      arms that differ in a setting, from one generation's data, in one table
console.py      progress for people
events.py       the same for programs
export_data.py  what was accepted, as a dataset that other trainers take
folders.py      Hugging Face folders: read, and written from a generation
preflight/      compiles programs for TPUs and GPUs without one
submit/         runs for several processes, here or on a platform
serve/          a model behind OpenAI's web API
ui/             runs in a browser on this machine
Containerfile   the container that platforms pull
recipes/        presets: settings with what they do, how long it takes and what they should reach
"""

HELP = ("-h", "--help")
"""Words that ask for help."""
