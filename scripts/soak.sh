#!/usr/bin/env bash
# Long checks that are too slow for every change: 1,000,000 mutated answers over the three families with a parser, and
# 700,000 mutants of files, tokenizer tables and bodies; 10,000 requests with a steady resident set; 200 streams at once
# without a mix-up; 1,000 at once without a loss, with the 99th percentile of the time between tokens; 200 trainings and
# 200 operations of machine workers and validators killed at random moments and done again; every forged contribution found,
# 100 honest ones accepted, and what sampling catches at what cost.
# Usage: bash scripts/soak.sh [MUTANTS]          Output: a summary for docs/log.md on stdout. Exits 1 when something broke.
set -euo pipefail
cd "$(dirname "$0")/.."
[[ $# -le 1 && "${1:-1000000}" =~ ^[0-9]+$ ]] || { echo "[soak] expected a number of mutants, got $*" >&2; exit 1; }
bash scripts/setup.sh
.tools/bun build.ts >&2
exec .tools/bun scripts/soak.ts "${1:-1000000}"
