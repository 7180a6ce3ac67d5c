"""What a compiled program moves, read from its HLO text: bytes between chips by kind of collective and mesh axis, and
bytes between a chip and its memory.

Between slices the TPU compiler reduces inside a slice and hands a chip's part to the hosts: a `send`, along data.
HLO text is no stable interface: a form that is not known here is an error, and is never counted as nothing.
"""

import math
import re
from collections import defaultdict
from dataclasses import dataclass

import jax
import numpy as np

_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
_COLLECTIVE = re.compile(
    r"= (?P<shape>.+?) (?P<kind>all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute|send)(?:-start)?\("
)
_CALLED = re.compile(r"(?:calls|to_apply|body|condition|called_computations)=\{?%?([\w.\-]+)")
_ARRAY = re.compile(r"\b(pred|[a-z]+(\d+)\w*)\[([\d,]*)\](\{[^}]*\})?")
_MOVES_NOTHING = {"parameter", "bitcast", "get-tuple-element", "tuple", "constant", "while"}
_GIVES_OPERANDS = ("all-gather", "all-to-all", "collective-permute", "reduce-scatter")
"""Collectives whose start gives (operand, result, ...), on GPUs of several arrays: ((one, other), (one, other))."""
_IOTA = r"\[([\d,]+)\](?:T\(([\d,]+)\))?"
_INSTRUCTION = re.compile(r"\s*(?:ROOT )?%([\w.\-]+) = (.*)")


class NotationError(ValueError):
    """A program's text has a form that is not known here."""

    def __init__(self, what: str):
        super().__init__(
            f"preflight: the compiled program {what}: another notation of HLO than is read here; this is jax "
            f"{jax.__version__}, use the version of constraints.txt"
        )


@dataclass(frozen=True)
class Collective:
    """One collective of a step. `bytes` is what a chip ends up with or gives: the whole result of an all-gather, the
    whole operand of all others; `times` is how often a step runs it."""

    kind: str
    axes: tuple[str, ...]
    bytes: int
    times: int
    name: str

    @property
    def total(self) -> int:
        """Bytes of a whole step."""
        return self.bytes * self.times


def collectives(text: str, mesh: jax.sharding.Mesh) -> list[Collective]:
    """All collectives of a program, once each: where the compiler splits one into pieces that share a channel, the
    pieces count as one. Raises NotationError for a text in an unknown form."""
    lines = _by_computation(text)
    times = _times(lines)
    found: dict[tuple[str, str], Collective] = {}
    for computation, body in lines.items():
        for line in body:
            match = _COLLECTIVE.search(line)
            if not match or match["kind"] == "send" and "is_host_transfer=true" not in line:
                continue
            channel = re.search(r"channel_id=(\d+)", line)
            key = (match["kind"], channel[1] if channel else line.split(" = ")[0].strip())
            source = re.search(r'op_name="([^"]*)"', line)
            one = Collective(
                match["kind"],
                _axes(line, mesh),
                _bytes(match["shape"], match["kind"], line),
                times[computation],
                source[1] if source else "",
            )
            if key not in found or one.total > found[key].total:
                found[key] = one
    return sorted(found.values(), key=lambda c: -c.total)


def by_kind(found: list[Collective]) -> dict[str, dict[str, int]]:
    """Bytes of a step by kind and by axes, as `{"all-gather": {"fsdp": 123}}`."""
    sums: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for c in found:
        sums[c.kind]["×".join(c.axes) or "none"] += c.total
    return {kind: dict(axes) for kind, axes in sorted(sums.items())}


def memory_traffic(text: str, step: str = "") -> int:
    """Bytes that a program reads from and writes to the HBM of its chip, loops as often as they run; or, once, the body
    of the loop with most operations whose names contain `step`.

    The compiler's own sum also counts what moves within the chip: arrays with memory space S(1), into which it copies
    weights ahead of their use. A gather is taken to read the whole of what it gathers from, and a kernel all that it is
    given, but for what it writes a part of in place; of a conditional, the dearest branch counts. Raises NotationError
    for a text in an unknown form.
    """
    lines = _by_computation(text)
    if step:
        return _traffic(_step(lines, step), lines)
    times = _times(lines)
    return sum(times[name] * _traffic(lines[name], lines) for name in ("ENTRY", *_loops(lines)))


