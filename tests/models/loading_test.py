"""Checkpoints from folders: layouts, dtypes, placement, and what is refused."""

import functools
import json

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
import ml_dtypes
import numpy as np
import pytest

from eos_jax import models
from eos_jax.models import loading, partition
from tests.models import checkpoints

WEIGHTS = checkpoints.weights()


def _by_hand():
  """Some parameters, made of the tensors without the table."""
  block = "language_model.model.layers.{}.mlp.down_proj.weight"
  patch = WEIGHTS["vision_tower.embeddings.patch_embedding.weight"]
  tower = "vision_tower.encoder.layers.{}.layer_norm2.bias"
  return {
    "decoder.blocks.down.kernel": np.stack(
      [WEIGHTS[block.format(layer)].T for layer in range(3)]
    ),
    # The picture's rows, columns and channels, as a patch is flattened.
    "vision.embed.patch.kernel": np.stack(
      [
        patch[:, channel, row, column]
        for row in range(4)
        for column in range(4)
        for channel in range(3)
      ]
    ),
    # Two of three layers are in front of the features.
    "vision.blocks.norm2.bias": np.stack(
      [WEIGHTS[tower.format(layer)] for layer in range(2)]
    ),
    "decoder.embed": WEIGHTS["language_model.model.embed_tokens.weight"],
    "decoder.head.out.kernel": WEIGHTS["language_model.lm_head.weight"].T,
    "projector.fc1.bias": WEIGHTS["multi_modal_projector.linear_1.bias"],
  }


@pytest.mark.parametrize("shards", [1, 3])
def test_parameters_are_the_tensors(tmp_path, shards):
  found, params = loading.load(
    checkpoints.write(tmp_path, WEIGHTS, shards=shards)
  )
  like = loading.shapes(found.cfg)
  assert jax.tree.structure(params) == jax.tree.structure(like)
  for got, want in zip(
    jax.tree.leaves(params), jax.tree.leaves(like), strict=True
  ):
    assert isinstance(got, jax.Array)
    assert (got.shape, got.dtype) == (want.shape, jnp.float32)
  leaves = loading.flat(params)
  for path, want in _by_hand().items():
    np.testing.assert_array_equal(leaves[path], want, err_msg=path)


def test_every_tensor_is_somewhere(tmp_path):
  found, params = loading.load(checkpoints.write(tmp_path, WEIGHTS))
  left_out = sum(
    value.sum(dtype=np.float64)
    for name, value in WEIGHTS.items()
    if found.table.why_left_out(name)
  )
  total = sum(value.sum(dtype=np.float64) for value in WEIGHTS.values())
  read = sum(
    np.asarray(x).sum(dtype=np.float64) for x in jax.tree.leaves(params)
  )
  assert read + left_out == pytest.approx(total, abs=1e-9)
  assert left_out != 0


@pytest.mark.parametrize(
  "layout", [checkpoints.hub_layout, checkpoints.memory_layout]
)
def test_layouts_in_circulation(tmp_path, layout):
  plain = loading.load(checkpoints.write(tmp_path / "a", WEIGHTS))
  other = loading.load(checkpoints.write(tmp_path / "b", layout(WEIGHTS)))
  assert plain[0] == other[0]
  jax.tree.map(np.testing.assert_array_equal, plain[1], other[1])


@pytest.mark.parametrize("layout", [dict, checkpoints.hub_layout])
def test_known_surplus_is_left_out(tmp_path, layout):
  surplus = {
    "vision_tower.embeddings.position_ids": np.arange(10)[None],
    "language_model.model.rotary_emb.inv_freq": np.ones(2, np.float32),
  } | {
    f"language_model.model.layers.{layer}.self_attn.rotary_emb.inv_freq": (
      np.ones(2, np.float32)
    )
    for layer in range(3)
  }
  loading.load(checkpoints.write(tmp_path, layout(WEIGHTS | surplus)))


def test_what_is_left_out_need_not_be_there(tmp_path):
  kept = {
    name: value
    for name, value in WEIGHTS.items()
    if "encoder.layers.2." not in name and "post_layernorm" not in name
  }
  assert len(kept) == len(WEIGHTS) - 18
  loading.load(checkpoints.write(tmp_path, kept))


