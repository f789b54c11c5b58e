"""Accelerators: peak rates, memory and bandwidth, as their vendors print them.

One chip each, dense rates (no structured sparsity). Sources:

- TPU v4: 275 TFLOP/s bf16 or int8, 32 GiB, 1200 GB/s, six links of 400 Gb/s
  between chips, https://cloud.google.com/tpu/docs/v4
- TPU v5e: 197 TFLOP/s bf16, 393 TOP/s int8, 16 GB, 819 GB/s, 1600 Gb/s between
  chips, https://cloud.google.com/tpu/docs/v5e
- TPU v5p: 459 TFLOP/s bf16, 95 GB, 2765 GB/s, 4800 Gb/s between chips,
  https://cloud.google.com/tpu/docs/v5p
- TPU v6e: 918 TFLOP/s bf16, 1836 TOP/s int8, 32 GB, 1638 GB/s, 3200 Gb/s
  between chips, https://cloud.google.com/tpu/docs/v6e
- H100 SXM: 989.4 TFLOP/s bf16 and fp16, 1978.9 fp8 and int8 (NVIDIA H100
  Tensor Core GPU Architecture, white paper); 80 GB, 3.35 TB/s (NVIDIA H100
  data sheet, which prints rates with sparsity: twice these), NVLink 900 GB/s.
- H200 SXM: rates of the H100, 141 GB, 4.8 TB/s (NVIDIA H200 data sheet).

Google's pages say GB where its other pages say GiB; the smaller is taken
except for the v4, whose page says GiB.
"""

from collections.abc import Mapping
import dataclasses
import types as python_types

_TERA, _GIGA = 1e12, 1e9


@dataclasses.dataclass(frozen=True)
class Device:
  """One chip.

  Attributes:
    name: short name, key of `DEVICES`.
    flops_per_second: peak rate of dense matrix products by dtype name, FLOP/s
      (2 for a multiply-add).
    bytes_per_second: bandwidth of its main memory, bytes/s.
    memory_bytes: size of its main memory.
    network_bytes_per_second: bandwidth to other chips, all links together,
      bytes/s.
    source: where the numbers are printed.
    kinds: what JAX calls it (`jax.Device.device_kind`).
  """

  name: str
  flops_per_second: Mapping[str, float] = dataclasses.field(hash=False)
  bytes_per_second: float
  memory_bytes: int
  network_bytes_per_second: float
  source: str
  kinds: tuple[str, ...] = ()

  def __post_init__(self):
    frozen = python_types.MappingProxyType(dict(self.flops_per_second))
    object.__setattr__(self, "flops_per_second", frozen)

  def peak(self, dtype: str) -> float:
    """Peak rate of matrix products of a dtype, FLOP/s.

    >>> DEVICES["h100"].peak("bfloat16")
    989400000000000.0
    """
    if dtype not in self.flops_per_second:
      raise ValueError(
        f"device {self.name!r} has no rate for dtype {dtype!r}, use one of"
        f" {sorted(self.flops_per_second)}, or a Device with your own figures"
      )
    return self.flops_per_second[dtype]

  def ridge(self, dtype: str) -> float:
    """FLOPs per byte from which on products are bound by arithmetic.

    >>> round(DEVICES["h100"].ridge("bfloat16"))
    295
    """
    return self.peak(dtype) / self.bytes_per_second


_HOPPER = {
  "bfloat16": 989.4 * _TERA,
  "float16": 989.4 * _TERA,
  "float8_e4m3fn": 1978.9 * _TERA,
  "int8": 1978.9 * _TERA,
}

TPU_V4 = Device(
  name="tpu_v4",
  flops_per_second={"bfloat16": 275 * _TERA, "int8": 275 * _TERA},
  bytes_per_second=1200 * _GIGA,
  memory_bytes=32 * 2**30,
  network_bytes_per_second=300 * _GIGA,
  source="https://cloud.google.com/tpu/docs/v4",
  kinds=("TPU v4",),
)
TPU_V5E = Device(
  name="tpu_v5e",
  flops_per_second={"bfloat16": 197 * _TERA, "int8": 393 * _TERA},
  bytes_per_second=819 * _GIGA,
  memory_bytes=16 * 10**9,
  network_bytes_per_second=200 * _GIGA,
  source="https://cloud.google.com/tpu/docs/v5e",
  kinds=("TPU v5 lite", "TPU v5e"),
)
TPU_V5P = Device(
  name="tpu_v5p",
  flops_per_second={"bfloat16": 459 * _TERA},
  bytes_per_second=2765 * _GIGA,
  memory_bytes=95 * 10**9,
  network_bytes_per_second=600 * _GIGA,
  source="https://cloud.google.com/tpu/docs/v5p",
  kinds=("TPU v5", "TPU v5p"),
)
TPU_V6E = Device(
  name="tpu_v6e",
  flops_per_second={"bfloat16": 918 * _TERA, "int8": 1836 * _TERA},
  bytes_per_second=1638 * _GIGA,
  memory_bytes=32 * 10**9,
  network_bytes_per_second=400 * _GIGA,
  source="https://cloud.google.com/tpu/docs/v6e",
  kinds=("TPU v6 lite", "TPU v6e"),
)
H100_SXM = Device(
  name="h100",
  flops_per_second=_HOPPER,
  bytes_per_second=3350 * _GIGA,
  memory_bytes=80 * 10**9,
  network_bytes_per_second=900 * _GIGA,
  source="NVIDIA H100 white paper (rates) and data sheet, SXM5",
  kinds=("NVIDIA H100 80GB HBM3",),
)
H200_SXM = Device(
  name="h200",
  flops_per_second=_HOPPER,
  bytes_per_second=4800 * _GIGA,
  memory_bytes=141 * 10**9,
  network_bytes_per_second=900 * _GIGA,
  source="NVIDIA H200 data sheet, SXM; rates as of the H100",
  kinds=("NVIDIA H200",),
)

DEVICES: dict[str, Device] = {
  device.name: device
  for device in (TPU_V4, TPU_V5E, TPU_V5P, TPU_V6E, H100_SXM, H200_SXM)
}


def device_of(kind: str) -> Device | None:
  """The chip that JAX names so; None where its figures are not known here.

  >>> device_of("TPU v5 lite").name
  'tpu_v5e'
  """
  for device in DEVICES.values():
    if kind in device.kinds:
      return device
  return None
