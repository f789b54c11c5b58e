"""The processors of transformers on the folders of `samples`; needs it.

    python -m tests.data.processors.reference tests/data/processors/goldens

records what the tests compare with where transformers is not installed.
transformers 5.23.0 with torch 2.13.0 and pillow 13.0.0 wrote the files, 5.24.0
defaults.json and templates.json.
"""

import json
import pathlib
import sys
import tempfile

import numpy as np
import transformers
from transformers.models.clip import image_processing_pil_clip as clip
from transformers.models.idefics3 import (
  image_processing_pil_idefics3 as idefics,
)
from transformers.models.llava import image_processing_pil_llava as llava
from transformers.models.llava_onevision import (
  image_processing_pil_llava_onevision as onevision,
)
from transformers.models.qwen2_vl import image_processing_pil_qwen2_vl as qwen2
from transformers.models.siglip import image_processing_pil_siglip as siglip
from transformers.models.smolvlm import image_processing_pil_smolvlm as smolvlm

from tests.data.processors import samples, templates

_IMAGE_CLASSES = {
  "CLIPImageProcessor": clip.CLIPImageProcessorPil,
  "Idefics3ImageProcessor": idefics.Idefics3ImageProcessorPil,
  "LlavaImageProcessor": llava.LlavaImageProcessorPil,
  "LlavaOnevisionImageProcessor": onevision.LlavaOnevisionImageProcessorPil,
  "Qwen2VLImageProcessor": qwen2.Qwen2VLImageProcessorPil,
  "SiglipImageProcessor": siglip.SiglipImageProcessorPil,
  "SmolVLMImageProcessor": smolvlm.SmolVLMImageProcessorPil,
}
_CLASSES = {
  "llava": transformers.LlavaProcessor,
  "onevision": transformers.LlavaOnevisionProcessor,
  "qwen2_vl": transformers.Qwen2VLProcessor,
  # SmolVLM's own class adds videos alone and needs a further package for them.
  "smolvlm": transformers.Idefics3Processor,
}


def image_processor(folder):
  """The image processor of a folder, on PIL and NumPy."""
  file = folder / "preprocessor_config.json"
  name = json.loads(file.read_text())["image_processor_type"]
  return _IMAGE_CLASSES[name].from_pretrained(folder)


def processor(name, folder):
  """The processor of a folder that `samples.write` wrote."""
  family = samples.FOLDERS[name][0]
  options = json.loads((folder / "processor_config.json").read_text())
  options.pop("processor_class", None)
  inner = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
  # Processors of videos need torchvision; without one the check stumbles.
  still = type(
    _CLASSES[family].__name__,
    (_CLASSES[family],),
    {
      "check_argument_for_proper_class": lambda self, name, argument: None,
      "get_attributes": classmethod(
        lambda cls: ["image_processor", "tokenizer"]
      ),
    },
  )
  return still(
    image_processor(folder),
    inner,
    chat_template=samples.TEMPLATES[family],
    **options,
  )


def pixels(family, images, picture):
  """Float pixels of one picture, parts first and channels last.

  Patches of Qwen2-VL stay `[patches, features]`.
  """
  if family == "smolvlm":
    images_in = [[picture]]
  elif family == "onevision":
    images_in = [[picture]]
  else:
    images_in = [picture]
  out = images(images_in, return_tensors="np")["pixel_values"]
  if family == "qwen2_vl":
    return out
  if family == "llava":
    out = out[:, None]
  return np.moveaxis(out[0], -3, -1)


def _as_text(conversation):
  """The turns with their texts alone, as language models have them."""
  return [
    {"role": turn["role"], "content": turn["content"][0]["text"]}
    for turn in conversation
  ]


def prompt(reference, name, *, as_text=False):
  """The text of a conversation."""
  conversation = samples.CONVERSATIONS[name]
  return reference.apply_chat_template(
    _as_text(conversation) if as_text else conversation,
    add_generation_prompt=samples.REPLY[name],
    tokenize=False,
  )


