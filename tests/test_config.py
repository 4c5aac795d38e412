import tomllib
from pathlib import Path

import pytest

from ibpo.config import read_recipe
from ibpo.errors import IbpoError
from ibpo.responses.groups import build_response_groups
from ibpo.runs import to_toml

RECIPE = """
[model]
path = "some/model"
[data]
path = "rows.jsonl"
[[response_group]]
name = "standard"
prefix = "<answer>"
[[response_group]]
name = "extended"
prefix = "<think>"
answer = "last_number"
[budget]
extended = 0.5
[train]
steps = 3
"""
RECIPES = Path(__file__).parent.parent / "recipes"


@pytest.fixture
def recipe(tmp_path):
    def write(text=RECIPE):
        path = tmp_path / "r.toml"
        path.write_text(text)
        return path

    return write


def test_defaults_and_overrides(recipe):
    config = read_recipe(
        recipe(),
        [
            "train.steps=5",
            "train.learning_rate=1",
            "data.path=a=b.jsonl",
            "data.id=7",
            "response_group.extended.prefix=Let me think",
            "budget.extended=0.25",
            "trl.temperature=0.7",
            'trl.lr_scheduler_type="constant"',
        ],
    )
    assert config.train.steps == 5 and config.train.learning_rate == 1.0 and config.train.seed == 0
    assert config.data.path == "a=b.jsonl" and config.data.id == "7" and config.data.problem == ""
    assert [group.prefix for group in config.response_group] == ["<answer>", "Let me think"]
    assert config.budget == {"extended": 0.25}
    assert config.trl == {"temperature": 0.7, "lr_scheduler_type": "constant"}


@pytest.mark.parametrize(
    ("line", "override", "budget"),
    [
        ('extended = "50%"', None, {"extended": "50%"}),
        ('"extended >=" = "1/3"\ntokens = 200', None, {"extended>=": "1/3", "tokens": 200.0}),
        ("extended = 0.5", "budget.extended = 30 %", {"extended": "30%"}),
        ("extended = 0.5", "budget.extended>=0.1", {"extended": 0.5, "extended>=": 0.1}),
        ("extended = 0.5", "budget.extended@level=0.5=0.1", {"extended": 0.5, "extended@level=0.5": 0.1}),
    ],
)
def test_budgets_are_what_the_command_line_takes(recipe, line, override, budget):
    config = read_recipe(recipe(RECIPE.replace("extended = 0.5", line)), [override] if override else [])
    assert config.budget == budget
    assert tomllib.loads(to_toml(config.model_dump(), "x"))["budget"] == budget


def test_a_recipe_without_a_budget_says_so(recipe):
    config = read_recipe(recipe(RECIPE.replace("extended = 0.5", "")))
    assert config.budget == {} and config.lora == {}


def test_recipe_as_run_reads_back(recipe, tmp_path):
    overrides = ['trl.chat_template_kwargs={ "a b" = [1, 2.5, true] }', 'data.answer_after="\\u007f\\n\\"é😀"']
    config = read_recipe(recipe(), overrides)
    text = to_toml(config.model_dump(), "ibpo train r.toml")
    assert text.startswith("# ibpo train r.toml\n")
    again = tmp_path / "again.toml"
    again.write_text(text)
    assert read_recipe(again) == config


