"""Answers one question about images, densely and under plans.

`--config=configs/answer.py --config.model=FOLDER
--config.images="('street.jpg',)" --config.question="How many cars are there?"
--config.plans="('plans/64.json',)"` prints the answers with the times of
prefill and of each token, and draws the kept tokens over the images. The
settings are described in `eos_jax/training/answer_settings.py`.
"""

import ml_collections

from eos_jax.training import answer_settings, settings


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  return settings.config("answer", answer_settings.AnswerJob, arg=arg)
