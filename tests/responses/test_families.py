"""Families of hybrid models, on the real chat templates that TRL ships and on small ones that imitate the others.

TRL's are read where it is installed (Apache-2.0, each template its model's licence); nothing of them is copied here.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import trl

from benchmarks.families import OPENINGS, USER, is_as_asked, tokenizer_with
from ibpo.errors import IbpoError
from ibpo.responses import (
    DIRECT,
    FAMILIES,
    FORMATS,
    THINKING_OFF,
    THINKING_ON,
    check_formats,
    default_system_prompt,
    encode_groups,
    encode_prefix,
    family_of,
    find_family,
    find_group,
    open_response,
    prefilled,
    prompt_notes,
    render,
    same_prompts,
    served_cautions,
    split_thought,
    translate,
    written,
)
from ibpo.rollouts.sampler import PromptWriter, Request, encode_prompt
from ibpo.types import Problem, ResponseGroup

SHIPPED = {
    path.stem: path.read_text(encoding="utf-8")
    for path in sorted((Path(trl.__file__).parent / "chat_templates").glob("*.jinja"))
    if not path.stem.endswith("_training")
}
CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
TURN = "{% if add_generation_prompt %}<|im_start|>assistant\n"
IMITATED = {
    # What the template does, in its family's words; small, and ours.
    "Hy3": "{% set effort = reasoning_effort if reasoning_effort is defined else 'no_think' %}"
    "{% if effort not in ['no_think', 'low', 'high'] %}{{ raise_exception('should be no_think/low/high') }}{% endif %}"
    "{{ effort }}"
    + CHATML + TURN + "<think:opensource>{% if effort == 'no_think' %}</think:opensource>{% endif %}{% endif %}",
    "MiniMax M3": CHATML + TURN + "{% if thinking_mode is defined and thinking_mode == 'enabled' %}<mm:think>"
    "{% elif thinking_mode is defined and thinking_mode == 'disabled' %}</mm:think>{% endif %}{% endif %}",
    "Kimi K3": "{% set thinking = thinking if thinking is defined else true %}{{ thinking_effort }}" + CHATML + TURN
    + "{% if thinking %}<|open|>think<|sep|>{% else %}<|open|>response<|sep|>{% endif %}{% endif %}",
    "unknown": CHATML + TURN + "{% if reasoning is defined and not reasoning %}<think></think>{% else %}<think>"
    "{% endif %}{% endif %}",
}  # fmt: skip
TEMPLATES = SHIPPED | IMITATED


def tokenizer(name):
    return tokenizer_with(TEMPLATES[name])


def renders(name):
    try:
        return USER[0]["content"] in render(tokenizer(name), USER, {})
    except Exception:
        return False


NAMES = [name for name in TEMPLATES if renders(name)]
HYBRID = [name for name in NAMES if (f := family_of(tokenizer(name))).on is not None or f.off]


def test_the_templates_are_there():
    assert len(NAMES) >= 35 and len(HYBRID) >= 20
    assert {"qwen3", "qwen3_8", "gptoss", "glm4moe", "gemma4_v5", "nemotron_3_super", "Hy3"} <= set(HYBRID)
    assert [find_family(template).name for template in IMITATED.values()] == list(IMITATED)


@pytest.mark.parametrize("name", HYBRID)
def test_the_table_says_what_the_template_writes(name):
    made = tokenizer(name)
    family = family_of(made)
    if family.name == "unknown":
        return
    for options, writes in ((family.on, family.writes_on), (family.off, family.writes_off)):
        if options is not None:
            assert "".join(written(made, USER, options, family)[0].split()) == "".join(writes.split())
    if family.on and family.off:
        assert same_prompts(made, {"on": ("", family.on), "off": ("", family.off)}) == []
    for options in family.efforts.values():
        assert render(made, USER, options)
    if family.prefill:
        for kind, prefix in OPENINGS.items():
            assert is_as_asked(prefilled(made, USER, prefix, {}), kind, family)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", OPENINGS)
def test_every_opening_is_forced_as_asked(name, kind):
    """`<think>` twice, an empty thought in front of an open one, a word inside a thought: none of these."""
    made = tokenizer(name)
    opened = open_response(made, USER, OPENINGS[kind], {}, adapt=True)
    assert is_as_asked(opened.prompt + opened.forced, kind, family_of(made)), (opened.prompt[-80:], opened.forced)
    # What the response is read as begins with the whole prefix, whoever wrote it.
    thought, wanted = split_thought(opened.lead + opened.forced), split_thought(OPENINGS[kind])
    assert ((thought.text or "").strip(), thought.closed) == ((wanted.text or "").strip(), wanted.closed)
    assert thought.answer.strip() == wanted.answer.strip()


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_thought_ends_by_its_familys_mark_whoever_opened_it(family):
    said = f"3 + 4{family.end_think}{family.to_answer}7"
    for whole in (family.think + said, said):
        thought = split_thought(whole)
        assert ((thought.text or "").strip(), thought.closed, thought.answer) == ("3 + 4", True, "7")
    cut = split_thought(family.think + "3 + 4 is 7")
    assert (cut.text or "").strip() == "3 + 4 is 7" and not cut.closed and not cut.answer


def test_gpt_oss_without_its_special_tokens():
    assert split_thought("analysisI count.assistantfinal7").answer == "7"
    assert not split_thought("analysisI count").closed
    assert split_thought("analysis of the problem").text is None


@pytest.mark.parametrize(
    ("name", "prefix", "tail"),
    [
        ("qwen3", "<think>\n", "assistant\n<think>\n"),
        ("qwen3_6", "<think>\n", "assistant\n<think>\n"),
        ("qwen3_6", "<think>\n\n</think>\n\n", "assistant\n<think>\n\n</think>\n\n"),
        ("qwen3_6", "Answer:", "assistant\n<think>\n\n</think>\n\nAnswer:"),
        ("qwen3_5_nothink", "<think>\n", "assistant\n<think>\n"),
        ("deepseek_r1_distill", "Answer:", "<think>\n\n</think>\n\nAnswer:"),
        ("gptoss", "<think>\n", "assistant<|channel|>analysis<|message|>"),
        ("gptoss", "Answer:", "assistant<|channel|>final<|message|>Answer:"),
        ("gemma4_v5", "<think>\n", "model\n<|channel>thought\n"),
        ("glm4moe", "<think>\n\n</think>\n\n", "/nothink<|assistant|>\n<think></think>"),
        ("llama3_1", "<think>\n", "assistant<|end_header_id|>\n\n<think>\n"),
    ],
)
def test_what_the_model_itself_would_see(name, prefix, tail):
    opened = open_response(tokenizer(name), USER, prefix, {}, adapt=True)
    assert (opened.prompt + opened.forced).endswith(tail)


def test_a_recipe_s_prompt_is_left_as_it_is():
    """Training renders by the recipe's options; only what the template has written already is not forced again."""
    made = tokenizer("qwen3_6")
    opened = open_response(made, USER, "Answer:", {})
    assert opened.prompt.endswith("<think>\n") and (opened.forced, opened.lead) == ("Answer:", "")
    opened = open_response(made, USER, "<think>\n", {})
    assert opened.prompt.endswith("assistant\n<think>\n") and (opened.forced, opened.lead) == ("", "<think>\n")


