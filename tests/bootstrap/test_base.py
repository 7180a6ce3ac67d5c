"""Runs that start from a Hugging Face folder: its weights, its own chat template, and what transformers reads after."""

import json

import numpy as np
import pytest
import torch
from etils import epath
from support import awaken, full_logits, little_config, run_tiny
from templates import write_folder
from transformers import AutoModelForCausalLM, AutoTokenizer

from ratchet.bootstrap import run as runs
from ratchet.bootstrap.given import base_weights
from ratchet.bootstrap.ledger import Stage
from ratchet.bootstrap.progress import Silent
from ratchet.bootstrap.transcript import transcript_from_json
from ratchet.launch import folders
from ratchet.launch.folders import Export
from ratchet.models import decoder, huggingface
from ratchet.models.architectures import FolderError
from ratchet.models.decoder import DecoderConfig
from ratchet.models.family import Family

pytestmark = pytest.mark.long

LLAMA = DecoderConfig(
    vocab_size=704, width=32, layers=1, heads=2, kv_heads=2, mlp_width=64, max_length=1024, conv=1,
    family=Family("LlamaForCausalLM", tied=False, scaled_embedding=False, activation="silu", gated=True),
)  # fmt: skip


def made(place, kind):
    huggingface.save(place, LLAMA, awaken(decoder.create(LLAMA, 3)[1]), "float32")
    return write_folder(place, kind)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return made(epath.Path(tmp_path_factory.mktemp("base") / "llama"), "qwen")


def config_of(folder, **changes):
    """The little world on a folder's model, with room for prompts of a tokenizer that knows few words."""
    sizes = {"train__columns": 1024, "model__max_length": 1024, "simulate__keep": 4, "simulate__new_tokens": 40}
    return runs.with_base(little_config(base=str(folder), generations=1, **sizes | changes))


@pytest.fixture(scope="module")
def ran(folder, tmp_path_factory):
    config = config_of(folder)
    return config, run_tiny(tmp_path_factory.mktemp("runs") / "based", config)


def test_the_model_is_the_folders_own(folder, ran):
    config, _ = ran
    assert (config.model.width, config.model.family, config.model.vocab_size) == (32, LLAMA.family, 704)
    ours = base_weights(config, runs.make_mesh(config.mesh))["embedding"][...]
    theirs = AutoModelForCausalLM.from_pretrained(folder).get_input_embeddings().weight.detach().numpy()
    np.testing.assert_array_equal(ours, theirs)


def test_the_seed_model_goes_on_from_the_folders_weights(ran):
    config, directory = ran
    run = runs.prepare(directory, config, Silent())
    base = base_weights(config, run.mesh)
    moved = np.abs(run.weights(0)["layers"]["up"][...] - base["layers"]["up"][...]).max()
    assert 0 < moved < np.abs(base["layers"]["up"][...]).max()  # eight small steps


def test_the_teacher_is_spoken_to_in_the_folders_own_template(folder, ran):
    """What it saw is what transformers makes of the same messages, and nothing was added to the tokenizer."""
    config, directory = ran
    run = runs.prepare(directory, config, Silent())
    theirs = AutoTokenizer.from_pretrained(folder)
    written = [transcript_from_json(p) for p in Stage(directory / "gen-001" / "simulate").committed()]
    for t in written:
        messages = [dict(m) for m in next(x for x in run.tasks(1) if x.id == t.task_id).messages]
        asked = theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
        assert list(t.student_prompt) == list(asked)
        text = theirs.decode(t.prompt)
        assert not any(p.text in theirs.decode(t.student_prompt) for p in run.passages(1))
        assert any(p.text in text for p in run.passages(1)) and '"name": "lookup"' in text
    assert len(written) == 4 and max(max(t.prompt) for t in written) < len(theirs)
    padding = tuple(range(len(theirs), config.model.vocab_size))
    assert padding and run.sampler.unused == run.scorer.unused == padding


def test_transformers_reads_what_such_a_run_exports(ran, tmp_path):
    config, directory = ran
    run = runs.prepare(directory, config, Silent())
    place = folders.write(run, Export(1, str(tmp_path / "out"), "float32"))
    tokenizer, model = AutoTokenizer.from_pretrained(place), AutoModelForCausalLM.from_pretrained(place)
    messages = [{"role": "user", "content": "what does the lamp do?"}]
    assert model.config.max_position_embeddings == LLAMA.max_length
    asked = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert list(asked) == run.tokenizer.render(messages)
    theirs = model(torch.tensor([list(asked)])).logits[0].detach().numpy()
    ours = full_logits(run.graphdef, run.weights(1), asked)
    np.testing.assert_allclose(ours, theirs, atol=1e-4 * np.abs(theirs).max())


def test_a_folder_that_cannot_be_read_is_one_line(tmp_path, folder):
    for name in ("config.json", "model.safetensors"):
        (epath.Path(tmp_path) / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(FolderError, match="no tokenizer.json"):
        runs.check(config_of(tmp_path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(FolderError, match="empty: no config.json; give the folder of a model"):
        config_of(tmp_path / "empty")
    with pytest.raises(FolderError, match="nowhere: nothing is there"):
        config_of(tmp_path / "nowhere")


def test_a_template_that_calls_no_tools_is_one_line_that_names_the_remedy(tmp_path):
    place = made(epath.Path(tmp_path / "gemma"), "gemma")
    with pytest.raises(FolderError) as caught:
        runs.check(config_of(place))
    assert "\n" not in str(caught.value) and str(caught.value).endswith("none called by --simulate.calls 0")
    runs.check(config_of(place, simulate__calls=0))


def test_a_model_from_scratch_needs_worked_tasks(tmp_path):
    (tmp_path / "docs").mkdir()
    for n in range(12):
        (tmp_path / "docs" / f"{n}.txt").write_text(f"Page {n} says {n}.")
    path = str(tmp_path / "docs")
    config = little_config(world="documents", documents__path=path, documents__slice=4, documents__fresh=2)
    with pytest.raises(ValueError, match="documents has no worked tasks.*--base"):
        runs.check(config)


def test_json_of_the_run_names_base_and_world(ran, folder):
    saved = json.loads((ran[1] / "config.json").read_text())
    assert (saved["base"], saved["world"]) == (str(folder), "little:create")
