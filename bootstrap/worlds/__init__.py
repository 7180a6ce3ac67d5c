"""Embedded worlds: procedural material with an exact oracle, for evaluation and tests.

A world offers documents, tasks, seed demonstrations and general prose to the loop, and an oracle to evaluation and
audits alone. Users' own documents go through the same protocol without an oracle (`bootstrap/documents.py`).
"""