@pytest.mark.parametrize("name", NAMES)
def test_groups_check_has_a_finding_and_no_traceback_for_every_format(name):
    made = tokenizer(name)
    findings = check_formats(list(FORMATS.values()), made)
    assert findings
    family = family_of(made)
    if family.on is not None and family.name != "unknown":
        assert any(f.subject == "template" and f.text.startswith(f"family {family.name}:") for f in findings)


def test_groups_check_says_which_prompts_do_not_differ():
    def said(name, *groups):
        return [
            f"{f.level} {f.subject}: {f.text}" for f in check_formats([FORMATS[g] for g in groups], tokenizer(name))
        ]

    efforts = ("effort_low", "effort_high")
    assert any("effort_low, effort_high: their options render the same prompt" in t for t in said("qwen3", *efforts))
    for name in ("gptoss", "qwen3_8", "Hy3"):
        assert not any("same prompt" in text or text.startswith("error effort") for text in said(name, *efforts))
    assert any("makes" in text and text.startswith("warning thinking_on") for text in said("qwen3", "thinking_on"))
    closed = said("qwen3_5_nothink", "thinking_on", "direct")
    assert any(
        "ends in a closed thought" in t and "enable_thinking=True under trl.chat_template_kwargs" in t for t in closed
    )
    assert any("adds its own" in text for text in said("qwen2_5", "standard"))


def test_words_of_effort_are_the_family_s():
    words = {name: [translate({"reasoning_effort": w}, family_of(tokenizer(name))) for w in ("low", "medium", "high")]
             for name in ("gptoss", "qwen3_8", "Hy3", "qwen3")}  # fmt: skip
    assert [one["reasoning_effort"] for one in words["gptoss"]] == ["low", "medium", "high"]
    assert [one["reasoning_effort"] for one in words["qwen3_8"]] == ["low", "medium", "xhigh"]
    assert [one["reasoning_effort"] for one in words["Hy3"]] == ["low", "high", "high"]
    assert words["qwen3"] == [{}, {}, {}]
    assert translate({"enable_thinking": False}, family_of(tokenizer("Hy3"))) == {"reasoning_effort": "no_think"}


