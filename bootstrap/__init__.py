"""The loop: documents → simulate → review → targets → wrongthink → train → evaluate → promote.

config.py       every setting, frozen              loop.py        the whole cycle
seed.py         corpus, tokenizer, seed model      generation.py  one generation, stage by stage
transcript.py   the data that flows                ledger.py      what is done; resume asks it
documents.py    source material in                 retrieval.py   BM25
tools.py        what a simulator may call          simulate.py    documents to transcripts
checks.py       programmatic criteria              review.py      transcripts to verdicts; calibration
dedupe.py       repeated transcripts               targets.py     reviewed soft targets
examples.py     what is trained on, with weights   wrongthink.py  wrong thoughts and what interrupts them
corrections.py  the wrongthink stage               evaluate.py    what a model is worth
outcome.py      what a generation comes to         promote.py     keep it or roll back
audit.py        what reached the loss              lineage.py     from a transcript to all about it
status.py       the run as JSON and a table        report.py      the run as a page
progress.py     how a run tells what it does       worlds/        embedded worlds
"""
