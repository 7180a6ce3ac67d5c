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
