"""How a run starts.

__main__.py     where the process begins
cli.py          the command `ratchet`
console.py      progress for people
folders.py      Hugging Face folders: read, and written from a generation
preflight/      compiles programs for a TPU topology without a TPU
recipes/        presets
"""
