"""A teacher or a judge by address: any server that speaks OpenAI's web API writes transcripts, or answers the review.

settings.py    where a server is, and how much is asked of it
client.py      its questions and answers: retried, counted, within a budget, and none paid for twice
pace.py        how many questions are under way at a time
connection.py  how they get there and back, with a time for each answer in all
kept.py        where answers are kept
turns.py       turns of a chat in which tools are called
probing.py     what the server can do, found out before anything is spent
afar.py        drafts to transcripts by a teacher
judging.py     questions of the review to verdicts by a judge
"""
