"""Lets SIGTERM and Ctrl-C end a run, wherever it is.

Python calls a signal's handler between any two instructions of the main thread,
also inside callbacks whose exceptions it prints and drops: those of the garbage
collector, of which compilation runs many, and finalisers. Libraries drop
exceptions too. An exception that was raised once can therefore be lost, so it
is raised again until it is on its way up.
"""

from collections.abc import Iterator
import contextlib
import os
import signal
import sys
import threading
import time

from eos_jax import processes

# Seconds until an exception that was lost is raised again.
_AGAIN = 0.2
# Seconds within which signals count as one: `timeout` and Slurm may send the
# same one twice, to the process and to its group.
_ONE = 1.0


class Stop:
  """Whether, and by which signal, this process was asked to stop.

  Attributes:
    asked: the first signal that came; None = none did.
    deferred: whether the block that runs looks at `asked` itself, instead of
      being interrupted.
    raised: whether a block was interrupted.
  """

  def __init__(self):
    self.asked: signal.Signals | None = None
    self.deferred = self.raised = False

  def interruption(self, cause: BaseException | None = None):
    """The exception that says what stopped the run.

    Args:
      cause: what else was raised on the way up.
    """
    more = ""
    if cause is not None:
      text = " ".join(str(cause).split())
      more = f" ({type(cause).__name__}: {text[:200]})"
    return processes.Interrupted(
      f"stopped by {self.asked.name}; what is finished is kept, run the same"
      f" command again to go on{more}"
    )

  def handle(self, number: int, frame: object) -> None:
    """Handles SIGTERM, SIGINT, and the timer that repeats them."""
    del frame
    if number != signal.SIGALRM:
      self.asked = self.asked or signal.Signals(number)
    if self.asked is None or self.deferred:
      return
    self.raised = True
    signal.setitimer(signal.ITIMER_REAL, _AGAIN, _AGAIN)
    if not _on_its_way():
      raise self.interruption()


_current: Stop | None = None  # signals belong to the whole process


@contextlib.contextmanager
def handled(*, deferred: bool = False) -> Iterator[Stop]:
  """Lets signals raise `processes.Interrupted` wherever the block is.

  A second signal, a second or more after the first, ends the process at once.
  Of several processes none stops alone: SIGTERM is JAX's there, see
  `processes.stopping`.

  Args:
    deferred: raise nothing; the block looks at `asked`. For a block inside of
      another one.

  Yields:
    What signals have asked for so far.
  """
  global _current
  # Handlers can only be set in the main thread; elsewhere the caller decides.
  if threading.current_thread() is not threading.main_thread():
    yield Stop()
    return
  outer = _current
  if outer is not None:
    before, outer.deferred = outer.deferred, deferred
    try:
      yield outer
    finally:
      outer.deferred = before
    return
  stop = _current = Stop()
  stop.deferred = deferred
  try:
    with _installed(stop):
      yield stop
  except Exception as error:
    if not stop.raised:
      raise
    raise stop.interruption(error) from error
  finally:
    _current = None
  if stop.raised:  # it was lost, and the block ended before it was raised again
    raise stop.interruption()


@contextlib.contextmanager
def _installed(stop):
  """Handlers of signals, and what they need, until the block ends."""
  numbers = [signal.SIGALRM, signal.SIGINT]
  if not processes.several():
    numbers.append(signal.SIGTERM)
  with contextlib.ExitStack() as undo:
    undo.callback(setattr, sys, "unraisablehook", sys.unraisablehook)
    sys.unraisablehook = _quiet(sys.unraisablehook)
    undo.enter_context(_second_signal_ends(numbers[1:]))
    for number in numbers:
      undo.callback(signal.signal, number, signal.getsignal(number))
      signal.signal(number, stop.handle)
    undo.callback(signal.setitimer, signal.ITIMER_REAL, 0)
    yield


@contextlib.contextmanager
def _second_signal_ends(numbers):
  """Ends the process at a second signal, even while no Python code runs.

  Python's handlers wait until a compilation or a blocked write is over. Its
  handler in C also writes the signal's number to a pipe, which a thread reads.
  """
  reads, writes = os.pipe()
  os.set_blocking(writes, False)
  before = signal.set_wakeup_fd(writes, warn_on_full_buffer=False)
  thread = threading.Thread(target=_watch, args=(reads, numbers), daemon=True)
  thread.start()
  try:
    yield
  finally:
    signal.set_wakeup_fd(before)
    os.close(writes)
    thread.join()
    os.close(reads)


def _watch(reads, numbers):
  first = None
  while came := os.read(reads, 1):
    if came[0] not in numbers:
      continue
    now = time.monotonic()
    if first is None:
      first = now
    elif now - first > _ONE:
      name = signal.Signals(came[0]).name
      text = (
        f"\nerror: ended at once by a second {name}; run the same command again"
        " to go on at the last checkpoint\n"
      )
      with contextlib.suppress(OSError):
        os.write(2, text.encode())
      os._exit(1)


def _quiet(hook):
  """A hook that leaves out interruptions: those that are lost come again."""

  def quiet(lost):
    if not isinstance(lost.exc_value, processes.Interrupted):
      hook(lost)

  return quiet


def _on_its_way():
  """Whether what runs now is the clean-up of an interruption."""
  error = sys.exception()
  while error and not isinstance(error, processes.Interrupted):
    error = error.__context__
  return error is not None
