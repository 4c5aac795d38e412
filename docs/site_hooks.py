"""What `mkdocs build` does beside its plugins: pages made from code and from files outside docs/, and their links.

- `changelog.md` and `contributing.md` are the repository's own files.
- `reference/command-line.md` is read from the parser, `reference/api/ROOM.md` lists the public names of a room; the
  text of each name is its docstring, by mkdocstrings.
- Formulas (TeX between dollars, as GitHub shows them) become MathML, which browsers draw without a script.
- A link that leaves docs/ would be dead on the site: it leads to `source_url` where that is set (mkdocs.yml), and is
  text otherwise.
"""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latex2mathml.converter import convert
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
FROM_ROOT = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
"""File of the repository's root -> its page."""
WITH_FORMULAS = (
    "explanation/evaluation.md",
    "explanation/method.md",
    "explanation/paper-index.md",
    "how-to/calibrate.md",
)
"""Elsewhere a dollar is money."""
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")

ROOMS = {
    "ibpo": "What `import ibpo` gives: the allocation, the trainer, the nouns.",
    "ibpo.allocation": "Which response should each prompt get, so that the total stays inside a budget?",
    "ibpo.budget": "Budgets as they are written: `extended=30%`, `tokens=2000`.",
    "ibpo.types": "The nouns: problems, response groups, rollouts, scored responses.",
    "ibpo.errors": "What is raised.",
    "ibpo.data": "Logs of responses, read into columns.",
    "ibpo.responses": "Response groups: how a response asks, looks and ends.",
    "ibpo.rewards": "Judges: is the answer right?",
    "ibpo.tasks": "Where problems come from.",
    "ibpo.rollouts": "Samplers: who answers.",
    "ibpo.evaluation": "Accuracy against cost, with intervals.",
    "ibpo.training": "The trainer and its settings.",
    "ibpo.routing": "Gains learned from logs, for models that you cannot train.",
    "ibpo.serving": "The controller that holds a budget on live traffic.",
    "ibpo.testing": "For tests of code that uses `ibpo`.",
}
"""Room -> one line; the order of the pages."""


@event_priority(100)  # before the plugins that look at all files
def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages that are made."""
    made = {
        **{page: at_root(ROOT / name) for name, page in FROM_ROOT.items()},
        "reference/command-line.md": describe_commands(),
        "reference/api/index.md": describe_rooms(),
        **{f"reference/api/{room}.md": describe_room(room) for room in rooms()},
    }
    for name, text in made.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, **_: Any) -> str:
    """Links that leave docs/, and the mark of code blocks that tests leave out."""
    folder = (DOCS / page.file.src_uri).parent
    source = config.extra["source_url"]

    def rewrite(match: re.Match[str]) -> str:
        image, text, link = match.groups()
        if image or re.match(r"[a-z]+:|#", link):
            return match[0]
        path, _, fragment = link.partition("#")
        target = os.path.relpath(os.path.normpath(folder / path), ROOT)
        if target in FROM_ROOT:
            return f"[{text}]({os.path.relpath(DOCS / FROM_ROOT[target], folder)}{'#' * bool(fragment)}{fragment})"
        if target.startswith("docs/"):
            return match[0]
        return f"[{text}]({source}{target}{'#' * bool(fragment)}{fragment})" if source else text

    pieces = re.split(r"(^ *```.*?^ *```$)", markdown, flags=re.DOTALL | re.MULTILINE)
    pieces[::2] = [LINK.sub(rewrite, piece) for piece in pieces[::2]]
    if page.file.src_uri in WITH_FORMULAS:
        pieces = [draw_formulas(piece) for piece in pieces]
    pieces[1::2] = [re.sub(r"^( *```\w+) notest$", r"\1", piece, flags=re.MULTILINE) for piece in pieces[1::2]]
    return "".join(pieces)


def draw_formulas(markdown: str) -> str:
    """TeX as MathML: `$...$` in a line, and blocks between `$$` or in a fence named math."""
    if markdown.lstrip().startswith("```"):
        block = re.fullmatch(r" *```math\n(.*?)\n *```\s*", markdown, re.DOTALL)
        return f"\n{convert(block[1], display='block')}\n" if block else markdown
    markdown = re.sub(r"\$\$(.+?)\$\$", lambda x: convert(x[1], display="block"), markdown, flags=re.DOTALL)
    parts = re.split(r"(`[^`]*`)", markdown)
    parts[::2] = [re.sub(r"\$([^$]+?)\$", lambda x: draw_inline(x[1]), part) for part in parts[::2]]
    return "".join(parts)


def draw_inline(tex: str) -> str:
    """MathML in a span: Markdown takes a line that begins with `<math>` for a block, and ends the paragraph there."""
    return f"<span>{convert(' '.join(tex.split()))}</span>"


def at_root(path: Path) -> str:
    """A file of the repository's root, with its links as seen from docs/."""

    def rewrite(match: re.Match[str]) -> str:
        image, text, link = match.groups()
        if re.match(r"[a-z]+:|#", link):
            return match[0]
        return f"{image}[{text}]({link.removeprefix('docs/') if link.startswith('docs/') else '../' + link})"

    return LINK.sub(rewrite, path.read_text(encoding="utf-8"))


