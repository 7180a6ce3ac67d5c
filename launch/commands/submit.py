"""`submit`: a run for several processes, here or on a platform."""

from dataclasses import replace

from etils import epath

from ratchet.bootstrap.config import Config
from ratchet.bootstrap.engines import check_slots
from ratchet.bootstrap.rubric import PACKS
from ratchet.launch import preflight
from ratchet.launch.lines import UserError, tell
from ratchet.launch.options import asks_for_help, lacks_base, lacks_documents, parse_run, value_of
from ratchet.launch.output import make_console, print_json, quiet
from ratchet.launch.recipes import RECIPES
from ratchet.launch.submit import PLATFORMS
from ratchet.launch.submit.asked import OnSlices, Submission
from ratchet.launch.submit.local import Local
from ratchet.launch.submit.slurm import Slurm
from ratchet.models.pretrained import PACKAGES
from ratchet.train.buckets import in_bucket
from ratchet.train.checkpoint import check_that_all_save
from ratchet.train.sharding import mesh_shape


def submit(words: list[str]) -> int:
    to = value_of("--to", words)
    if to not in PLATFORMS and not (asks_for_help(words) and not to):
        named = f"there is no platform {to!r}" if to else "say where to run it"
        raise UserError(f"submit: {named}; give --to {', '.join(list(PLATFORMS)[:-1])} or {list(PLATFORMS)[-1]}")
    platform = PLATFORMS[to or "local"]
    asked = parse_run("submit", platform.kind, words)
    if reason := lacks_documents("submit", asked.config, f" --to {to}"):
        raise UserError(reason)
    if reason := lacks_base(asked.config):
        raise UserError(f"submit: {reason}")
    manifest = platform.manifest(asked)  # before anything slow: what it refuses is known at once
    check_that_all_save(asked.directory, _processes(asked))
    _check_that_it_divides(asked)
    if isinstance(asked, OnSlices):
        _tell_where_it_reads(asked)
        _tell_what_keys_it_lacks(asked, to)
    if asked.dry_run:
        print_json({"to": asked.to, "manifest": manifest}) if asked.json else print(manifest, end="")
        return 0
    quiet()
    if isinstance(asked, Local) or isinstance(asked, Slurm) and not asked.card:
        _tell_that_nothing_was_compiled(asked)
    elif not asked.force:
        _check_that_it_fits(asked)
    return platform.submit(asked)


def _processes(asked: Submission) -> int:
    """Processes that will work on the run together."""
    match asked:
        case OnSlices():
            return asked.slices * asked.slice.hosts
        case Slurm():
            return asked.nodes * asked.gpus
        case Local():
            return asked.processes
    raise AssertionError(asked)


def _check_that_it_divides(asked: Submission) -> None:
    """Looks at what is known without a compiler. Raises UserError where the mesh and the sampler's slots do not divide
    over the devices of TPU slices or of a cluster, of which JAX takes each machine's for a slice."""
    match asked:
        case OnSlices():
            devices, slices = asked.slice.chips * asked.slice.kind.devices, asked.slices
            where = f"{slices} slices of {devices} devices" if slices > 1 else f"{devices} devices"
        case Slurm():
            devices, slices, where = asked.gpus, asked.nodes, f"{asked.nodes} nodes of {asked.gpus} GPUs"
        case _:
            return
    try:
        data, fsdp, _ = mesh_shape(asked.config.mesh, slices * devices, slices)
        check_slots(asked.config, data * fsdp)
    except ValueError as error:
        raise UserError(f"submit: on {where}: {error}") from None