def test_groups_of_effort_think_first_and_are_not_forced():
    made, form = tokenizer("gptoss"), FORMATS["effort_high"]
    writer = PromptWriter(
        tokenizer=made, response_groups=[form.group], template_options=form.template_options, adapt=True
    )
    request = Request(problem=Problem(problem_id="p", prompt="2 + 2 =", answer="4"), number=0,
                      response_group=form.group.name, prefix=form.group.prefix)  # fmt: skip
    prompt, forced, lead = writer.asked(request)
    assert "Reasoning: high" in made.decode(prompt) and (forced, lead) == ([], "")
    thought = "<|channel|>analysis<|message|>2 and 2<|end|><|start|>assistant<|channel|>final<|message|>"
    assert form.group.extract_answer(thought + r"Carefully: \boxed{4}") == "4"


def test_default_system_prompts_are_found():
    assert default_system_prompt(tokenizer("qwen2_5")).startswith("You are Qwen")
    assert default_system_prompt(tokenizer("qwen3")) == "" == default_system_prompt(tokenizer("gemma3"))


@pytest.mark.parametrize(
    ("name", "prefixes", "said"),
    [
        ("qwen2_5", ["Answer:"], ["its own system message: 'You are Qwen"]),
        ("qwen3_6", ["Answer:", "<think>"], ["ends prompts inside an open thought ('<think>\\n')"]),
        ("qwen3_5_nothink", ["Answer:"], ["ends prompts behind a closed thought ("]),
        ("qwen3_6", ["<think>\n"], []),
        ("qwen3", ["Answer:", "<think>"], []),
    ],
)
def test_what_a_template_does_unasked_is_said(name, prefixes, said):
    """A run's prompts get a system message, or begin inside a thought, and nobody wrote that (R3)."""
    notes = prompt_notes(tokenizer(name), USER, prefixes, {})
    assert len(notes) == len(said) and all(text in note for text, note in zip(said, notes, strict=True)), notes
    system = {"role": "system", "content": "Be brief."}
    with_own = prompt_notes(tokenizer(name), [system, *USER], prefixes, {})
    assert not any("system message" in note for note in with_own)
    assert prompt_notes(tokenizer(name), "a text", prefixes, {}) == []


@pytest.mark.parametrize("name", ["qwen3", "gptoss", "llama3_1", "MiniMax M3"])
def test_the_forced_ids_are_the_same_everywhere(name):
    """Training forces `encode_groups`, evaluation and cold start `PromptWriter`, calibration `encode_prefix`."""
    made = tokenizer(name)
    groups = [THINKING_ON.group, DIRECT.group]
    if name == "gptoss":  # both open with <|channel|> there
        groups = [DIRECT.group]
    encoded = encode_groups(groups, made)
    for group, ids in zip(groups, encoded.prefix_ids, strict=True):
        request = Request(problem=Problem(problem_id="p", prompt="2 + 2 =", answer="4"), number=0, prefix=group.prefix)
        _, forced, _ = PromptWriter(tokenizer=made).asked(request)
        assert ids == forced == list(encode_prefix(group.prefix, made))
        assert encoded.index_of(made(made.decode(ids) + " 4", add_special_tokens=False)["input_ids"]) >= 0


def test_a_family_that_opens_all_its_answers_alike_is_refused_with_the_reason():
    with pytest.raises(IbpoError, match=r"same token .* every response of this family \(gpt-oss\) begins so"):
        encode_groups([DIRECT.group, FORMATS["standard"].group], tokenizer_with_channel())


def tokenizer_with_channel():
    made = tokenizer("gptoss")
    made.add_tokens(["<|channel|>"])
    return made


