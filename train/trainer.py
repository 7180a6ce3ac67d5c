"""The training loop: evaluate → save → next batch → step → log. The order is a contract that resume relies on.

Everything on device is one jitted step; metrics of a step are fetched after the next one is dispatched, unless steps
are so long that nothing is gained by it, and nothing else touches the host.
"""

import functools
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from signal import SIGTERM
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from ratchet.models import programs
from ratchet.models.bounds import bounded
from ratchet.models.decoder import Remat
from ratchet.models.inference import columns_for
from ratchet.models.kernels import Attention, Kernel
from ratchet.models.programs import compiled, compiler_options, platform
from ratchet.train import flops, lora, stopping
from ratchet.train import optimizer as optimizers
from ratchet.train.batches import Batch, Batches, pack
from ratchet.train.checkpoint import Checkpoints
from ratchet.train.loss import LossConfig, LossSums, soft_target_loss
from ratchet.train.monitor import STOP, Profile, Signals, StepMetrics, Watchdog
from ratchet.train.records import Example
from ratchet.train.sharding import ROWS_AND_HEADS, laid_out, own_rows, place, place_batch, state_sharding
from ratchet.train.stopping import Ends


@dataclass(frozen=True)
class EngineConfig:
    """How steps are computed and watched. Only the loss's own settings change what is learned, beyond rounding."""

    loss: LossConfig = field(default_factory=LossConfig)
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of products and activations; weights, optimizer and sums are float32. GPUs and TPUs round what a product in
    float32 multiplies, to TF32 and bfloat16, as JAX leaves it to them."""
    remat: Remat = "none"
    """What the backward pass computes again: nothing that takes long, all but matrix products (dots), or every layer
    (full)."""
    attention: Attention = "auto"
    """By device: splash on TPU, cuDNN on GPU in bfloat16, plain matrix products elsewhere; sampling and review too."""
    deterministic: bool = False
    """Whether training, sampling and review give the same bits from run to run on GPUs too. It costs speed: operations
    sum in a fixed order, and no kernel is chosen by timing it. Runs on CPUs are bit-identical without it."""
    micro_batches: int = bounded(1, "at least 1")
    """Parts of a batch that are computed one after the other; their gradients are added."""
    save_every: int = bounded(0, "at least 0")
    """Steps between checkpoints that are kept; 0 for none."""
    save_minutes: float = bounded(10.0, "above 0")
    """Minutes between checkpoints of which the newest two are kept, until the generation ends if `save_every` is 0."""
    stall_minutes: float = bounded(60.0, "above 0")
    """A run in which no step ends for so long is ended; the first step compiles meanwhile."""
    profile: tuple[int, int] = bounded((0, 0), "at least 0")
    """Traces the steps from the first number to before the second for xprof."""


class State(NamedTuple):
    """What training changes: the weights or, with a rank, the adapters. `step` is the data position: the next batch to
    read."""

    params: nnx.State | lora.Adapters
    optimizer: optax.OptState
    step: jax.Array


@dataclass(frozen=True)
class Training:
    """One training run: what `fit` needs besides its starting weights.

    `position` is saved with every checkpoint and must match on resume.
    """

    graphdef: nnx.GraphDef
    batches: Batches
    optimizer: optimizers.OptimizerConfig
    mesh: jax.sharding.Mesh
    engine: EngineConfig
    position: dict[str, Any]
    profile_directory: str = "profile"
    rank: int = 0
    """Rank of the adapters that are trained instead of the weights, and merged into them at the end; 0: the weights are
    trained."""
    new: tuple[int, ...] = ()
    """Ids of tokens whose rows are trained beside adapters: those that the model's tokenizer.json has not."""


class TrainingDiverged(Ends):
    """The loss stopped being a number."""


