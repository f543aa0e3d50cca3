"""The blocks of the walk-through print what stands below them, on the smoke run."""

import json
import re
import sys

from tests.pipeline.checkout import ROOT, Checkout

PAGE = (ROOT / "docs/walkthrough.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```python\n(.*?)^```\n```text\n(.*?)^```$", re.MULTILINE | re.DOTALL)
RUN = """
import contextlib, io, json, sys

names, printed = {"__name__": "walkthrough"}, []
for block in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(block, names)
    printed.append(out.getvalue())
json.dump(printed, sys.stdout)
"""
"""Runs blocks in order in one process, as a reader does, and gives what each printed."""


def test_each_block_prints_what_stands_below_it(reproduced: Checkout) -> None:
    blocks = BLOCK.findall(PAGE)
    assert len(blocks) == PAGE.count("```python") > 8
    codes = json.dumps([code for code, _ in blocks])
    printed = json.loads(reproduced.run(sys.executable, "-c", RUN, codes).stdout)
    for (code, shown), found in zip(blocks, printed, strict=True):
        assert found == shown, code


def test_what_the_page_links_to_is_there() -> None:
    words = re.sub(r"^```.*?^```$", "", PAGE, flags=re.MULTILINE | re.DOTALL)
    targets = re.findall(r"\]\((?!http)([^)#]+)[^)]*\)", words)
    assert len(targets) > 8
    for target in targets:
        assert (ROOT / "docs" / target).exists(), target