def ids(reference, name, *, large=False, as_text=False):
  """The ids of a conversation with its pictures."""
  conversation = samples.CONVERSATIONS[name]
  if as_text:
    out = reference.tokenizer(prompt(reference, name, as_text=True))
    return out["input_ids"]
  pictures = iter(samples.pictures_of(conversation, large=large))
  filled = [
    {
      "role": turn["role"],
      "content": [
        {"type": "image", "image": next(pictures)}
        if part["type"] == "image"
        else part
        for part in turn["content"]
      ],
    }
    for turn in conversation
  ]
  out = reference.apply_chat_template(
    filled,
    add_generation_prompt=samples.REPLY[name],
    tokenize=True,
    return_dict=True,
  )
  row = np.asarray(out["input_ids"])
  return [int(i) for i in row.reshape(-1)]


def counts(reference, sizes):
  """Image tokens by transformers' own estimate; None where it refuses."""
  found = []
  for size in sizes:
    try:
      out = reference._get_num_multimodal_tokens(image_sizes=[size])
      found.append(int(out["num_image_tokens"][0]))
    except ValueError:
      found.append(None)
  return found


def _levels(family, images, values):
  """Normalised floats as the 8-bit values that they came from."""
  mean, std = np.array(images.image_mean), np.array(images.image_std)
  if family == "qwen2_vl":
    side = images.patch_size
    shape = (len(values), 3, images.temporal_patch_size, side, side)
    values = np.moveaxis(values.reshape(shape), 1, -1)
  return np.rint((values * std + mean) * 255).astype(np.uint8)


def record_templates(root):
  """Writes what templates that differ from the published ones render."""
  found = {}
  for name, (folder_name, template) in templates.OTHERS.items():
    with tempfile.TemporaryDirectory() as folder:
      folder = templates.write(name, pathlib.Path(folder))
      reference = processor(folder_name, folder)
    reference.chat_template = template
    as_text = name in templates.TEXT_ONLY
    keys = ["text_only"] if as_text else list(samples.CONVERSATIONS)
    found[name] = {key: prompt(reference, key, as_text=as_text) for key in keys}
    numbers = ids(reference, keys[0], as_text=as_text)
    found[name]["ids"] = " ".join(map(str, numbers))  # of the first
  (root / "templates.json").write_text(json.dumps(found, indent=1) + "\n")


def record_defaults(root):
  """Writes what an absent field means to each class of image processors."""
  known = (
    "rescale_factor",
    "resample",
    "size",
    "crop_size",
    "default_to_square",
  )
  known += ("image_mean", "image_std", "image_grid_pinpoints", "patch_size")
  known += ("merge_size", "temporal_patch_size", "max_image_size")
  found = {
    name: {
      field: value
      for field in dir(kind)
      if field in known or field.startswith("do_")
      if (value := getattr(kind, field)) is not None
    }
    for name, kind in _IMAGE_CLASSES.items()
  }
  (root / "defaults.json").write_text(json.dumps(found, indent=1) + "\n")


def record(root):
  """Writes the goldens."""
  root.mkdir(parents=True, exist_ok=True)
  arrays, texts = {}, {}
  for name, (family, _) in samples.FOLDERS.items():
    with tempfile.TemporaryDirectory() as folder:
      folder = samples.write(name, pathlib.Path(folder))
      reference = processor(name, folder)
    texts[name] = {"counts": counts(reference, samples.SIZES)}
    if name not in samples.TINY:
      continue
    texts[name] |= {
      "prompts": {key: prompt(reference, key) for key in samples.CONVERSATIONS},
      "ids": {key: ids(reference, key) for key in samples.CONVERSATIONS},
    }
    images = reference.image_processor
    for key, height, width, mode in samples.RECORDED:
      picture = samples.picture(height, width, mode=mode)
      values = pixels(family, images, picture)
      arrays[f"{name}/{key}"] = _levels(family, images, values)
  np.savez_compressed(root / "pixels.npz", **arrays)
  (root / "texts.json").write_text(json.dumps(texts, indent=1) + "\n")


if __name__ == "__main__":
  record(pathlib.Path(sys.argv[1]))
  record_defaults(pathlib.Path(sys.argv[1]))
  record_templates(pathlib.Path(sys.argv[1]))