@pytest.mark.parametrize(
    "path", sorted(set(RECIPES.glob("*.toml")) - set(RECIPES.glob("cold_start_*.toml"))), ids=lambda path: path.stem
)
def test_shipped_recipes(path):
    first = path.read_text().splitlines()[0]
    assert (
        first.startswith(("# ibpo train ", "# ibpo eval ", "# accelerate launch ")) and f" recipes/{path.name}" in first
    )
    config = read_recipe(path)
    assert len(build_response_groups(config.response_group)) == (3 if "three_groups" in path.name else 2)
    assert tomllib.loads(to_toml(config.model_dump(), "x"))["budget"] == config.budget


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("steps = 3", "stpes = 3", "r.toml: train.stpes: unknown key; did you mean steps?"),
        ("[train]", "[trian]", "r.toml: trian: unknown table; did you mean train?"),
        ('path = "rows.jsonl"', "", "r.toml: data.path: is missing; add path = ..."),
        (
            'prefix = "<think>"',
            'prefixx = "<think>"',
            "response_group.extended.prefixx: unknown key; did you mean prefix?",
        ),
        ("steps = 3", 'steps = "3"', "train.steps: needs a whole number, got '3'"),
        ("steps = 3", "steps = 3.5", "train.steps: needs a whole number, got 3.5"),
        ("steps = 3", "steps = true", "train.steps: needs a whole number, got True"),
        ("steps = 3", "steps = 0", "train.steps: must be at least 1, got 0"),
        ("steps = 3", "learning_rate = -1", "train.learning_rate: must be above 0"),
        ("steps = 3", "rollouts_per_prompt = 7", "7 is not a multiple of the 2 response groups; write 8"),
        ('path = "some/model"', "path = 3", "model.path: needs text in quotes, got 3"),
        (
            'path = "some/model"',
            'path = "m"\ndtype = "floa32"',
            "model.dtype: 'floa32' is not one of float32, bfloat16, float16; did you mean float32?",
        ),
        ('path = "some/model"', 'path = "m"\ntrust_remote_code = true', "model.trust_remote_code: unknown key"),
        (
            "extended = 0.5",
            "extended = 50",
            "budget.extended: a share is at most 100%; did you mean extended=50%",
        ),
        ("extended = 0.5", "extended = -0.1", "budget.extended: '-0.1' is not an amount"),
        ("extended = 0.5", "extended = nan", "budget.extended: 'nan' is not an amount"),
        ("extended = 0.5", "tokens = 0", "budget.tokens: every response costs tokens; write an amount above 0"),
        ("extended = 0.5", "extendde = 0.5", "budget.extendde: no response group and no cost is named 'extendde'"),
        (
            "extended = 0.5",
            "extended = 0.4\nstandard = 0.4",
            "budget: the shares of all response groups sum to 0.8, less than 1",
        ),
        ("[budget]\nextended = 0.5", "", "budget: is missing; add [budget] and extended = 0.5"),
        ("[budget]\nextended = 0.5", "[gate]\n", "gate: belongs to recipes of `ibpo cold-start`; run that"),
        ('name = "extended"', 'name = "standard"', "response_group: the name 'standard' must be unique"),
        (
            "[budget]\nextended = 0.5",
            '[budget]\nextended = 0.5\n[trl]\nchat_template_kwargs = "thinking"',
            "trl.chat_template_kwargs: needs a table, {enable_thinking = true}, got 'thinking'",
        ),
        ("[budget]", "[budget", "is not TOML"),
        ("[model]", "model = 3\n[x]", "x: unknown table"),
    ],
)
def test_errors_name_file_key_and_mend(recipe, old, new, message):
    path = recipe(RECIPE.replace(old, new, 1))
    with pytest.raises(IbpoError) as error:
        read_recipe(path)
    assert str(path) in str(error.value) and message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.stpes=3", "--set train.stpes=3: unknown key; did you mean steps?"),
        ("trian.steps=3", "--set trian.steps=3: unknown table; did you mean train?"),
        ("train.steps=many", "--set train.steps=many: needs a whole number, got 'many'"),
        ("train.steps", "--set train.steps: needs TABLE.KEY=VALUE"),
        ("response_group.extendde.prefix=x", "no response group 'extendde'; did you mean extended?"),
        ("budget.extended=2", "--set budget.extended=2: a share is at most 100%; did you mean extended=2%?"),
    ],
)
def test_override_errors_name_the_override(recipe, override, message):
    with pytest.raises(IbpoError, match=r"^--set") as error:
        read_recipe(recipe(), [override])
    assert message in str(error.value)


def test_unreadable_recipes(tmp_path):
    with pytest.raises(IbpoError, match="there is no such recipe"):
        read_recipe(tmp_path / "none.toml")
    with pytest.raises(IbpoError, match="cannot be read"):
        read_recipe(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b"# \xe9\n")
    with pytest.raises(IbpoError, match="not UTF-8"):
        read_recipe(tmp_path / "latin.toml")


def test_one_group_is_not_enough(recipe):
    text = RECIPE.split("[[response_group]]")
    with pytest.raises(IbpoError, match="two or more"):
        read_recipe(recipe(text[0] + "[[response_group]]" + text[1] + "[budget]\nextended = 0.5"))


def test_the_path_of_the_data_is_relative_to_the_recipe(recipe, tmp_path, monkeypatch):
    path = recipe()
    assert read_recipe(path).data.path == "rows.jsonl"  # nothing beside the recipe: relative to the working directory
    (tmp_path / "rows.jsonl").write_text("")
    assert read_recipe(path).data.path == str(tmp_path / "rows.jsonl")
    assert read_recipe(path, ["data.path=rows.jsonl"]).data.path == "rows.jsonl"  # typed where the command runs
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert read_recipe(Path("..") / path.name).data.path == "../rows.jsonl"
