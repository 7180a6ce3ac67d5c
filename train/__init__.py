"""How a model learns.

buckets.py      what an object store does otherwise than a disk
nearby.py       copies on this machine's disk of what lies in a bucket
files.py        files that appear whole or not at all, and unit files (ArrayRecord)
commits.py      what a run has committed, and whether it still lies there
codec.py        soft targets as bits
records.py      training examples, and the dataset of them on disk (TFDS)
batches.py      which examples make up step s, packed into rows: a pure function of (seed, step)
loss.py         the soft-target loss, chunked and vocabulary-sharded, as sums
optimizer.py    AdamW and Muon, their schedules, and the mean of the last weights
lora.py         low-rank adapters, trained in place of the weights
sharding.py     the mesh and every partition rule
checkpoint.py   Orbax: train state with its data position, and a generation's weights
flops.py        what a step costs, by formula and as traced, and what devices can do
memory.py       what is done with memory that is freed
goodput.py      where the time of a run goes, an event a line
monitor.py      what is said of a step, watchdog, signals to save, profile
together.py     processes that run one program in step
stopping.py     how a process ends with a status, and how it is asked to
holder.py       which process works on a run
turns.py        the same in a bucket, where nothing can be locked
trainer.py      the training loop

README.md holds what the engine can do, what was measured, and how.
"""