def test_a_head_that_is_not_the_embedding_is_told(tmp_path, capsys):
  config = checkpoints.CONFIG | {"tie_word_embeddings": True}
  folder = checkpoints.write(tmp_path, WEIGHTS, config)
  _, params = loading.load(folder)
  assert "head" in params["decoder"]
  assert capsys.readouterr().out == (
    "warning: config.json says that language_model.lm_head.weight is"
    " language_model.model.embed_tokens.weight, but the file has another one,"
    " which is used\n"
  )


def test_a_tied_head(tmp_path):
  """More cases are in `tests.parity.configs_test`."""
  head = "language_model.lm_head.weight"
  same = WEIGHTS | {head: WEIGHTS["language_model.model.embed_tokens.weight"]}
  kept = dict(WEIGHTS)
  del kept[head]
  config = checkpoints.CONFIG | {"tie_word_embeddings": True}
  for name, table in (("with", same), ("without", kept)):
    folder = checkpoints.write(tmp_path / name, table, config)
    _, params = loading.load(folder)
    assert "head" not in params["decoder"]


@pytest.mark.slow
@pytest.mark.parametrize("stored", [np.float16, ml_dtypes.bfloat16, np.float64])
@pytest.mark.parametrize("wanted", [None, jnp.float32, jnp.bfloat16])
def test_dtypes(tmp_path, stored, wanted):
  weights = checkpoints.weights(stored)
  config = checkpoints.CONFIG | {"dtype": np.dtype(stored).name}
  folder = checkpoints.write(tmp_path, weights, config)
  _, params = loading.load(folder, dtype=wanted)
  if wanted is None:
    wanted = {np.float64: np.float32}.get(stored, stored)
  assert {x.dtype for x in jax.tree.leaves(params)} == {np.dtype(wanted)}
  embed = weights["language_model.model.embed_tokens.weight"]
  np.testing.assert_array_equal(
    params["decoder"]["embed"], embed.astype(wanted)
  )


def test_placement_on_one_device(tmp_path):
  device = jax.devices()[3]
  sharding = jax.sharding.SingleDeviceSharding(device)
  folder = checkpoints.write(tmp_path, WEIGHTS, shards=2)
  _, params = loading.load(
    folder, shardings=functools.partial(jax.tree.map, lambda _: sharding)
  )
  _, plain = loading.load(folder)
  assert all(x.devices() == {device} for x in jax.tree.leaves(params))
  first = {jax.devices()[0]}
  assert all(x.devices() == first for x in jax.tree.leaves(plain))
  jax.tree.map(np.testing.assert_array_equal, params, plain)


def test_placement_over_a_mesh(tmp_path):
  mesh = partition.make_mesh((1, 4, 2))
  place = functools.partial(partition.param_shardings, mesh)
  folder = checkpoints.write(tmp_path, WEIGHTS, shards=2)
  found, params = loading.load(folder, shardings=place)
  want = place(loading.shapes(found.cfg))
  assert jax.tree.map(lambda x: x.sharding, params) == want
  jax.tree.map(np.testing.assert_array_equal, params, loading.load(folder)[1])


def test_a_cut_layer_axis(tmp_path):
  """No rule of this package cuts it, but another's may."""
  devices = np.array(jax.devices()[:3])
  mesh = jax.sharding.Mesh(devices, ("layer",))
  cut = NamedSharding(mesh, PartitionSpec("layer"))
  whole = NamedSharding(mesh, PartitionSpec())
  folder = checkpoints.write(tmp_path, WEIGHTS)
  _, params = loading.load(
    folder,
    shardings=functools.partial(
      jax.tree_util.tree_map_with_path,
      lambda path, leaf: (
        cut if path[0].key == "decoder" and path[1].key == "blocks" else whole
      ),
    ),
  )
  assert params["decoder"]["blocks"]["q"]["kernel"].sharding == cut
  jax.tree.map(np.testing.assert_array_equal, params, loading.load(folder)[1])


@pytest.mark.slow
def test_a_loaded_model_answers(tmp_path):
  found, params = loading.load(checkpoints.write(tmp_path, WEIGHTS))
  engine = models.Engine(found.cfg, params, stop=(), buckets=(4,), room=8)
  image = jax.random.normal(jax.random.key(0), (1, 12, 12, 3))
  _, replies = engine.reply(engine.begin(image, [[5, 6, 7]]), steps=3)
  assert [len(reply) for reply in replies] == [3]


