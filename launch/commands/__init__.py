"""What the commands do: each function takes the words after the command's name and returns the exit status.

start.py     `run` and `resume`
watch.py     `watch`
ui.py        `ui`
look.py      `status`, `show`, `report` and `recipes`
preview.py   `preview`
measure.py   `evaluate`, `compare` and `preflight`
labels.py    `calibrate` and `label`
models.py    `import`, `export` and `chat`
serve.py     `serve`
"""
