"""A run while it goes on, one look after another, from its files alone."""

import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from etils import epath

from ratchet.bootstrap.report.files import generation_directories
from ratchet.bootstrap.report.status import status
from ratchet.bootstrap.report.terminal import standing
from ratchet.bootstrap.report.units import units, verdicts_in
from ratchet.train.commits import FILE as COMMITS
from ratchet.train.commits import Commits

Found = dict[str, Any]


class Watched:
    """A run that is looked at again and again. It keeps what it has read of reviews, and what the sampler had done."""

    def __init__(self, directory: epath.Path):
        self.directory = epath.Path(directory)
        self._reviews: _Reviews | None = None
        self._sampled: tuple[float, Found] | None = None
        self._sampling: Found | None = None

    def look(self, reviews: bool = True) -> Found:
        """What is known of the run now; without `reviews`, all but what these say.

        `state` is "not begun", "at work", "waiting" where no process works on it, "finished", "ended" before its plan
        was done, or "damaged"; `standing` says so in lines, of which a damaged run has one for each file. `doing` is
        what the process does, with the items a second and the seconds left where they are known; `sampling` the share
        of the sampler's slots that worked since the last look, and the tokens that they said a second; `acceptance` the
        share of the newest generation's transcripts that pass each criterion; `outlook`, `goodput` and `stages` are
        those of `ratchet status --json`.
        """
        found: Found = {"directory": str(self.directory), "recipe": None, "state": "not begun", "standing": []}
        found |= dict.fromkeys(("holder", "doing", "sampling", "acceptance", "outlook", "goodput")) | {"stages": []}
        if not (self.directory / "config.json").exists():
            if not (self.directory / COMMITS).exists():
                return found | {"standing": [f"{self.directory} holds no run yet"]}
            line = Commits(self.directory).line_about("config.json")
            return found | {"state": "damaged", "standing": [line]}
        now = status(self.directory)
        holder = now["holder"]
        return found | {
            **{name: now[name] for name in ("recipe", "holder", "outlook", "goodput", "stages")},
            "state": _state(now),
            "standing": standing(now),
            "doing": _doing((holder or {}).get("doing")),
            "sampling": self._sampling_of(holder or {}),
            "acceptance": self._acceptance() if reviews else None,
        }

    def _sampling_of(self, holder: Mapping[str, Any]) -> Found | None:
        """What the slots did between the last two records of the process; None where nothing was sampled. A first look
        has what they did since the process began."""
        counted = holder.get("sampled")
        if not counted:
            self._sampled = self._sampling = None
            return None
        heard, before = holder["heard"], self._sampled
        if before and before[0] == heard:
            return self._sampling
        self._sampled = heard, counted
        goes_on = before is not None and before[1]["slots"] <= counted["slots"]
        since = before[1] if goes_on else dict.fromkeys(counted, 0)
        working, slots = (counted[name] - since[name] for name in ("working", "slots"))
        rate = working / (heard - before[0]) if goes_on else None
        self._sampling = {"busy": working / slots, "tokens_per_second": rate} if slots else None
        return self._sampling

    def _acceptance(self) -> Found | None:
        """Of the newest generation that has reviews."""
        places = generation_directories(self.directory)
        newest = next((number for number in reversed(places) if units(places[number] / "review")), None)
        if newest is None:
            return None
        place = places[newest] / "review"
        if self._reviews is None or self._reviews.place != place or not self._reviews.add():
            self._reviews = _Reviews(place)
            self._reviews.add()
        return {"generation": newest} | self._reviews.shares()


class _Reviews:
    """The reviews of a generation, of which each unit is read once."""

    def __init__(self, place: epath.Path):
        self.place, self._read, self._passed = place, {}, Counter()
        self._reviewed, self._accepted = 0, 0

    def add(self) -> bool:
        """Reads units that are new; False where others than these were read before."""
        there = dict(units(self.place))
        if any(there.get(path) != digest for path, digest in self._read.items()):
            return False
        for unit in (u for u in units(self.place) if u.path not in self._read):
            reviews = unit.records()
            if reviews is None:
                continue  # it may be there in a moment
            self._read[unit.path] = unit.sha256
            self._reviewed += len(reviews)
            self._accepted += sum(bool(r.get("accepted")) for r in reviews)
            for review in reviews:
                self._passed.update({name: verdict.passed for name, verdict in verdicts_in(review).items()})
        return True

    def shares(self) -> Found:
        count = max(self._reviewed, 1)
        criteria = {name: passed / count for name, passed in sorted(self._passed.items(), key=lambda item: item[1])}
        return {"reviewed": self._reviewed, "accepted": self._accepted / count, "criteria": criteria}


def _state(found: Mapping[str, Any]) -> str:
    if found["altered"]:
        return "damaged"
    if found["holder"]:
        return "at work"
    if found["ended"]:
        return "ended"
    return "finished" if found["finished"] else "waiting"


def _doing(doing: Mapping[str, Any] | None) -> Found | None:
    """What the process does, with `seconds` so far, and the items a second that the time left comes to."""
    if not doing:
        return None
    rest, left = doing["total"] - doing["done"], doing["left"]
    shown = {name: doing[name] for name in ("title", "done", "total")} | {"about": doing.get("about", [])}
    return shown | {
        "seconds": max(time.time() - doing["since"], 0.0),
        "seconds_left": left,
        "rate": rest / left if left and rest > 0 else None,
    }
