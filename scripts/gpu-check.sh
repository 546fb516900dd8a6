#!/usr/bin/env bash
# Everything that the CUDA backend must show on a machine with a card: correctness on the device, figures, refusals.
# Builds what is missing (needs nvcc, g++ and Node.js then); a folder made by scripts/gpu-bundle.ts needs none of them.
# Usage: bash scripts/gpu-check.sh [SECTION]... [--backend cuda|cpu] [--shape NAME] [--large-model FILE]
# Output: a table, last on stdout. Exits 1 when a row is not as required, 2 on wrong arguments. Sections: see scripts/gpu-check.ts.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -z "${GPU_CHECK_READY:-}" ]; then
  bash scripts/setup.sh
  backend="$(.tools/bun scripts/gpu-check.ts --arguments "$@")" # wrong ones end here, before minutes of compiling
  .tools/bun build.ts --native >&2
  [ "$backend" = cpu ] || [ -n "${PSIONIC_CUDA_LIBRARY:-}" ] || .tools/bun kernels/build_cuda.ts development >&2
fi
exec .tools/bun scripts/gpu-check.ts "$@"
