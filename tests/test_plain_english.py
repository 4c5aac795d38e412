"""The list of refused words: each is refused wherever a user or a reader meets it, and nothing else is."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "docs" / "plain_english.py"

REFUSED = {
    "A dear model is asked last.": ("dear", "expensive"),
    "Take the dearest group.": ("dearest", "expensive"),
    "Mend the row.": ("Mend", "fix"),
    "It mended the log.": ("mended", "fix"),
    "Tokens are not told by this server.": ("are not told", "reported"),
    "The log tells of three groups.": ("tells of", "reported, or says that"),
    "Two groups cannot be told apart.": ("told apart", "distinguish"),
    "A marker tells the two groups apart.": ("tells the two groups apart", "distinguish"),
    "It cannot be told from noise.": ("be told from", "distinguished from"),
    "Runs lie in one folder.": ("lie in", "is in, or is stored in"),
    "The folder where runs lie.": ("where runs lie", "is"),
    "Three requests are under way.": ("under way", "in flight, or running"),
    "It spends 30 % in the mean.": ("in the mean", "on average"),
    "The command leaves with status 2.": ("leaves with", "exit"),
    "Print a key and leave.": ("and leave", "exit"),
    "The demo leaves a page.": ("leaves a page", "write"),
    "One can set a budget.": ("One can", "you"),
    "for models that one cannot train": ("that one cannot", "you"),
    "It works. Of two answers the better one counts.": ("Of", "begin with what the sentence is about"),
    "Name it. Else nothing is read.": ("Else", "Otherwise"),
    "It takes some nine minutes.": ("some nine minutes", "about"),
    "It takes some 9 minutes.": ("some 9 minutes", "about"),
    "It gains next to nothing.": ("next to nothing", "almost no"),
    "The price can be had elsewhere.": ("can be had", "available, or possible"),
    "It cannot be had.": ("cannot be had", "available, or possible"),
    "All but for the last.": ("but for", "except, or except for"),
    "The response at hand.": ("at hand", "available, or here"),
    "The text as it stands.": ("as it stands", "as it is, or unchanged"),
    "Equal to the bit.": ("to the bit", "bit for bit"),
    "Hence the name.": ("Hence", "so, or that is why"),
    "It thereby fails.": ("thereby", "so, or by which"),
    "It is dropped without a word.": ("without a word", "silently, or without a message"),
    "It waits for ever.": ("for ever", "forever"),
    "It failed for good.": ("for good", "permanently"),
    "The body is to be sent again.": ("is to be sent", "must be, can be or will be"),
    "A number; None where it is none.": ("it is none", "is not one"),
    "It costs so and so much.": ("so and so much", "that much, or the number"),
}

TRUE_USES = (
    "The least leave-one-out error, by leave-one-problem-out.",
    "The mean of the rewards, and a gain in the mean reward.",
    "Exactly one has to be given, and one can be left out: each one can fail, the extended one has 3.",
    "The gain lies in [0, 1], above 0, and lies in the range of the log.",
    "The user is told to write it again; they tell the truth.",
    "Leave the field out; what they leave is written; a filter leaves some.",
    "An order of magnitude, of course. Of course it is.",
    "See the file `dear.txt`, `mend()` and ``told of``, and docs/dear/mend.md, https://dear.example/hence.",
    "Ask Dear and Mend, two names.",
    "None of them is; there is none; none of these.",
    "It is not for the user but for the server.",
    "HiGHS looks for good choices.",
    "Some of the 9 minutes; something else.",
    "Write --dear or mend=1 on the command line.",
)


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The script, as `make lint` runs it."""
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def found_in(folder: Path, name: str, texts: list[str]) -> list[tuple[int, str, str]]:
    """(line, words, what to write) of each refusal in a file of these lines."""
    path = folder / name
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    done = run(path)
    assert not done.stderr and done.returncode == (0 if ": 0 refused" in done.stdout else 1), done
    rows = [re.fullmatch(r'.*?:(\d+): "(.*)": write: (.*)', line) for line in done.stdout.splitlines()[:-1]]
    return [(int(row[1]), row[2], row[3]) for row in rows if row]


