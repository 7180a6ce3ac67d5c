"""What of a run's time was useful, and where the rest went, from the events of its `goodput.jsonl`.

Time is useful while a stage makes something that is kept: what no stage was under way for, what was lost with a process
that was stopped, and what was made before and only found again, is not. What was compiled stands apart. The names are
those of ml-goodput-measurement, which knows training alone, and for which every other stage of the loop is a custom
event.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from etils import epath

from ratchet.bootstrap.report.files import lines_in
from ratchet.bootstrap.report.numbers import duration, percent, value_of

FILE = "goodput.jsonl"
BADPUT = {
    "TPU_INITIALIZATION": "finding the devices",
    "TRAINING_PREP": "preparing the run",
    "DATA_LOADING_SYNC": "reading examples",
    "UNPRODUCTIVE_CHECKPOINT_SAVE_TIME": "saving checkpoints and weights",
    "UNPRODUCTIVE_CHECKPOINT_RESTORE_TIME": "reading checkpoints and weights",
    "WASTED_PROGRESS_FROM_DISRUPTION": "lost with a process that was stopped",
    "INFRASTRUCTURE_RECOVERY_FROM_DISRUPTION": "until a run that was killed went on",
    "CUSTOM_BADPUT_EVENTS": "finding what was made before",
    "OTHER": "between stages",
    "PROGRAM_STARTUP": "compiling",
}
"""What time that is not useful is called in files, and for people."""
ACTIVITIES = {"tpu_init": "TPU_INITIALIZATION", "training_prep": "TRAINING_PREP", "data_loading": "DATA_LOADING_SYNC"}
CHECKPOINTS = {"save": "UNPRODUCTIVE_CHECKPOINT_SAVE_TIME", "restore": "UNPRODUCTIVE_CHECKPOINT_RESTORE_TIME"}
STAGE = "custom_badput_event"

Event = Mapping[str, Any]


def goodput(directory: epath.Path, now: float | None = None) -> dict[str, Any] | None:
    """What is known of a run's time, in seconds; None before anything is. While a process is at work, it is what was
    done until `now`, in seconds since 1970, and the stage under way counts as useful.

    `share` is the goodput: `goodput_time` over the whole, `total_elapsed_time`, without what was compiled. `useful`
    holds the goodput by stage, `badput_time` all else by kind, and `stages`, by generation or arm, how long each stage
    took in all, compiling, reading and saving included. `disruption_count` counts processes that ended otherwise than
    by themselves.
    """
    sums, jobs = _Sums(), list(_jobs(e for e in lines_in(directory / FILE) if _moment(e) is not None))
    if not jobs:
        return None
    end: float | None = None
    for number, events in enumerate(jobs):
        if end is not None:
            sums.badput["INFRASTRUCTURE_RECOVERY_FROM_DISRUPTION"] += max(_moment(events[0]) - end, 0.0)
        last = number == len(jobs) - 1
        ended = sums.add(events, now if last else None)
        end = None if "job_end_time" in events[-1] else ended
        sums.disruptions += end is not None and not (last and now is not None)
    useful, compiled = sum(sums.useful.values()), sums.badput["PROGRAM_STARTUP"]
    total = useful + sum(sums.badput.values())
    rounded = lambda found: {name: round(seconds, 2) for name, seconds in found.items() if round(seconds, 2)}
    return {
        "share": useful / (total - compiled) if total > compiled else None,
        "goodput_time": round(useful, 2),
        "total_elapsed_time": round(total, 2),
        "useful": rounded(sums.useful),
        "badput_time": rounded(sums.badput),
        "stages": {place: rounded(took) for place, took in sums.stages.items()},
        "disruption_count": sums.disruptions,
    }


def until(directory: epath.Path, holder: Mapping[str, Any] | None, now: float) -> float | None:
    """Until when the process that holds a run is known to be at work on it: `now`, or None where there is none, or none
    that has recorded its beginning: what was recorded last is then of the one before."""
    begun = [value_of(event.get("job_start_time")) for event in lines_in(directory / FILE)]
    newest = max((moment for moment in begun if moment is not None), default=None)
    return now if holder and newest is not None and newest >= holder.get("since", 0.0) else None


@dataclass
class _Sums:
    """Seconds by stage, by kind of badput, and by place and stage, and processes that were killed."""

    useful: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    badput: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    stages: dict[str, dict[str, float]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(float)))
    disruptions: int = 0

    def add(self, events: Sequence[Event], now: float | None) -> float:
        """Adds the life of one process, which is still at work where there is a `now`; returns when it was last heard
        of."""
        before, doing, stage = _moment(events[0]), "", _Part()
        for event in events:
            moment = max(_moment(event), before)
            self._spend(moment - before, value_of(event.get("compiling")) or 0.0, event, doing, stage)
            before = moment
            doing = next((name for name in ACTIVITIES if f"{name}_start_time" in event), "")
            if f"{STAGE}_start_time" in event:
                stage = _Part(str(event.get(f"{STAGE}_type")), str(event.get("place")), bool(event.get("again")))
            elif f"{STAGE}_end_time" in event:
                self._keep(stage)
                stage = _Part()
        if now is not None and "job_end_time" not in events[-1]:
            self._spend(max(now - before, 0.0), 0.0, {}, doing, stage)
            before = max(now, before)
            self._keep(stage)
        else:
            self.badput["WASTED_PROGRESS_FROM_DISRUPTION"] += stage.seconds
        return before

    def _spend(self, seconds: float, compiling: float, event: Event, doing: str, stage: "_Part") -> None:
        """Shares out the seconds before an event; a checkpoint's line says how long it took when that is over."""
        compiling = min(compiling, seconds)
        names = [n for n in ("checkpoint_manager_blocking", "checkpoint_manager") if f"{n}_duration_secs" in event]
        waited = min(value_of(event[f"{names[0]}_duration_secs"]) or 0.0 if names else 0.0, seconds - compiling)
        rest = seconds - compiling - waited
        self.badput["PROGRAM_STARTUP"] += compiling
        self.badput[CHECKPOINTS.get(str(event.get("event_type")), "OTHER")] += waited
        stage.whole += seconds
        if doing:
            self.badput[ACTIVITIES[doing]] += rest
        elif stage.name:
            stage.seconds += rest
        else:
            self.badput["OTHER"] += rest

    def _keep(self, stage: "_Part") -> None:
        """What a stage has made so far is there to stay."""
        if stage.name and stage.again:
            self.badput["CUSTOM_BADPUT_EVENTS"] += stage.seconds
        elif stage.name:
            self.useful[stage.name] += stage.seconds
        if stage.name:
            self.stages[stage.place][stage.name] += stage.whole


