"""Rules about values of settings that several jobs share.

Each yields what is wrong, starting with the name of the field.
"""

from collections.abc import Iterator

from eos_jax import naming
from eos_jax.naming import quoted


def share_faults(weights: tuple[float, ...]) -> Iterator[str]:
  """What is wrong with the shares of the sources."""
  if not weights or min(weights) < 0 or sum(weights) <= 0:
    yield f"weights is {quoted(weights)}; give shares of 0 or more, not all 0"


def micro_batch_faults(batch: int, micro_batch: int) -> Iterator[str]:
  """What is wrong with the size of micro-batches."""
  if micro_batch > 0 and batch % micro_batch:
    yield (
      f"micro_batch is {micro_batch}, which does not divide batch={batch}; use"
      " a divisor, or 0 for the whole batch at once"
    )


def warmup_faults(warmup: int, steps: int) -> Iterator[str]:
  """What is wrong with the steps of a warm-up."""
  if warmup >= steps > 0:
    yield f"warmup is {warmup}; use fewer than steps={steps}"


def trace_faults(steps: tuple[int, ...]) -> Iterator[str]:
  """What is wrong with the steps of a trace."""
  if steps and (len(steps) != 2 or not 1 <= steps[0] <= steps[1]):
    yield (
      f"trace_steps is {quoted(steps)}; give the first and the last step, from"
      " 1, such as (10, 12), or ()"
    )


def image_shape_faults(
  tiles: tuple[int, ...], size: tuple[int, ...]
) -> Iterator[str]:
  """What is wrong with the static shape that images are padded to."""
  for name, value, least, most in (
    ("tiles", tiles, 0, 2**6),
    ("size", size, 1, 2**14),
  ):
    if value and (len(value) != 2 or min(value) < least or max(value) > most):
      yield (
        f"{name} is {quoted(value)}; give (rows, columns), each {least} to"
        f" {most}, or ()"
      )


def output_faults(output: str) -> Iterator[str]:
  """What is wrong with the name of the file of trained weights.

  It lies in the directory of the run, whose other files never end alike, next
  to a card that has its name and ends in ".json".
  """
  if fault := naming.name_fault(output):
    yield f"output is {quoted(output)}; give {fault}"
  elif not output.endswith(".safetensors") or output == "run.safetensors":
    yield (
      f"output is {quoted(output)}; give the name of a new file that ends in"
      " .safetensors, such as 'weights.safetensors'"
    )
