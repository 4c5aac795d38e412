"""Which files and which rows a task reads: splits never mix, and the pinned revision is the one read."""

from __future__ import annotations

import json

import pytest

from ibpo.errors import IbpoError
from ibpo.tasks.data_files import local_parts
from ibpo.tasks.task import MATH_SUBJECTS, TASKS, Source, Task

MINE = Task(name="mine", problem=("q",), answer=("a",), judge="exact")


def write(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pytest.importorskip("datasets").Dataset.from_list(list(rows)).to_parquet(path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def math_rows(subject):
    solution = f"Of {subject}: \\boxed{{1}}."
    return [{"problem": f"{subject} {i}?", "solution": solution, "level": "Level 2", "type": subject} for i in range(2)]


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """The hub's and `datasets`' caches are empty folders, and the hub is out of reach."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))

    def snapshot(source, revision=None):
        folder = f"datasets--{source.name.replace('/', '--')}"
        return tmp_path / "hub" / folder / "snapshots" / (revision or source.revision)

    return snapshot


def test_the_pinned_revision_is_read_out_of_the_hubs_cache(offline):
    source = TASKS["aime_25"].source
    assert source is not None
    for revision, answer in ((source.revision, "70"), ("f" * 40, "71")):  # a later version was downloaded later
        write(offline(source, revision) / "test.jsonl", {"id": "0", "problem": "Find m+n.", "answer": answer})
    [problem] = TASKS["aime_25"].load()
    assert (problem.problem_id, problem.answer) == ("0", "70")


def test_configurations_without_ids_come_out_of_the_cache_and_out_of_a_folder(offline):
    """MATH: seven configurations whose rows have no ids, each with a train and a test file."""
    folder = offline(TASKS["math_train"].source)
    metadata = "".join(
        f"- config_name: {s}\n  data_files:\n  - split: train\n    path: {s}/train-*\n  - split: test\n"
        f"    path: {s}/test-*\n"
        for s in MATH_SUBJECTS
    )
    for subject in MATH_SUBJECTS:
        write(folder / subject / "train-00000-of-00001.parquet", *math_rows(subject))
        write(folder / subject / "test-00000-of-00001.parquet", *math_rows(f"test {subject}"))
    (folder / "README.md").write_text(f"---\nconfigs:\n{metadata}---\n")
    problems = TASKS["math_train"].load()
    assert [p.problem_id for p in problems] == [f"{s}-{i}" for s in MATH_SUBJECTS for i in range(2)]
    assert not any("test" in p.prompt for p in problems)
    copied = TASKS["math_train"].load(folder)  # as `hf download --local-dir` lays it out
    assert [(p.problem_id, p.prompt) for p in copied] == [(p.problem_id, p.prompt) for p in problems]


def test_what_is_missing_says_how_to_get_it(offline):
    how = r"run `hf download math-ai/aime25 --repo-type dataset --revision 563bb84\w+ --local-dir F\w+` .* data.path=F"
    with pytest.raises(IbpoError, match=how):
        TASKS["aime_25"].load()
    write(offline(TASKS["aime_25"].source) / "train.jsonl", {"problem": "p", "answer": "1"})  # without the wanted split
    with pytest.raises(IbpoError, match=how):
        TASKS["aime_25"].load()


def test_files_without_ids(tmp_path):
    for name in ("b", "a"):
        write(tmp_path / f"{name}.jsonl", {"q": f"{name}1", "a": "1"}, {"q": f"{name}2", "a": "2"})
    assert [(p.problem_id, p.prompt) for p in MINE.load(tmp_path)] == [
        ("a-1", "a1"), ("a-2", "a2"), ("b-1", "b1"), ("b-2", "b2"),
    ]  # fmt: skip
    assert [p.problem_id for p in MINE.load(tmp_path / "a.jsonl")] == ["1", "2"]


@pytest.mark.parametrize(
    "names",
    [
        ("train.jsonl", "test.jsonl"),
        ("main/train-0.jsonl", "main/test-0.jsonl"),
        ("train/0.jsonl", "test/0.jsonl"),
        ("my_train.jsonl", "socratic_test.jsonl"),
    ],
)
def test_splits_never_mix(names, tmp_path):
    for name, split in zip(names, ("train", "test"), strict=True):
        write(tmp_path / name, {"id": split, "q": f"of {split}", "a": "1"})
    for split in ("train", "test"):
        mine = Task(
            name="mine", problem=("q",), answer=("a",), source=Source(name="me/mine", revision="0" * 40, split=split)
        )
        assert [p.prompt for p in mine.load(tmp_path)] == [f"of {split}"]
    with pytest.raises(IbpoError, match="holds several splits: test and train; name the file or folder of one"):
        MINE.load(tmp_path)
    (tmp_path / names[1]).unlink()
    with pytest.raises(IbpoError, match="holds the split train, and test is wanted; name the file itself to take it"):
        mine.load(tmp_path)
    assert mine.load(tmp_path / names[0])[0].prompt == "of train"


def test_what_a_folder_holds_is_said_in_one_sentence(tmp_path):
    for split in ("train", "test", "validation"):
        write(tmp_path / f"{split}.jsonl", {"q": split, "a": "1"})
    with pytest.raises(IbpoError, match="holds several splits: test, train and validation; name"):
        MINE.load(tmp_path)
    with pytest.raises(IbpoError, match="holds the splits test, train and validation, and dev2 is wanted"):
        local_parts(tmp_path, split="dev2")
    (tmp_path / "cut.jsonl").write_text('{"q": "1 +')
    with pytest.raises(IbpoError, match=r"cut\.jsonl line 1: is not JSON: Unterminated string starting at column 7; "):
        MINE.load(tmp_path / "cut.jsonl")


def test_a_file_whose_name_says_no_split_is_not_left_out_in_silence(tmp_path):
    for name in ("train.jsonl", "more.jsonl"):
        write(tmp_path / name, {"q": name, "a": "1"})
    with pytest.raises(IbpoError, match=r"holds the split train, and more\.jsonl, .* write data\.split = 'train'"):
        MINE.load(tmp_path)
    [(_, rows)] = local_parts(tmp_path, split="train")
    assert [row["q"] for _, row in rows] == ["train.jsonl"]


def test_saved_dicts_have_splits_too(tmp_path):
    datasets = pytest.importorskip("datasets")
    tables = {split: datasets.Dataset.from_list([{"q": split, "a": "1"}]) for split in ("train", "test")}
    datasets.DatasetDict(tables).save_to_disk(tmp_path / "saved")
    with pytest.raises(IbpoError, match="holds several splits: train and test"):
        MINE.load(tmp_path / "saved")
    [(_, rows)] = local_parts(tmp_path / "saved", split="test")
    assert [row["q"] for _, row in rows] == ["test"]


def test_parquet_whose_columns_have_one_name_is_refused(tmp_path):
    """The second column `a` won: answers of another column were taught without a word."""
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = arrow.Table.from_arrays([arrow.array([text]) for text in ("1 + 1 =", "2", "3")], names=["q", "a", "a"])
    parquet.write_table(table, tmp_path / "rows.parquet")
    with pytest.raises(IbpoError, match=r"rows\.parquet: several columns are called 'a'; rename one of them"):
        MINE.load(tmp_path / "rows.parquet")
