"""The check on tokenizers and templates made here, each with a fault that cost users of other trainers weeks."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("transformers")

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from typer.testing import CliRunner

from ibpo.cli import app
from ibpo.responses.format_checks import check_formats, sample_response
from ibpo.responses.formats import FORMATS

CHAT = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
HYBRID = CHAT.replace(
    "<|assistant|>\n{% endif %}",
    "<|assistant|>\n{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}"
    "{% endif %}",
)
OPENS_THOUGHT = CHAT.replace("<|assistant|>\n{% endif %}", "<|assistant|>\n<think>\n{% endif %}")
DROPS_THOUGHT = CHAT.replace(
    "{{ m['content'] }}", "{{ m['content'].split('</think>')[-1] if m['role'] == 'assistant' else m['content'] }}"
)


def tokenizer(template=None, *, special=()):
    """Bytes, so every text survives; `<think>` and `</think>` are tokens of their own, as in hybrid models."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>")
    made.add_tokens(["<think>", "</think>", "[TRIAL]", "[/TRIAL]", "\n\n"])
    if special:
        made.add_special_tokens({"additional_special_tokens": list(special)})
    made.chat_template = template
    return made


def found(names, made, level=None):
    findings = check_formats([FORMATS[name] for name in names], made)
    return [f"{f.subject}: {f.text}" for f in findings if level is None or f.level == level]


def test_good_groups_have_no_errors():
    names = ["standard", "sequential_voting", "self_correction", "debate", "thinking_on"]
    errors = found(names, tokenizer(CHAT), "error")
    # Letter by letter three of them open with "[".
    assert errors and all("open with '['" in text for text in errors)
    assert found(["standard", "sequential_voting", "effort_low", "thinking_on"], tokenizer(CHAT), "error") == []


def test_thinking_on_and_off_part_after_their_first_token():
    """Both open with `<think>`: a trainer that weighs the first token learns no choice (the trap of hybrid models)."""
    [error] = found(["thinking_on", "thinking_off"], tokenizer(CHAT), "error")
    assert error.startswith("thinking_on, thinking_off: both open with '<think>") and "would not be learned" in error
    assert "take `direct` for the other, which opens with 'Answer:'" in error


def test_thinking_and_answering_directly_are_told_apart():
    """The form that the check proposes, with a plain template and with a hybrid model's."""
    for template in (CHAT, HYBRID):
        assert found(["thinking_on", "direct"], tokenizer(template), "error") == []
    thought, direct = (sample_response(FORMATS[name]) for name in ("thinking_on", "direct"))
    assert direct.startswith("Answer:") and FORMATS["direct"].problem_of(thought) is not None
    assert FORMATS["thinking_on"].problem_of(direct) is not None
    assert FORMATS["direct"].problem_of(direct.replace("Answer:", "Answer: <think> </think>")) is not None


def test_a_template_that_writes_the_opening_itself():
    warnings = found(["thinking_off", "standard"], tokenizer(HYBRID), "warning")
    assert any("writes '<think>\\n\\n</think>' into the prompt" in text for text in warnings)
    notes = found(["thinking_off", "standard"], tokenizer(CHAT), "note")
    assert any("ignores enable_thinking=False" in text for text in notes)


def test_a_template_that_opens_the_thought():
    errors = found(["standard", "thinking_on"], tokenizer(OPENS_THOUGHT), "error")
    assert any(text.startswith("template: its prompt ends inside an open thought") for text in errors)


def test_a_template_that_drops_the_thought_from_what_is_trained_on():
    errors = found(["standard", "thinking_on"], tokenizer(DROPS_THOUGHT), "error")
    assert any("thinking_on: the template drops its thought from a response as the last message" in t for t in errors)


def test_markers_that_are_special_tokens_vanish():
    errors = found(["standard", "sequential_voting"], tokenizer(CHAT, special=["[TRIAL]"]), "error")
    assert any("holds special tokens, which vanish" in text for text in errors)


def test_words_that_the_tokenizer_loses():
    made = tokenizer(CHAT)
    made.add_special_tokens({"eos_token": "Solution:"})
    assert any("special tokens, which vanish" in t for t in found(["standard", "sequential_voting"], made, "error"))


def test_a_broken_template_and_one_that_forgets_the_user():
    assert any("cannot render" in t for t in found(["standard"], tokenizer("{{ raise_exception('no') }}"), "error"))
    assert any("not in the prompt" in t for t in found(["standard"], tokenizer("hello"), "error"))


def test_a_group_without_an_opening_is_only_asked_for():
    assert any("neither be chosen nor forced" in t for t in found(["adaptive", "standard"], tokenizer(), "warning"))


def test_every_format_has_a_well_formed_sample():
    for form in FORMATS.values():
        assert form.problem_of(sample_response(form)) is None, form.group.name


def run(*arguments):
    return CliRunner().invoke(app, ["groups", "check", *map(str, arguments)])


