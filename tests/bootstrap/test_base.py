"""A run that starts from a Hugging Face folder: its weights, its tokenizer, and what transformers reads afterwards."""

import json

import numpy as np
import pytest
import torch
from etils import epath
from support import awaken, full_logits, run_tiny, small_tokenizer_json, tiny_config
from transformers import AutoModelForCausalLM, AutoTokenizer

from ratchet.bootstrap import seed
from ratchet.bootstrap.progress import Silent
from ratchet.launch import folders
from ratchet.launch.folders import Export
from ratchet.models import decoder, huggingface
from ratchet.models.architectures import FolderError
from ratchet.models.decoder import DecoderConfig
from ratchet.models.family import Family
from ratchet.models.folder_tokenizer import FolderTokenizer
from ratchet.models.tokenizer import CONTROLS
from ratchet.train.sharding import MeshConfig, make_mesh

LLAMA = DecoderConfig(
    vocab_size=656, width=32, layers=1, heads=2, kv_heads=2, mlp_width=64, max_length=64, conv=1,
    family=Family("LlamaForCausalLM", tied=False, scaled_embedding=False, activation="silu", gated=True),
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = epath.Path(tmp_path_factory.mktemp("base") / "llama")
    huggingface.save(place, LLAMA, awaken(decoder.create(LLAMA, 3)[1]), "float32")
    small_tokenizer_json(place)
    return place


@pytest.fixture(scope="module")
def ran(folder, tmp_path_factory):
    config = seed.with_base(tiny_config(base=str(folder), simulate__keep=4, train__columns=256, generations=1))
    return config, run_tiny(tmp_path_factory.mktemp("runs") / "based", config)


@pytest.mark.parametrize("metaspace", [False, True])
def test_pieces_of_text_join_by_a_space_and_controls_come_by_id_alone(tmp_path, metaspace):
    small_tokenizer_json(tmp_path, metaspace)
    own = FolderTokenizer.of_folder(epath.Path(tmp_path))
    first, second = own.encode("if mara pulls the lever,"), own.encode("the bell leaks")
    assert own.decode([*first, *second]) == "if mara pulls the lever, the bell leaks"
    assert own.decode([own.control["assistant"], *first, own.control["end"], 10_000]) == "if mara pulls the lever,"
    assert len(set(own.control.values())) == len(CONTROLS) and max(own.control.values()) < own.vocab_size
    if not metaspace:  # which has no letters for it
        assert not set(own.encode("<|yes|> <|end|>")) & set(own.control.values())
    assert FolderTokenizer(own.model).hash == own.hash


def test_the_model_is_the_folders_with_rows_for_the_controls(folder, ran):
    config, directory = ran
    assert (config.model.width, config.model.family) == (LLAMA.width, LLAMA.family)
    assert config.model.vocab_size == 704 and config.model.max_length == tiny_config().model.max_length
    assert json.loads((directory / "config.json").read_text())["base"] == str(folder)
    mesh = make_mesh(MeshConfig(data=1, fsdp=1), seed.jax.devices()[:1])
    ours = seed.base_weights(config, mesh)["embedding"][...]
    theirs = AutoModelForCausalLM.from_pretrained(folder).get_input_embeddings().weight.detach().numpy()
    np.testing.assert_array_equal(ours[:656], theirs)
    np.testing.assert_allclose(ours[656:], np.broadcast_to(theirs.mean(0), (48, 32)), atol=1e-6)


def test_the_seed_model_goes_on_from_the_folders_weights(ran):
    config, directory = ran
    run = seed.prepare(directory, config, Silent())
    base = seed.base_weights(config, run.mesh)
    moved = np.abs(run.weights(0)["layers"]["up"][...] - base["layers"]["up"][...]).max()
    assert 0 < moved < np.abs(base["layers"]["up"][...]).max()  # eight small steps


def test_transformers_reads_what_such_a_run_exports(ran, tmp_path):
    config, directory = ran
    run = seed.prepare(directory, config, Silent())
    place = folders.write(run, Export(1, str(tmp_path / "out"), "float32"))
    tokenizer, model = AutoTokenizer.from_pretrained(place), AutoModelForCausalLM.from_pretrained(place)
    messages = [{"role": "user", "content": "pull the lever or ring the bell?"},
                {"role": "assistant", "content": "ring the bell."}]  # fmt: skip
    assert model.config.max_position_embeddings == LLAMA.max_length
    asked = tokenizer.apply_chat_template(messages[:1], add_generation_prompt=True, return_dict=True)["input_ids"]
    assert list(asked) == run.tokenizer.chat(messages[:1])
    whole = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    said = [t for t, own in zip(whole["input_ids"], whole["assistant_masks"], strict=True) if own]
    assert said == [*run.tokenizer.encode("ring the bell."), run.tokenizer.control["end"]]
    theirs = model(torch.tensor([list(asked)])).logits[0].detach().numpy()
    ours = full_logits(run.graphdef, run.weights(1), asked)
    np.testing.assert_allclose(ours, theirs, atol=1e-4 * np.abs(theirs).max())


def test_a_folder_without_a_tokenizer_is_one_line(tmp_path, folder):
    for name in ("config.json", "model.safetensors"):
        (epath.Path(tmp_path) / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(FolderError, match="no tokenizer.json"):
        seed.with_base(tiny_config(base=str(tmp_path)))
    with pytest.raises(FolderError, match="config.json"):
        seed.with_base(tiny_config(base=str(tmp_path / "nowhere")))


def test_a_tokenizer_in_which_no_tool_can_be_called_is_one_line(tmp_path, folder):
    for name in ("config.json", "model.safetensors"):
        (epath.Path(tmp_path) / name).write_bytes((folder / name).read_bytes())
    small_tokenizer_json(tmp_path, metaspace=True)
    path = tmp_path / "tokenizer.json"
    written = json.loads(path.read_text())
    written["model"]["byte_fallback"] = False
    written["model"]["vocab"] = {k: v for k, v in written["model"]["vocab"].items() if not k.startswith("<0x")}
    path.write_text(json.dumps(written))
    config = seed.with_base(tiny_config(base=str(tmp_path), simulate__keep=4))
    with pytest.raises(ValueError, match=r"^grammar: the tokenizer cannot spell .*; use one that falls back to bytes$"):
        seed.check(config)