def _tell_where_it_reads(asked: OnSlices) -> None:
    """Says what the run will look for in its container, since a folder of this machine is not there."""
    config, documents = asked.config, asked.config.documents
    given = {
        "base": config.base, "documents.path": documents.path, "documents.questions": documents.questions,
        "documents.tasks": documents.tasks, "review.rubric": "" if config.review.rubric in PACKS else
        config.review.rubric, "simulate.mcp": config.simulate.mcp, "world": config.world if ":" in config.world else "",
    }  # fmt: skip
    inside = [
        f"--{option} {value}" for option, value in given.items()
        if value and not in_bucket(value) and value not in PACKAGES
    ]  # fmt: skip
    if config.base in PACKAGES:
        tell(f"submit: --base {config.base}: the image has to bring it: build it with EXTRAS=...,{config.base}")
    if inside:
        said = f"submit: {', '.join(inside)}: looked for in the container; what lies in gs:// or s3:// is fetched"
        tell(said)


def _tell_what_keys_it_lacks(asked: OnSlices, to: str) -> None:
    """Says which keys the run may ask for that do not come with it. A secret of a cluster may hold them."""
    config = asked.config
    asks = {
        "RATCHET_TEACHER_KEY": config.teacher.url, "RATCHET_JUDGE_KEY": config.judge.url,
        "RATCHET_ROLLOUTS_KEY": config.rollouts.url, "WANDB_API_KEY": config.wandb,
    }  # fmt: skip
    keys = [name for name, there in asks.items() if there]
    if keys and not getattr(asked, "secret", ""):
        mend = "give --secret" if to == "gke" else "the image has to bring it"
        tell(f"submit: --to {to} hands no key over; where {' and '.join(keys)} must be set, {mend}")


def _tell_that_nothing_was_compiled(asked: Slurm | Local) -> None:
    """Says why preflight is not asked."""
    where = "the run begins on this machine and shows it at once"
    if isinstance(asked, Slurm):
        where = "what the GPUs are is not known; say it by --card h100 or h200"
    tell(f"submit: preflight was not asked whether the run fits: {where}")


def _as_known_here(asked: OnSlices | Slurm) -> Config | None:
    """The settings with the recipe's own shape of a model, where its folder is in the container alone; None where it is
    known here. Raises UserError when the recipe has no shape."""
    config = asked.config
    if not config.base or config.base in PACKAGES or in_bucket(config.base) or epath.Path(config.base).exists():
        return None
    if RECIPES[config.recipe].config.base:
        raise UserError(
            f"submit: {config.base} is not on this machine, so nobody knows here whether it fits; give a recipe of its "
            "shape, such as pod-0.6b, or submit all the same with --force"
        )
    tell(f"submit: {config.base} is not on this machine; preflight is asked about the shape of {config.recipe}")
    return config


def _check_that_it_fits(asked: OnSlices | Slurm) -> None:
    """Compiles all steps of a generation and prints what they take. Raises UserError for what does not fit."""
    if isinstance(asked, Slurm):
        topology, shaped = f"{asked.card}:{asked.gpus}", _as_known_here(asked)
        question = preflight.Preflight(_of_a_node(asked.config, asked.nodes), topology, step="generation")
        shaped = shaped and _of_a_node(shaped, asked.nodes)
    else:
        topology, shaped, dollars = asked.topology, _as_known_here(asked), asked.dollars_per_chip_hour
        question = preflight.Preflight(
            asked.config, topology, asked.slices, "generation", dollars_per_chip_hour=dollars
        )
    found = preflight.preflight(question, tell, shaped)
    preflight.show(found, make_console(aside=True))
    if too_large := [step for step, one in found["steps"].items() if not one["fits"]]:
        raise UserError(
            f"submit: {' and '.join(too_large)} would not fit {topology}; change what the table advises, take more "
            "chips, or submit all the same with --force"
        )


def _of_a_node(config: Config, nodes: int) -> Config:
    """The settings with one of so many nodes' part of a batch and of the slots: what its GPUs hold and compute is the
    same, since the mesh divides these over nodes first."""
    mesh = replace(config.mesh, data=max(config.mesh.data // nodes, 1) if config.mesh.data > 0 else config.mesh.data)
    train = replace(config.train, batch=-(-config.train.batch // nodes))
    simulate = replace(config.simulate, slots=-(-config.simulate.slots // nodes))
    return replace(config, mesh=mesh, train=train, simulate=simulate)