def test_the_command(tmp_path):
    tokenizer(CHAT).save_pretrained(tmp_path / "model")
    good = run(tmp_path / "model")
    assert good.exit_code == 0, good.output
    assert good.stdout.splitlines()[-1].startswith("standard, sequential_voting with ") and "0 errors" in good.stdout
    bad = run(tmp_path / "model", "--response-group", "thinking_on", "--response-group", "thinking_off")
    assert bad.exit_code == 1 and "error: thinking_on, thinking_off: both open with" in bad.stdout
    recipe = tmp_path / "r.toml"
    recipe.write_text(
        '[model]\npath = "m"\n[data]\npath = "d"\n[budget]\nb = 0.5\n'
        '[[response_group]]\nname = "a"\nprefix = "Fast"\n[[response_group]]\nname = "b"\nprefix = "Far"\n'
    )
    own = run(tmp_path / "model", "--response-group", recipe)
    assert own.exit_code == 1 and "a, b: both open with 'Fa'" in own.stdout


NOT_THINKING = CHAT.replace(
    "<|assistant|>\n{% endif %}",
    "<|assistant|>\n{% if not (enable_thinking is defined and enable_thinking is true) %}<think>\n\n</think>\n\n"
    "{% endif %}{% endif %}",
)


@pytest.mark.parametrize(
    ("template", "options", "said"),
    [
        (NOT_THINKING, "", "error: template: its prompt ends in a closed thought ('<think>\\n\\n</think>\\n\\n')"),
        (NOT_THINKING, "enable_thinking = true", "0 errors"),  # as the error says
        (HYBRID, "", "0 errors"),
        (HYBRID, "enable_thinking = false", "error: template: its prompt ends in a closed thought"),
        (CHAT, "enable_thinking = true", "trl.chat_template_kwargs.enable_thinking: the chat template (unknown) ig"),
    ],
)  # fmt: skip
def test_a_recipe_is_checked_with_the_options_that_it_renders_its_prompts_with(tmp_path, template, options, said):
    tokenizer(template).save_pretrained(tmp_path / "model")
    recipe = tmp_path / "r.toml"
    recipe.write_text(
        '[model]\npath = "m"\n[data]\npath = "d"\n[budget]\nb = 0.5\n'
        '[[response_group]]\nname = "a"\nprefix = "Answer:"\n[[response_group]]\nname = "b"\nprefix = "<think>"\n'
        f"[trl]\nchat_template_kwargs = {{{options}}}\n"
    )
    result = run(tmp_path / "model", "--response-group", recipe)
    assert said in result.stdout and result.exit_code == (0 if said == "0 errors" else 1), result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["./no/such"], "./no/such: there is no such folder"),
        (
            ["{model}", "--response-group", "standrad"],
            "group standrad: no such response group; did you mean standard?",
        ),
        (["{model}", "--response-group", "none.toml"], "none.toml: there is no such recipe"),
        (["{model}", "--response-group", "standard", "--response-group", "none.toml"], "name it alone"),
    ],
)
def test_errors_are_one_line(arguments, message, tmp_path):
    tokenizer(CHAT).save_pretrained(tmp_path)
    result = run(*(a.replace("{model}", str(tmp_path)) for a in arguments))
    lines = result.stderr.strip().splitlines()
    assert result.exit_code == 2 and len(lines) == 1 and message in lines[0], result.output


@pytest.mark.parametrize(
    ("recipe", "groups"),
    [("qwen", "standard, sequential_voting"), ("sums", "standard, extended"), ("smoke", "standard, extended")],
)
def test_the_recipe_of_a_cold_start(tmp_path, recipe, groups):
    """docs/how-to/cold-start.md sends its readers here; such recipes were refused, and their keys called wrongly."""
    tokenizer(CHAT).save_pretrained(tmp_path)
    path = Path(__file__).parents[2] / "recipes" / f"cold_start_{recipe}.toml"
    result = run(tmp_path, "--response-group", path)
    assert f"{groups} with {tmp_path}: " in result.stdout, result.output
    text = path.read_text() + "[template]\nenable_thinking = false\n"
    (tmp_path / "own.toml").write_text(text)
    result = run(tmp_path, "--response-group", tmp_path / "own.toml")
    assert result.exit_code == 1 and "error: template: template.enable_thinking: the chat template" in result.stdout
    if recipe == "sums":  # which names its prefixes
        (tmp_path / "own.toml").write_text(path.read_text().replace('prefix = "Steps:"', 'prefix = "<think>"'))
        tokenizer(NOT_THINKING).save_pretrained(tmp_path)
        result = run(tmp_path, "--response-group", tmp_path / "own.toml")
        assert "enable_thinking=True under template switches it on" in result.stdout, result.output


def test_a_broken_tokenizer(tmp_path):
    (tmp_path / "tokenizer_config.json").write_text("{")
    result = run(tmp_path)
    assert result.exit_code == 2 and "the tokenizer cannot be loaded" in result.stderr


@pytest.mark.parametrize("files", [{}, {"config.json": '{"model_type": "gpt2"}'}])
def test_a_folder_without_a_tokenizer_has_none(tmp_path, files):
    """transformers makes one without a vocabulary of a model's configuration alone: all openings were wrong."""
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    result = run(tmp_path)
    assert result.exit_code == 2 and "cannot be loaded: there is none; name a folder made by" in result.stderr
