"""Small GGUF files for tests, written by the library gguf from transformers' models, as llama.cpp's converter does."""

import json

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind
from gguf import GGUFWriter
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

TYPES = {"normal": 1, "unknown": 2, "control": 3, "defined": 4, "unused": 5, "byte": 6}
TEXT = "the owl reads at night and the bear reads at noon. 'we'll read 1,234 books', said the owl: 17 of them!\n\n"
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_gguf(path, model, architecture, *, vocabulary=None, kind=Kind.F32, stretched=False, **metadata):
    """Writes a model of transformers with a `vocabulary` as the functions below make it; matrices are stored as `kind`.
    Metadata is that of llama.cpp's converter and what is given beside, None for what is left out. A `stretched` model
    has factors of its rotary positions, as Llama 3.1."""
    writer, c = GGUFWriter(path, architecture), model.config
    heads = c.num_attention_heads
    values = {
        "block_count": c.num_hidden_layers, "context_length": c.max_position_embeddings,
        "embedding_length": c.hidden_size, "feed_forward_length": c.intermediate_size,
        "attention.head_count": heads, "attention.head_count_kv": c.num_key_value_heads,
        "attention.key_length": getattr(c, "head_dim", None) or c.hidden_size // heads,
        "attention.layer_norm_rms_epsilon": float(c.rms_norm_eps),
    } | {name.replace("__", "."): value for name, value in metadata.items()}
    for name, value in values.items():
        _add(writer, name if name.startswith("split.") else f"{architecture}.{name}", value)
    for name, value in (by_bytes() if vocabulary is None else vocabulary).items():
        _add(writer, f"tokenizer.{name}", value)
    if stretched:
        writer.add_tensor("rope_freqs.weight", _factors(c))
    _add_tensors(writer, model, architecture, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add(writer, name, value):
    if isinstance(value, list):
        writer.add_array(name, value)
    elif value is not None:
        add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
        add[type(value)](name, value)


def _add_tensors(writer, model, architecture, kind):
    """By the library's own names; queries and keys of a llama are interleaved, Gemma's norms are 1 more."""
    c = model.config
    number = next(n for n, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    named = gguf.get_tensor_name_map(number, c.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        base, suffix = name.rsplit(".", 1)
        ours, array = named.get_name(base), tensor.float().numpy()
        if base == "lm_head" and c.tie_word_embeddings:
            continue
        if architecture == "llama" and base.endswith(("q_proj", "k_proj")):
            heads = c.num_attention_heads if base.endswith("q_proj") else c.num_key_value_heads
            array = array.reshape(heads, 2, -1, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)
        if architecture.startswith("gemma") and base.endswith("norm"):
            array = array + 1
        stored = kind if array.ndim > 1 else Kind.F32
        writer.add_tensor(f"{ours}.{suffix}", gguf.quantize(np.ascontiguousarray(array), stored), raw_dtype=stored)


def _factors(c):
    """What llama.cpp's converter writes of Llama 3.1's stretched positions."""
    rope, width = c.rope_parameters, c.hidden_size // c.num_attention_heads
    low, high, length = rope["low_freq_factor"], rope["high_freq_factor"], rope["original_max_position_embeddings"]
    factors = []
    for frequency in rope["rope_theta"] ** -(np.arange(0, width, 2) / width):
        wave = 2 * np.pi / frequency
        smooth = (length / wave - low) / (high - low)
        between = 1 / ((1 - smooth) / rope["factor"] + smooth)
        factors.append(1 if wave < length / high else rope["factor"] if wave > length / low else between)
    return np.array(factors, np.float32)


def by_bytes(split="qwen2", longer=0, **changes):
    """Tokenizer metadata of bytes merged: 320 tokens with ChatML's symbols, the last unused, and `longer` more."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=315, show_progress=False, initial_alphabet=alphabet)
    learned = Tokenizer(models.BPE())
    learned.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    learned.decoder = decoders.ByteLevel()
    learned.train_from_iterator([TEXT, "Yes No system user assistant Answer"], trainer)
    spelled = sorted(learned.get_vocab(), key=learned.get_vocab().get)
    merges = json.loads(learned.to_str())["model"]["merges"]
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokens = [*special, *spelled, *(f"<{n}>" for n in range(longer)), "<think>", "[PAD0]"]
    kinds = [TYPES["control"]] * 3 + [TYPES["normal"]] * (len(spelled) + longer) + [TYPES["defined"], TYPES["unused"]]
    return {
        "ggml.model": "gpt2", "ggml.pre": split, "ggml.tokens": tokens, "ggml.token_type": kinds,
        "ggml.merges": [" ".join(pair) for pair in merges], "ggml.bos_token_id": 1, "ggml.eos_token_id": 2,
        "ggml.padding_token_id": 0, "chat_template": TEMPLATE,
    } | changes


def by_pieces(processor, **changes):
    """Tokenizer metadata of a SentencePiece model, as llama.cpp's converter writes it."""
    ids = range(processor.vocab_size())
    known = {"unknown": processor.is_unknown, "control": processor.is_control, "byte": processor.is_byte,
             "unused": processor.is_unused}
    kinds = [next((TYPES[k] for k, test in known.items() if test(i)), TYPES["normal"]) for i in ids]
    return {
        "ggml.model": "llama", "ggml.pre": "default", "ggml.tokens": [processor.id_to_piece(i) for i in ids],
        "ggml.scores": [processor.get_score(i) for i in ids], "ggml.token_type": kinds, "ggml.bos_token_id": 1,
        "ggml.eos_token_id": 2, "ggml.unknown_token_id": 0, "chat_template": TEMPLATE,
    } | changes