def fit(
    run: Training, params: nnx.State, checkpoints: Checkpoints | None, log: Callable[[int, StepMetrics], None],
    *, clock: Callable[[], float] = time.monotonic,
) -> nnx.State:
    """Trains from `params`, or from the newest checkpoint, to the last step; returns the weights to keep.

    All processes call it alike, with the same weights. Raises TrainingDiverged when a loss is not finite, ValueError
    when a checkpoint belongs to another run. After SIGTERM or Ctrl-C it saves and raises Stopped once the step that is
    running has ended; several processes agree on it in two more steps.
    """
    engine, batches, alone = run.engine, run.batches, jax.process_count() == 1
    tx, rate = optimizers.create(run.optimizer), optimizers.schedule(run.optimizer, batches.steps)
    profile, watchdog = Profile(engine.profile, run.profile_directory), Watchdog(engine.stall_minutes, "train")
    with jax.set_mesh(run.mesh), stopping.deferred() as asked, watchdog, profile:
        signals = Signals(engine.save_minutes, clock, asked)
        trained, frozen = _adapted(run, params)
        state = _restored(run, tx, trained, checkpoints)
        saved = int(state.step) if state else -1
        state = state or _initial(run, tx, trained)
        train_step = make_step(run.graphdef, tx, engine, state, batches.segments, run.new)
        start = int(state.step)
        report, running, signal = _Reporter(run, params, log, rate, clock, start), deque(), 0
        stream = batches.iterate(start, own_rows(run.mesh, batches.rows))

        def save(step: int) -> None:
            checkpoints.save(step, state, position=run.position)
            signals.saved()

        for step in range(start, batches.steps):
            due = engine.save_every and step > start and step % engine.save_every == 0
            signal = STOP if alone and asked() else signal
            if checkpoints and (signal or due) and step > saved:
                for ended in running:  # one whose loss is no number made weights that are not to be kept
                    _finite(*ended)
                save(step)
                saved = step
            if signal == STOP:
                raise stopping.Stopped(asked() or SIGTERM)
            if step in engine.profile:  # what was dispatched before belongs to the other side of this bound
                jax.block_until_ready([sums for _, sums in running])
            profile.before(step)
            batch = place_batch(run.mesh, batches.rows, _signed(next(stream), signals.now(), rate(step)))
            state, sums = train_step(state, batch, frozen)
            running.append((step, sums))
            while len(running) > report.ahead:
                ended, sums = running.popleft()
                wanted = report(ended, sums)
                granted = wanted != STOP and ended < saved  # since then there was a save
                signal = 0 if granted else wanted
                watchdog.beat(f"after step {ended}")
        signal = max([signal, *(report(*ended) for ended in running)])
        if asked() or signal == STOP:
            if checkpoints and (alone or signal == STOP) and batches.steps > saved:
                save(batches.steps)
            raise stopping.Stopped(asked() or SIGTERM)
    found = optimizers.final_weights(state.optimizer, state.params)
    return lora.merged(frozen, found, run.new, engine.deterministic) if run.rank else found


def _adapted(run: Training, params: nnx.State) -> tuple[nnx.State, nnx.State | None]:
    """What is trained, and the weights that adapters change, None where they are trained themselves."""
    if not run.rank:
        return params, None
    adapters = lora.create(params, run.rank, run.batches.seed, run.new)
    return adapters, jax.device_put(params, state_sharding(run.mesh, params))


def make_step(graphdef: nnx.GraphDef, tx: optax.GradientTransformationExtraArgs, engine: EngineConfig, like: State,
              segments: int = 0, new: tuple[int, ...] = ()):
    """The jitted step (state, batch, frozen) -> (state, sums and gradient norm). `frozen` are the weights that trained
    adapters change, None where the weights themselves are trained, and `new` the tokens whose rows they change. Rows
    have at most so many `segments`; 0 where that is not known. Every row of the batch says the `signal` and the `rate`
    beside what `Batches` gives.

    It leaves the state laid out as `like`, a state or its shapes, so that the next step is the same program; so is a
    step of another run with batches of the same shapes.
    """
    layout = jax.tree.map(lambda x: x.sharding, like)
    on = platform(min(jax.tree.leaves(layout)[0].device_set, key=lambda d: d.id))
    options = compiler_options(engine.deterministic, on, trains=True)
    most = (1 << segments.bit_length()) - 1 if on == "gpu" else 0  # the only kernels that heed it, rounded up as here
    step = _train_step(graphdef, tx, engine, most, new)
    return jax.jit(step, donate_argnums=0, out_shardings=(layout, None), compiler_options=options)


@functools.lru_cache(maxsize=16)
def _train_step(graphdef: nnx.GraphDef, tx: optax.GradientTransformationExtraArgs, engine: EngineConfig,
                segments: int, new: tuple[int, ...]) -> Callable:
    """The function that `make_step` compiles; JAX knows a program by it."""

    def train_step(state: State, batch, frozen: nnx.State | None = None) -> tuple[State, dict[str, jax.Array]]:
        def objective(trained, batch) -> tuple[jax.Array, LossSums]:
            weights, adapters = (trained, {}) if frozen is None else lora.rows_added(frozen, trained, new)
            sums = loss_sums(graphdef, weights, batch, engine, adapters, segments)
            return sums.loss, sums

        signal, rate = jnp.max(batch["signal"]), jnp.max(batch["rate"])
        batch = {name: array for name, array in batch.items() if name not in ("signal", "rate")}
        grads, sums = _accumulated(jax.grad(objective, has_aux=True), state.params, batch, engine.micro_batches)
        # One division for all: over the mesh, packed rows and micro-batches a mean of means would weigh wrongly.
        grads = jax.tree.map(lambda g: g / jnp.where(sums.weight > 0, sums.weight, 1.0), grads)
        updates, opt_state = tx.update(grads, state.optimizer, state.params, rate=rate)
        params = optax.apply_updates(state.params, updates)
        metrics = sums._asdict() | {
            "gradient_norm": optax.tree.norm(grads), "tokens": jnp.sum(batch["segments"] > 0), "signal": signal,
        }
        return State(params, opt_state, state.step + 1), metrics

    return train_step


