"""The loop: documents → simulate → review → targets → wrongthink → train → evaluate → promote.

loop.py        the whole cycle                    config.py      every setting, frozen
run.py         what stays the same in a run       ledger.py      what is done; resume asks it
transcript.py  the data that flows                documents.py   source material in
retrieval.py   BM25                               tokenizers.py  the run's tokenizer
tools.py       what a simulator may call          simulate.py    documents to transcripts
checks.py      programmatic criteria              review.py      transcripts to verdicts
targets.py     reviewed soft targets              examples.py    what is trained on, with weights
wrongthink.py  wrong thoughts, and interruptions  thinkers.py    models that think wrongly
recovery.py    wrong starts, and their students   judge.py       who says what is right
intervals.py   shares with intervals              lineage.py     from a transcript to all about it
progress.py    how a run tells what it does       stages/        one file a stage; none knows another
worlds/        plain text to read and check       report/        the run as people see it
"""
