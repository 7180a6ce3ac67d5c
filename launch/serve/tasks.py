"""lm-eval's tasks, put to a served model over its web API, as anybody would put them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager

from ratchet.launch.serve.listening import answering
from ratchet.launch.serve.served import Served


def evaluated(model: Served, tasks: Sequence[str], limit: int = 0) -> dict[str, dict[str, Any]]:
    """The metrics of each task by name. A task is one of lm-eval's by name, or a YAML file of its form.

    Of each, `limit` questions are asked, 0: all. Raises ValueError for a task that lm-eval does not have.
    """
    known = TaskManager()
    if strange := [t for t in tasks if not Path(t).is_file() and not known.match_tasks([t])]:
        raise ValueError(f"evaluate --tasks: lm-eval has no {strange[0]!r}; `lm-eval ls tasks` lists those that it has")
    with answering(model) as address:
        arguments = {
            "model": model.name, "base_url": f"{address}/v1/completions", "max_length": model.context,
            "num_concurrent": 4, "batch_size": model.scorer.questions,
        }  # fmt: skip
        found = simple_evaluate("local-completions", arguments, list(tasks), limit=limit or None, bootstrap_iters=1000)
    measured = lambda of: {name: value for name, value in of.items() if isinstance(value, float)}
    return {task: measured(of) for task, of in found["results"].items()}
