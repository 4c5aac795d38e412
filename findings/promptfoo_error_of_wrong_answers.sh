#!/bin/bash
# promptfoo 0.121.20 (npm; the newest that Node 20 runs), Node 20.
#
# Behaviour: in the results that `promptfoo eval -o out.json` writes, a WRONG ANSWER has the field `error` filled (with the reason of
# the failed assertion) just as a FAILED REQUEST has; both have `success: false` and `score: 0`. A reader that drops rows with an
# `error` drops all wrong answers and reports an accuracy of 1. Only `failureReason` distinguishes them: 0 passed, 1 an assertion
# failed, 2 the request failed. The CSV output repeats the column names Status and Score for each provider and has no token counts.
#
# Seen (answer, success, score, failureReason, error):
#   right true 1 0 none
#   wrong false 0 1 Expected output "wrong" to equal "right"
#   null false 0 2 request failed
#   CSV columns named Status: 2; columns with tokens: 0
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export PROMPTFOO_DISABLE_TELEMETRY=1 PROMPTFOO_DISABLE_UPDATE=1 PROMPTFOO_CONFIG_DIR="$work/settings"
npm init -y >/dev/null
npm install --silent --no-audit --no-fund promptfoo@0.121.20 >/dev/null 2>&1
cat >provider.js <<'JS'
module.exports = class {
  id() { return 'demo'; }
  async callApi(prompt) {
    if (prompt.includes('fail')) return { error: 'request failed' };
    return { output: prompt, tokenUsage: { prompt: 1, completion: 2, total: 3 } };
  }
};
JS
cat >config.json <<'JSON'
{"prompts": ["{{word}}"],
 "providers": [{"id": "file://provider.js", "label": "one"}, {"id": "file://provider.js", "label": "two"}],
 "tests": [{"vars": {"word": "right"}, "assert": [{"type": "equals", "value": "right"}]},
           {"vars": {"word": "wrong"}, "assert": [{"type": "equals", "value": "right"}]},
           {"vars": {"word": "fail"}, "assert": [{"type": "equals", "value": "right"}]}]}
JSON
node_modules/.bin/promptfoo eval -c config.json -o out.json -o out.csv --no-cache --no-write --no-table >/dev/null 2>&1 || true
node - <<'JS'
const fs = require('fs');
const rows = JSON.parse(fs.readFileSync('out.json')).results.results.filter((r) => r.provider.label === 'one');
rows.sort((a, b) => a.failureReason - b.failureReason);
for (const r of rows) console.log(r.response?.output ?? null, r.success, r.score, r.failureReason, r.error ?? 'none');
const header = fs.readFileSync('out.csv', 'utf8').split('\n')[0].split(',');
const status = header.filter((c) => c === 'Status').length;
const tokens = header.filter((c) => /token/i.test(c)).length;
console.log(`CSV columns named Status: ${status}; columns with tokens: ${tokens}`);
const as_stated = rows.length === 3 && rows.every((r, i) => r.failureReason === i) && !rows[0].error && rows[1].error && rows[2].error
  && rows[1].score === rows[2].score && status === 2 && tokens === 0;
process.exit(as_stated ? 0 : 1);
JS
