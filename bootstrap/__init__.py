"""The loop: documents → simulate → review → targets → wrongthink → train → evaluate → promote, and again.

Imports run from each floor to those below it. `report/` stands beside the floors and reads the files of a run alone.

The loop
  loop.py         puts the stages in order: begins, resumes, rolls back and ends a run

Stages
  stages/         one file each; none knows another

The run, and what its stages share
  run.py          what stays the same while a run goes on, and how it is prepared
  generation.py   a turn of the loop: who writes and reviews in it, and what is read
  given.py        what a run reads: its world, documents, and hashes of both
  engines.py      what a run samples and scores with, by its settings
  arms.py         the training of an arm
  ahead.py        what compiles the programs of later stages while a seed model trains
  examples.py     what is trained on, with weights; words exchanged in sources and answer alike
  copies.py       where training would teach a text token for token
  provenance.py   whether an example is what it says that it is
  lineage.py      from a transcript to everything about it
  thinkers.py     models that think wrongly: their vectors, and how far these are inverted
  certificate.py  what labels of people say of a review, and of which judge and rubric it holds
  probes.py       answers whose right verdicts are known, and junk, to calibrate a reviewer on
  previews.py     a few tasks through simulate and review before anything trains
  judge.py        who says whether an answer is right in an evaluation: the oracle, or else the review
  recovery.py     wrong starts of three kinds, and what a student makes of them

Engines
  kinds.py        kinds of tasks in YAML
  proposals.py    documents to tasks: what a model proposes, and what is measured of it
  simulate.py     tasks to transcripts: retrieve, show, sample, call
  review.py       transcripts to verdicts: the reviewer, and the supervisor that reads step by step
  rubric.py       criteria in YAML, with every mistake named by file and line
  rubrics/        packs of criteria that fit any world
  signals.py      what can be measured of an answer: words in the sources, agreement, likelihood
  calibration.py  labelled answers to thresholds, and what each criterion is worth
  attack.py       wrong answers that try to pass a review
  teacher/        a teacher by address, which writes in place of the run's own models
  rollouts/       servers of the run's own model, which write in its place with its weights
  targets.py      accepted transcripts to reviewed soft targets
  wrongthink.py   inverted vectors, where a thought is interrupted, and answers spoiled by rule
  checks.py       the rules of every world
  tools.py        what a simulator may call, and how a model writes calls
  toolkit/        what it may call beside `lookup` and its world's tools: calculator, Python, MCP servers
  retrieval.py    BM25 over passages
  passages.py     documents cut into passages
  tokenizers.py   the run's tokenizer: the base folder's own, or one trained on the world's text

Settings, data and files
  config.py       every setting, frozen
  config_files.py settings in files: a run's own, and those a user gives
  config_changes.py  how settings differ, and which a resumed run may change
  transcript.py   the data that flows: transcripts, reviews, verdicts, captures
  documents/      a folder, a file or a dataset becomes documents
  intervals.py    shares with intervals, paired differences, agreement
  forecast.py     how long a run takes, before anything of it is done
  ledger.py       what is done of a stage, unit by unit
  progress.py     how a run tells what it does, and how long it took

Worlds
  worlds/         what there is to read, ask, check and spoil, as plain text; they import nothing of the loop

Beside the floors
  report/         the run as JSON, as a table and as a page
"""
