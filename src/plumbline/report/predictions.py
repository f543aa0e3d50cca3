"""The predictions of an evaluation as blocks: chosen by rule, never by hand.

Rows are told apart by their `kind` and `part`; one of a kind that nothing here knows is shown in a
plain table.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol, TypeGuard

import pyarrow as pa

from plumbline.data.parquet import iter_table
from plumbline.errors import CheckpointError, DataError
from plumbline.registry import Registry
from plumbline.report.blocks import Block, Card, Column, Grid, Scene, Shown
from plumbline.report.calibration import Calibration
from plumbline.report.cells import as_number
from plumbline.report.choice import Sample, Surest, key_of
from plumbline.report.figures import label, number
from plumbline.report.looks import look_blocks
from plumbline.report.plots import scatter_plot
from plumbline.report.settings import MOST_SAMPLES
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


class _Told:
    """Right and wrong predictions, the wrong ones that were surest, and how sure all were."""

    def __init__(self, groups: str, verb: str, what: str) -> None:
        """Choose nothing yet.

        Args:
            groups: what examples are spread over.
            verb: begins the titles.
            what: what is predicted, in the plural.
        """
        self._groups, self._verb, self._what = groups, verb, what
        self._samples = {True: Sample(), False: Sample()}
        self._surest, self._calibration = Surest(), Calibration()

    def offer(self, shown: Shown, group: str) -> None:
        self._samples[shown.correct].offer(shown, group)
        if not shown.correct:
            self._surest.offer(shown)
        if shown.confidence is not None:
            self._calibration.add(shown.confidence, right=shown.correct)

    def blocks(self, scene: Scene, part: str, sure: str) -> list[Block]:
        """What was chosen; `sure` says what a confidence is."""
        total = sum(sample.count for sample in self._samples.values())
        name = f"{scene.anchor}-calibration{part.encode().hex()}"
        blocks = self._calibration.blocks(part, name, self._what)
        rule = f"Examples are taken by rule, not by hand: the first of each {self._groups} in turn."
        note = f"{rule} {sure}" if blocks else rule
        for right, sample in self._samples.items():
            title = f"{self._verb} {'right' if right else 'wrong'}: "
            title += f"{number(sample.count)} of {number(total)}"
            cards = [shown.card(scene.samples) for shown in sample.chosen(scene.shown)]
            blocks.append(Block("cards", title, cards, part, note if right else ""))
        chosen = self._surest.chosen(scene.shown)
        if surest := [shown.card(scene.samples) for shown in chosen]:
            note = "The wrong answers that the model was surest of, the surest first."
            blocks.append(Block("cards", "Most confident mistakes", surest, part, note))
        return blocks


def as_answer(row: Row) -> Shown:
    """What a row says of an answer to a question.

    Raises:
        KeyError: it lacks a column.
    """
    said, known = str(row["prediction"]), _texts(row, "references")
    prompt, right = str(row["prompt"]), bool(row["correct"])
    return Shown(key_of(row), said, known, prompt, right, _confidence(row))


class Questions:
    """Answers to questions, right and wrong, over kinds of question."""

    def __init__(self) -> None:
        self._told = _Told("kind of question", "Answered", "answers")

    def add(self, row: Row) -> None:
        """See `Chooser`."""
        shown = as_answer(row)
        self._told.offer(shown, " ".join(shown.prompt.split()[:2]))

    def blocks(self, scene: Scene, part: str) -> list[Block]:
        """See `Chooser`."""
        sure = "The share is the probability that the model gave all tokens of its answer."
        return self._told.blocks(scene, part, sure)


class Classes:
    """Classes told, right and wrong, over classes; and the mistakes that were surest."""

    def __init__(self) -> None:
        self._told = _Told("class", "Classified", "samples")

    def add(self, row: Row) -> None:
        """See `Chooser`."""
        shown = Shown(
            key_of(row),
            str(row["prediction"]),
            [str(row["label"])],
            correct=bool(row["correct"]),
            confidence=_confidence(row),
        )
        self._told.offer(shown, str(row["label"]))

    def blocks(self, scene: Scene, part: str) -> list[Block]:
        """See `Chooser`."""
        return self._told.blocks(scene, part, "The share is the model's own confidence.")


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
        if len(self._shown) < MOST_SAMPLES:
            prompt = "" if self.shared_prompt else self._prompt
            said, known = str(row["prediction"]), _texts(row, "references")
            self._shown.append(Shown(key_of(row), said, known, prompt, bool(row["correct"])))

    def blocks(self, scene: Scene, part: str) -> list[Block]:
        """See `Chooser`."""
        note = f"{self.note.replace('{prompt}', self._prompt)} {_WORD_BY_WORD}"
        cards = [shown.card(scene.samples) for shown in self._shown[: scene.shown]]
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
        if len(self._shown) < MOST_SAMPLES:
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
        cards = [shown.card(scene.samples, told=False) for shown in self._shown[: scene.shown]]
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
        note = "The numbers that are farthest off, the farthest first."
        cards = [
            Card(
                subject=scene.samples.subject(error.key),
                prompt="",
                prediction=number(error.said),
                references=[number(error.true)],
                right=False,
                confidence=f"off by {number(error.said - error.true)}",
            )
            for error in self._values.largest(scene.shown)
        ]
        return [
            Block("scatter", "Predicted and true values", (svg, words), part, narrow=True),
            Block("cards", "Largest errors", cards, part, note),
        ]


class Rows:
    """The first rows as they are."""

    def __init__(self) -> None:
        self._rows: list[Row] = []
        self._count = 0

    def add(self, row: Row) -> None:
        """See `Chooser`."""
        self._count += 1
        if len(self._rows) < MOST_SAMPLES:
            self._rows.append(row)

    def blocks(self, scene: Scene, part: str) -> list[Block]:
        """See `Chooser`."""
        rows = self._rows[: scene.shown]
        kind = rows[0].get("kind")
        names = [name for name in rows[0] if name not in ("kind", "part")]
        columns = [
            Column(label(name), all(_is_number(row[name]) for row in rows)) for name in names
        ]
        grid = Grid(columns, [[_print(row[name]) for name in names] for row in rows])
        note = f"The first {len(rows)} of {number(self._count)}; all stand in "
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


def prediction_blocks(file: Path, scene: Scene, looked: Sequence[int] = ()) -> list[Block]:
    """Choose from a predictions table, in batches, and show what was chosen.

    Args:
        file: the table.
        scene: of the task.
        looked: rows whose attention is shown as well.

    Raises:
        CheckpointError: the table cannot be read.
    """
    choosers: dict[tuple[str, str], Chooser] = {}
    wanted, seen = set(looked), {}
    try:
        for number, row in enumerate(_rows(file)):
            kind, part = str(row.get("kind") or ""), str(row.get("part") or "")
            if (kind, part) not in choosers:
                choosers[kind, part] = CHOOSERS[kind]() if kind in CHOOSERS else Rows()
            choosers[kind, part].add(row)
            if number in wanted:
                seen[number] = as_answer(row)
    except (DataError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{file}: not readable as predictions ({error!r}); run dvc repro"
        ) from None
    blocks = [
        block for (_, part), chooser in choosers.items() for block in chooser.blocks(scene, part)
    ]
    return [*blocks, *(look_blocks(file.parent, seen, scene) if wanted else [])]


def _rows(file: Path) -> Iterator[Row]:
    for batch in iter_table(file):
        yield from batch.to_pylist()


def _confidence(row: Row) -> float | None:
    """How sure the model was; None where its kind does not say."""
    value = row.get("confidence")
    return None if value is None else as_number(value)


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
