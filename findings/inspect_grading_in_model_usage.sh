#!/bin/bash
# inspect-ai 0.3.285 (Python), pydantic 2.14.4.
#
# Behaviour: `model_graded_qa()` without a grader asks the model that is evaluated, and what it spends on grading is added to the
# SAMPLE's `model_usage` under that model's name; `role_usage`, which is said to hold the usage by role, is empty. So a cost per sample
# that is read from `model_usage` is that of answer and grading together (here 105 output tokens for an answer of 5), and a cheap way of
# answering looks as expensive as the grading is. Only with a grader of another name do the two stand apart. `output.usage` holds the
# answer's own tokens, but of its last call alone; the calls of a sample, one by one, are in its events, those of scorers inside spans
# of type "scorer".
#
# Seen:
#   no grader named: output tokens by model {'mockllm/model': 105}, by role {}, of the answer 5
#   a grader named: output tokens by model {'mockllm/model': 5, 'mockllm/grader': 100}, by role {'grader': 100}, of the answer 5
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet inspect-ai==0.3.285 pydantic==2.14.4 >/dev/null 2>&1
cat >look.py <<'PY'
from inspect_ai import Task, eval
from inspect_ai.dataset import Sample
from inspect_ai.model import ModelOutput, ModelUsage, get_model
from inspect_ai.scorer import model_graded_qa
from inspect_ai.solver import generate


def said(text, tokens):
    output = ModelOutput.from_content("mockllm/model", text)
    output.usage = ModelUsage(input_tokens=10, output_tokens=tokens, total_tokens=10 + tokens)
    return output


def sample_of(grader):
    answers = [said("4", 5)] + ([] if grader else [said("GRADE: C", 100)])
    model = get_model("mockllm/model", custom_outputs=answers)
    roles = {"grader": get_model("mockllm/grader", custom_outputs=[said("GRADE: C", 100)])} if grader else None
    task = Task(dataset=[Sample(input="2 + 2", target="4")], solver=generate(), scorer=model_graded_qa())
    (log,) = eval(task, model=model, model_roles=roles, display="none", log_dir="logs")
    (sample,) = log.samples
    return sample


for name, sample in (("no grader named", sample_of(False)), ("a grader named", sample_of(True))):
    usage = {model: use.output_tokens for model, use in sample.model_usage.items()}
    roles = {role: use.output_tokens for role, use in sample.role_usage.items()}
    print(f"{name}: output tokens by model {usage}, by role {roles}, of the answer {sample.output.usage.output_tokens}")
PY
venv/bin/python look.py 2>/dev/null | tee seen
diff seen <(
  cat <<'SEEN'
no grader named: output tokens by model {'mockllm/model': 105}, by role {}, of the answer 5
a grader named: output tokens by model {'mockllm/model': 5, 'mockllm/grader': 100}, by role {'grader': 100}, of the answer 5
SEEN
)