@dataclass
class _Part:
    """A part of a stage that is kept or lost as one: its name, "" between stages, its generation or arm, whether all of
    it was made before, its seconds without and with what is counted elsewhere."""

    name: str = ""
    place: str = ""
    again: bool = False
    seconds: float = 0.0
    whole: float = 0.0


def _jobs(events: Iterable[Event]) -> Iterator[list[Event]]:
    """The events of each process; what stands before the first begins is of none."""
    job: list[Event] = []
    for event in events:
        if "job_start_time" in event:
            if job:
                yield job
            job = [event]
        elif job:
            job.append(event)
    if job:
        yield job


def _moment(event: Event) -> float | None:
    """When an event was, in seconds since 1970, or where it lasted, when it was over."""
    times = [value_of(value) for name, value in event.items() if name.endswith("_time")]
    lasted = [value_of(value) for name, value in event.items() if name.endswith("_duration_secs")]
    known = [moment for moment in times if moment is not None]
    return known[0] + sum(seconds or 0.0 for seconds in lasted) if known else None


def said(found: Mapping[str, Any]) -> str:
    """The goodput in a line: "goodput 93 %: 12 min 00 s useful of 12 min 54 s, and 41.0 s compiling"."""
    compiled = found["badput_time"].get("PROGRAM_STARTUP", 0.0)
    useful, whole = found["goodput_time"], found["total_elapsed_time"] - compiled
    share = f"{percent(found['share'])} %"
    return f"goodput {share}: {duration(useful)} useful of {duration(whole)}, and {duration(compiled)} compiling"


def spent(found: Mapping[str, Any]) -> list[tuple[str, float, bool]]:
    """Where the time went, as (what for, seconds, whether useful), the most first."""
    useful = [(name, seconds, True) for name, seconds in found["useful"].items()]
    rest = [(BADPUT.get(name, name), seconds, False) for name, seconds in found["badput_time"].items()]
    return sorted(useful + rest, key=lambda part: -part[1])
