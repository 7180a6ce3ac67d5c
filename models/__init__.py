"""What a model is.

decoder.py     one decoder-only transformer
attention.py   rotary positions and masked attention
sampler.py     batched sampling that captures distributions; scoring by prefill
tokenizer.py   SentencePiece with control symbols, and the chat format
"""