def kernels(text: str, step: str) -> int:
    """How many kernels a GPU launches for the body of the loop that `memory_traffic` finds; of a conditional the branch
    with most of them counts."""
    lines = _by_computation(text)

    def of(line: str) -> int:
        op = _parts(match[2])[1] if (match := _INSTRUCTION.match(line)) else ""
        branches = _branches(line) if op == "conditional" else []
        return max((sum(map(of, lines[branch])) for branch in branches), default=_launches(op))

    return sum(map(of, _step(lines, step)))


def _launches(op: str) -> bool:
    """Whether an operation is a kernel of its own."""
    return bool(op) and op not in _MOVES_NOTHING and not op.endswith("-done")


def _step(lines: dict[str, list[str]], step: str) -> list[str]:
    """The body of the loop with most operations whose names contain `step`."""
    bodies = [lines[name] for name in _loops(lines)]
    if not any(step in line for body in bodies for line in body):
        raise NotationError(f"has no loop with operations of {step}")
    return max(bodies, key=lambda body: sum(step in line for line in body))


def _loops(lines: dict[str, list[str]]) -> set[str]:
    """The computations that are bodies of loops."""
    return {name for body in lines.values() for line in body for name in re.findall(r" body=%?([\w.\-]+)", line)}


def _traffic(body: list[str], lines: dict[str, list[str]]) -> int:
    """Bytes that one run of a computation reads and writes; the loops in it are left out."""
    outputs: dict[str, list[tuple[int, bool]]] = {}
    total = 0
    for line in body:
        if not (match := _INSTRUCTION.match(line)):
            continue
        shape, op, inputs = _parts(match[2])
        outputs[match[1]] = _arrays(shape)
        operands = [outputs.get(name, []) for name in re.findall(r"%([\w.\-]+)", inputs)]
        if op in ("copy-start", "slice-start"):  # (to, from, ...) and ((from), to, ...): read once, as much as arrives
            total += outputs[match[1]][1 if op == "slice-start" else 0][0]
        elif op == "dynamic-update-slice":
            total += operands[1][0][0]
        elif op == "dynamic-slice":
            total += 2 * outputs[match[1]][0][0]
        elif op == "conditional":
            if not (branches := _branches(line)):
                raise NotationError("has a conditional without branches")
            total += max(_traffic(lines[branch], lines) for branch in branches)
        elif op.removesuffix("-start") in _GIVES_OPERANDS and op.endswith("-start"):
            moved = [*_arrays(_elements(shape)[1]), *(o[0] for o in operands if len(o) == 1)]
            total += sum(size for size, on_chip in moved if not on_chip)
        elif _launches(op):
            sliced = _sliced(line, lines)
            kept = re.findall(r"\{(\d*)\}: \((\d+), ", line) if op == "custom-call" else ()
            made, given = ({int(pair[side] or 0) for pair in kept} for side in (0, 1))
            read = [(sliced.get(i, o[0][0]), o[0][1]) for i, o in enumerate(operands) if len(o) == 1 and i not in given]
            arrays = [*(one for i, one in enumerate(outputs[match[1]]) if i not in made), *read]
            if _updates_in_place(line, lines):  # in and out are one array, of which a slice is written
                arrays = [one for one in arrays if one != outputs[match[1]][0]]
            total += sum(size for size, on_chip in arrays if not on_chip)
    return total


def _branches(line: str) -> list[str]:
    """The computations of which a conditional runs one."""
    listed = re.search(r"branch_computations=\{([^}]*)\}", line)
    found = listed[1].split(",") if listed else re.findall(r"(?:true|false)_computation=([^,]+)", line)
    return [name.strip().lstrip("%") for name in found]


