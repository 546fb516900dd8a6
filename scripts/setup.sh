#!/usr/bin/env bash
# Installs what a build needs into the checkout: a pinned Bun (from npm) and the locked packages.
# Usage: bash scripts/setup.sh            Output: .tools/bun, node_modules/
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# -eq 0 ] || { echo "[setup] expected no arguments, got $*" >&2; exit 1; }
bun_version=1.4.5
case "$(uname -s)-$(uname -m)" in
  Linux-x86_64) platform=linux-x64 ;;
  Linux-aarch64) platform=linux-aarch64 ;;
  Darwin-arm64) platform=darwin-aarch64 ;;
  Darwin-x86_64) platform=darwin-x64 ;;
  *) echo "[setup] expected Linux or macOS on x86-64 or arm64, got $(uname -s) $(uname -m)" >&2; exit 1 ;;
esac
if ! { [ -x .tools/bun ] && [ "$(.tools/bun --version)" = "$bun_version" ]; }; then
  command -v npm >/dev/null || { echo "[setup] expected npm on PATH, got none; install Node.js 20 or later" >&2; exit 1; }
  mkdir -p .tools
  echo '{"private":true}' > .tools/package.json
  npm install --prefix .tools --ignore-scripts --no-audit --no-fund --no-save "@oven/bun-$platform@$bun_version" >/dev/null
  ln -sf "node_modules/@oven/bun-$platform/bin/bun" .tools/bun
fi
.tools/bun install --frozen-lockfile --ignore-scripts --silent
