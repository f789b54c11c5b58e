#!/usr/bin/env bash
# Runs the main job on a Cloud TPU VM: create, install, run, fetch what it
# wrote into runs/NAME, delete. Any argument behind -- goes to eos_jax.main.
#
#   launch/tpu_vm.sh [--dry-run] [--keep] -- --config=configs/search.py
#
# Environment: NAME, ZONE, TYPE (accelerator type), IMAGE (runtime version),
# PROJECT (default: gcloud's own).
set -euo pipefail

NAME="${NAME:-eos-jax}"
ZONE="${ZONE:-us-west4-a}"
TYPE="${TYPE:-v5litepod-8}"
IMAGE="${IMAGE:-v2-alpha-tpuv5-lite}"
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

dry=0
keep=0
while (($#)); do
  case "$1" in
    --dry-run) dry=1 ;;
    --keep) keep=1 ;;
    --) shift; break ;;
    *) echo "unknown option $1 (arguments of the job come after --)" >&2
       exit 2 ;;
  esac
  shift
done
job=("$@")
((${#job[@]})) || job=(--config=configs/search.py)

place=("--zone=$ZONE")
[[ -z "${PROJECT:-}" ]] || place+=("--project=$PROJECT")

run() {
  printf '%q ' "$@"
  printf '\n'
  ((dry)) || "$@"
}
tpu() { run gcloud compute tpus tpu-vm "$@" "${place[@]}" --quiet; }
on_all() { tpu ssh "$NAME" --worker=all --command="$1"; }

cleanup() {
  ((keep)) || tpu delete "$NAME"
  rm -f "$archive"
}
archive="$(mktemp -t eos_jax.XXXXXX)"
trap cleanup EXIT

run git -C "$ROOT" archive --format=tar.gz --output="$archive" HEAD
tpu create "$NAME" --accelerator-type="$TYPE" --version="$IMAGE"
tpu scp "$archive" "$NAME:eos_jax.tar.gz" --worker=all
# The images' own Python is older than 3.11; uv brings one of its own.
on_all "mkdir -p eos_jax && tar -xzf eos_jax.tar.gz -C eos_jax \
&& python3 -m pip install --quiet --user uv \
&& python3 -m uv venv --quiet --python 3.12 venv \
&& python3 -m uv pip install --quiet --python venv/bin/python -e 'eos_jax[tpu]'"
# Every worker runs the same command; on TPU jax finds its peers by itself.
on_all "cd eos_jax && ../venv/bin/python -m eos_jax.main$(printf ' %q' "${job[@]}")"
((dry)) || mkdir -p "$ROOT/runs"
tpu scp --recurse "$NAME:eos_jax/runs" "$ROOT/runs/$NAME" --worker=0
