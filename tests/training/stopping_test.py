"""A signal always takes effect, whatever drops the exception that it raises."""

import contextlib
import gc
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from eos_jax import processes
from eos_jax.training import loop, stopping
from tests import command


def _stop(number=signal.SIGTERM):
  """Asks this process to stop, and lets Python call the handler here."""
  os.kill(os.getpid(), number)
  for _ in range(100):
    pass


def _in_the_collector():
  gc.callbacks.append(lambda *_: (gc.callbacks.pop(), _stop()))
  gc.collect()


def _in_a_finaliser():
  class Dropped:
    def __del__(self):
      _stop()

  Dropped()


def _in_what_drops_all():
  with contextlib.suppress(BaseException):
    _stop()


_PLACES = [_in_the_collector, _in_a_finaliser, _in_what_drops_all]


@pytest.mark.parametrize("place", _PLACES)
def test_what_was_dropped_is_raised_again(place, capfd):
  began = time.monotonic()
  with pytest.raises(processes.Interrupted, match="^stopped by SIGTERM; what"):
    with loop.stoppable():
      place()
      time.sleep(30)
  assert time.monotonic() - began < 10
  assert capfd.readouterr() == ("", "")
  time.sleep(0.3)  # no timer is left


@pytest.mark.parametrize("place", _PLACES)
def test_a_block_that_ends_first_is_stopped_all_the_same(place):
  with pytest.raises(processes.Interrupted, match="^stopped by SIGTERM; what"):
    with loop.stoppable():
      place()


def test_what_an_interruption_was_turned_into_is_no_failure():
  with pytest.raises(processes.Interrupted) as error:
    with loop.stoppable():
      try:
        _stop(signal.SIGINT)
      except BaseException as cause:
        raise RuntimeError("the compiler\nfailed") from cause
  assert str(error.value) == (
    "stopped by SIGINT; what is finished is kept, run the same command again to"
    " go on (RuntimeError: the compiler failed)"
  )


def test_other_failures_pass():
  with pytest.raises(RuntimeError, match="^a bug$"):
    with loop.stoppable():
      raise RuntimeError("a bug")


def test_what_cleans_up_is_not_interrupted_again():
  steps = []

  def cleaned():
    try:
      yield
    finally:
      time.sleep(0.5)
      steps.append("generator")

  with pytest.raises(processes.Interrupted):
    with loop.stoppable():
      made = cleaned()
      next(made)
      try:
        _stop()
      finally:
        made.close()
        try:
          raise ValueError
        except ValueError:
          time.sleep(0.5)
        steps.append("block")
  assert steps == ["generator", "block"]


def test_a_deferred_block_sees_what_was_dropped_before_it():
  with pytest.raises(processes.Interrupted):
    with loop.stoppable():
      _in_the_collector()
      with stopping.handled(deferred=True) as stop:
        time.sleep(0.5)
        assert stop.asked is signal.SIGTERM
      time.sleep(30)


def test_nothing_is_left_behind():
  numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)
  before = [signal.getsignal(number) for number in numbers]
  hook, threads = sys.unraisablehook, threading.active_count()
  files = len(os.listdir("/proc/self/fd"))
  with loop.stoppable():
    pass
  assert [signal.getsignal(number) for number in numbers] == before
  assert signal.set_wakeup_fd(-1) == -1
  assert sys.unraisablehook is hook
  assert threading.active_count() == threads
  assert len(os.listdir("/proc/self/fd")) == files


@pytest.mark.slow
def test_a_second_signal_ends_what_hangs():
  code = (
    "import threading, time\n"
    "from eos_jax.training import loop, stopping\n"
    "with loop.stoppable(), stopping.handled(deferred=True) as stop:\n"
    "  print('ready', flush=True)\n"
    "  while stop.asked is None:\n"
    "    time.sleep(0.01)\n"
    "  print('asked', flush=True)\n"
    "  threading.Event().wait()\n"
  )
  process = subprocess.Popen(
    [sys.executable, "-c", code],
    cwd=command.ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  assert process.stdout.readline() == "ready\n"
  process.send_signal(signal.SIGTERM)
  assert process.stdout.readline() == "asked\n"
  process.send_signal(signal.SIGTERM)  # as `timeout` does: it counts as one
  time.sleep(1.5)
  assert process.poll() is None
  process.send_signal(signal.SIGINT)
  assert process.communicate(timeout=10)[1].strip() == (
    "error: ended at once by a second SIGINT; run the same command again to go"
    " on at the last checkpoint"
  )
  assert process.returncode == 1
