"""What other people's programs make of what we serve and export: lm-eval of our server, TRL of exported data.

`make bench-serving` installs both and writes results/serving-peers.json. A small random model is asked 40 questions
with four choices each, by lm-eval's `local-completions` from our server, and by its `hf` from the same folder through
transformers; the log-likelihoods are compared. TRL's SFT trainer takes a step on an exported dataset, and its
self-distillation trainer another.
"""

import importlib.metadata
import json
import random
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
for beside in (HERE.parent, HERE.parent / "launch", HERE.parent / "launch" / "serve"):
    sys.path.insert(0, str(beside))

import conftest  # noqa: E402, F401
import datasets  # noqa: E402
import little  # noqa: E402
import yaml  # noqa: E402
from accepted import with_answers  # noqa: E402
from etils import epath  # noqa: E402
from lm_eval import simple_evaluate  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402
from serving import of_folder, write_folder  # noqa: E402
from support import little_config, prepared, train_tokenizer  # noqa: E402
from trl import SFTConfig, SFTTrainer  # noqa: E402
from trl.experimental.sdft import SDFTConfig, SDFTTrainer  # noqa: E402

from ratchet.launch import export_data  # noqa: E402
from ratchet.launch.serve import tasks  # noqa: E402
from ratchet.launch.serve.listening import answering  # noqa: E402

RESULT = HERE / "results" / "serving-peers.json"
WORDS = "what is it and system user assistant be brief doubled".split()
QUESTIONS = 40


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = write_folder(_made(place, "model"))
        found = {"lm_eval": evaluated(Path(place), folder), "trl": trained(Path(place), folder)}
    found["versions"] = {name: importlib.metadata.version(name) for name in ("lm_eval", "trl", "datasets")}
    RESULT.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


def _made(place: str, name: str) -> epath.Path:
    made = epath.Path(place) / name
    made.mkdir(exist_ok=True)
    return made


def evaluated(place: Path, folder: epath.Path) -> dict:
    """The task by both ways: accuracies, the largest difference of a log-likelihood, and seconds."""
    manager = TaskManager(include_path=str(written_task(_made(str(place), "tasks"))), include_defaults=False)
    ask = lambda model, arguments: simple_evaluate(
        model=model, model_args=arguments, tasks=["said"], task_manager=manager, log_samples=True, bootstrap_iters=0
    )
    with answering(of_folder(folder, slots=16)) as address:
        of_server = (
            f"model={folder.name},base_url={address}/v1/completions,max_length=192,num_concurrent=4,batch_size=8"
        )
        ask("local-completions", of_server)
        began = time.monotonic()
        ours = ask("local-completions", of_server)
        seconds = time.monotonic() - began
    by_command = tasks.evaluated(of_folder(folder, slots=16), [str(place / "tasks" / "said.yaml")])
    theirs = ask("hf", f"pretrained={folder},dtype=float32,device=cpu,max_length=192")
    logs = lambda found: [[r[0] for r in s["filtered_resps"]] for s in _sorted(found)]
    greedy = lambda found: [[r[1] for r in s["filtered_resps"]] for s in _sorted(found)]
    pairs = zip(sum(logs(ours), []), sum(logs(theirs), []), strict=True)
    return {
        "questions": QUESTIONS,
        "accuracy": {
            "served": ours["results"]["said"]["acc,none"],
            "ratchet evaluate --tasks": by_command["said"]["acc,none"],
            "transformers": theirs["results"]["said"]["acc,none"],
        },
        "largest difference of a log-likelihood": max(abs(a - b) for a, b in pairs),
        "greedy alike": greedy(ours) == greedy(theirs),
        "log-likelihoods a second": round(4 * QUESTIONS / seconds, 1),
    }


def _sorted(found: dict) -> list[dict]:
    return sorted(found["samples"]["said"], key=lambda sample: sample["doc_id"])


def written_task(place: epath.Path) -> epath.Path:
    """A folder with a task of questions with four choices, as YAML and JSON lines."""
    rng, rows = random.Random(0), []
    say = lambda count: " ".join(rng.choice(WORDS) for _ in range(count))
    for _ in range(QUESTIONS):
        rows.append(
            {"question": say(rng.randint(3, 20)), "choices": [say(rng.randint(1, 6)) for _ in range(4)], "answer": 0}
        )
    (place / "said.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    task = {
        "task": "said", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(place / "said.jsonl")}},
        "test_split": "test", "output_type": "multiple_choice", "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}", "doc_to_target": "{{answer}}",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }  # fmt: skip
    (place / "said.yaml").write_text(yaml.safe_dump(task))
    return place


def trained(place: Path, folder: epath.Path) -> dict:
    """A step of each of TRL's trainers on what a run exports, opened as `datasets` opens it."""
    run = prepared(_made(str(place), "prepared"), little_config(), train_tokenizer(little.create()))
    data = export_data.write(with_answers(run, _made(str(place), "run")), 2, epath.Path(place) / "data")
    opened = datasets.load_dataset(str(data), split="train")
    assert opened.num_rows == 4 and opened.column_names == list(export_data.COLUMNS)
    common = {"max_steps": 1, "use_cpu": True, "bf16": False, "report_to": "none", "per_device_train_batch_size": 2}
    sft = SFTTrainer(str(folder), SFTConfig(str(place / "sft"), **common), train_dataset=opened)
    masked = [sum(label != -100 for label in example["labels"]) for example in sft.train_dataset]
    sft_loss = sft.train().training_loss
    options = SDFTConfig(str(place / "sdft"), **common, max_completion_length=8, num_generations=2)
    sdft_loss = SDFTTrainer(str(folder), options, train_dataset=opened).train().training_loss
    return {"rows": opened.num_rows, "tokens of completions": masked, "sft loss": sft_loss, "sdft loss": sdft_loss}


if __name__ == "__main__":
    main()
