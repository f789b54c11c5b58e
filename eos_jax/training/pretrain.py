"""Pretraining of a VLM in stages, as real ones have.

1. The vision encoder learns from what the renderer knows: every patch names
   what it shows, and the class token describes the whole picture.
2. Lookup: projector and decoder learn to answer questions on the frozen
   encoder, and with it to find what a question names. Several questions about
   a picture share a sequence, here and later.
3. Grounding: they learn which side of the picture an object is on, and are
   asked nothing else. In the mixture of all questions left and right stay near
   a guess, also with questions of above and below: their signal is faint
   next to that of the others. Alone they take some hundred steps.
4. Answers: all questions again.
"""

import dataclasses
import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import optax

from eos_jax import models
from eos_jax.data import labels, loader
from eos_jax.models import heads, partition
from eos_jax.training import loop, optimizer, pretrain_settings, record, speed

STAGES = ("vision", "lookup", "grounding", "answers")

HEADS = heads.HeadSizes(
  kinds=labels.NUM_KINDS,
  colors=labels.NUM_COLORS,
  sizes=labels.NUM_SIZES,
  scene=labels.NUM_SCENE,
)


def patch_detail(image: jax.Array, patch: int) -> jax.Array:
  """Mean colours of the four quarters of each patch: `[B, V, 12]`."""
  batch, side, _, _ = image.shape
  rows, half = side // patch, patch // 2
  parts = image.reshape(batch, rows, 2, half, rows, 2, half, 3).mean((3, 6))
  return parts.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows * rows, 12)


def instance_place(offset: jax.Array, cfg: models.VisionConfig) -> jax.Array:
  """Where the centre of what a patch shows lies in the picture.

  Args:
    offset: `[B, V, 2]` stored offsets (x, y) from the centre of the patch.
    cfg: shape of the encoder.

  Returns:
    `[B, V, 2]` x and y in [-1, 1]. Without it nothing would keep the absolute
    place of a patch in its features, and the decoder could not tell left from
    right. Background patches have offset 0: their own place.
  """
  rows, cols = cfg.grid
  y, x = jnp.mgrid[:rows, :cols]
  centre = jnp.stack([x, y], axis=-1).reshape(1, -1, 2) + 0.5
  pixels = centre * cfg.patch_size + (offset - labels.OFFSET_ZERO) / 2.0
  height, width = cfg.size
  return pixels / (jnp.array([width, height]) / 2.0).reshape(1, 1, 2) - 1.0


def holds_centre(offset: jax.Array, cfg: models.VisionConfig) -> jax.Array:
  """Whether a patch holds the centre of what it shows.

  One patch of an instance does: to count instances is to count these.

  Args:
    offset: `[B, V, 2]` stored offsets (x, y), as of `instance_place`.
    cfg: shape of the encoder.

  Returns:
    `[B, V]` bool; meaningless on background.
  """
  pixels = (offset - labels.OFFSET_ZERO) / 2.0
  half = cfg.patch_size / 2.0
  return jnp.all((pixels >= -half) & (pixels < half), axis=-1)


