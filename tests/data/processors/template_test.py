"""Chat templates are rendered as transformers does, and safely."""

import dataclasses
import json
import pathlib
import threading
import time

import numpy as np
import pytest

from eos_jax.data import processors
from eos_jax.data.processors import conversation, sandbox, template
from tests.data.processors import samples, templates

_GOLDENS = pathlib.Path(__file__).parent / "goldens"
_HELLO = [{"role": "user", "content": [{"type": "text", "text": "Hello."}]}]


@pytest.fixture(scope="module")
def recorded():
  return json.loads((_GOLDENS / "templates.json").read_text())


def _render(text, messages=_HELLO, **tokens):
  return template.render(text, messages, reply=True, tokens=tokens)


@pytest.mark.parametrize("name", templates.OTHERS)
def test_templates_that_differ_from_the_published(name, recorded, tmp_path):
  processor = processors.load(templates.write(name, tmp_path))
  ids = recorded[name].pop("ids").split()
  for key, expected in recorded[name].items():
    turns, reply = samples.CONVERSATIONS[key], samples.REPLY[key]
    assert processor.prompt(turns, reply=reply) == expected
  key = next(iter(recorded[name]))
  turns = samples.CONVERSATIONS[key]
  inputs = processor.prepare(turns, samples.pictures_of(turns))
  assert inputs.ids.tolist() == [int(i) for i in ids]


@pytest.mark.parametrize("family", samples.FAMILIES)
def test_templates_of_folders_without_one(family, tmp_path):
  """They write what the published templates write."""
  own = processors.load(samples.write(f"tiny_{family}", tmp_path))
  built_in = dataclasses.replace(own, template="")
  draw = np.random.default_rng(11)
  texts = ("a", " b ", "\n", "c\n\nd", "Answer:", "\u00e9\u4e2d", "USER:", "{{")
  for _ in range(40):
    turns = []
    for role in draw.choice(conversation.ROLES, draw.integers(1, 6)):
      parts = [
        {"type": "image"}
        if role == "user" and draw.random() < 0.4
        else {"type": "text", "text": str(draw.choice(texts))}
        for _ in range(draw.integers(1, 4))
      ]
      turns.append({"role": str(role), "content": parts})
    for reply in (False, True):
      expected = own.prompt(turns, reply=reply)
      assert built_in.prompt(turns, reply=reply) == expected


def test_a_template_that_places_no_images(tmp_path):
  processor = processors.load(templates.write("llava_text_only", tmp_path))
  with pytest.raises(ValueError) as error:
    processor.prompt(samples.CONVERSATIONS["question"])
  assert str(error.value) == (
    f"{tmp_path}: the chat template cannot render the conversation: it writes"
    " a content as if it were one text, and cannot place images; write the"
    " prompt as a text, with one image token '<image>' for each image, and give"
    " that in place of the conversation, or correct the template"
  )
  twice = samples.TEMPLATES["llava"].replace("<image>", "<image><image>")
  processor = dataclasses.replace(processor, template=twice)
  with pytest.raises(ValueError, match="it writes 2 image tokens '<image>'"):
    processor.prompt(samples.CONVERSATIONS["question"])


@pytest.mark.parametrize(
  "text, said",
  [
    ("{% for i in range(10 ** 9) %}x{% endfor %}", "Range too big"),
    ("{{ 'a' * 10 ** 11 }}", "it needs too much memory"),
    ("{{ 'a' | center(10 ** 10) }}", "it needs too much memory"),
    ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "calls itself without"),
    ("{% for i in range(99999) %}{{ 'x' * 99 }}{% endfor %}", "1,048,576 char"),
    ("{{ messages.__class__ }}", "reads the attribute '__class__' of a list"),
    ("{{ ''.__class__.__mro__ }}", "reads the attribute '__class__' of a str"),
    ("{{ messages | attr('__class__') }}", "the attribute '__class__'"),
    ("{{ '{0.__class__}'.format(1) }}", "the attribute '__class__' of a int"),
    ("{{ cycler.__init__.__globals__ }}", "the attribute '__init__'"),
    ("{{ messages.append(1) }}", "reads the attribute 'append' of a list"),
    ("{% include '/etc/passwd' %}", "no loader"),
    ("{{ [1, 2] | random }}", "No filter named 'random'"),
    ("{{ strftime_now('%d') }}", "results would depend on the day"),
    ("a\n{% for %}", "line 2: Expected an expression"),
    ("{{ nobody.name }}", "'nobody' is undefined"),
    ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
    ("{{ 1 / 0 }}", "division by zero"),
    ("{{ messages }}", "as if it were one text"),
  ],
)
def test_templates_that_are_refused(text, said):
  with pytest.raises(template.TemplateError, match=said.replace("(", r"\(")):
    _render(text)
  assert _render("{{ messages[0].role }}") == "user"  # it goes on


@pytest.mark.slow
def test_templates_that_do_not_end():
  loop = "{% for i in range(99999) %}"
  before = time.process_time()
  with pytest.raises(template.TemplateError, match="more than 2 seconds"):
    _render(3 * loop + 3 * "{% endfor %}")
  assert time.process_time() - before < 1  # it is another process that works
  assert sandbox.SECONDS == 2
  assert _render("{{ messages | length }}") == "1"


def test_what_interrupts_a_rendering_does_not_mix_answers(monkeypatch):
  class Stopped(BaseException):
    pass

  def stop(line):
    raise Stopped

  worker = template._Worker()
  request = {"template": "{{ n }}", "messages": []}
  assert worker.ask({**request, "n": 1}) == {"text": "1"}
  monkeypatch.setattr(template.json, "loads", stop)
  with pytest.raises(Stopped):
    worker.ask({**request, "n": 2})
  monkeypatch.undo()
  assert worker.ask({**request, "n": 3}) == {"text": "3"}


def test_threads_get_their_own_answers():
  found = {}

  def ask(number):
    found[number] = [_render("{{ bos_token }}", bos_token=f"{number}")] * 20

  threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert found == {number: [f"{number}"] * 20 for number in range(8)}


def test_the_authors_format_needs_a_folder_of_that_format(tmp_path):
  path = samples.write("tiny_llava", tmp_path)
  authors = processors.load(path, style="vicuna")
  ask = [{"role": "user", "content": "Hi."}]
  system = conversation.VICUNA_SYSTEM
  assert authors.prompt(ask) == f"{system} USER: Hi. ASSISTANT:"
  file = path / "chat_template.jinja"
  file.write_text("{{ bos_token }}" + conversation.TEMPLATES["vicuna"])
  assert processors.load(path, style="vicuna").prompt(ask) == authors.prompt(
    ask
  )
  for other in ("llava_llama_3", "llava_system", "llava_human"):
    file.write_text(templates.OTHERS[other][1])
    with pytest.raises(ValueError, match="use the style '', which is the fold"):
      processors.load(path, style="vicuna")
    processors.load(path)
  file.write_text(templates.OTHERS["llava_text_only"][1])
  with pytest.raises(ValueError, match="as if it were one text"):
    processors.load(path, style="vicuna")
