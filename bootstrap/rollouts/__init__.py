"""Servers of the run's own model, which write transcripts in its place and get its weights after every promotion.

settings.py   where they are, and how much is asked of each
handover.py   a generation's weights as safetensors, how a server is asked to take them, and whether it has
replicas.py   questions shared out among the servers that have them
writing.py    a sampler that they stand behind, and what goes to them
"""
