"""Questions of a user, as the source `tests.tasks.own_questions:questions`."""

from PIL import Image

from eos_jax import data


def questions() -> dict[str, list[data.Item]]:
  """Questions about the colour of one-coloured images, for every purpose."""
  colours = {"red": (220, 40, 40), "blue": (40, 80, 220)}
  made = {
    name: Image.new("RGB", (48, 40), value) for name, value in colours.items()
  }
  return {
    part: [
      data.Item(f"{part}{n}", "what color is the circle ?", name, (made[name],))
      for n, name in enumerate(list(made) * 8)
    ]
    for part in ("train", "validation", "test")
  }