WRITERS = {
    "text.md": lambda text: ["", text],
    "list.md": lambda text: ["", f"- {text}"],
    "docstring.py": lambda text: ["def f():", f'    """{text}"""', ""],
    "error.py": lambda text: ["raise ValueError(", f'    f"{{path}}: {text}"', ")"],
    "comment.py": lambda text: ["x = 1", f"# {text}"],
    "help.py": lambda text: ["option = typer.Option(", f'    help="{text}",', ")"],
    "page.html": lambda text: ["<p>", f"{text}</p>"],
    "title.html": lambda text: ["<p>It works.</p>", f'<a title="{text}">a</a>'],
    "script.html": lambda text: ["<script>", f'say("{text}");', "</script>"],
    "page.html.j2": lambda text: ["{% if data.dear %}", f"<p>{text} {{{{ data.mend }}}}</p>", "{% endif %}"],
    "recipe.toml": lambda text: ["[budget]", f"tokens = 3  # {text}"],
    "finding.sh": lambda text: ["#!/bin/bash", f"# {text}"],
}


@pytest.mark.parametrize("name", WRITERS)
def test_each_word_is_refused_wherever_a_reader_meets_it(tmp_path: Path, name: str) -> None:
    """Named with its line, and with what to write instead."""
    lines: list[str] = []
    wanted: list[tuple[int, str, str]] = []
    for text, (words, write) in REFUSED.items():
        block = WRITERS[name](text)
        wanted.append((len(lines) + 2, words, write))
        lines += [*block, ""]
    assert found_in(tmp_path, name, lines) == wanted


@pytest.mark.parametrize("name", WRITERS)
def test_true_uses_are_not_refused(tmp_path: Path, name: str) -> None:
    """Mathematics, numbers, names, code and links."""
    lines = [line for text in TRUE_USES for line in (*WRITERS[name](text), "")]
    assert found_in(tmp_path, name, lines) == []


def test_code_is_not_read(tmp_path: Path) -> None:
    """Blocks, spans, targets of links, doctests, values of TOML, names."""
    text = [
        "```python", "dear = 'told of a dear mend, hence'", "```", "~~~", "One can mend.", "~~~",
        "    ", "[a link](docs/mend/dear.md 'x') and [another](hence.md)", "<!-- Of dear -->", "[one]: https://dear/hence",
    ]  # fmt: skip
    assert found_in(tmp_path, "a.md", text) == []
    source = ["def mend(dear):", '    """It adds.', "", "    >>> 'dear hence'", '    """', "    hence = 'dear'"]
    assert found_in(tmp_path, "a.py", source) == []
    assert found_in(tmp_path, "a.toml", ["prompt = 'One can mend # dear things'", "dear = 1"]) == []
    assert found_in(tmp_path, "a.html", ["<style>.dear {}</style>", '<p class="dear" id="mend">It is.</p>']) == []


def test_words_are_found_where_lines_break(tmp_path: Path) -> None:
    """A phrase over two lines is one phrase, on its first line; literals that stand together are one text."""
    assert found_in(tmp_path, "a.md", ["The response is at", "hand, and the last.", "", "at", "", "hand"]) == [
        (1, "at hand", "available, or here")
    ]
    assert found_in(tmp_path, "a.py", ["x = (", '    "They are under "', '    "way now."', ")"])[0][1] == "under way"
    assert found_in(tmp_path, "b.py", ["# They are under", "# way now."])[0][:2] == (1, "under way")
    assert found_in(tmp_path, "a.md", ["| dear | Of two |", "|---|---|", "| a | Else it is |"]) == [
        (1, "Of", "begin with what the sentence is about"),
        (1, "dear", "expensive"),
        (3, "Else", "Otherwise"),
    ]


def test_folders_and_paths_that_cannot_be_read(tmp_path: Path) -> None:
    """A folder stands for all its files; what is missing or of an unknown kind ends with 2 and a reason."""
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.md").write_text("A dear model.", encoding="utf-8")
    (tmp_path / "b.bin").write_bytes(b"dear mend")
    done = run(tmp_path)
    assert done.returncode == 1 and done.stdout.splitlines()[-1] == "plain English: 1 refused word in 1 file"
    for path, said in ((tmp_path / "gone", "no such file"), (tmp_path / "b.bin", "unknown kind of file")):
        done = run(path)
        assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr
    (tmp_path / "c.py").write_text("def (", encoding="utf-8")
    done = run(tmp_path / "c.py")
    assert done.returncode == 2 and "c.py" in done.stderr and "Traceback" not in done.stderr


def test_our_own_texts_are_plain() -> None:
    """What `make lint` asks."""
    done = run()
    assert done.returncode == 0, done.stdout
