#!/usr/bin/env bash
# Everything that must hold: installs what is missing, builds the kernels and dist/psionic, compiles the kernels for
# arm64 and, where there is an nvcc, for CUDA, checks types, format and sizes, fuzzes what comes from strangers for two minutes, runs every test.
# Needs Node.js 20 with npm, git and g++.   Usage: bash scripts/test.sh
# Output: a last line `N passed, N failed` (`, N skipped` may follow). Exits 1 when something failed.
set -uo pipefail
cd "$(dirname "$0")/.."
[ $# -eq 0 ] || { echo "[test] expected no arguments, got $*" >&2; exit 1; }
passed=0 failed=0 skipped=0
log=.cache/test.log

finish() {
  echo "$passed passed, $failed failed, $skipped skipped"
  [ "$failed" -eq 0 ] && exit 0
  exit 1
}
step() { # NAME COMMAND...
  local name="$1"; shift
  echo "== $name"
  if "$@"; then passed=$((passed + 1)); else echo "FAILED: $name"; failed=$((failed + 1)); return 1; fi
}
skip() { echo "SKIPPED: $1"; skipped=$((skipped + 1)); }

step "setup" bash scripts/setup.sh || finish
mkdir -p .cache
step "build" .tools/bun build.ts || finish

emulator() { command -v qemu-aarch64-static || command -v qemu-aarch64; }
if ! { command -v aarch64-linux-gnu-g++ && emulator; } >/dev/null && command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
  timeout 300 sh -c 'apt-get update &&
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends g++-aarch64-linux-gnu qemu-user-static' \
    >.cache/apt.log 2>&1 || true
fi
if command -v aarch64-linux-gnu-g++ >/dev/null; then
  step "kernels for arm64" .tools/bun kernels/build.ts linux-arm64
else
  skip "kernels for arm64: no aarch64-linux-gnu-g++, and it could not be installed with apt-get"
fi
emulator >/dev/null || skip "kernels for arm64 under an emulator: no qemu-aarch64, and it could not be installed with apt-get"

if command -v nvcc >/dev/null; then
  step "kernels for CUDA" .tools/bun kernels/build_cuda.ts development
  step "kernels for CUDA's other architectures" .tools/bun kernels/build_cuda.ts check
else
  skip "kernels for CUDA: no nvcc"
fi

if ! { command -v clang-19 && command -v ld64.lld-19; } >/dev/null && command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
  timeout 400 sh -c 'apt-get update &&
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends clang-19 lld-19 libobjc-12-dev' \
    >.cache/apt-clang.log 2>&1 || true
fi
if metal_missing=$(.tools/bun kernels/build_metal.ts missing); then
  step "kernels for Metal, on the stand-in" .tools/bun kernels/build_metal.ts checked
  step "lint of Metal kernels" .tools/bun kernels/metal/standin/lint.ts
else
  skip "kernels for Metal: $metal_missing"
fi

if .tools/bun scripts/codex-install.ts >.cache/codex.log 2>&1; then
  step "Codex CLI for the tests" test -x "$(tail -1 .cache/codex.log)"
else
  skip "Codex CLI for the tests: npm did not bring it, see .cache/codex.log"
fi

browser() { [ -n "${PSIONIC_CHROMIUM:-}" ] || command -v chromium || command -v chromium-browser || command -v google-chrome; }
if ! browser >/dev/null && command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
  timeout 400 sh -c 'apt-get update &&
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends chromium' \
    >.cache/apt-chromium.log 2>&1 || true
fi
browser >/dev/null || skip "the page in a browser: no Chromium, and it could not be installed with apt-get"

step "types, format, sizes" .tools/bun scripts/check.ts
step "predicted times of Metal are those of the op table" .tools/bun scripts/metal-roofline.ts --check
step "fuzz, two minutes" .tools/bun scripts/fuzz.ts --seconds 120

echo "== tests"
.tools/bun test --timeout 60000 2>&1 | tee "$log"
status=${PIPESTATUS[0]}
count() { grep -aE "^ *[0-9]+ $1\$" "$log" | tail -1 | grep -oE '[0-9]+' || echo 0; }
tests_passed=$(count pass) tests_failed=$(count fail) tests_skipped=$(count skip)
passed=$((passed + tests_passed)) failed=$((failed + tests_failed)) skipped=$((skipped + tests_skipped))
if [ "$status" -ne 0 ] && [ "$tests_failed" -eq 0 ]; then
  echo "FAILED: bun test ended with status $status"
  failed=$((failed + 1))
fi
finish