def _sliced(line: str, lines: dict[str, list[str]]) -> dict[int, int]:
    """Of a fusion, the operands of which it reads slices alone, and bytes of these: a layer's part of a stack."""
    body, found = _fused(line, lines), {}
    for parameter in body:
        if not (match := re.match(r"\s*%([\w.\-]+) = .* parameter\((\d+)\)", parameter)):
            continue
        name = re.compile(rf"%{re.escape(match[1])}\b(?![.\-])")
        uses = [inner for inner in body if inner != parameter and name.search(inner)]
        slices = [_slice_of(match[1], inner, lines) for inner in uses]
        if uses and None not in slices:
            found[int(match[2])] = sum(slices)
    return found


def _slice_of(name: str, line: str, lines: dict[str, list[str]]) -> int | None:
    """Bytes of the slices that an operation takes of an array, or a fusion inside of a fusion; None where it reads the
    whole."""
    shape, op, inputs = _parts(_INSTRUCTION.match(line)[2])
    given = re.findall(r"%([\w.\-]+)", inputs)
    if op == "dynamic-slice" and given[0] == name:
        return _arrays(shape)[0][0]
    sliced = [_sliced(line, lines).get(place) for place, one in enumerate(given) if one == name]
    return None if op != "fusion" or None in sliced else sum(sliced)


def _updates_in_place(line: str, lines: dict[str, list[str]]) -> bool:
    """Whether a fusion's result is one of its operands with a slice written anew."""
    roots = [inner for inner in _fused(line, lines) if inner.lstrip().startswith("ROOT")]
    return bool(roots) and " dynamic-update-slice(" in roots[0]


def _fused(line: str, lines: dict[str, list[str]]) -> list[str]:
    """The computation of a fusion; empty for other operations."""
    called = re.search(r" fusion\(.* calls=%?([\w.\-]+)", line)
    return lines.get(called[1], []) if called else []


def _parts(instruction: str) -> tuple[str, str, str]:
    """The result's shape, which may be a tuple, the operation, and its operands."""
    depth = 0
    for end, character in enumerate(instruction):
        depth += (character == "(") - (character == ")")
        if character == " " and not depth:
            op, _, inputs = instruction[end + 1 :].partition("(")
            return instruction[:end], op, inputs.partition("), ")[0]
    raise NotationError(f"has the line {instruction[:80]!r}, which names no operation")