# The API: names out of the faces of the rooms, read without importing them.


def rooms() -> list[str]:
    """Those of ROOMS that are there."""
    return [room for room in ROOMS if find_face(room).is_file()]


def find_face(room: str) -> Path:
    """The file that says which names a room has."""
    path = ROOT.joinpath(*room.split("."))
    faces = (path / "__init__.pyi", path / "__init__.py", path.with_suffix(".py"))
    return next((face for face in faces if face.is_file()), faces[-1])


def read_face(room: str) -> dict[str, str]:
    """Public name -> the module that holds it, in order; a file's own names are those without an underscore."""
    face = find_face(room)
    tree = ast.parse(face.read_text(encoding="utf-8"))
    imported: dict[str, str] = {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module:
            module = f"{room}.{node.module}" if node.level else node.module
            if module.startswith(f"{room}."):
                imported |= {alias.asname or alias.name: module for alias in node.names}
    if face.name != "__init__.pyi" and not imported:
        own = (node for node in tree.body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)))
        return {node.name: room for node in own if not node.name.startswith("_")}
    return {name: module for name, module in sorted(imported.items(), key=lambda x: x[0].lower()) if name[0] != "_"}


def follow(name: str, module: str) -> str:
    """The dotted name where a public name is defined, through the faces between."""
    while module.count(".") and find_face(module).name.startswith("__init__"):
        found = read_face(module).get(name)
        if found is None or found == module:
            break
        module = found
    return f"{module}.{name}"


def is_described(dotted: str) -> bool:
    """Whether a name is a function, a class, or a constant with a docstring of its own, as its file says."""
    module, _, name = dotted.rpartition(".")
    body = ast.parse(find_face(module).read_text(encoding="utf-8")).body
    for node, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and node.name == name:
            return True
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            return isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
    return False


def describe_rooms() -> str:
    """The list of rooms."""
    rows = "\n".join(f"| [`{room}`]({room}.md) | {ROOMS[room]} |" for room in rooms())
    return (
        "# API\n\nThe public names of each room, with their docstrings. `import ibpo` loads no library: a name is "
        f"imported when it is first asked for.\n\n| room | what it is for |\n|---|---|\n{rows}\n"
    )


def describe_room(room: str) -> str:
    """A heading, and what mkdocstrings makes of each name."""
    parts = [f"# `{room}`\n\n{ROOMS[room]}\n"]
    if room == "ibpo":
        parts.append("Each name below is described on the page of its room, and can be imported from `ibpo` itself.\n")
        for name, module in read_face(room).items():
            home = next((r for r in reversed(rooms()) if r != "ibpo" and name in read_face(r)), module)
            parts.append(f"- `ibpo.{name}`: [`{home}`]({home}.md)")
        return "\n".join(parts) + "\n"
    for name, module in read_face(room).items():
        found = follow(name, module)
        if is_described(found):
            parts.append(f"::: {found}\n")
    return "\n".join(parts)


# The command line, out of the parser.


def describe_commands() -> str:
    """Each command with its help, its options and an example."""
    import typer.main

    from ibpo.cli import app

    group: Any = typer.main.get_command(app)
    parts = [
        "# Command line\n\nEvery command, as `ibpo COMMAND --help` prints it. Exit status: 0 done; 1 a check failed; "
        "2 an error that you can fix, reported in one line.\n"
    ]
    for name in group.commands:
        _, command, _ = group.resolve_command(typer.Context(group), [name])
        if hasattr(command, "commands"):
            parts += [f"## ibpo {name}\n\n{command.help or ''}\n"]
            parts += [describe_command(f"ibpo {name} {part}", sub, 3) for part, sub in command.commands.items()]
        else:
            parts.append(describe_command(f"ibpo {name}", command, 2))
    return "\n".join(parts)


def describe_command(path: str, command: Any, level: int) -> str:
    """Heading, help, usage, table of parameters, example."""
    arguments = [x for x in command.params if x.param_type_name == "argument"]
    options = [x for x in command.params if x.param_type_name == "option" and x.name != "help" and not x.hidden]
    context = command.make_context(path, [], resilient_parsing=True)
    usage = re.sub(r"\s+", " ", command.get_usage(context).removeprefix("Usage:")).strip()
    records = [record for x in [*arguments, *options] if (record := x.get_help_record(context))]
    rows = [f"| `{cell(what)}` | {cell(text)} |" for what, text in records]
    table = "\n".join(["| option | what it does |", "|---|---|", *rows]) if rows else ""
    text = re.sub(r"\n(?!\n)[ ]*", "\n", (command.help or "").replace("\f", "")).strip()
    example = re.sub(r"^Example:\s*", "", command.epilog or "").strip()
    parts = [f"{'#' * level} {path}", text, f"```text\n{usage}\n```", table]
    parts += [f"Example:\n\n```bash\n{example}\n```"] * bool(example)
    return "\n\n".join(part for part in parts if part) + "\n"


def cell(text: str | None) -> str:
    """A cell of a Markdown table."""
    return " ".join((text or "").replace("|", "\\|").split())