def test_a_family_s_own_marks_belong_to_the_group():
    groups = [THINKING_ON.group, DIRECT.group]
    for text in ("<mm:think>2 and 2</mm:think>", "[THINK]2 and 2[/THINK]", "<|channel>thought\n2 and 2<channel|>"):
        found = find_group(text + r"\boxed{4}", groups)
        assert found is THINKING_ON.group and THINKING_ON.group.extract_answer(text + r"\boxed{4}") == "4"
    assert find_group("<|channel|>final<|message|>Answer: 4", groups) is DIRECT.group


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
@pytest.mark.parametrize("written_by", [*FAMILIES[:1], None], ids=["plain", "own"])
def test_a_prefix_in_a_family_s_own_marks_is_a_thought(family, written_by):
    """A server tells a thought in plain marks, whatever the model's are; one that is closed at once is none."""
    mine = [ResponseGroup(name="thinks", prefix=family.think), DIRECT.group]
    marks = written_by or family
    assert find_group(f"{marks.think}3 + 4{marks.end_think}{marks.to_answer}7", mine) is mine[0]
    assert find_group(f"{marks.think}\n\n{marks.end_think}{marks.to_answer}7", mine) is None
    assert find_group("Answer: 7", mine) is DIRECT.group and find_group("7", mine) is None


@pytest.mark.parametrize("name", ["qwen3", "qwen3_6", "qwen3_5_nothink", "gemma4_v5", "Hy3"])
@pytest.mark.parametrize("form", [THINKING_ON, THINKING_OFF, DIRECT])
@pytest.mark.parametrize("force", [True, False])
def test_local_evaluation_forces_only_what_the_template_has_not_written(name, form, force):
    made = tokenizer(name)
    family = family_of(made)
    writer = PromptWriter(
        tokenizer=made, response_groups=[form.group], template_options=form.template_options, adapt=True
    )
    request = Request(problem=Problem(problem_id="p", prompt="2 + 2 =", answer="4"), number=0,
                      response_group=form.group.name, prefix=form.group.prefix if force else "")  # fmt: skip
    prompt, forced, lead = writer.asked(request)
    tail = made.decode([*prompt, *forced]).rpartition("2 + 2 =")[2]
    assert tail.count(family.think.strip()) <= 1 and tail.count(family.end_think.strip()) <= 1
    # The rest as the policy writes it behind this prompt; read back as a response of this group.
    rest = {"thinking_on": f"so{family.end_think}", "thinking_off": "", "direct": "" if force else "Answer: "}[
        form.group.name
    ]
    opens = form is THINKING_ON and not force and not lead and not tail.rstrip().endswith(family.think.strip())
    text = lead + made.decode(forced) + (family.think if opens else "") + rest + r" \boxed{4}"
    unmarked = form is THINKING_OFF and family.name.startswith("Gemma")
    if not force and (unmarked or (form is DIRECT and name == "qwen3_6")):
        return  # no mark of an answer at once in Gemma's prompt; behind the thought that Qwen3.6 opens, it thinks
    assert form.problem_of(text) is None, text


@pytest.mark.parametrize("how", ["asked", "render", "encode", "notes"])
def test_a_prompt_that_a_template_refuses_is_said(how):
    """Gemma's knows no system message."""
    made = tokenizer("gemma")
    prompt = [{"role": "system", "content": "Add."}, *USER]
    writer, problem = PromptWriter(tokenizer=made), Problem(problem_id="p", prompt=prompt, answer="")
    ways = {
        "asked": lambda: writer.asked(Request(problem=problem, number=0, prefix="Answer:")),
        "render": lambda: writer.render(prompt),
        "encode": lambda: encode_prompt(made, prompt),
        "notes": lambda: prompt_notes(made, prompt, ["Answer:"], {}),
    }
    with pytest.raises(IbpoError, match=r"refuses the prompt: System role not supported; leave out .* \(data\.system"):
        ways[how]()


@pytest.mark.parametrize(
    ("name", "groups", "said"),
    [
        ("qwen3", {"a": ("", {"enable_thinking": False}), "b": ("", {"enable_thinking": True})}, ""),
        ("qwen3", {"a": ("", {"reasoning_effort": "low"}), "b": ("", {"reasoning_effort": "high"})},
         "a and b render the same prompt: they do not differ; the template (Qwen3) is switched by {"),
        ("MiniMax M3", {"a": ("", {"enable_thinking": False}), "b": ("", {"enable_thinking": True})},
         "is switched by {'thinking_mode': 'disabled'} / {'thinking_mode': 'enabled'}"),
        ("qwen3_8", {"a": ("", {"reasoning_effort": "low"}), "b": ("", {"reasoning_effort": "high"})},
         "group b: the chat template refuses it: Unexpected reasoning effort high"),
        ("qwen3", {"a": ("Answer:", {}), "b": ("<think>\n", {})},
         "group b: of its prefix '<think>\\n' the chat template makes"),
    ],
)  # fmt: skip
def test_what_a_gateway_is_told_of_its_groups(name, groups, said):
    found = served_cautions(tokenizer(name), groups)
    assert (not found) if not said else any(said in text for text in found), found
