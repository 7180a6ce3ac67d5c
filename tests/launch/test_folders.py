"""`ratchet import` and `ratchet export`."""

import dataclasses
import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import sentencepiece
import torch
import transformers
from etils import epath
from rich.console import Console
from support import CHATML, awaken, tiny_config, write_chat, write_model
from support import LLAMA as SMALL

from ratchet.bootstrap import config_files
from ratchet.bootstrap.config import ControlsConfig, TrainConfig
from ratchet.bootstrap.given import base_weights
from ratchet.bootstrap.progress import Silent
from ratchet.bootstrap.run import prepare
from ratchet.launch import cli, folders
from ratchet.launch.folders import Export
from ratchet.models import huggingface
from ratchet.models.architectures import FolderError
from ratchet.models.chat import ChatTokenizer
from ratchet.models.decoder import DecoderConfig, create
from ratchet.models.family import Family
from ratchet.train.sharding import MeshConfig, make_mesh

LLAMA = Family("LlamaForCausalLM", scaled_embedding=False, activation="silu", gated=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of Llama's shape with a generation 0."""
    directory = epath.Path(tmp_path_factory.mktemp("run"))
    model = DecoderConfig(width=32, layers=2, heads=2, mlp_width=64, conv=1, family=LLAMA)
    config = tiny_config(train__columns=1024, model=model)
    config_files.save(directory, config)
    params = awaken(create(config.model, 0)[1])
    made = prepare(directory, config, Silent())
    made.keep_weights(made.generation(0), params)
    made.metrics.close()
    return directory, config, params


def test_an_exported_generation_is_read_by_transformers_and_by_us(run, tmp_path, capsys):
    directory, config, params = run
    place = tmp_path / "model"
    words = ["export", str(directory), "--generation", "0", "--to", str(place), "--dtype", "float32"]
    assert cli.main(words) == 0
    capsys.readouterr()
    theirs = transformers.AutoModelForCausalLM.from_pretrained(place)
    np.testing.assert_array_equal(theirs.model.embed_tokens.weight.detach().numpy(), params["embedding"][...])
    assert torch.isfinite(theirs(torch.arange(9)[None]).logits).all()
    assert (place / "tokenizer.model").read_bytes() == (directory / "tokenizer" / "model.spm").read_bytes()
    spm = sentencepiece.SentencePieceProcessor(model_file=str(place / "tokenizer.model"))
    assert theirs.generation_config.eos_token_id == theirs.config.eos_token_id == [spm.piece_to_id("<|end|>")]

    assert cli.main(["import", str(place), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["parameters"] == theirs.num_parameters() and found["width"] == 32
    assert found["family"]["architecture"] == "LlamaForCausalLM"
    assert cli.main(["import", str(place)]) == 0
    assert f"{theirs.num_parameters():,}" in capsys.readouterr().out

    assert cli.main(words) == 2
    assert "exists already" in capsys.readouterr().err


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small Llama without a tokenizer."""
    place = epath.Path(tmp_path_factory.mktemp("folder"))
    model = DecoderConfig(vocab_size=640, width=32, layers=1, heads=2, mlp_width=64, conv=1, family=LLAMA)
    huggingface.save(place, model, create(model, 0)[1], "float32")
    return place


def imported(capsys, *words):
    """What `ratchet import` says of a folder's chat as JSON, and of the folder for people, on one line."""
    assert cli.main(["import", *map(str, words), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    console = Console(width=80)
    with console.capture() as told:
        console.print(folders.table(found))
    return found["chat"], " ".join(told.get().split())


def test_import_says_whether_a_run_can_start_from_a_folder_and_what_marks_the_assistants_words(folder, capsys):
    unmarked = CHATML.replace("{% generation %}", "").replace("{% endgeneration %}", "")
    for template, marks in ((CHATML, "by the template"), (unmarked, "by how turns open and close")):
        write_chat(folder, template=template)
        chat, told = imported(capsys, folder)
        assert chat == {"base": True, "tokens": 299, "calls_tools": False, "marks": marks, "warning": ""}
        assert "a run can start from it with --base: 299 tokens; the template calls no tools" in told
        assert f"what the assistant says is marked {marks}" in told and "warning" not in told


def test_import_warns_in_one_line_that_no_run_can_start_from_a_folder(folder, tmp_path, capsys):
    write_chat(folder)
    template = tmp_path / "other.jinja"
    template.write_text("{{ 'x' + none }}")
    chat, told = imported(capsys, folder, "--template", template)
    assert not chat["base"] and "\n" not in chat["warning"]
    assert chat["warning"].startswith(f"a run with --base refuses this model: {folder}: the chat template refuses")
    assert "no run can start from it with --base; see below" in told and "warning: a run with --base" in told
    for content, reason in ((None, "cannot be read"), ("", "is empty"), (" \n", "is empty")):
        named = tmp_path / "mistyped.jinja"
        if content is not None:
            named.write_text(content)
        assert cli.main(["import", str(folder), "--template", str(named)]) == 2, "which is no fault of the model's"
        told = " ".join(capsys.readouterr().err.split())
        assert f"{named}: {reason}" in told and told.endswith("; give --template a file with a chat template")


def test_a_run_whose_decoder_is_our_own_says_so(tiny_run, tmp_path, capsys):
    assert cli.main(["export", str(tiny_run), "--generation", "1", "--to", str(tmp_path / "model")]) == 2
    assert "transformers has no such decoder (family none, conv 6)" in capsys.readouterr().err
    assert cli.main(["export", str(tiny_run), "--generation", "9", "--to", str(tmp_path / "model")]) == 2
    assert "no finished generation 9" in capsys.readouterr().err
    assert not (tmp_path / "model").exists()


def test_a_model_from_a_folder_is_exported_with_the_folders_own_chat(tmp_path):
    base = epath.Path(tmp_path) / "base"
    model = DecoderConfig(
        vocab_size=400, width=32, layers=1, heads=2, kv_heads=2, mlp_width=64, max_length=64, conv=1, family=LLAMA
    )
    params = awaken(create(model, 0)[1])
    huggingface.save(base, model, params, "float32")
    settings = json.loads((write_chat(base) / "tokenizer_config.json").read_text())
    settings |= {"bos_token": "<|im_start|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    (base / "tokenizer_config.json").write_text(json.dumps(settings))
    own = ChatTokenizer.load(base, model.vocab_size)
    own.save(base.parent / "run" / "tokenizer")
    (base.parent / "run" / "tokenizer" / "config.json").write_text((base / "config.json").read_text())
    config = SimpleNamespace(base=str(base), model=dataclasses.replace(model, max_length=32))
    run = SimpleNamespace(directory=base.parent / "run", config=config, tokenizer=own, weights=lambda number: params)
    place = folders.write(run, Export(0, str(tmp_path / "out"), "float32"))
    theirs = transformers.AutoTokenizer.from_pretrained(place)
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "what is it?"}]
    asked = theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert list(asked) == own.render(messages)
    assert ChatTokenizer.load(place, model.vocab_size).hash == own.hash
    model = transformers.AutoModelForCausalLM.from_pretrained(place)
    assert model.config.max_position_embeddings == 64
    ends = [own.end, theirs.eos_token_id]
    assert model.config.eos_token_id == model.generation_config.eos_token_id == ends and len({*ends}) == 2
    assert model.generation_config.bos_token_id == theirs.bos_token_id
    assert model.generation_config.pad_token_id == theirs.pad_token_id


@pytest.mark.parametrize(("start", "shown", "rank"), [("base", (), 2), ("base", ("a task",), 4), ("last", (), 6)])
def test_what_a_run_trained_is_exported_apart_with_the_rank_of_all_that_was_merged(tmp_path, start, shown, rank):
    (tmp_path / "base").mkdir()
    base = write_model(tmp_path / "base")
    train, mesh = TrainConfig(lora=2), make_mesh(MeshConfig(1, -1, 1))
    config = SimpleNamespace(base=str(base), model=SMALL, train=train, controls=ControlsConfig(start))
    own = ChatTokenizer.load(base, SMALL.vocab_size)
    own.save(tmp_path / "tokenizer")
    (tmp_path / "tokenizer" / "config.json").write_text((base / "config.json").read_text())
    change = lambda x: x.at[:, 0, :].add(1.0) if x.ndim == 3 else x
    moved = lambda number: jax.tree.map(change, base_weights(config, mesh))
    run = SimpleNamespace(
        directory=epath.Path(tmp_path), config=config, tokenizer=own, weights=moved, mesh=mesh, shown=shown
    )
    place = folders.write(run, Export(3, str(tmp_path / "out"), adapters=True))
    settings = json.loads((place / "adapter_config.json").read_text())
    assert settings["r"] == rank and settings["target_modules"] == ["down_proj", "gate_proj", "up_proj"]
    assert (place / "tokenizer.json").exists() and not (place / "config.json").exists()
    run.config.train = TrainConfig()
    with pytest.raises(FolderError, match=r"trains whole weights \(train.lora is 0\); leave out --adapters"):
        folders.write(run, Export(3, str(tmp_path / "other"), adapters=True))
