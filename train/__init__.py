"""How a model learns.

records.py      the soft-target record and the dataset on disk (ArrayRecord, TFDS)
batches.py      which examples make up step s, packed into rows: a pure function of (seed, step)
loss.py         the soft-target loss, chunked, as sums
optimizer.py    Muon and AdamW, their schedule, and the mean of the last weights
sharding.py     the mesh and every partition rule
checkpoint.py   Orbax: train state with its data position, and a generation's weights
trainer.py      the training loop
"""
