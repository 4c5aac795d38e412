"""A table of prices, in each form that people have, and what a request costs by it."""

import json
from pathlib import Path

import pytest

from ibpo.errors import IbpoError
from ibpo.prices import Price, TokenUse, read_price, read_prices, read_prompt_use

FORMS = {
    "prices.toml": '["gpt-5"]\ninput = 1.25\ncached_input = 0.125\noutput = 10\n',
    "prices.json": json.dumps({"gpt-5": {"input": 1.25, "cached_input": 0.125, "output": 10}}),
    "list.json": json.dumps([{"model": "gpt-5", "input": 1.25, "cached_input": 0.125, "output": 10}]),
    "prices.csv": "model,input,cached_input,output,reasoning\ngpt-5,1.25,0.125,10,\n",
    "semicolon.csv": "\ufeffmodel;input;cached_input;output\ngpt-5;1.25;.125;10\n",
    "litellm.json": json.dumps(
        {
            "sample_spec": {"input_cost_per_token": "in USD"},
            "gpt-5": {
                "input_cost_per_token": 1.25e-06,
                "cache_read_input_token_cost": 1.25e-07,
                "output_cost_per_token": 1e-05,
                "input_cost_per_token_batches": 6.25e-07,
                "litellm_provider": "openai",
                "mode": "chat",
            },
            "dall-e": {"output_cost_per_image": 0.04, "mode": "image_generation"},
        }
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_says_the_same(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(FORMS[name])
    prices = read_prices(tmp_path / name)
    assert list(prices.by_model) == ["gpt-5"]
    price = prices.of("gpt-5")
    assert [price.input, price.cached_input, price.cache_write, price.output, price.reasoning] == pytest.approx(
        [1.25, 0.125, 1.25, 10, 10], rel=1e-12
    )


def test_each_token_is_paid_once() -> None:
    price = Price(input=1, cached_input=10, cache_write=100, output=1000, reasoning=10_000)
    use = TokenUse(input=3e6, cached_input=4e6, cache_write=5e6, output=6e6, reasoning=2e6)
    assert price.of(use) == 3 + 40 + 500 + 4000 + 20_000
    assert price.of(TokenUse(output=1e6, reasoning=2e6)) == 10_000  # never more thoughts than completion


def test_a_model_is_found_however_servers_write_it(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("model,input,output\ngpt-5,1,2\nclaude-x,3,4\nazure/gpt-6,5,6\n")
    prices = read_prices(tmp_path / "p.csv")
    for name, asked in (("openai/GPT-5", 1), ("gpt-5-2025-08-07", 1), ("claude-x-20250101", 3), ("gpt-6", 5)):
        assert prices.of(name).input == asked
    with pytest.raises(IbpoError, match="no price for model 'gpt-5-mini'"):
        prices.of("gpt-5-mini")
    with pytest.raises(IbpoError, match="the row names none"):
        prices.of(None)
    (tmp_path / "two.csv").write_text("model,input,output\nazure/gpt-5,1,2\nopenai/gpt-5,3,4\n")
    with pytest.raises(IbpoError, match="several of its models"):
        read_prices(tmp_path / "two.csv").of("gpt-5")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("p.toml", "[m]\ninput = 1\n", "needs 'output'"),
        ("p.toml", "[m]\ninput = 1\noutptu = 1\n", "unknown field 'outptu'"),
        ("p.toml", "[m]\ninput = -1\noutput = 1\n", "is not a price"),
        ("p.toml", "[m]\ninput = true\noutput = 1\n", "is not a price"),
        ("p.toml", "m = 3\n", "needs input"),
        ("p.toml", "[m\n", "is not TOML"),
        ("p.json", "{", "is not JSON"),
        ("p.json", "[1]", "has no model"),
        ("p.json", "3", "no table of models"),
        ("p.json", "[" * 100_000, "is not JSON"),
        ("p.csv", "model,input,output\nm,1,2\nm,1,3\n", "given twice"),
        ("p.csv", "model,input,output\nm,1,2,3\n", "more cells than the header"),
        ("p.csv", "", "holds no prices"),
        ("p.json", '{"m": {"input": NaN, "output": 1}}', "is not a price"),
        ("p.json", '{"m": {"input": 1, "output": 2}, "m": {"input": 3, "output": 2}}', "'m' is given twice"),
        ("p.json", '{"m": {"input": 1, "output": 2, "input": 3}}', "'input' is given twice"),
        ("p.json", '{"m": {"input_cost_per_token": 1, "input_cost_per_token": 3}}', "is given twice"),
        ("p.csv", "model,input,input,output\nm,1,3,2\n", "column 'input' is given twice"),
        ("p.json", '{"m": {"input": 1, "output": 2, "cost": 3}}', "unknown field 'cost'"),
        ("p.toml", "[gpt-4.1]\ninput = 1\noutput = 2\n", r'unknown field \'1\'.*in quotes: \["NAME"\]'),
    ],
)
def test_a_bad_table_is_one_line(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(IbpoError, match=said) as raised:
        read_prices(tmp_path / name)
    assert "\n" not in str(raised.value) and name in str(raised.value)
    assert str(raised.value).count(name) == 1
    with pytest.raises(IbpoError, match="cannot be read"):
        read_prices(tmp_path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("P.CSV", "model,input,output\nm,1,2\n"),
        ("P.JSON", '{"m": {"input": 1, "output": 2}}'),
        ("p.csv", "model, input, output\nm, 1, 2\n"),
        ("p.json", '{"m": {"input": 1, "output": 2}, "m": {"input": 1, "output": 2}}'),
        ("p.json", '{"m": {"input_cost_per_token": 1e-6, "output_cost_per_token": 2e-6, "mode": 1, "mode": 2}}'),
        ("p.json", '{"m": {"input": 1, "output": 2}, "free": {"litellm_provider": "x", "max_tokens": 9}}'),
    ],
)
def test_what_is_no_fault_of_a_table(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    price = read_prices(tmp_path / name).of("m")
    assert (price.input, price.output) == (1, 2)


def test_a_price_given_twice_in_a_text_is_refused() -> None:
    with pytest.raises(IbpoError, match="--prices input=1,output=2,input=3: field 'input' is given twice"):
        read_price("input=1,output=2,input=3", "--prices")


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": 1000, "prompt_tokens_details": {"cached_tokens": 400}},  # OpenAI, vLLM
        {"input_tokens": 1000, "input_tokens_details": {"cached_tokens": 400}},  # /v1/responses
        {"prompt_tokens": 1000, "prompt_cache_hit_tokens": 400, "prompt_cache_miss_tokens": 600},  # DeepSeek
        {"promptTokenCount": 1000, "cachedContentTokenCount": 400},  # Gemini
        {"input_tokens": 600, "cache_read_input_tokens": 400, "cache_creation_input_tokens": 0},  # Anthropic
        {"prompt_tokens": 1000, "cache_read_input_tokens": 400},  # LiteLLM
        {"input_tokens": 600, "input_tokens_cache_read": 400, "input_tokens_cache_write": None},  # Inspect
        {"input": 600, "input_cached_tokens": "400"},  # Langfuse
    ],
)
def test_the_cache_is_told_apart_whoever_counts(usage: dict[str, object]) -> None:
    assert read_prompt_use(usage) == TokenUse(input=600, cached_input=400)


def test_what_is_written_into_a_cache_is_no_other_token_of_the_prompt() -> None:
    beside = {"input_tokens": 100, "cache_read_input_tokens": 400, "cache_creation_input_tokens": 500}
    among = {"prompt_tokens": 1000, "cache_read_input_tokens": 400, "cache_creation_input_tokens": 500}
    assert read_prompt_use(beside) == read_prompt_use(among) == TokenUse(input=100, cached_input=400, cache_write=500)
    assert read_prompt_use({}) == read_prompt_use({"prompt_tokens": True}) == TokenUse()
