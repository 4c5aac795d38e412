"""Draw the house from the code's imports: rooms on their floors, an arrow where one imports from another.

    python docs/house.py            # figures: files, lines, circles, public names without a user
    python docs/house.py --draw     # docs/images/house.svg as well

The floors are those of the import contract in pyproject.toml; imports inside functions count, imports for type checkers
do not. `make lint` prints the figures: they are there to be seen, and nothing fails because of them but a circle.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
import tomllib
from collections import Counter
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import grimp

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "ibpo"


def read_floors() -> list[list[str]]:
    """Names of the rooms on each floor, the highest first."""
    with open(ROOT / "pyproject.toml", "rb") as file:
        contracts = tomllib.load(file)["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["id"] == "floors")
    return [re.findall(r"\w+", layer) for layer in layers]


def room_of(module: str) -> str:
    """The room, or the single file, directly under the package."""
    return module.split(".")[1] if "." in module else ""


def find_circle(graph: grimp.ImportGraph) -> list[str]:
    """The modules of one circle of imports; empty where there is none."""
    order = TopologicalSorter({module: graph.find_modules_directly_imported_by(module) for module in graph.modules})
    try:
        order.prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def count_room_imports(graph: grimp.ImportGraph) -> Counter[tuple[str, str]]:
    """(importer, imported) -> number of imports between modules of two rooms."""
    found: Counter[tuple[str, str]] = Counter()
    for module in graph.modules:
        for imported in graph.find_modules_directly_imported_by(module):
            pair = room_of(module), room_of(imported)
            if all(pair) and pair[0] != pair[1] and pair[1] != "errors":  # every room raises them
                found[pair] += 1
    return found


def public_names(path: Path) -> list[str]:
    """Functions and classes that a file defines at its top level without an underscore."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return [node.name for node in body if isinstance(node, kinds) and not node.name.startswith("_")]


def names_without_user(files: list[Path]) -> list[str]:
    """Public names that stand nowhere else in the package, experiments, benchmarks, examples or docs."""
    texts = [path.read_text(encoding="utf-8") for path in files]
    for folder in ("experiments", "benchmarks", "docs", "recipes"):
        texts += [p.read_text(encoding="utf-8") for p in (ROOT / folder).rglob("*") if p.suffix in (".py", ".md")]
    uses = Counter(word for text in texts for word in re.findall(r"\w+", text))
    return [f"{path.relative_to(ROOT)}:{name}" for path in files for name in public_names(path) if uses[name] < 2]


def count_config_fields(files: list[Path]) -> int:
    """Fields that a recipe, a gateway's file or `IBPOConfig` has of its own; a table of such is none."""
    tables = {"BaseModel", "Table", "_Table", "DataRecipe", "Recipe", "GRPOConfig"}
    found = [
        (node.name, field)
        for path in files
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef) and {ast.unparse(base) for base in node.bases} & tables
        for field in node.body
        if isinstance(field, ast.AnnAssign)
    ]
    classes = {name for name, _ in found}
    return sum(not set(re.findall(r"\w+", ast.unparse(field.annotation))) & classes for _, field in found)


def count_options() -> int:
    """Number of options of all commands, without --help."""
    from typer.main import get_command

    from ibpo.cli import COMMANDS, app

    group: Any = get_command(app)
    commands = [group.resolve_command(None, [name])[1] for name in COMMANDS]
    commands = [one for command in commands for one in getattr(command, "commands", {"": command}).values()]
    return sum(p.param_type_name == "option" and p.name != "help" for command in commands for p in command.params)


def draw(floors: list[list[str]], arrows: Counter[tuple[str, str]], lines: Counter[str], target: Path) -> None:
    """Rooms as boxes (name, lines), floors from top to bottom, arrows as wide as they have imports."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot as plt
    from matplotlib.patches import FancyArrowPatch

    matplotlib.rcParams["svg.hashsalt"] = PACKAGE  # the same file for the same imports
    rooms = [[room for room in floor if lines[room]] for floor in floors]
    rooms = [floor for floor in rooms if floor]
    figure, axes = plt.subplots(figsize=(11, 1.15 * len(rooms)))
    places = {
        # A floor of one room stands left or right of the middle in turn: in one column the arrows would be hidden.
        room: ((i + 0.5) / len(floor) if len(floor) > 1 else (0.3, 0.7)[height % 2], len(rooms) - height)
        for height, floor in enumerate(rooms)
        for i, room in enumerate(floor)
    }
    for (importer, imported), count in sorted(arrows.items()):
        if importer in places and imported in places:
            # An arrow that passes a floor bends, so that it does not go through the rooms between.
            bend = 0.12 if places[importer][1] - places[imported][1] > 1 else 0.0
            axes.add_patch(
                FancyArrowPatch(
                    places[importer], places[imported], arrowstyle="-|>", mutation_scale=9, shrinkA=16, shrinkB=16,
                    connectionstyle=f"arc3,rad={bend}", linewidth=0.4 + min(count, 20) / 10, color="#8795a8", alpha=0.8,
                )
            )  # fmt: skip
    for room, (x, y) in places.items():
        axes.text(
            x, y, f"{room}\n{lines[room]:,} lines", ha="center", va="center", fontsize=9,
            bbox={"boxstyle": "round,pad=0.4", "facecolor": "#eef3fa", "edgecolor": "#3b5b8c"},
        )  # fmt: skip
    axes.set(xlim=(0, 1), ylim=(0.3, len(rooms) + 0.6))
    axes.axis("off")
    figure.savefig(target, bbox_inches="tight", metadata={"Date": None})


def main() -> int:
    """Print the figures; draw on demand; 1 where imports go in a circle."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draw", action="store_true", help="write docs/images/house.svg")
    parser.add_argument("--names", action="store_true", help="list the public names without a user")
    asked = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    graph = grimp.build_graph(PACKAGE, exclude_type_checking_imports=True, cache_dir=None)
    files = sorted((ROOT / PACKAGE).rglob("*.py"))
    lines: Counter[str] = Counter()
    for path in files:
        part = path.relative_to(ROOT / PACKAGE).parts[0].removesuffix(".py")
        lines[part] += len(path.read_text(encoding="utf-8").splitlines())
    circle, unused = find_circle(graph), names_without_user(files)
    print(f"{PACKAGE}/: {len(files)} files, {sum(lines.values()):,} lines")
    print(f"import circle: {' -> '.join(circle) if circle else 'none'}")
    print(f"public names without a user: {len(unused)}")
    print(f"CLI options: {count_options()}")
    print(f"config fields: {count_config_fields(files)}")
    if asked.names:
        print("\n".join(unused))
    if asked.draw:
        draw(read_floors(), count_room_imports(graph), lines, ROOT / "docs" / "images" / "house.svg")
    return 1 if circle else 0


if __name__ == "__main__":
    sys.exit(main())
