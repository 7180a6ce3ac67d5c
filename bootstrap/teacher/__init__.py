"""A teacher by address: any server that speaks OpenAI's web API writes transcripts.

client.py    its questions and answers: retried, counted, within a budget, and none paid for twice
probing.py   what the server can do, found out before anything is spent
afar.py      drafts to transcripts by such a server
"""
