"""What is read from the text of a compiled program."""

import jax
import jax.numpy as jnp

from eos_jax.compilation import hlo

# A loop of five gathers a layer's weights; behind it a sum over all devices,
# begun and ended apart, and a loop that nobody knows the length of.
TEXT = """\
HloModule step

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%fused (p: bf16[4,8]) -> bf16[4,8] {
  %p = bf16[4,8]{1,0} parameter(0)
  ROOT %twice = bf16[4,8]{1,0} multiply(%p, %p)
}

%body (s: (s32[], bf16[4,8])) -> (s32[], bf16[4,8]) {
  %s = (s32[], bf16[4,8]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %x = bf16[4,8]{1,0:T(8,128)} get-tuple-element(%s), index=1
  %all = bf16[16,8]{1,0} all-gather(%x), channel_id=1, dimensions={0}
  %near = bf16[16,8]{1,0:T(8,128)S(1)} copy(%all)
  %y = bf16[4,8]{1,0} fusion(%x), kind=kLoop, calls=%fused
  ROOT %out = (s32[], bf16[4,8]{1,0}) tuple(%i, %y)
}

%five (s: (s32[], bf16[4,8])) -> pred[] {
  %s.1 = (s32[], bf16[4,8]{1,0}) parameter(0)
  %j = s32[] get-tuple-element(%s.1), index=0
  %end = s32[] constant(5)
  ROOT %less = pred[] compare(%j, %end), direction=LT
}

%until (s: (s32[], bf16[4,8])) -> pred[] {
  %s.2 = (s32[], bf16[4,8]{1,0}) parameter(0)
  ROOT %done = pred[] custom-call(%s.2), custom_call_target="done"
}

ENTRY %main (w: bf16[4,8], v: f32[3]) -> (f32[3], bf16[4,8]) {
  %w = bf16[4,8]{1,0} parameter(0)
  %v = f32[3]{0} parameter(1)
  %zero = s32[] constant(0)
  %start = (s32[], bf16[4,8]{1,0}) tuple(%zero, %w)
  %loop = (s32[], bf16[4,8]{1,0}) while(%start), condition=%five, body=%body
  %again = (s32[], bf16[4,8]{1,0}) while(%loop), condition=%until, body=%body
  %begun = f32[3]{0} all-reduce-start(%v), channel_id=2, to_apply=%add
  %ended = f32[3]{0} all-reduce-done(%begun)
  %kept = bf16[4,8]{1,0} get-tuple-element(%again), index=1
  ROOT %result = (f32[3]{0}, bf16[4,8]{1,0}) tuple(%ended, %kept)
}
"""


def test_loops_are_multiplied_out():
  found = hlo.traffic(TEXT)
  # Of the loop whose length is not known the body counts once.
  assert found.unknown == 1
  assert found.collectives == {
    "all-gather": (5, 5 * 16 * 8 * 2),
    "all-reduce": (1, 3 * 4),
  }
  x, gathered, v = 4 * 8 * 2, 16 * 8 * 2, 3 * 4
  # The copy reads main memory and writes the chip's own.
  body = (x + gathered) + gathered + 2 * x
  assert found.moved == 6 * body + 2 * v + 2 * v


def test_arrays_in_main_memory():
  assert hlo.array_bytes("f32[]") == 4
  assert hlo.array_bytes("pred[7]{0}") == 7
  assert hlo.array_bytes("s4[10]{0}") == 5
  assert hlo.array_bytes("(f32[2]{0}, token[], bf16[3,5]{1,0:T(8,128)})") == 38
  assert hlo.array_bytes("f32[99]{0:T(128)S(1)}") == 0


def test_a_program_that_was_compiled_here():
  def function(x, weights):
    return jax.lax.scan(lambda x, w: (x @ w, None), x, weights)[0]

  args = jnp.ones((64, 64)), jnp.ones((9, 64, 64))
  compiled = jax.jit(function).lower(*args).compile()
  found = hlo.traffic(compiled.as_text())
  assert not found.collectives
  # Each round reads a matrix and what it is applied to, and writes the result.
  least = 9 * 3 * 64 * 64 * 4
  assert least <= found.moved <= 4 * least
