"""Checkpoints of a run: arrays, place in the data, and facts, through Orbax."""

import pathlib
import tempfile
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers
import tensorstore

from eos_jax import files, processes


class CheckpointError(ValueError):
  """Checkpoints from which a run cannot be resumed."""


class OtherRun(CheckpointError):
  """A checkpoint that another model, or other settings, made."""


class Checkpointer:
  """Saves and restores `(state, place in the data, facts)` in a directory.

  Of several processes all save and restore, in a directory that they share.

  Frozen weights are not part of a state; their fingerprint belongs in `facts`,
  which must be equal when a run is resumed. The newest are kept, and if it is
  wanted the best of those that were saved with a score.
  """

  def __init__(
    self, directory: pathlib.Path, *, keep: int = 2, best: bool = False
  ):
    policies = [checkpoint_managers.LatestN(keep)]
    if best:
      policies.append(
        checkpoint_managers.BestN(
          get_metric_fn=_score, n=1, keep_checkpoints_without_metrics=False
        )
      )
    options = ocp.CheckpointManagerOptions(
      preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
      best_fn=_score if best else None,
      create=True,
    )
    self._manager = ocp.CheckpointManager(
      pathlib.Path(directory).resolve(), options=options
    )

  @property
  def latest(self) -> int | None:
    """Number of the newest saved step."""
    return self._manager.latest_step()

  @property
  def best(self) -> int | None:
    """Number of the saved step with the highest score, if any has one."""
    self._manager.wait_until_finished()
    return self._manager.best_step()

  def save(
    self,
    step: int,
    state: Any,
    iterator: Any,
    facts: dict[str, Any],
    score: float | None = None,
  ) -> None:
    """Saves in the background.

    Args:
      step: number of steps done.
      state: pytree of arrays and typed keys.
      iterator: stands behind the last batch used (`data.loader.Batches`).
      facts: what must hold when the run is resumed; plain JSON values.
      score: how good the state is; None = not known.
    """
    self._manager.save(
      step,
      metrics=None if score is None else {"score": score},
      args=ocp.args.Composite(
        state=ocp.args.StandardSave(_table(state)),
        data=ocp.args.JsonSave({"batches": iterator.position}),
        facts=ocp.args.JsonSave(facts),
      ),
    )

  def restore(
    self, like: Any, iterator: Any, facts: dict[str, Any]
  ) -> tuple[Any, Any, int]:
    """Restores the newest readable checkpoint into today's shardings.

    A damaged one is set aside, with a line that says so, and the one before it
    is taken.

    Args:
      like: state with the shapes, dtypes and shardings to restore into.
      iterator: a fresh iterator over the same data; it is moved forward.
      facts: what must hold of the run, such as the model's fingerprint.

    Returns:
      The state, the iterator, and the number of steps done.

    Raises:
      OtherRun: the checkpoint was made under other facts.
      CheckpointError: no checkpoint can be read.
    """
    damaged = []
    while (step := self.latest) is not None:
      try:
        saved = self._manager.restore(
          step, args=ocp.args.Composite(facts=ocp.args.JsonRestore())
        )["facts"]
        restored = self._restore(step, like, iterator, saved, facts)
      except OtherRun:
        raise
      # Whatever a damaged file makes Orbax, grain or tensorstore raise.
      except Exception as error:
        reason = f"{type(error).__name__}: {str(error).splitlines()[0][:160]}"
        aside = self._set_aside(step)
        damaged.append(f"{aside}: {reason}")
        print(
          f"warning: checkpoint {step} in {self._manager.directory} is damaged"
          f" ({reason}); it now lies in {aside}, and the one before it is used",
          flush=True,
        )
        continue
      return *restored, step
    raise CheckpointError(
      f"no checkpoint in {self._manager.directory} can be read; start again"
      " with a new --workdir, or put an intact copy back:\n  "
      + "\n  ".join(damaged)
    )

  def restore_best(self, like: Any) -> tuple[Any, int]:
    """Restores the state with the highest score, and its number of steps.

    Args:
      like: state with the shapes, dtypes and shardings to restore into.

    Raises:
      CheckpointError: no state was saved with a score, or it cannot be read.
    """
    step = self.best
    if step is None:
      raise CheckpointError(
        f"no checkpoint in {self._manager.directory} has a score; start again"
        " with a new --workdir"
      )
    try:
      return self._state(step, like), step
    except Exception as error:  # as in `restore`
      raise CheckpointError(
        f"checkpoint {step} in {self._manager.directory}, the best, cannot be"
        f" read ({type(error).__name__}); put an intact copy back, or start"
        " again with a new --workdir"
      ) from error

  def _state(self, step, like):
    abstract = {
      name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
      for name, leaf in _table(like).items()
    }
    _read_through(pathlib.Path(self._manager.directory) / str(step) / "state")
    restored = self._manager.restore(
      step,
      args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract)),
    )
    return _tree(restored["state"], like)

  def _restore(self, step, like, iterator, saved, facts):
    facts = files.plain(facts)  # as it was stored: no tuples
    changed = [
      f"{name}: saved {saved.get(name)!r}, now {facts.get(name)!r}"
      for name in sorted(saved.keys() | facts.keys())
      if saved.get(name) != facts.get(name)
    ]
    if changed:
      raise OtherRun(
        f"checkpoint {step} in {self._manager.directory} belongs to another"
        " run; use a new --workdir or restore these settings:\n  "
        + "\n  ".join(changed)
      )
    state = self._state(step, like)
    data = self._manager.restore(
      step, args=ocp.args.Composite(data=ocp.args.JsonRestore())
    )["data"]
    iterator.seek(data["batches"])
    return state, iterator

  def _set_aside(self, step):
    """Moves a step out of sight of the manager; nothing is deleted."""
    processes.meet("damaged")  # nobody reads it any more
    root = pathlib.Path(self._manager.directory)
    aside = root.with_name(f"{root.name}.damaged")
    if processes.first():
      aside.mkdir(exist_ok=True)
      aside = pathlib.Path(tempfile.mkdtemp(prefix=f"{step}.", dir=aside))
      (root / str(step)).rename(aside / str(step))
    processes.meet("set aside")
    self._manager.reload()
    return aside

  def close(self) -> None:
    """Waits for pending saves."""
    self._manager.wait_until_finished()
    self._manager.close()


def _score(metrics):
  return metrics["score"]


def _read_through(folder):
  """Raises if an array below a folder cannot be read.

  Orbax reads all arrays at once. When one fails it gives up the others, which
  then print a traceback each.
  """
  base = {"driver": "ocdbt", "base": f"{folder.as_uri()}/"}
  store = tensorstore.KvStore.open(base).result()
  for name in store.list().result():
    store.read(name).result()


def _is_key(leaf):
  return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _table(state):
  """Leaves by path: independent of the classes that hold them.

  Typed random keys become plain integers, which is what Orbax stores.
  """
  return {
    jax.tree_util.keystr(path): jax.random.key_data(leaf)
    if _is_key(leaf)
    else leaf
    for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]
  }


def _tree(table, like):
  """Inverse of `_table`."""
  paths, treedef = jax.tree_util.tree_flatten_with_path(like)
  leaves = [table[jax.tree_util.keystr(path)] for path, _ in paths]
  return treedef.unflatten(
    jax.random.wrap_key_data(leaf) if _is_key(model) else leaf
    for leaf, (_, model) in zip(leaves, paths, strict=True)
  )
