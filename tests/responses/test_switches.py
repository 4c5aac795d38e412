"""Options that switch a model, on the real templates that TRL ships: another prompt, or a refusal."""

from __future__ import annotations

import pytest

from benchmarks.families import USER
from ibpo.errors import IbpoError
from ibpo.responses import (
    DIRECT,
    THINKING_ON,
    check_options,
    check_trainable,
    family_of,
    find_switch,
    render,
    served_cautions,
)
from ibpo.responses.openings import PROBED
from tests.responses.test_families import HYBRID, NAMES, TEMPLATES, tokenizer, tokenizer_with

OFF, ON = {"enable_thinking": False}, {"enable_thinking": True}


@pytest.mark.parametrize(
    ("name", "by", "standard", "extended", "found"),
    [
        ("qwen3", "thinking", OFF, ON, "thinking"),
        ("qwen3", "effort", OFF, ON, "thinking"),  # low and high are one prompt there
        ("qwen3_8", "effort", {"reasoning_effort": "low"}, {"reasoning_effort": "xhigh"}, "effort"),
        ("gptoss", "effort", {"reasoning_effort": "low"}, {"reasoning_effort": "high"}, "effort"),
        ("gptoss", "thinking", {"reasoning_effort": "low"}, {"reasoning_effort": "high"}, "effort"),
        ("Hy3", "thinking", {"reasoning_effort": "no_think"}, {"reasoning_effort": "high"}, "thinking"),
        ("Hy3", "effort", {"reasoning_effort": "low"}, {"reasoning_effort": "high"}, "effort"),
        ("MiniMax M3", "effort", {"thinking_mode": "disabled"}, {"thinking_mode": "enabled"}, "thinking"),
        ("nemotron_3_super", "effort", {"low_effort": True}, {"low_effort": False}, "effort"),
        ("nemotron_3_nano", "effort", OFF, ON, "thinking"),  # of one family, without its words
        ("unknown", "thinking", {"reasoning": False}, {"reasoning": True}, "thinking"),
    ],
)
def test_the_switch_is_the_family_s(name, by, standard, extended, found):
    switch = find_switch(tokenizer(name), by)
    assert (dict(switch.standard), dict(switch.extended), switch.by) == (standard, extended, found)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("by", ["thinking", "effort"])
def test_two_prompts_or_a_refusal(name, by):
    made = tokenizer(name)
    try:
        switch = find_switch(made, by)
    except IbpoError as error:
        assert "has no option" in str(error)
        return
    assert name in HYBRID and switch.standard and switch.extended  # an empty one could be sent with anything
    assert render(made, USER, switch.standard) != render(made, USER, switch.extended)


def test_no_switch_is_said_with_its_reason():
    with pytest.raises(IbpoError, match="thinks before every answer and has no option that switches it"):
        find_switch(tokenizer("deepseek_r1_distill"), "thinking")
    with pytest.raises(IbpoError, match=r"unknown\) has no option that switches thinking"):
        find_switch(tokenizer("llama3_1"), "effort")
    made = tokenizer_with("{# <SPECIAL_11> /no_think #}" + TEMPLATES["llama3_1"])
    with pytest.raises(IbpoError, match="is switched by '/no_think' in the system message alone"):
        find_switch(made, "thinking")


@pytest.mark.parametrize("name", ["qwen3", "qwen3_8", "gptoss", "Hy3", "Kimi K3", "nemotron_3_nano"])
@pytest.mark.parametrize("by", ["thinking", "effort"])
def test_a_template_that_nobody_knows_is_read_by_trying(name, by):
    """As through a server that renders and does not tell the template's text: no text of it is seen."""

    class Unseen:
        chat_template = f"asked of a server, {name}"
        apply_chat_template = tokenizer(name).apply_chat_template

    PROBED.pop(Unseen.chat_template, None)
    known, tried = find_switch(tokenizer(name), by), find_switch(Unseen(), by)
    assert tried.family == "unknown" and tried.by == known.by
    assert [render(Unseen(), USER, way) for way in (tried.standard, tried.extended)] == [
        render(tokenizer(name), USER, way) for way in (known.standard, known.extended)
    ]
    assert family_of(Unseen()).off != {"reasoning_effort": "none"}  # gpt-oss takes any word, and has no such one


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("qwen3", ON, None),
        ("qwen3", {"enable_thinking": False, "documents": []}, None),
        ("llama3_1", {"date_string": "26 Jul 2024"}, None),
        ("qwen3", {"reasoning_effort": "high"},
         "reasoning_effort: the chat template (Qwen3) ignores it; this family takes enable_thinking=False or"),
        ("qwen3_8", {"reasoning_effort": "high"}, "the chat template refuses it: Unexpected reasoning effort"),
        ("qwen3_8", {"reasoning_effort": "xhigh"}, None),
        ("gptoss", OFF, "ignores it; this family takes reasoning_effort=low or reasoning_effort=medium"),
        ("gptoss", {"reasoning_effort": "medium"}, None),
        ("Hy3", OFF, "this family takes reasoning_effort=no_think or reasoning_effort=high"),
        ("MiniMax M3", OFF, "thinking_mode=disabled or thinking_mode=enabled"),
        ("llama3_1", ON, "enable_thinking: the chat template (unknown) ignores it; leave it out"),
    ],
)  # fmt: skip
def test_a_recipe_s_options_are_taken_or_refused(name, options, said):
    if said is None:
        check_options(tokenizer(name), options, "chat_template_kwargs")
        return
    with pytest.raises(IbpoError) as error:
        check_options(tokenizer(name), options, "chat_template_kwargs")
    assert str(error.value).startswith("chat_template_kwargs") and said in str(error.value), error.value
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("qwen3", {}, None),
        ("qwen3", OFF, "behind a closed thought ('<think>\\n\\n</think>\\n\\n'), where '<think>\\n' would open"),
        ("qwen3_6", {}, "inside an open thought ('<think>\\n'), where '<think>\\n' would open another; take"),
        ("qwen3_5_nothink", {}, "set chat_template_kwargs to enable_thinking=True, or take"),
        ("gemma4_v5", {}, None),
        ("Hy3", {}, "reasoning_effort=high, or take"),
        ("llama3_1", {}, None),
    ],
)  # fmt: skip
def test_training_prompts_leave_the_opening_to_the_policy(name, options, said):
    prefixes = {form.group.name: form.group.prefix for form in (THINKING_ON, DIRECT)}
    if said is None:
        check_trainable(tokenizer(name), USER, prefixes, options, "chat_template_kwargs")
        return
    with pytest.raises(IbpoError) as error:
        check_trainable(tokenizer(name), USER, prefixes, options, "chat_template_kwargs")
    assert str(error.value).startswith("response_group.thinking_on.prefix: ") and said in str(error.value), error.value


def test_words_behind_a_template_s_own_thought_may_be_trained():
    """Both groups inside the thought that the template opens: the choice is the policy's, and `ibpo train` says it."""
    check_trainable(tokenizer("qwen3_6"), USER, {"a": "[TRIAL]", "b": "Solution:"}, {}, "chat_template_kwargs")
    check_trainable(tokenizer("qwen3_6"), "a text", {"a": "<think>"}, OFF, "chat_template_kwargs")  # no template then


def test_prefixes_that_a_server_continues_are_looked_at():
    groups = {"a": ("Answer:", {}), "b": ("[TRIAL]", {})}
    assert served_cautions(tokenizer("llama3_1"), groups) == []
