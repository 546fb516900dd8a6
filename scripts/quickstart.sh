#!/usr/bin/env bash
# From a bare checkout to an answer: installs what is missing, builds dist/psionic, serves the built-in model on a free
# port of this machine, asks it one question over HTTP and prints the answer as it comes.
# Needs Node.js 20 with npm, git and g++.   Usage: bash scripts/quickstart.sh [QUESTION]
# Output: the answer, tokens per second, what computed it, and the digest of the model. Exits 0 when all of that worked.
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# -le 1 ] || { echo "[quickstart] expected one question in quotes, got $# words" >&2; exit 1; }
command -v g++ >/dev/null || { echo "[quickstart] expected g++ on PATH, got none; install g++" >&2; exit 1; }
echo "Installing Bun and packages" >&2
bash scripts/setup.sh
echo "Building dist/psionic; the first time takes a few minutes" >&2
.tools/bun build.ts
echo "Serving the built-in model" >&2

ready="$(mktemp)"
server=""
stop() {
  if [ -n "$server" ]; then kill "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true; fi
  rm -f "$ready" "$ready.log"
}
trap stop EXIT
trap 'exit 130' INT TERM

./dist/psionic serve --port 0 >"$ready" 2>"$ready.log" &
server=$!
for _ in $(seq 600); do
  grep -q '^psionic serve ' "$ready" && break
  kill -0 "$server" 2>/dev/null || { cat "$ready.log" >&2; server=""; exit 1; }
  sleep 0.1
done
url="$(sed -n 's/^psionic serve \(http[^ ]*\) .*/\1/p' "$ready")"
[ -n "$url" ] || { echo "[quickstart] expected a ready line within 60 s, got none" >&2; cat "$ready.log" >&2; exit 1; }
.tools/bun scripts/ask.ts "$url" "${1:-Why does HTTPS matter?}"
