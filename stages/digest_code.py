"""Stage `digest_code`: which code each stage runs, so that it reruns when its meaning changes.

A stage depends on its one file below `work/code`, not on files of code: a comment, or a change that
it never runs, leaves that file as it is.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from plumbline import paths
from plumbline.code_digest import Closure, CodeTree
from plumbline.evaluation.kinds import EVALUATIONS
from plumbline.export.kinds import EXPORTS
from plumbline.files import dump_json, staged_output
from plumbline.models.spec import SPECS
from plumbline.params import PACKAGES
from plumbline.stage import count, run_stage, say_done
from plumbline.tasks.kinds import KINDS
from stages import ROOT
from stages.specs import specs


def work_of(kind: str) -> set[str]:
    """The modules that train, evaluate and export a kind of task."""
    named = [KINDS[kind].build] if kind in KINDS else []
    named += [EVALUATIONS[kind].evaluate] if kind in EVALUATIONS else []
    named += [EXPORTS[kind].plan] if kind in EXPORTS else []
    return {place.split(":")[0] for place in named}


def not_run_by(stage: str, kind: str) -> set[str]:
    """The modules in which tables name other kinds, and that no run of this one loads."""
    models = {name: place.split(":")[0] for name, place in SPECS.entries().items()}
    own = work_of(kind) | {models[kind]} if kind in models else work_of(kind)
    if stage == "finetune" and KINDS[kind].starts_from_any:
        own |= set(models.values())
    named = {module for other in KINDS for module in work_of(other)} | set(models.values())
    return named - own


def closure_of(tree: CodeTree, stage: str, kind: str = "") -> Closure:
    """What a stage runs for one kind of work; without `kind`, what it runs for any."""
    start = ["stages", f"stages.{stage}", *tree.plugins()]
    if stage == "check_params":
        # It calls nothing of the others but their settings.
        return tree.closure([*start, *tree.stages()], eager=True)
    if not kind:
        return tree.closure(start)
    return tree.closure(start, without=not_run_by(stage, kind))


def describe(closure: Closure) -> dict[str, Any]:
    """What stands in the file of a stage."""
    shaping = {*closure.libraries, "python"}
    return {
        "files": closure.digests(),
        "libraries": [name for name in PACKAGES if name in shaping],
    }


def codes(tree: CodeTree) -> Iterator[tuple[Path, Closure]]:
    """Every file of `work/code` with the code that it is about."""
    yield paths.code("check_params"), closure_of(tree, "check_params")
    for spec in specs():
        if spec.schema_of_kind:
            for kind in KINDS:
                yield paths.code(spec.name, kind), closure_of(tree, spec.name, kind)
        else:
            kind = "alignment" if spec.group == "align" else ""
            yield paths.code(spec.name), closure_of(tree, spec.name, kind)


def main(arguments: Sequence[str]) -> None:
    """Write `work/code`."""
    with staged_output(paths.CODE) as out:
        written = 0
        for place, closure in codes(CodeTree(ROOT)):
            file = out / place.relative_to(paths.CODE)
            file.parent.mkdir(exist_ok=True)
            file.write_text(dump_json(describe(closure)), encoding="utf-8")
            written += 1
    say_done("digest_code", count(written, "closure"), see=paths.CODE)


if __name__ == "__main__":
    run_stage(main)