def _elements(shape: str) -> list[str]:
    """The parts of a tuple's shape, such as ["(f32[2], f32[4])", "f32[8]"]; of an array's, itself alone."""
    if not shape.startswith("("):
        return [shape]
    parts, depth = [""], 0
    for character in shape[1:-1]:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _arrays(shape: str) -> list[tuple[int, bool]]:
    """(bytes, whether on the chip itself) of every array of a shape."""
    found = []
    for kind, bits, dims, layout in _ARRAY.findall(shape):
        size = math.prod(int(n) for n in dims.split(",") if n) * (1 if kind == "pred" else max(int(bits) // 8, 1))
        found.append((size, "S(1)" in layout or "S(2)" in layout))
    return found


def _by_computation(text: str) -> dict[str, list[str]]:
    """Lines of each computation by its name; the one that runs first is called ENTRY."""
    lines: dict[str, list[str]] = {}
    current = ""
    for line in text.splitlines():
        if match := _COMPUTATION.match(line):
            current = match[1] if not line.startswith("ENTRY") else "ENTRY"
            lines[current] = []
        elif current:
            lines[current].append(line)
    if not any(_INSTRUCTION.match(line) for line in lines.get("ENTRY", ())):
        raise NotationError("has no ENTRY computation with instructions")
    return lines


def _times(lines: dict[str, list[str]]) -> dict[str, int]:
    """How often each computation runs in a step: the product of the loops around it."""
    times: dict[str, int] = defaultdict(int)
    waiting = [("ENTRY", 1)]
    while waiting:
        name, count = waiting.pop()
        if count <= times[name]:
            continue
        times[name] = count
        for line in lines.get(name, ()):
            inner = count
            if " while(" in line:
                if not (condition := re.search(r"condition=%?([\w.\-]+)", line)) or condition[1] not in lines:
                    raise NotationError("has a loop without a condition")
                known = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', line)
                inner = count * (int(known[1]) if known else _trips(lines[condition[1]]))
            waiting += [(called, inner) for called in _CALLED.findall(line) + _branches(line) if called in lines]
    return times


def _trips(condition: list[str]) -> int:
    """A scan's condition compares its counter with the one whole number in it."""
    limits = [int(n) for line in condition for n in re.findall(r"s32\[\]\S* constant\((\d+)\)", line)]
    return max(limits, default=1)


def _bytes(shape: str, kind: str, line: str) -> int:
    """Bytes that count for a collective: of its result, or of the operand of a reduce-scatter, which is as many times
    larger as its groups have members."""
    parts = _elements(shape)
    if "-start(" in line and kind in _GIVES_OPERANDS:
        parts = parts[1:2]
    if kind == "send":
        parts = parts[:1]  # (operand, context, token)
    size = sum(size for part in parts for size, _ in _arrays(part))
    return size * len(_groups(line)[0]) if kind == "reduce-scatter" else size


def _axes(line: str, mesh: jax.sharding.Mesh) -> tuple[str, ...]:
    """The mesh axes along which the members of a group differ."""
    if " send(" in line:
        return ("data",)
    ids = np.arange(mesh.size).reshape(mesh.devices.shape)
    groups = _groups(line) or [list(range(mesh.size))]
    varying = set()
    for group in groups:
        places = np.array([np.argwhere(ids == member)[0] for member in group])
        varying |= {mesh.axis_names[i] for i in range(ids.ndim) if len(set(places[:, i])) > 1}
    return tuple(axis for axis in mesh.axis_names if axis in varying)


def _groups(line: str) -> list[list[int]]:
    """Members of the groups, in any of the three notations: lists, iota tiles, or axes of a device grid; [] for one
    group of all."""
    if pairs := re.search(r"source_target_pairs=\{(.*?)\}\}", line):
        return [[int(n) for n in re.findall(r"\d+", pair)] for pair in pairs[1].split("},")]
    if listed := re.search(r"replica_groups=\{(\{.*?\})\}", line):
        return [[int(n) for n in re.findall(r"\d+", group)] for group in re.findall(r"\{([\d,]*)\}", listed[1])]
    if tiled := re.search(rf"replica_groups=\[([\d,]+)\]<={_IOTA}", line):
        return _iota(tiled[2], tiled[3]).reshape(_numbers(tiled[1])).tolist()
    if grid := re.search(rf"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\({_IOTA}\))?\s*\{{([^}}]*)\}}", line):
        sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", grid[1])}
        along = re.findall(r"'(\w+)'", grid[4])
        ids = _iota(grid[2] or str(math.prod(sizes.values())), grid[3]).reshape(list(sizes.values()))
        order = [list(sizes).index(name) for name in sizes if name not in along]
        order += [list(sizes).index(name) for name in along]
        return ids.transpose(order).reshape(-1, math.prod(sizes[name] for name in along)).tolist()
    if unknown := re.search(r"(?:replica_groups|source_target_pairs)=(?!\{\})\S+", line):
        raise NotationError(f"has the groups {unknown[0][:80]}")
    return []


def _iota(dims: str, order: str | None) -> np.ndarray:
    """Device ids as "[2,4]T(1,0)" gives them: counted up in the shape, whose axes are then exchanged."""
    ids = np.arange(math.prod(_numbers(dims))).reshape(_numbers(dims))
    return ids.transpose(_numbers(order)) if order else ids


def _numbers(listed: str) -> list[int]:
    return [int(n) for n in listed.split(",")]
