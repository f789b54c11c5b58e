"""Answers one question about images, and shows which tokens plans keep."""

import pathlib

import jax
import numpy as np

from eos_jax import cost, data, files, models
from eos_jax.evaluation import drawing, html, render, token_flow
from eos_jax.tasks import common, opening
from eos_jax.timing import programs, stopwatch
from eos_jax.training import answer_settings

_LENGTH = 64  # tokens of an answer, by default


def check(job: answer_settings.AnswerJob) -> None:
  """Refuses a model, a plan or images that do not fit."""
  opened, _ = _opened(job)
  attempt = opening.Attempts()
  attempt("plans", lambda: common.candidates(opened.cfg, job))
  files, length = opened.with_images(len(job.images)), _text_length(job)
  rows = attempt("model", lambda: files.rows(length))
  if rows is not None:
    attempt("images", lambda: rows.ask(_item(job)))
  attempt.check()


def _opened(job):
  attempt = opening.Attempts()
  found, mesh = opening.open_model(job, attempt, job.image_shape)
  attempt.check()
  return found, mesh


def _text_length(job):
  """Most tokens of the text; rows are as short as they can be."""
  return job.text_length or models.model.MOST_TEXT


def _item(job):
  paths = tuple(map(pathlib.Path, job.images))
  return data.Item("question", job.question, "", paths)


def run(job: answer_settings.AnswerJob, folder: pathlib.Path) -> None:
  """Answers, and writes a table and a page with the images."""
  found, mesh = _opened(job)
  model = opening.Opened(found, mesh, None).load({})
  rows, batch = model.ask([_item(job)], _text_length(job))
  with jax.set_mesh(mesh):  # for `models.target.spread`
    listed = common.candidates(model.cfg, job)
    times = _times(job, model, batch, listed)
    made = [
      _answer(job, model, rows, batch, times.get(candidate.name), candidate)
      for candidate in listed
    ]
  section = render.Section(
    f"{model.name}: {job.question}",
    [
      ["plan", "tokens", "answer", "prefill ms", "ms a token"],
      *(cells for cells, _ in made),
    ],
    [
      "Tokens: visual tokens of an image, mean over decoder layers.",
      f"Times: medians of {job.repeats} rounds in turns on"
      f" {jax.devices()[0].device_kind}; the prefill begins with the pixels.",
    ],
  )
  files.write_text(folder / "answer.md", render.markdown([section]))
  page = html.page(section.title, html.tables([section]) + _images(made))
  files.write_text(folder / "answer.html", page)
  print(
    render.text([section]),
    f"Look at {folder}/: answer.html, answer.md",
    sep="\n",
    flush=True,
  )


def _times(job, model, batch, listed):
  """Milliseconds up to the first token and of a step, by plan; in turns."""
  params = models.for_inference(model.params)
  timed = programs.Model(model.cfg, params, model.files.dtype.name)
  inputs = programs.Inputs(batch, jax.random.key(job.seed))
  pipelines, dense = {}, None
  for one in listed:
    if not one.reason:
      pipelines[one.name] = programs.Pipeline(
        timed, inputs, one.plan, steps=8, dense=dense
      )
      dense = dense or pipelines[one.name]  # which comes first
  laps = stopwatch.in_turns(
    {name: pipeline.run for name, pipeline in pipelines.items()},
    repeats=job.repeats,
    seconds=60.0,
  )
  return {
    name: [
      1e3 * stopwatch.measured(parts[part]).median
      for part in ("first_token", "step")
    ]
    for name, parts in laps.items()
  }


def _answer(job, model, rows, batch, times, candidate):
  """The cells of a plan, and the images with its kept tokens."""
  name, plan = candidate.name, candidate.plan
  if candidate.reason:
    why = f"cannot reach {candidate.limit:g}: {candidate.reason}"
    return [name, "", why, "", ""], None
  cfg = model.cfg
  out = models.answer_batch(
    model.params,
    batch,
    jax.random.key(job.seed),
    cfg=cfg,
    plan=plan,
    steps=job.answer_length or _LENGTH,
    stop=rows.end_ids,
  )
  text = rows.decode(np.asarray(out.ids)[0].tolist())
  average = float(cfg.tokens)
  if plan is not None:
    average = cost.plan_average(plan)
  cells = [name, f"{average:.1f}", text, *(f"{time:.1f}" for time in times)]
  return cells, _drawn(model, batch, plan, out.trace) if plan else None


def _drawn(model, batch, plan, trace):
  """The images of the question with the kept tokens."""
  shown = jax.tree.map(
    lambda leaf: leaf[0],
    {n: batch[n] for n in models.inputs.SHOWN if n in batch},
  )
  views = drawing.views(model.cfg, model.processor, shown)
  trace = jax.tree.map(lambda leaf: leaf[0], trace)
  owner, left_at = jax.vmap(
    lambda one: token_flow.follow(one, model.cfg.tokens)
  )(token_flow.by_image(trace, len(views)))
  return [
    drawing.svg(view, *map(np.asarray, flow), len(plan.sites))
    for view, flow in zip(views, zip(owner, left_at, strict=True), strict=True)
    if np.any(view.boxes)
  ]


def _images(made):
  """A part of the page for each plan."""
  parts = []
  for (name, *_), drawn in made:
    if drawn:
      figures = [html.fill("<figure>{}</figure>", one) for one in drawn]
      parts.append(
        html.section(
          name,
          "Bright patches keep their row to the end. A dark one left, the"
          " earlier the darker; a line leads to the patch that took up most of"
          " it.",
          html.fill('<div class="pictures">{}</div>', html.join(figures)),
        )
      )
  return parts
