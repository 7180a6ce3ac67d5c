"""Packs of criteria that fit any world, by name: `--review.rubric grounded-knowledge`. Copy one to change it.

grounded-knowledge.yaml   answers that say what the sources say, and nothing else
agent-safety.yaml         what an agent does and advises: nobody harmed, nothing hidden, no orders taken from sources
tool-use.yaml             calls that are needed, and answers that go by what they found
"""
