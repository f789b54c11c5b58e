"""Renders chat templates in a process of its own; `template` starts it.

    python -P sandbox.py

A template in a model folder is a program by a stranger. Jinja's sandbox keeps
it from attributes and files, as in transformers. What the sandbox does not
bound, time and memory, the operating system bounds here, and the process can
write no files.
This file imports nothing of the package, so that the process starts at once.

Requests and answers are lines of JSON, see `main`.
"""

import functools
import json
import math
import resource
import sys
import time
from typing import Any

import jinja2
from jinja2 import ext, nodes, sandbox

# Bounds of one rendering. Real templates take a millisecond and a few KB.
SECONDS = 2
CHARACTERS = 1 << 20
_MEMORY = 1 << 28  # bytes of the process
# They draw at random: the same conversation would have many texts.
_RANDOM = {"filters": ("random",), "globals": ("lipsum",)}
_TEXT_ONLY = (
  "it writes a content as if it were one text, and cannot place images"
)


class Content(list):
  """The parts of a turn; a template that writes them as a text is stopped."""

  def __repr__(self):
    raise jinja2.TemplateError(_TEXT_ONLY)


class _Generation(ext.Extension):
  """The tag around answers, which trainers read; here it does nothing."""

  tags = {"generation"}

  def parse(self, parser):
    line = next(parser.stream).lineno
    body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
    return nodes.Scope(body, lineno=line)


class _Environment(sandbox.ImmutableSandboxedEnvironment):
  """What chat templates see, and no more."""

  def __init__(self):
    super().__init__(
      trim_blocks=True,
      lstrip_blocks=True,
      extensions=[_Generation, ext.loopcontrols],
    )
    for kind, names in _RANDOM.items():
      for name in names:
        del getattr(self, kind)[name]
    self.filters["tojson"] = _to_json
    self.globals["raise_exception"] = _refuse
    self.globals["strftime_now"] = _no_clock

  def unsafe_undefined(self, obj, attribute):
    """Refuses at once; Jinja's own way writes an empty text."""
    raise jinja2.exceptions.SecurityError(
      f"it reads the attribute {attribute!r} of a {type(obj).__name__}"
    )


def _to_json(
  value, ensure_ascii=False, indent=None, separators=None, sort_keys=False
):
  """JSON without the escapes for HTML that Jinja's own filter writes."""
  return json.dumps(
    value,
    ensure_ascii=ensure_ascii,
    indent=indent,
    separators=separators,
    sort_keys=sort_keys,
  )


def _refuse(message):
  raise jinja2.TemplateError(message)


def _no_clock(form):
  del form
  raise jinja2.TemplateError(
    "it writes today's date, and results would depend on the day"
  )


@functools.lru_cache(maxsize=16)
def _compiled(text: str) -> jinja2.Template:
  return _Environment().from_string(text)


def render(
  template: str, messages: list[dict[str, Any]], **variables: Any
) -> str:
  """The text of a conversation.

  Args:
    template: text of a chat template.
    messages: dicts of role and content, a text or a list of parts.
    variables: what else the template sees.

  Raises:
    jinja2.TemplateError: the template is wrong, forbidden, or refuses.
  """
  for message in messages:
    if isinstance(message["content"], list):
      message["content"] = Content(message["content"])
  parts, count = [], 0
  for part in _compiled(template).generate(messages=messages, **variables):
    parts.append(part)
    count += len(part)
    if count > CHARACTERS:
      raise jinja2.TemplateError(
        f"it writes more than {CHARACTERS:,} characters"
      )
  return "".join(parts)


def _limit(kind: int, amount: int) -> None:
  """Sets a limit, or the system's own one where that is lower."""
  hard = resource.getrlimit(kind)[1]
  if hard != resource.RLIM_INFINITY:
    amount = min(amount, hard)
  resource.setrlimit(kind, (amount, hard))


def main() -> None:
  """Answers requests until there are no more.

  A request has the arguments of `render`; an answer has `text`, or `error`. A
  template that takes too long ends the process.
  """
  if sys.platform == "linux":  # others refuse it
    _limit(resource.RLIMIT_AS, _MEMORY)
  for kind in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE):
    _limit(kind, 0)
  for line in sys.stdin:
    _limit(resource.RLIMIT_CPU, math.ceil(time.process_time()) + SECONDS)
    try:
      answer = {"text": render(**json.loads(line))}
    except MemoryError:
      answer = {"error": "it needs too much memory"}
    except RecursionError:
      answer = {"error": "it calls itself without end"}
    # Whatever a template makes Python raise is that template's fault.
    except Exception as error:
      lines = getattr(error, "lineno", None)
      place = f"line {lines}: " if lines else ""
      answer = {"error": f"{place}{str(error)[:300] or type(error).__name__}"}
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
  main()
