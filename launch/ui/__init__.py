"""Runs in a browser on this machine: their reports live, side by side, and their transcripts to search and label.

following.py   the runs that are shown, looked at and indexed by a thread of its own
index.py       the transcripts of a run in SQLite, in a cache beside nothing of the run
tables.sql     its tables
search.py      what is asked of an index, and what it finds
sources.py     what was in view of a transcript
labels.py      who is asked about next, and what people said
app.py         the routes, and who may call them
pages.py       what each page shows
*.html.jinja   how pages look, upon the report's own templates
live.js        has what goes on be read again
"""
