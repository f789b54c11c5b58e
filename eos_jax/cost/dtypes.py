"""Bytes of a number by the name of its dtype."""

BYTES = {
  "float32": 4,
  "bfloat16": 2,
  "float16": 2,
  "int8": 1,
  "float8_e4m3fn": 1,
}


def bytes_of(dtype: str) -> int:
  """Bytes of one number of a dtype, by its name in JAX.

  >>> bytes_of("bfloat16"), bytes_of("float8_e4m3fn")
  (2, 1)
  """
  if dtype not in BYTES:
    raise ValueError(f"dtype is {dtype!r}, use one of {sorted(BYTES)}")
  return BYTES[dtype]
