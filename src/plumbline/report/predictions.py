"""The predictions of an evaluation as blocks: chosen by rule, never by hand.

Rows are told apart by their `kind` and `part`; one of a kind that nothing here knows is shown in a
plain table.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Protocol, TypeGuard

import pyarrow as pa

from plumbline.data.parquet import iter_table
from plumbline.errors import CheckpointError, DataError
from plumbline.registry import Registry
from plumbline.report.blocks import Block, Column, Grid, Scene, Shown
from plumbline.report.cells import as_number
from plumbline.report.choice import SHOWN, Sample, Surest, key_of
from plumbline.report.figures import label, number
from plumbline.report.plots import scatter_plot
from plumbline.report.values import Values

Row = dict[str, object]


class Chooser(Protocol):
    """Chooses among the predictions of one kind and part while they are streamed."""

    def add(self, row: Row) -> None:
        """Look at one prediction.

        Raises:
            KeyError: it lacks a column that its kind has.
        """
        ...

    def blocks(self, scene: Scene, part: str) -> list[Block]:
        """What was chosen."""
        ...


class _RightAndWrong:
    """Counts, and examples of both sorts."""

    def __init__(self, groups: str, verb: str, note: str = "") -> None:
        self._groups, self._verb, self._note = groups, verb, note
        self._samples = {True: Sample(), False: Sample()}

    def offer(self, shown: Shown, group: str) -> None:
        self._samples[shown.correct].offer(shown, group)

    def blocks(self, scene: Scene, part: str) -> list[Block]:
        total = sum(sample.count for sample in self._samples.values())
        blocks = []
        for right, sample in self._samples.items():
            title = f"{self._verb} {'right' if right else 'wrong'}: "
            title += f"{number(sample.count)} of {number(total)}"
            cards = [shown.card(scene.samples) for shown in sample.chosen()]
            blocks.append(Block("cards", title, cards, part))
        rule = f"Examples are taken by rule, not by hand: the first of each {self._groups} in turn."
        blocks[0] = replace(blocks[0], note=f"{rule} {self._note}".strip())
        return blocks


class Questions:
    """Answers to questions, right and wrong, over kinds of question."""

    def __init__(self) -> None:
        self._both = _RightAndWrong("kind of question", "Answered")

    def add(self, row: Row) -> None:
        """See `Chooser`."""
        prompt = str(row["prompt"])
        said, known = str(row["prediction"]), _texts(row, "references")
        shown = Shown(key_of(row), said, known, prompt, bool(row["correct"]))
        self._both.offer(shown, " ".join(prompt.split()[:2]))

    def blocks(self, scene: Scene, part: str) -> list[Block]:
        """See `Chooser`."""
        return self._both.blocks(scene, part)


class Classes:
    """Classes told, right and wrong, over classes; and the mistakes that were surest."""

    def __init__(self) -> None:
        self._both = _RightAndWrong(
            "class", "Classified", "The share is the model's own confidence."
        )
        self._surest = Surest()

    def add(self, row: Row) -> None:
        """See `Chooser`."""
        confidence = row.get("confidence")
        shown = Shown(
            key_of(row),
            str(row["prediction"]),
            [str(row["label"])],
            correct=bool(row["correct"]),
            confidence=None if confidence is None else as_number(confidence),
        )
        self._both.offer(shown, str(row["label"]))
        if not shown.correct:
            self._surest.offer(shown)

    def blocks(self, scene: Scene, part: str) -> list[Block]:
        """See `Chooser`."""
        blocks = self._both.blocks(scene, part)
        if surest := [shown.card(scene.samples) for shown in self._surest.chosen()]:
            note = "The wrong answers that the model gave most probability."
            blocks.append(Block("cards", "Most confident mistakes", surest, part, note))
        return blocks


class _First:
    """The first texts that were written, each beside what the data says."""

    title: str
    note: str
    """Printed below the title; `{prompt}` stands for the prompt that all have."""
    shared_prompt = False

    def __init__(self) -> None:
        self._shown: list[Shown] = []
        self._prompt = ""

    def add(self, row: Row) -> None:
        """See `Chooser`."""
        self._prompt = str(row["prompt"])
        if len(self._shown) < SHOWN:
            prompt = "" if self.shared_prompt else self._prompt
            said, known = str(row["prediction"]), _texts(row, "references")
            self._shown.append(Shown(key_of(row), said, known, prompt, bool(row["correct"])))

    def blocks(self, scene: Scene, part: str) -> list[Block]:
        """See `Chooser`."""
        note = f"{self.note.replace('{prompt}', self._prompt)} {_WORD_BY_WORD}"
        cards = [shown.card(scene.samples) for shown in self._shown]
        return [Block("texts", self.title, cards, part, note)]


_WORD_BY_WORD = "A tick marks what is in the data word by word."


class Captions(_First):
    """The first captions."""

    title = "Captions"
    note = (
        "The first captioned images of the split: in bold what the model says to “{prompt}”, "
        "below it what the data says."
    )
    shared_prompt = True


class Translations(_First):
    """The first targets, each with its source and reference."""

    title = "Sources and targets"
    note = (
        "The first sources of the split: in bold what the model writes, below it what the data "
        "says."
    )


class Continuations:
    """What the model makes of the prompts of its settings."""

    def __init__(self) -> None:
        self._shown: list[Shown] = []

    def add(self, row: Row) -> None:
        """See `Chooser`."""
        if len(self._shown) < SHOWN:
            said, prompt = str(row["prediction"]), str(row["prompt"])
            self._shown.append(Shown(key_of(row), said, prompt=prompt))

    def blocks(self, scene: Scene, part: str) -> list[Block]:
        """See `Chooser`."""
        settings = {
            name: value
            for name, value in scene.details.get("sampling", {}).items()
            if value not in (None, [])
        }
        drawn = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in settings.items())
        note = "Each prompt with what the model adds to it."
        cards = [shown.card(scene.samples, told=False) for shown in self._shown]
        return [Block("texts", "Continuations", cards, part, f"{note} {drawn}." if drawn else note)]


class Numbers:
    """Predicted over true numbers, and the largest errors."""

    def __init__(self) -> None:
        self._values = Values()

    def add(self, row: Row) -> None:
        """See `Chooser`."""
        self._values.add(key_of(row), as_number(row["value"]), as_number(row["prediction"]))

    def blocks(self, scene: Scene, part: str) -> list[Block]:
        """See `Chooser`."""
        true, said, words = self._values.drawn()
        svg = scatter_plot(true, said, name=f"{scene.anchor}-values{part.encode().hex()}")
        grid = Grid(
            columns=[
                Column("Sample"),
                *(Column(name, True) for name in ("True", "Predicted", "Error")),
            ],
            rows=[
                [
                    scene.samples.subject(error.key).name,
                    *(number(v) for v in (error.true, error.said, error.said - error.true)),
                ]
                for error in self._values.largest()
            ],
        )
        return [
            Block("scatter", "Predicted and true values", (svg, words), part, narrow=True),
            Block("grid", "Largest errors", grid, part, narrow=True),
        ]


class Rows:
    """The first rows as they are."""

    def __init__(self) -> None:
        self._rows: list[Row] = []
        self._count = 0

    def add(self, row: Row) -> None:
        """See `Chooser`."""
        self._count += 1
        if len(self._rows) < SHOWN:
            self._rows.append(row)

    def blocks(self, scene: Scene, part: str) -> list[Block]:
        """See `Chooser`."""
        kind = self._rows[0].get("kind")
        names = [name for name in self._rows[0] if name not in ("kind", "part")]
        columns = [
            Column(label(name), all(_is_number(row[name]) for row in self._rows)) for name in names
        ]
        grid = Grid(columns, [[_print(row[name]) for name in names] for row in self._rows])
        note = f"The first {len(self._rows)} of {number(self._count)}; all stand in "
        note += f"{scene.folder}/predictions.parquet."
        title = f"Predictions: {label(str(kind))}" if kind else "Predictions"
        return [Block("grid", title, grid, part, note)]


CHOOSERS: Registry[type[Chooser]] = Registry("kind of prediction")
"""Kind of a prediction -> what chooses among them; a plugin may add a line."""

for _kind, _chooser in (
    ("question", Questions),
    ("caption", Captions),
    ("class", Classes),
    ("continuation", Continuations),
    ("translation", Translations),
    ("value", Numbers),
):
    CHOOSERS.register(_kind, _chooser)


def prediction_blocks(file: Path, scene: Scene) -> list[Block]:
    """Choose from a predictions table, in batches, and show what was chosen.

    Raises:
        CheckpointError: the table cannot be read.
    """
    choosers: dict[tuple[str, str], Chooser] = {}
    try:
        for row in _rows(file):
            kind, part = str(row.get("kind") or ""), str(row.get("part") or "")
            if (kind, part) not in choosers:
                choosers[kind, part] = CHOOSERS[kind]() if kind in CHOOSERS else Rows()
            choosers[kind, part].add(row)
    except (DataError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{file}: not readable as predictions ({error!r}); run dvc repro"
        ) from None
    return [
        block for (_, part), chooser in choosers.items() for block in chooser.blocks(scene, part)
    ]


def _rows(file: Path) -> Iterator[Row]:
    for batch in iter_table(file):
        yield from batch.to_pylist()


def _texts(row: Row, name: str) -> list[str]:
    texts = row[name]
    if not isinstance(texts, list):
        raise TypeError(f"{name} {texts!r}: a list of texts is expected")
    return [str(text) for text in texts]


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _print(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(_print(one) for one in value)
    if value is None:
        return ""
    return number(value) if _is_number(value) else str(value)
