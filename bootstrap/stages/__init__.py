"""The stages of a generation, one file each. None knows another; `loop.py` puts them in order.

seed.py         generation 0: worked tasks as demonstrations, and the seed model
propose.py      tasks for documents that come without any
transcripts.py  simulate, review and targets, unit by unit
calibrate.py    probes, thresholds, and what the reviewer got wrong
corrections.py  wrong thoughts, interrupted and reviewed
train.py        a generation's dataset, the mixture, and its weights
evaluate.py     open book, closed book, recovery, and the world's items
promote.py      keep a generation or roll it back
baselines.py    the imitation arm
audit.py        what reached the loss, and the review against the oracle
summary.py      plan, funnel and samples, for people
"""
