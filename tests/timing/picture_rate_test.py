"""Rates at which pictures are read and preprocessed."""

from eos_jax.data import processors
from eos_jax.timing import picture_rate


def test_pictures_are_files_of_the_size_of_photographs():
  one, two = picture_rate.draw(2, seed=0)
  assert one != two and [one, two] == picture_rate.draw(2, seed=0)
  assert processors.open_picture(one).size == picture_rate.SIZE[::-1]
  # Neither noise nor a plain area.
  assert 20_000 < len(one) < 200_000
  rates = picture_rate.rates([one], (1,), repeats=1, seconds=0)
  assert all(found["1"].median > 0 for found in rates.values())


def test_a_rate_is_pictures_by_time(monkeypatch):
  seen = []

  def read(files, family, settings, threads, clock):
    seen.append((family, threads, len(files)))
    return {"all": 0.5 / threads}

  monkeypatch.setattr(picture_rate, "_read", read)
  found = picture_rate.rates([b""] * 8, (1, 2), repeats=2, seconds=9)
  assert list(found) == list(picture_rate.FAMILIES)
  for rates in found.values():
    assert {n: rate.median for n, rate in rates.items()} == {"1": 16, "2": 32}
  assert len(seen) == len(found) * 2 * 3  # once more to warm up