def vision_loss(
  cfg: models.VisionConfig, params: Any, batch: dict[str, jax.Array]
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Loss of the first stage.

  Args:
    cfg: shape of the encoder.
    params: {"vision", "heads"}.
    batch: image, patch_labels `[B, rows, cols, 5]`, patch_valid, scene_labels,
      scene_valid (see `data.loader`).

  Returns:
    The loss and its parts, with the share of patches named right.
  """
  image = models.inputs.normalize(batch["image"])
  seen = models.vision.encode(cfg, params["vision"], image)
  out = heads.apply(HEADS, params["heads"], seen.patches, seen.class_token)
  target = batch["patch_labels"].reshape(image.shape[0], -1, 5).astype(int)
  valid = batch["patch_valid"].astype(jnp.float32)[:, None]
  shown = valid * (target[..., 1] > 0)
  # Background is most of a picture; everything else counts four times.
  weight = valid * jnp.where(target[..., 0] == 0, 1.0, 4.0)
  cross = optax.softmax_cross_entropy_with_integer_labels
  kind = cross(out["kind"], target[..., 0])
  place = instance_place(target[..., 3:], cfg)
  centre = holds_centre(target[..., 3:], cfg).astype(jnp.float32)
  parts = {
    "kind": _mean(kind, weight),
    "color": _mean(cross(out["color"], target[..., 1]), shown),
    "size": _mean(cross(out["size"], target[..., 2]), shown),
    "place": _mean(jnp.abs(out["place"] - place).sum(-1), valid),
    "centre": _mean(
      optax.sigmoid_binary_cross_entropy(out["centre"], centre), shown
    ),
    "detail": jnp.mean(
      jnp.square(out["detail"] - patch_detail(image, cfg.patch_size))
    ),
    "scene": _mean(
      optax.sigmoid_binary_cross_entropy(
        out["scene"], batch["scene_labels"].astype(jnp.float32)
      ),
      batch["scene_valid"].astype(jnp.float32),
    ),
  }
  scale = {"place": 4.0, "centre": 2.0, "detail": 2.0, "scene": 10.0}
  total = sum(scale.get(name, 1.0) * part for name, part in parts.items())
  right = (jnp.argmax(out["kind"], -1) == target[..., 0]).astype(jnp.float32)
  accuracy = {
    "patch_accuracy": _mean(right, valid),
    "shown_accuracy": _mean(right, shown),
  }
  return total, {"loss": total, **parts, **accuracy}


def answer_loss(
  cfg: models.VLMConfig, params: Any, batch: dict[str, jax.Array]
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Cross-entropy of answer tokens, mean over them.

  Args:
    cfg: shape of the model.
    params: {"vision", "projector", "decoder"}.
    batch: image, tokens, segments, positions, loss_mask (see `data.loader`).

  Returns:
    The loss, and the share of questions whose tokens are all right.
  """
  text = models.Text(
    tokens=batch["tokens"],
    mask=batch["segments"] > 0,
    segments=batch["segments"],
    offsets=batch["positions"],
  )
  image = models.inputs.normalize(batch["image"])
  out = models.apply(cfg, params, image, text)
  target, weight = batch["tokens"][:, 1:], batch["loss_mask"][:, 1:]
  logits = out.logits[:, :-1]
  cross = optax.softmax_cross_entropy_with_integer_labels(logits, target)
  loss = _mean(cross, weight.astype(jnp.float32))
  wrong = weight & (jnp.argmax(logits, -1) != target)
  questions = jnp.arange(1, 33)[None, None]
  segment = batch["segments"][:, 1:, None] == questions
  asked = jnp.any(segment, axis=1)
  missed = jnp.any(segment & wrong[..., None], axis=1)
  exact = _mean(1.0 - missed.astype(jnp.float32), asked.astype(jnp.float32))
  return loss, {"loss": loss, "exact": exact}


def _mean(value, weight):
  weight = jnp.broadcast_to(weight, value.shape)
  return jnp.sum(value * weight) / jnp.maximum(jnp.sum(weight), 1.0)


def train_vision(
  cfg: models.VLMConfig,
  settings: pretrain_settings.PretrainSettings,
  sources: Any,
  workdir: pathlib.Path,
) -> Any:
  """First stage. Returns the encoder's parameters."""
  key = jax.random.key(settings.seed)
  vision_key, head_key = jax.random.split(key)
  params = {
    "vision": models.vision.init(cfg.vision, vision_key),
    "heads": heads.init(HEADS, cfg.vision.width, head_key),
  }
  stage = settings.vision
  batches = loader.vision_batches(
    sources,
    batch=stage.batch,
    seed=settings.seed,
    weights=settings.data.mixture,
  )
  loss_fn = functools.partial(vision_loss, cfg.vision)
  tokens = stage.batch * cfg.tokens
  params = _train(
    loss_fn, params, None, batches, stage, settings, workdir, tokens
  )
  return params["vision"]


def train_answers(
  cfg: models.VLMConfig,
  settings: pretrain_settings.PretrainSettings,
  encoder: Any,
  sources: Any,
  tokenizer: Any,
  workdir: pathlib.Path,
  start: Any = None,
) -> Any:
  """One of the stages on a frozen encoder.

  Args:
    cfg: shape of the model.
    settings: of the pretraining.
    encoder: parameters of the first stage.
    sources: data sources to train on.
    tokenizer: encodes questions.
    workdir: directory of the stage, which has its name: "lookup", "grounding"
      or "answers".
    start: parameters to go on from; None = random ones.

  Returns:
    The whole model's parameters.
  """
  if start is None:
    start = models.init(cfg, jax.random.key(settings.seed + 1))
  trained = {name: start[name] for name in ("projector", "decoder")}
  stage = getattr(settings, workdir.name)
  grounds = workdir.name == "grounding"
  batches = loader.packed_batches(
    sources,
    tokenizer,
    batch=stage.batch,
    # Each stage has an order of its own.
    seed=settings.seed + STAGES.index(workdir.name),
    questions=settings.questions,
    text_length=settings.text_length,
    places=settings.questions if grounds else settings.places,
    sides=grounds,
    weights=settings.data.mixture,
  )

  def loss_fn(params, batch, frozen):
    return answer_loss(cfg, {"vision": frozen, **params}, batch)

  tokens = stage.batch * (cfg.tokens + settings.text_length)
  trained = _train(
    loss_fn, trained, encoder, batches, stage, settings, workdir, tokens
  )
  return {"vision": encoder, **trained}


def _train(loss_fn, params, frozen, batches, stage, settings, workdir, tokens):
  """Trains `params`; the shared body of both stages."""
  mesh = partition.make_mesh()
  partition.check_batch(mesh, stage.batch)
  transform = optimizer.muon(
    learning_rate=stage.learning_rate,
    adam_learning_rate=stage.adam_learning_rate,
    warmup=stage.warmup,
    steps=stage.steps,
    weight_decay=stage.weight_decay,
  )
  replicated = partition.replicated(mesh)
  cut = partition.batch_sharding(mesh)

  def step(state, batch, *constants):
    gradient = jax.grad(loss_fn, has_aux=True)
    grads, values = gradient(state["params"], batch, *constants)
    updates, opt = transform.update(grads, state["opt"], state["params"])
    params = optax.apply_updates(state["params"], updates)
    return {"params": params, "opt": opt}, values

  constants = () if frozen is None else (jax.device_put(frozen, replicated),)
  compiled = loop.compile_step(
    step, replicated, cut, replicated, constants=(replicated,) * len(constants)
  )
  state = {"params": params, "opt": transform.init(params)}
  state = jax.device_put(state, replicated)
  facts = {"seed": settings.seed, **dataclasses.asdict(stage)}
  with record.Record(workdir, facts) as book:
    state, iterator, start = book.resume(state, batches, stage.steps)
    state = loop.run(
      lambda _, state, batch: compiled(
        state, jax.device_put(batch, cut), *constants
      ),
      state,
      iterator,
      start=start,
      stop=stage.steps,
      label=workdir.name,
      meter=speed.Meter(speed.Work(tokens), workdir, book.writer),
      log=book.log,
      log_every=settings.log_every,
      save=book.save,
      save_every=settings.save_every,
      setting=f"config.{workdir.name}.learning_rate={stage.learning_rate:g}"
      f" and adam_learning_rate={stage.adam_learning_rate:g}",
    )
  return jax.device_get(state["params"])
