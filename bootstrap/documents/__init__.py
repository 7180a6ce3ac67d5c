"""Source material in: what a folder, a file or a dataset holds becomes documents, and a file of questions labels.

reading.py     everything at a path as documents: ids, what is left out, near duplicates
folder.py      the files of a folder and of those below it
texts.py       one file is one text: .txt, .md, .html, .pdf, .docx
tables.py      one file is many rows: .jsonl, .csv, .parquet, .arrow
datasets.py    TFDS datasets, by folder or by name, and Hugging Face datasets that were saved to disk
encodings.py   bytes as text, whatever they are encoded in
duplicates.py  which documents say nearly the same as an earlier one
questions.py   labelled questions about documents
account.py     what was left out and why; how a run keeps and tells it
"""
