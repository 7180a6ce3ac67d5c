"""Tools that a run may offer to its teacher beside `lookup` and those of its world.

source.py      what is asked of tools, and what answers
offered.py     the tools that the settings name
calculator.py  expressions worked out
sandbox.py     programs in Python, run in WebAssembly
guest.py       what is inside it
servers.py     MCP servers in a YAML file
sessions.py    what they offer, and how they are asked
"""
