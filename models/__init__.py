"""What a model is.

bounds.py         what a config's numbers may be, said beside each
decoder.py        one decoder-only transformer
family.py         what a family of decoders has that others have not
attention.py      rotary positions and masked attention, by matrix products
kernels.py        attention by a device's own kernel, chosen where it is compiled
architectures.py  config.json of Hugging Face folders
huggingface.py    their weights, read onto the mesh and written
chat.py           their tokenizers and chat templates
grammar.py        what a request may say, and masks of it between steps
sampler.py        samples any number of requests: what is read and seated when
slots.py          what that runs on the device: slots that are refilled, distributions captured
draw.py           from logits to a token and what is kept of its distribution
pages.py          keys and values in pages, for the kernel that TPUs decode with
programs.py       how programs are compiled: fast, or the same from run to run
inference.py      weights and rows of a model that is only read, on a mesh
scorer.py         questions answered by the next token's probabilities, and what given tokens are drawn from
folder_tokenizer.py  a folder's tokenizer.json with control symbols, for runs that start from its weights
tokenizer.py      SentencePiece with control symbols, and the chat format
"""