def _accumulated(gradient: Callable, params: nnx.State, batch, parts: int) -> tuple[nnx.State, LossSums]:
    """Gradients and sums of a batch, added up over `parts` of it."""
    if parts == 1:
        return gradient(params, batch)

    def part(total, micro_batch):
        return jax.tree.map(jnp.add, total, gradient(params, micro_batch)), None

    # Row r goes to part r mod parts, so that a part's rows lie on all devices and none has to move.
    parted = jax.tree.map(lambda x: x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1), batch)
    zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(gradient, params, _first(parted)))
    return jax.lax.scan(part, zero, parted)[0]


def _first(tree):
    return jax.tree.map(lambda x: x[0], tree)


def loss_sums(graphdef: nnx.GraphDef, params: nnx.State, batch, engine: EngineConfig,
              adapters: lora.Adapters = MappingProxyType({}), segments: int = 0) -> LossSums:
    """The sums of the loss over the weighted positions of a batch; `segments` as in `make_step`."""
    model = nnx.merge(graphdef, params)
    kernel = Kernel(engine.attention, None if jax.sharding.get_abstract_mesh().empty else ROWS_AND_HEADS, segments)
    hidden_RTD = model(
        batch["tokens"], batch["positions"], batch["segments"], dtype=jnp.dtype(engine.dtype), remat=engine.remat,
        kernel=kernel, adapters=adapters,
    )
    hidden_RMD = jnp.take_along_axis(hidden_RTD, batch["predict"][..., None], axis=1)
    return soft_target_loss(
        hidden_RMD, model.head_DV(), batch["ids"], batch["probs"], batch["tail"], batch["weights"], engine.loss,
        labels_BT=batch["labels"], softcap=model.config.family.logit_softcap,
    )


def compile_step(run: Training, params: nnx.State) -> None:
    """Compiles the step that `fit` trains with from such weights, and runs nothing."""
    tx, mesh, engine = optimizers.create(run.optimizer), run.mesh, run.engine
    with jax.set_mesh(mesh):
        adapters = lambda: lora.create(params, run.rank, run.batches.seed, run.new)
        trained = jax.eval_shape(adapters) if run.rank else params
        state = _layout(run, tx, trained)
        frozen = laid_out(params, state_sharding(mesh, params)) if run.rank else None
        own = own_rows(mesh, run.batches.rows)
        batch = place_batch(mesh, run.batches.rows, _signed(run.batches.part(0, own)))
        compiled(make_step(run.graphdef, tx, engine, state, run.batches.segments, run.new), state, batch, frozen)


def _signed(batch: Batch, signal: int = 0, rate: float = 0.0) -> Batch:
    """Rows of a batch, each of which says the signal and the rate too."""
    told = {"signal": np.int32(signal), "rate": np.float32(rate)}
    return batch | {name: np.full(len(batch["tokens"]), number) for name, number in told.items()}


LONG = 5.0
"""A step of so many seconds, or more, is waited for before the next one starts: whoever asks for a stop would wait for
both."""


class _Reporter:
    """Turns the sums of a step into metrics and hands them to `log`. `ahead` is how many steps may run before a step is
    reported: one or, of long steps, none."""

    def __init__(self, run: Training, params: nnx.State, log: Callable[[int, StepMetrics], None],
                 rate: Callable[[int], float], clock: Callable[[], float], start: int):
        self._run, self._log, self._rate, self._clock = run, log, rate, clock
        self._start, self._began = start, clock()
        self._model = nnx.merge(run.graphdef, params).config
        self._devices = list(run.mesh.devices.flat)
        self._alone = jax.process_count() == 1
        self.ahead = int(not self._alone)

    def __call__(self, step: int, sums: dict[str, jax.Array]) -> int:
        """Logs the step; returns the largest signal of the processes."""
        host = _finite(step, sums)
        seconds = self._seconds(step)
        if self._alone:  # several processes have to report the same step together
            self.ahead = int(seconds < LONG)
        batches, weight = self._run.batches, host["weight"] or 1.0
        tokens, frozen = host["tokens"], bool(self._run.rank)
        cost = flops.step_flops(self._model, tokens, host["weight"], batches.columns, frozen=frozen)
        means = {name: host[name] / weight for name in ("loss", "kl", "tail", "hits")}
        used = flops.mfu(cost, seconds, self._devices)
        self._log(step, means | {
            "gradient_norm": host["gradient_norm"], "tokens": host["tokens"], "trained_tokens": host["weight"],
            "rate": self._rate(step), "tokens_per_second": host["tokens"] / seconds,
        } | ({} if used is None else {"mfu": used}) | self._left(step, seconds))
        return int(host["signal"])

    def _left(self, step: int, seconds: float) -> StepMetrics:
        """The seconds to the end, which the first of several steps tells nothing of."""
        left = self._run.batches.steps - step - 1
        return {"seconds_left": seconds * left} if step > self._start or not left else {}

    def _seconds(self, step: int) -> float:
        """Seconds of a step, on average since the first one, which compiles and is left out."""
        now, steps = self._clock(), step - self._start
        if steps:
            return max((now - self._began) / steps, 1e-9)
        took, self._began = now - self._began, now
        return max(took, 1e-9)


