#!/usr/bin/env bash
# psionic against llama.cpp through their servers: see scripts/benchmark-gpt-oss-vs-llama.ts for flags and output.
# Usage: bash scripts/benchmark-gpt-oss-vs-llama.sh --model FILE --llama-bin PROGRAM [FLAG VALUE]...
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
bun="$here/../.tools/bun"
[ -x "$bun" ] || bash "$here/setup.sh"
exec "$bun" "$here/benchmark-gpt-oss-vs-llama.ts" "$@"
