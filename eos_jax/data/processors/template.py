"""Chat templates: the text of a conversation as a model folder writes it.

Templates are programs of strangers, so that they run in a process of their own
(`sandbox`), within bounds of time, memory and output. One such process serves
all templates.
"""

import atexit
from collections.abc import Mapping, Sequence
import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import threading
from typing import Any

from eos_jax.data.processors import sandbox


class TemplateError(ValueError):
  """A chat template that cannot be rendered."""


def render(
  template: str,
  messages: Sequence[Mapping[str, Any]],
  *,
  reply: bool,
  tokens: Mapping[str, str],
) -> str:
  """The text that a template writes, as `apply_chat_template` does.

  Args:
    template: text of a chat template.
    messages: turns, dicts of role and content.
    reply: whether to end where the model's answer begins.
    tokens: special tokens by name, such as `bos_token`.

  Raises:
    TemplateError: why the template cannot be rendered.
  """
  answer = _worker(os.getpid()).ask(
    {
      **tokens,
      "template": template,
      "messages": list(messages),
      "add_generation_prompt": reply,
      "tools": None,
      "documents": None,
    }
  )
  if "error" in answer:
    raise TemplateError(answer["error"])
  return answer["text"]


class _Worker:
  """The process that renders; it is started when it is needed, and again."""

  def __init__(self):
    self._lock = threading.Lock()
    self._process: subprocess.Popen | None = None

  def ask(self, request: dict[str, Any]) -> dict[str, Any]:
    """Sends a request and waits for its answer."""
    line = json.dumps(request).encode() + b"\n"
    with self._lock:
      if self._process is None:
        self._process = subprocess.Popen(
          [sys.executable, "-P", sandbox.__file__],
          stdin=subprocess.PIPE,
          stdout=subprocess.PIPE,
          start_new_session=True,  # Ctrl-C is for this process alone
        )
      try:
        with contextlib.suppress(BrokenPipeError):  # no answer comes then
          self._process.stdin.write(line)
          self._process.stdin.flush()
        answer = self._process.stdout.readline()
      except BaseException:
        # An answer that comes late must not answer the next request.
        self._process.kill()
        self._end()
        raise
      return json.loads(answer) if answer else {"error": self._end()}

  def close(self, pid: int) -> None:
    """Ends the process, unless it is that of a parent with another pid."""
    if self._process is not None and os.getpid() == pid:
      self._process.kill()
      self._end()

  def _end(self) -> str:
    """Waits for the end of the process, and says why it ended."""
    process, self._process = self._process, None
    with contextlib.suppress(BrokenPipeError), process:
      pass  # closes its pipes and waits
    if process.returncode == -signal.SIGXCPU:
      return f"it takes more than {sandbox.SECONDS} seconds"
    return f"the process that renders it ended with {process.returncode}"


@functools.cache
def _worker(pid: int) -> _Worker:
  """The worker of a process; one that was forked has pipes of its own."""
  worker = _Worker()
  atexit.register(worker.close, pid)
  return worker
