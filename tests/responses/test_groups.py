import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from ibpo.config import ResponseGroupConfig
from ibpo.errors import IbpoError
from ibpo.responses.groups import build_response_groups, encode_groups, encode_prefix, find_group, offer, stable_prefix
from ibpo.responses.readers import answer_reader
from ibpo.types import ResponseGroup


@pytest.mark.parametrize(
    ("spec", "completion", "answer"),
    [
        ("boxed", r"first \boxed{1}, then \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        ("boxed", r"\boxed{1} and \boxed{2", "1"),
        ("boxed", r"\boxed{ }", None),
        ("boxed", "no box: 7", None),
        ("boxed", "\\boxed{" * 2000, None),
        ("last_number", "it costs $1,250.50.", "1250.50"),
        ("last_number", "from 3 to -4", "-4"),
        ("last_number", "it is \u22125", "-5"),
        (
            "boxed",
            r"\boxed{x = \left\{ \begin{array}{l} 1 \end{array} \right.}.",
            r"x = \left\{ \begin{array}{l} 1 \end{array} \right.",
        ),
        ("boxed", r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        ("boxed", r"\boxed{\begin{matrix}1\\{2}\end{matrix}}", r"\begin{matrix}1\\{2}\end{matrix}"),
        ("last_number", "it is \u20135", "-5"),
        ("last_number", "pages 3\u20135", "5"),
        ("last_number", "a loss of -$1,250.50", "-1250.50"),
        ("last_number", "-\\$3 in all", "-3"),
        ("last_number", "$10-$3", "3"),
        ("last_number", "so it is...12", "12"),
        ("last_number", "it is .5", ".5"),
        ("last_number", "1'000 in all", "1000"),
        ("last_number", "a chance of 3 / 4", "3/4"),
        ("last_number", "on 3 / 4 / 2020", "2020"),
        ("last_number", "1.5e3 in all", "1.5e3"),
        ("last_number", "1.5 \\times 10^{3}", "1.5e3"),
        ("last_number", "about 3/4 of it", "3/4"),
        ("last_number", "-2\\frac{3}{4}", "-2 3/4"),
        ("last_number", "on 3/4/2020", "2020"),
        ("last_number", "5-3", "3"),
        ("last_number", "1~248 or 3\u00bd", "3\u00bd"),
        ("last_number", "in all 1{,}248", "1248"),
        ("boxed", "\\boxed 5.", "5"),
        ("boxed", "\\boxed {5}", "5"),
        ("boxed", "\\fbox{5}", "5"),
        ("last_number", "The probability is 3/4.", "3/4"),
        ("last_number", "It is -7/2.", "-7/2"),
        ("last_number", "It is 2 1/2.", "2 1/2"),
        ("last_number", "3/4, then", "3/4"),
        ("last_number", "a chance of 1/1,000.", "1/1000"),
        ("last_number", "on 3/4/2024.", "2024"),
        ("last_number", "1/2.5", "2.5"),
        ("last_number", "a ratio of 3:4.", "4"),
        ("last_number", "\\frac12 or -\\dfrac 3 4", "-3/4"),
        ("last_number", "\\frac{-3}{4}", "-3/4"),
        ("last_number", "It is \u00bd.", "\u00bd"),
        ("last_number", "2 \u00bd cups", "2\u00bd"),
        ("last_number", "It is 10^6.", "1e6"),
        ("last_number", "10^{-3}", "1e-3"),
        ("last_number", "10\u2076 or 3 \u00d7 10\u207b\u2076", "3e-6"),
        ("last_number", "2**10 = 2^{10}", "2^10"),
        ("last_number", "**42**", "42"),
        ("last_number", "**42** 7", "7"),
        ("last_number", "12 cm^3", "12"),
        ("last_number", "15 \\mathrm{~m}^{3}", "15"),
        ("last_number", "It is 1 000 000.", "1000000"),
        ("last_number", "1\u00a0234\u2009567", "1234567"),
        ("last_number", "12 050.5 euros", "12050.5"),
        ("last_number", "1 000 000/3", "1000000/3"),
        ("last_number", "5 1 000", "1000"),
        ("last_number", "5 100 200", "200"),
        ("last_number", "1 234 567", "567"),
        ("last_number", "555 012 3456", "3456"),
        ("last_number", "none", None),
        ("after:####", "#### 1\nso\n#### 72\nbye", "72"),
        ("after:Answer:", "so **Answer:** 72", "72"),
        ("after:Answer:", "so **Answer: 72**.", "72"),
        ("after:Answer:", "**Answer:**\n\n72\n\nas asked", "72"),
        ("after:Answer:", "*Answer:* 3*4", "3*4"),
        ("after:Answer:", "Answer: ** 72 **.", "** 72 **."),
        ("after:answer is", "the answer is **-5-3*i**.", "**-5-3*i**."),
        ("after:answer is", "the answer is: $72$", "$72$"),
        ("after:answer is", "the answer is:\n$$\n72\n$$\nas asked", "$$ 72 $$"),
        ("after:answer is", "the answer is\n\\[\n72\n\\].", "\\[ 72 \\]."),
        ("after:<answer>", "<think> 1 <answer> 7 ", "7"),
        ("after:<answer>", "<think> 1 <answer>", None),
        ("after:<answer>", "7", None),
        ("after:<answer>", "<answer>7</answer>", "7"),
        ("after:<answer>", "<answer>\n 7 apples\n</answer>\n<|im_end|>", "7 apples"),
        ("code", "```python\nx = 1\n```\nthen\n```py\nx = 2\n```\nprints\n```text\n2\n```\n", "x = 2"),
        ("code", "Answer: ```python\r\nx = 1\r\n```\r\n", "x = 1"),
        ("code", "1. so\n   ```\n   def f():\n       return 1\n   ```\n", "def f():\n    return 1"),
        ("code", "```\n    return 1\n```", "    return 1"),
        ("code", '````python\n"""\n```\nx\n```\n"""\n````', '"""\n```\nx\n```\n"""'),
        ("code", "```python\nx = 1", "x = 1"),
        ("code", "<think>```python\nx = 1\n```</think>I cannot.", None),
        ("code", "```bash\nls\n```", None),
        ("code", "```python\n\n```", None),
        ("code", "x = 1", None),
        ("code", "``` " * 20_000, None),
    ],
)
def test_readers(spec, completion, answer):
    assert answer_reader(spec)(completion) == answer


@pytest.mark.parametrize("spec", ["", "box", "after:", "after", "Boxed"])
def test_unknown_readers(spec):
    with pytest.raises(IbpoError, match="write boxed, last_number, code or after:MARKER"):
        answer_reader(spec)


def groups(*prefixes, **options):
    names = ("standard", "extended")
    return build_response_groups(
        [ResponseGroupConfig(name=n, prefix=p, **options) for n, p in zip(names, prefixes, strict=True)]
    )


def test_errors_name_the_key():
    with pytest.raises(IbpoError, match=r"response_group\.extended\.prefix: is empty"):
        groups("a", " ")
    with pytest.raises(IbpoError, match=r"response_group\.standard\.answer: 'x' reads no answer"):
        groups("a", "b", answer="x")


class Letters:
    """A tokenizer of letters, which knows no question mark and loses capitals."""

    def __call__(self, text, add_special_tokens):
        assert not add_special_tokens
        return {"input_ids": [ord(letter) for letter in text.lower() if letter != "?"]}

    def decode(self, ids, skip_special_tokens=False):
        return "".join(map(chr, ids))


def test_prefixes_must_open_differently():
    encoded = encode_groups(groups("ab", "ba"), Letters())
    assert encoded.prefix_ids == [[97, 98], [98, 97]] and encoded.names == ["standard", "extended"]
    with pytest.raises(IbpoError, match=r"extended\.prefix: opens with the same token as that of standard"):
        encode_groups(groups("ab", "ac"), Letters())
    with pytest.raises(IbpoError, match=r"extended\.prefix: '\?' has no token"):
        encode_groups(groups("ab", "?"), Letters())
    with pytest.raises(IbpoError, match=r"extended\.prefix: 'Step' comes back from this model's tokenizer as 'step'"):
        encode_groups(groups("ab", "Step"), Letters())
    assert encode_prefix("", Letters()) == ()


@pytest.mark.parametrize(
    ("completion", "name"),
    [
        ("<think>\nlet me see</think>4", "extended"),
        ("<think>let me see</think>4", "extended"),
        ("\n <think>\n\nlet me see", "extended"),
        ("<think>", "extended"),
        ("<think>\n\n</think>\n\n4", "empty"),
        ("<think> </think>4", "empty"),
        ("<thi", None),
        ("Answer: 4", "standard"),
        ("\tAnswer : 4", "standard"),
        ("answer: 4", None),
        ("Answer: step by step: 4", "longer"),
        ("", None),
        ("4 Answer: 4", None),
    ],
)
def test_text_and_tokens_give_one_membership(completion, name):
    prefixes = {
        "standard": "Answer:",
        "extended": "<think>\n",
        "empty": "<think>\n\n</think>",
        "longer": "Answer: step",
    }
    made = [ResponseGroup(name=name, prefix=prefix) for name, prefix in prefixes.items()]
    found = find_group(completion, made)
    assert (found.name if found else None) == name
    some = [group for group in made if group.name in ("standard", "extended")]
    encoded = encode_groups(some, Bytes())
    expected = find_group(completion, some)
    index = encoded.index_of(Bytes()(completion, add_special_tokens=False)["input_ids"])
    assert (encoded.names[index] if index >= 0 else None) == (expected.name if expected else None)


class Bytes(Letters):
    """A tokenizer of letters that keeps them all."""

    def __call__(self, text, add_special_tokens):
        return {"input_ids": [ord(letter) for letter in text]}


def test_the_tokens_that_choose_a_group():
    encoded = encode_groups(groups("Answer:", "Solve:"), Bytes())
    count = lambda text: encoded.num_opening_tokens(Bytes()(text, add_special_tokens=False)["input_ids"])  # noqa: E731
    assert count("Answer: 4") == 7 and count("\n Answer: 4") == 9 and count("other") == 1 and count("Answer") == 1


def test_offer_carries_all_instructions():
    built = groups("a", "b", instruction="\nDo it.\n")
    assert offer(built, "1 + 1 =", chat=True) == [{"role": "user", "content": "Do it.\n\nDo it.\n\n1 + 1 ="}]
    assert offer(built, "1 + 1 =", chat=False) == "Do it.\n\nDo it.\n\n1 + 1 =\n"
    assert offer(groups("a", "b"), "1 + 1 =", chat=False) == "1 + 1 ="
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]
    last = {"role": "user", "content": "Do it.\n\nDo it.\n\nq"}
    assert offer(built, messages, chat=True) == [messages[0], last] and messages[1]["content"] == "q"


def test_an_opening_that_the_tokenizer_merges_with_what_follows_is_cut_to_what_stays():
    # As Qwen's: a bracket and the line break after it are one token.
    merges = [("]", "Ċ"), ("T", "R"), ("TR", "I"), ("TRI", "A"), ("TRIA", "L")]
    pieces = [*"[TRIAL]ĊĠ1so:a.,+", *(a + b for a, b in merges)]
    tokenizer = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)

    def encode(text):
        return tokenizer.encode(text).ids

    alone, stable = encode("[TRIAL]"), stable_prefix("[TRIAL]", encode)
    assert encode("[TRIAL]\n1 + 1")[: len(alone)] != alone  # the trap
    assert tokenizer.decode(stable, skip_special_tokens=False).replace(" ", "") == "[TRIAL"
    for rest in ("\n1 + 1", " so", ": a", ".", ""):
        assert encode("[TRIAL]" + rest)[: len(stable)] == stable
