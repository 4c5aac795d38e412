"""A log's cost in money: each response by its tokens and the user's table, whoever wrote the log."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ibpo.cli import app
from ibpo.data import LogColumns, LogError, Source, read_log, read_log_rows
from ibpo.prices import Price, Prices

LOGS = Path(__file__).parent.parent / "fixtures" / "logs"
PRICE = Price(input=1e6, cached_input=1e5, cache_write=2e6, output=1e3, reasoning=1.0)
"""Digits tell what was counted: input 1, cached input 0.1, written 2, output 0.001, thoughts 0.000001 a token."""
MODELS = ("gpt-5.1", "mockllm/model", "thinker")


def prices(*models):
    return Prices(path=Path("prices.toml"), by_model=dict.fromkeys(models or MODELS, PRICE))


@pytest.mark.parametrize(
    ("name", "thoughts"),
    [
        ("openai_batch/output.jsonl", 129),
        ("openai_batch/responses/output.jsonl", 129),
        ("openai_chat/pairs.jsonl", 8),
        ("openai_chat/responses.jsonl", 8),
        ("litellm/LiteLLM_SpendLogs.csv", 8),
        ("litellm/spend_logs.json", 8),
        ("langfuse/observations.csv", 8),
        ("helicone/output.csv", 0),
        ("inspect/match", 8),
        ("otel/console_spans.jsonl", 8),
        ("otel/otlp_traces.jsonl", 8),
    ],
)
def test_the_logs_of_tools_in_money(name, thoughts):
    """Each prompt has 19 tokens; the first answer has 4 visible ones behind its thoughts, or 512 in all."""
    source = Source(path=LOGS / name, prices=prices())
    row = next(row for _, row in read_log_rows(source) if not isinstance(row, LogError))
    visible = 4 if thoughts else 512
    assert row["money"] == pytest.approx(19 + 0.001 * visible + 1e-6 * thoughts)
    assert "cost = money by prices.toml, of the tokens of prompt and completion" in source.notes


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


ROWS = [
    {"id": p, "effort": effort, "model": "gpt-5.1-2025-11-13", "correct": int(effort == "high"), "tokens": tokens,
     "usage": {"prompt_tokens": 100, "completion_tokens": tokens, "prompt_tokens_details": {"cached_tokens": 60}}}
    for p in range(4) for effort, tokens in (("low", 1000), ("high", 9000))
]  # fmt: skip


def test_a_plain_log_with_a_usage(tmp_path):
    log = read_log(write(tmp_path / "log.jsonl", ROWS), LogColumns(prices=prices()))
    assert log.columns["cost"] == "money" and "cost" not in log.guessed
    assert sorted(set(log.cost.tolist())) == pytest.approx([40 + 6 + 1, 40 + 6 + 9])


def test_columns_of_a_table_and_a_column_that_is_named(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("id,effort,correct,Input Tokens,spent\n" + "".join(
        f"{p},{e},1,100,{n}\n" for p in range(2) for e, n in (("low", "1,000"), ("high", "9,000"))
    ).replace("1,000", '"1,000"').replace("9,000", '"9,000"'))  # fmt: skip
    with pytest.raises(LogError, match="no tokens of the completion"):
        read_log(path, LogColumns(prices=prices("m")))
    log = read_log(path, LogColumns(prices=prices("m"), cost="spent"))
    assert sorted(set(log.cost.tolist())) == pytest.approx([101, 109])


def test_a_model_without_a_price_and_a_row_without_tokens_are_named(tmp_path):
    path = write(tmp_path / "log.jsonl", [*ROWS, {**ROWS[0], "model": "other"}, {"id": 1, "model": "gpt-5.1"}])
    with pytest.raises(LogError, match=r"line 9: prices.toml: has no price for model 'other'"):
        read_log(path, LogColumns(prices=prices()))
    log = read_log(path, LogColumns(prices=prices(), by="model"), on_error="skip")
    assert len(log.reward) == 8 and "no tokens of the completion" in log.bad_rows[1]


def test_every_command_that_reads_a_log_takes_prices(tmp_path):
    """The same sums everywhere, and budgets in money."""
    log = write(tmp_path / "log.jsonl", [row | {"prompt": f"what is {row['id']}?", "id": f"p{row['id']}{n}"}
                                         for n in range(6) for row in ROWS])  # fmt: skip
    table = tmp_path / "prices.csv"
    table.write_text("model,input,cached_input,output\ngpt-5.1,1.25,0.125,10\n")
    low, high = ((40 * 1.25 + 60 * 0.125 + 10 * n) / 1e6 for n in (1000, 9000))

    def run(*arguments):
        done = CliRunner().invoke(app, [str(x) for x in arguments])
        assert done.exit_code == 0, done.output
        return done

    out = tmp_path / "out"
    done = run("allocate", log, "--prices", table, "--budget", f"money={(low + high) / 2}", "--out", out)
    assert "cost = money by prices.csv" in done.stderr and "cost: column" not in done.stderr
    part = json.loads((out / "summary.json").read_text())["parts"][0]
    assert part["always"]["low"]["mean_cost"] == pytest.approx(low)
    assert part["budgets"][1]["share"] == {"high": 0.5, "low": 0.5}
    default = run("allocate", log, "--prices", table)
    assert "money=25%range" in default.stdout and "tokens" not in default.stdout
    assert "money=0.8x" in run("allocate", log, "--prices", table, "--budget", "0.8x", "--json").stdout
    router = tmp_path / "router.json"
    run("route", "fit", log, "--prices", table, "--budget", "money=50%range", "--draws", "10", "--out", router)
    assert json.loads(router.read_text())["source"]["columns"]["cost"] == "money"
    pytest.importorskip("matplotlib")
    run("report", log, "--prices", table, "--num-splits", "2", "--out", out)
    part = next(iter(json.loads((out / "report.json").read_text())["parts"].values()))
    assert part["cost_unit"] == "money"
    assert {row["name"]: row["cost"]["value"] for row in part["configurations"]} == pytest.approx(
        {"low": low, "high": high}
    )
    said = CliRunner().invoke(app, ["allocate", str(log), "--budget", "money=3"])
    assert said.exit_code == 2 and "give a table of prices with --prices" in said.stderr


@pytest.mark.parametrize(
    ("columns", "money"),
    [
        ({"prompt_tokens": "1,297"}, 1297),  # 0 before, as all of these
        ({"promptTokens": 100, "cachedTokens": 60}, 40 + 6),
        ({"Prompt tokens": 100, "Cached Tokens": 60}, 40 + 6),
        ({"input_tokens": 100, "cached_input_tokens": 60}, 40 + 6),
        ({"input_tokens": 40, "cache_read_input_tokens": 60, "cache_write_tokens": 5}, 40 + 6 + 10),
        ({"prompt_tokens": 100, "prompt_tokens_details": '{"cached_tokens": 60}'}, 40 + 6),
        ({"uncached_input_tokens": 40, "cached_input_tokens": 60}, 40 + 6),
        ({"cached_input_tokens": 60}, 6),
        ({"prompt": "12", "input": "13"}, 0),
    ],
)
def test_tokens_of_the_prompt_however_their_columns_are_written(tmp_path, columns, money):
    rows = [{"id": 1, "effort": "low", "correct": 1, "tokens": 1000, **columns}]
    log = read_log(write(tmp_path / "log.jsonl", rows), LogColumns(prices=prices("m")))
    assert log.cost.tolist() == pytest.approx([money + 1])
