"""How a run starts.

__main__.py     where the process begins
cli.py          the command `ratchet`
console.py      progress for people
folders.py      Hugging Face folders: read, and written from a generation
preflight.py    compiles the training step for a TPU topology without a TPU
collectives.py  what a compiled program sends between chips
recipes/        presets
"""