# What is refused.


def _refusal(folder):
  with pytest.raises(ValueError) as error:
    loading.load(folder)
  return str(error.value)


def test_all_misfits_are_listed_at_once(tmp_path):
  table = dict(WEIGHTS)
  del table["language_model.model.norm.weight"]
  del table["vision_tower.encoder.layers.1.mlp.fc1.bias"]
  table["language_model.model.layers.3.mlp.up_proj.weight"] = np.ones((24, 16))
  table["image_newline"] = np.ones(16)
  table["language_model.model.layers.0.mlp.up_proj.weight"] = np.ones((16, 24))
  table["language_model.lm_head.weight"] = np.ones((32, 16), np.int8)
  table["lm_head.weight"] = np.ones((32, 16), np.float32)
  folder = checkpoints.write(tmp_path, table)
  file = "model.safetensors"
  assert _refusal(folder) == "\n  ".join(
    [
      f"the weights in {folder} do not fit its config.json; use files of one"
      " checkpoint:",
      f"language_model.lm_head.weight in {file} has dtype I8, expected one of"
      " BF16, F16, F32, F64",
      f"language_model.model.layers.0.mlp.up_proj.weight in {file} has shape"
      " (16, 24), expected (24, 16)",
      f"lm_head.weight in {file} is there a second time, as"
      f" language_model.lm_head.weight in {file}",
      "missing language_model.model.norm.weight, of which decoder.norm.scale"
      " is made",
      "missing vision_tower.encoder.layers.1.mlp.fc1.bias, of which"
      " vision.blocks.fc1.bias is made",
      f"unexpected image_newline in {file}",
      f"unexpected language_model.model.layers.3.mlp.up_proj.weight in {file}",
    ]
  )


def test_truncated_and_missing_shards_are_named_together(tmp_path):
  folder = checkpoints.write(tmp_path, WEIGHTS, shards=3)
  shards = sorted(folder.glob("model-*"))
  shards[0].write_bytes(shards[0].read_bytes()[:-10])
  shards[2].unlink()
  title, first, second = _refusal(folder).split("\n  ")
  assert title == (
    f"weights in {folder} cannot be read; fetch these files again:"
  )
  assert first.startswith(f"{shards[0].name} is truncated or damaged (")
  assert second == f"{shards[2].name} is missing"


def test_an_empty_file_is_damaged(tmp_path):
  folder = checkpoints.write(tmp_path, WEIGHTS)
  (folder / "model.safetensors").write_bytes(b"")
  assert "model.safetensors is truncated or damaged (" in _refusal(folder)


def test_no_weights(tmp_path):
  folder = checkpoints.write(tmp_path, WEIGHTS)
  (folder / "model.safetensors").unlink()
  assert _refusal(folder) == (
    f"{folder} has neither model.safetensors nor model.safetensors.index.json;"
    " give the folder of a checkpoint"
  )
  (folder / "pytorch_model.bin").touch()
  assert _refusal(folder).endswith(
    "; pytorch_model.bin can be converted with transformers:"
    " save_pretrained(..., safe_serialization=True)"
  )


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"weight_map": 3}'])
def test_an_index_that_cannot_be_read(tmp_path, text):
  folder = checkpoints.write(tmp_path, WEIGHTS, shards=2)
  index = folder / "model.safetensors.index.json"
  index.write_text(text, encoding="utf-8")
  message = _refusal(folder)
  assert message.startswith(f"{index} cannot be read as an index of weights (")
  assert message.endswith("); fetch it again")


def test_a_config_of_another_model(tmp_path):
  text = checkpoints.CONFIG["text_config"] | {"num_hidden_layers": 2}
  config = checkpoints.CONFIG | {"text_config": text}
  lines = _refusal(checkpoints.write(tmp_path, WEIGHTS, config)).split("\n  ")
  assert len(lines) == 1 + 9
  assert all(
    line.startswith("unexpected language_model.model.layers.2.")
    for line in lines[1:]
  )
  (tmp_path / "config.json").write_text(json.dumps({}), encoding="utf-8")
  assert "model_type is None, expected" in _refusal(tmp_path)
