"""Stage `digest_code`: which code each stage runs, so that it reruns when its meaning changes.

A stage depends on its one file below `work/code`, not on files of code: a comment, or a change that
it never runs, leaves that file as it is.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from plumbline import paths
from plumbline.code_digest import Closure, CodeTree
from plumbline.config import Config
from plumbline.files import dump_json, staged_output
from plumbline.kind import ALIGNMENT, KINDS, Kind, known_kinds
from plumbline.params import PACKAGES
from plumbline.stage import StageSpec, count, say_done
from plumbline.stages.specs import STAGES, specs


def roles_of(spec: StageSpec[Config], kind: Kind) -> list[str]:
    """The modules of a kind that a stage runs, with the models that its training starts from."""
    modules = [kind.place(role) for role in spec.roles]
    if "train" in spec.roles:
        starts = [known_kinds()[name] for name in kind.settings.starts_from]
        modules += [start.place(role) for start in starts for role in ("settings", "model")]
    return modules


def closure_of(tree: CodeTree, spec: StageSpec[Config], kind: Kind | None = None) -> Closure:
    """What a stage runs, for one kind of work where it runs a kind's modules."""
    modules = roles_of(spec, kind) if kind else []
    return tree.closure_with_plugins(["stages", f"stages.{spec.name}", *modules])


def settings_closure(tree: CodeTree) -> Closure:
    """What `check_params` runs: of the other stages and of all kinds the settings alone."""
    kinds = [kind.place("settings") for kind in known_kinds().values()]
    stages = [f"plumbline.stages.{name}" for name in STAGES]
    # Composing loads Hydra when it is asked to.
    own = ["stages", "stages.check_params", "plumbline.composition"]
    start = [*own, *tree.plugins(), *stages, *kinds]
    return tree.closure(start, eager=True)


def describe(closure: Closure) -> dict[str, object]:
    """What stands in the file of a stage."""
    shaping = {*closure.libraries, "python"}
    return {
        "files": closure.digests(),
        "libraries": [name for name in PACKAGES if name in shaping],
    }


def codes(tree: CodeTree) -> Iterator[tuple[Path, Closure]]:
    """Every file of `work/code` with the code that it is about."""
    yield paths.code("check_params"), settings_closure(tree)
    for spec in specs():
        if spec.schema_of_kind:
            for name, kind in KINDS.entries().items():
                yield paths.code(spec.name, name), closure_of(tree, spec, kind)
        else:
            kind_of_group = ALIGNMENT if spec.group == "align" else None
            yield paths.code(spec.name), closure_of(tree, spec, kind_of_group)


def main(arguments: Sequence[str]) -> None:
    """Write `work/code`."""
    with staged_output(paths.CODE) as out:
        written = 0
        for place, closure in codes(CodeTree(Path.cwd())):
            file = out / place.relative_to(paths.CODE)
            file.parent.mkdir(exist_ok=True)
            file.write_text(dump_json(describe(closure)), encoding="utf-8")
            written += 1
    say_done("digest_code", count(written, "closure"), see=paths.CODE)