def _finite(step: int, sums: dict[str, jax.Array]) -> dict[str, float]:
    """What a step measured, once it has ended. Raises TrainingDiverged where that is no number."""
    host = {name: float(value) for name, value in jax.device_get(sums).items()}
    for name, of in (("loss", "loss"), ("gradient_norm", "norm of the gradient")):
        if not np.isfinite(host[name]):
            raise TrainingDiverged(
                f"train: the {of} is {host[name]} at step {step}; start a new run with a lower --train.optimizer.rate"
            )
    return host


def _initial(run: Training, tx: optax.GradientTransformation, params: nnx.State | lora.Adapters) -> State:
    """The state before the first step, laid out over the mesh."""
    params = place(params, state_sharding(run.mesh, params))
    like = jax.eval_shape(tx.init, params)
    optimizer = jax.jit(tx.init, out_shardings=state_sharding(run.mesh, like))(params)
    step = jnp.zeros((), jnp.int32)
    return State(params, optimizer, place(step, state_sharding(run.mesh, step)))


def _layout(run: Training, tx: optax.GradientTransformation, params: nnx.State | lora.Adapters) -> State:
    """The shapes of the state, laid out over the mesh."""
    shapes = State(params, jax.eval_shape(tx.init, params), jax.ShapeDtypeStruct((), jnp.int32))
    return laid_out(shapes, state_sharding(run.mesh, shapes))


def _restored(run: Training, tx: optax.GradientTransformation, params: nnx.State | lora.Adapters,
              checkpoints: Checkpoints | None) -> State | None:
    """The newest checkpoint of a state of such `params`, of which shapes are enough; None where there is none.

    No other state is made beside it, for which large models have no memory. Raises ValueError for a checkpoint of
    another run.
    """
    if checkpoints is None or checkpoints.latest() is None:
        return None
    state, position = checkpoints.restore(_layout(run, tx, params))
    if position != run.position:
        fields = sorted(k for k in {*position, *run.position} if position.get(k) != run.position.get(k))
        raise ValueError(
            f"{checkpoints.directory}: the checkpoint was made with other {', '.join(fields)}; delete it and resume "
            "the run to train this again"
        )
    return state


def mean_loss(
    graphdef: nnx.GraphDef, params: nnx.State, examples: Sequence[Example], rows: int = 32, deterministic: bool = False
) -> float:
    """Mean loss in nats per weighted token of examples, one a row; `deterministic` as in EngineConfig."""
    total, weight, plain_sums = 0.0, 0.0, _plain_sums(deterministic)
    for batch in _one_a_row(examples, rows):
        sums = plain_sums(graphdef, params, batch)
        total, weight = total + float(sums.loss), weight + float(sums.weight)
    return total / max(weight, 1.0)


def compile_mean_loss(
    graphdef: nnx.GraphDef, params: nnx.State, examples: Sequence[Example], rows: int = 32, deterministic: bool = False
) -> None:
    """Compiles what `mean_loss` runs for such examples, and runs nothing; of the weights, shapes are enough."""
    compiled(_plain_sums(deterministic), graphdef, params, next(_one_a_row(examples, rows)))


def _one_a_row(examples: Sequence[Example], rows: int) -> Iterator[Batch]:
    """Batches of examples in their order, one a row, all of one shape."""
    columns = columns_for(max(len(e.tokens) for e in examples), 32, programs.few())
    predictions = columns_for(max(len(e.ids) for e in examples), 16, programs.few())
    keep = max(e.ids.shape[1] for e in examples)
    for start in range(0, len(examples), rows):
        chosen = examples[start : start + rows]
        yield pack(chosen, range(len(chosen)), rows, columns, predictions, keep)


@functools.cache
def _plain_sums(deterministic: bool) -> Callable[..., LossSums]:
    sums = functools.partial(loss_sums, engine=EngineConfig(attention="plain"))
    return jax.jit(sums, static_argnums=0, compiler_options=compiler_options(deterministic, platform()))
