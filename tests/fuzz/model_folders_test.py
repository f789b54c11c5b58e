"""Damaged model folders: refused with the file's name, or read as they were.

Seeds are the numbers of the draws. A few draws are in the normal run.
"""

import json
import pathlib
import random
import shutil
import struct
import time

import numpy as np
import pytest

from eos_jax.data import gguf_tokenizer
from eos_jax.models import families, gguf_file, loading, weight_files
from tests import campaign
from tests.models import checkpoints, tiny_families

DRAWS, QUICK = 200, 12
KINDS = {
  "llava_1_5": "llava",
  "onevision": "llava_onevision",
  "qwen2_vl": "qwen2_vl",
  "smolvlm": "smolvlm",
}
# A reader that takes longer hangs, or grows with a number in the file.
SECONDS = 30


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
  """A sound folder of every family, in two files, and what it holds."""
  found = []
  for family, kind in KINDS.items():
    folder = tmp_path_factory.mktemp(family)
    config = tiny_families.config(family) | {"model_type": kind}
    table = tiny_families.weights(families.describe(config))
    checkpoints.write(folder, table, config, shards=2)
    (folder / "generation_config.json").write_text('{"eos_token_id": 2}')
    found.append((folder, loading.inspect(folder)))
  return found


def _header(data):
  """Length of a safetensors header with its length in front, and the JSON."""
  (length,) = struct.unpack("<Q", data[:8])
  return 8 + length, json.loads(data[8 : 8 + length])


def _json_damage(path, draw):
  if draw.random() < 0.25:
    what, data = campaign.damaged(path.read_bytes(), draw)
    path.write_bytes(data)
    return what
  what, value = campaign.edited(json.loads(path.read_bytes()), draw)
  text = json.dumps(value)
  path.write_text(text, encoding="utf-8", errors="surrogatepass")
  return what


def _header_damage(path, draw):
  data = path.read_bytes()
  end, header = _header(data)
  if draw.random() < 0.5:
    what, front = campaign.damaged(data[:end], draw)
    path.write_bytes(front + data[end:])
    return what
  what, header = campaign.edited(header, draw)
  text = json.dumps(header).encode(errors="surrogatepass")
  path.write_bytes(struct.pack("<Q", len(text)) + text + data[end:])
  return what


def _damage(folder, draw):
  """Damages one file of a folder; what was done, in words."""
  name = draw.choice(
    ["config.json"] * 4
    + [weight_files.INDEX] * 2
    + ["generation_config.json", "header", "header", "removed"]
  )
  path = folder / name
  if name == "header":
    path = draw.choice(sorted(folder.glob("*.safetensors")))
    return f"{path.name}: {_header_damage(path, draw)}"
  if name == "removed":
    path = draw.choice(sorted(folder.iterdir()))
    path.unlink()
    return f"{path.name} removed"
  return f"{name}: {_json_damage(path, draw)}"


def _run(number, folders, tmp_path):
  draw = random.Random(number)
  sound, want = draw.choice(folders)
  folder = tmp_path / str(number)
  shutil.copytree(sound, folder)
  what = f"draw {number}, {sound.name}, {_damage(folder, draw)}"
  before, started = set(tmp_path.rglob("*")), time.monotonic()
  try:
    got = loading.inspect(folder)
  except ValueError as error:
    said = str(error)
    assert str(folder) in said, what
    assert len(said) < 50_000, what
    return "refused"
  finally:
    assert time.monotonic() - started < SECONDS, what
    assert set(tmp_path.rglob("*")) == before, what
  # What is read fits the model, and is read from where it was.
  leaves = lambda contents: {
    name: leaf.shape
    for name, leaf in loading.flat(
      loading.shapes(contents.description.cfg)
    ).items()
  }
  known = {t.name: (t.shape, t.dtype) for t in want.tensors}
  for tensor in got.tensors:
    assert known[tensor.name] == (tensor.shape, tensor.dtype), what
  theirs, ours = leaves(want), leaves(got)
  assert ours.keys() <= theirs.keys(), what
  return "read"


@pytest.mark.parametrize(
  "draws",
  [range(QUICK), pytest.param(range(QUICK, DRAWS), marks=pytest.mark.full)],
)
def test_damaged_folders(draws, folders, tmp_path):
  outcomes = [_run(number, folders, tmp_path) for number in draws]
  counts = {kind: outcomes.count(kind) for kind in ("refused", "read")}
  print(counts)
  assert min(counts.values()) > 0


# GGUF.


@pytest.fixture(scope="module")
def gguf_bytes(tmp_path_factory):
  """A sound GGUF file with a tokenizer."""
  gguf = pytest.importorskip("gguf")
  path = tmp_path_factory.mktemp("gguf") / "a.gguf"
  writer = gguf.GGUFWriter(path, "llama")
  writer.add_embedding_length(16)
  writer.add_block_count(1)
  writer.add_feed_forward_length(24)
  writer.add_head_count(4)
  writer.add_head_count_kv(2)
  writer.add_layer_norm_rms_eps(1e-5)
  writer.add_tokenizer_model("gpt2")
  writer.add_tokenizer_pre("smollm")
  writer.add_token_list(["<|end|>", "a", "b", "ab"])
  writer.add_token_types([3, 1, 1, 1])
  writer.add_token_merges(["a b"])
  shapes = {
    "token_embd": (4, 16),
    "output_norm": (16,),
    "blk.0.attn_norm": (16,),
    "blk.0.ffn_norm": (16,),
    "blk.0.attn_q": (16, 16),
    "blk.0.attn_k": (8, 16),
    "blk.0.attn_v": (8, 16),
    "blk.0.attn_output": (16, 16),
    "blk.0.ffn_gate": (24, 16),
    "blk.0.ffn_up": (24, 16),
    "blk.0.ffn_down": (16, 24),
  }
  for name, shape in shapes.items():
    writer.add_tensor(f"{name}.weight", np.ones(shape, np.float32))
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  return path.read_bytes()


def _run_gguf(number, data, path):
  draw = random.Random(number)
  front = data.index(b"output_norm.weight")
  what, changed = campaign.damaged(data[:front], draw)
  if draw.random() < 0.3:  # whole numbers, as counts and lengths are
    at = draw.randrange(8, front - 8)
    value = draw.choice([0, 1, 10**9, 2**63 - 1, 2**64 - 1])
    changed = data[:at] + struct.pack("<Q", value) + data[at + 8 : front]
    what = f"{value} at {at}"
  path.write_bytes(changed + data[front:])
  what, started = f"draw {number}, {what}", time.monotonic()
  try:
    gguf_tokenizer.build(gguf_file.metadata(path))
    gguf_file.load(path)
  except ValueError as error:
    assert len(str(error)) < 50_000, what
    return "refused"
  finally:
    assert time.monotonic() - started < SECONDS, what
  return "read"


@pytest.mark.parametrize(
  "draws",
  [range(QUICK), pytest.param(range(QUICK, DRAWS), marks=pytest.mark.full)],
)
def test_damaged_gguf_files(draws, gguf_bytes, tmp_path):
  path = pathlib.Path(tmp_path / "a.gguf")
  outcomes = [_run_gguf(number, gguf_bytes, path) for number in draws]
  print({kind: outcomes.count(kind) for kind in ("refused", "read")})
  assert "refused" in outcomes
