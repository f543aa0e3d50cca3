"""What only all rows together can tell: splits, repeated ids, and leaks from split to split."""

from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet

import numpy as np

from plumbline.validation.digests import Bools
from plumbline.validation.leaks import SPLIT_PAIRS, Leak, SharedRows
from plumbline.validation.near import NearRows
from plumbline.validation.settings import ValidationConfig
from plumbline.validation.splits import SPLIT_CODES, hash_unit
from plumbline.validation.verdicts import (
    LEAK,
    NONE,
    REPEATED,
    SAME_ID,
    SAME_MEDIUM,
    SAME_TEXTS,
    Contents,
    Numbers,
    Verdicts,
)

_TRAIN = SPLIT_CODES["train"]
_BLOCK = 2**17
"""Rows that are looked at together, where it makes no difference."""


def settle(
    verdicts: Verdicts, near: NearRows, rules: ValidationConfig, given: AbstractSet[str]
) -> list[str]:
    """Decide splits, repeated ids and leaks; return what the user should know of it.

    Args:
        verdicts: with the notes of all rows.
        near: with what is remembered of contents.
        rules: the settings.
        given: splits that some row or file names.
    """
    warnings: list[str] = []
    config = rules.split
    draws_test, draws_val = not given and config.test > 0, "val" not in given and config.val > 0
    verdicts.number_all(config.seed if draws_test or draws_val or verdicts.has_more else None)
    join_places(verdicts)
    pooled = pool_unsplit_rows(verdicts)
    if given and pooled:
        warnings.append(f"{pooled} rows bring no split, though others do: they count as train")
    media, texts = rules.leaks.media == "drop", rules.leaks.texts == "drop"
    drop_conflicts(verdicts, media=media, texts=texts)
    count = 0
    if draws_test:
        count = draw_from_train(verdicts, "test", config.test, 0)
        warnings.append(f"no split is given: {count} rows drawn for test by a hash of the group")
    if draws_val:
        drawn = draw_from_train(verdicts, "val", config.val, config.min_rows)
        what = "validation split" if given else "split"
        warning = f"no {what} is given: {drawn} rows drawn for val by a hash of the group"
        if drawn < config.min_rows:
            warning += f", fewer than the {config.min_rows} asked for, so that train keeps half"
        warnings.append(warning)
        count += drawn
    if count:  # of two groups with one image, one may have been drawn
        drop_conflicts(verdicts, media=media, texts=texts)
    near.settle(verdicts)
    if shared := count_shared_groups(verdicts):
        warnings.append(f"groups with rows in more than one of the given splits: {shared}")
    return warnings


def join_places(verdicts: Verdicts) -> None:
    """Give good rows that share a medium one place, through however many others they do."""
    media = verdicts.media
    good = verdicts.good[media.more_rows]
    here, there = verdicts.place[media.more_rows[good]], media.units[media.more_codes[good]]
    joined: dict[float, float] = {}

    def find(place: float) -> float:
        while joined.setdefault(place, place) != place:
            joined[place] = place = joined[joined[place]]
        return place

    for one, other in set(zip(here.tolist(), there.tolist(), strict=True)):
        one, other = find(one), find(other)
        joined[max(one, other)] = min(one, other)
    if not joined:
        return
    # The least of several numbers is no draw between 0 and 1, but a hash of it is.
    places = np.array(sorted(joined))
    same = np.array([hash_unit(repr(find(place)), 0) for place in places.tolist()])
    at = np.minimum(np.searchsorted(places, verdicts.place), len(places) - 1)
    verdicts.place[:] = np.where(places[at] == verdicts.place, same[at], verdicts.place)


def pool_unsplit_rows(verdicts: Verdicts) -> int:
    """Put the good rows that bring no split into train, for other splits to draw from."""
    rows = np.flatnonzero(verdicts.in_split(NONE))
    verdicts.split[rows] = _TRAIN
    return len(rows)


def drop_conflicts(verdicts: Verdicts, *, media: bool = True, texts: bool = False) -> None:
    """Give every good row a reason that may not stay beside the rows before it.

    Rows count in the order of their split's priority, then of their numbers. A row goes when a
    row that stays has its id, or has its content and lies in another split. As only rows that
    stay count, nothing is dropped for the sake of a row that goes itself.

    Args:
        verdicts: of all rows.
        media: whether a row goes for its medium.
        texts: whether a row goes for its texts.
    """
    # What a row of a split before holds, and whether and why another one goes for it.
    leaks = (
        (verdicts.ids, SAME_ID, True),
        (verdicts.media, SAME_MEDIUM, media),
        (verdicts.texts, SAME_TEXTS, texts),
    )
    kept = [np.full(contents.distinct, NONE, verdicts.other.dtype) for contents, _, _ in leaks]
    for code in sorted(SPLIT_CODES.values()):
        chosen = verdicts.in_split(code)
        if not chosen.any():
            continue
        for (contents, why, is_on), first in zip(leaks, kept, strict=True):
            if is_on and (first >= 0).any():
                rows = np.flatnonzero(chosen)
                others = contents.meet(first, rows)
                leaked = others >= 0
                verdicts.reject(rows[leaked], LEAK, why, others[leaked])
                chosen[rows[leaked]] = False
        _keep_first(verdicts.ids, kept[0], chosen)
        rows = np.flatnonzero(chosen)
        stays = kept[0][verdicts.ids.codes[rows]].astype(np.int64)
        repeated = stays != rows
        verdicts.reject(rows[repeated], REPEATED, SAME_ID, stays[repeated])
        chosen[rows[repeated]] = False
        if code != _TRAIN:  # there is no split below train that could leak from it
            _keep_first(verdicts.media, kept[1], chosen)
            _keep_first(verdicts.texts, kept[2], chosen)


def _keep_first(contents: Contents, kept: Numbers, chosen: Bools) -> None:
    firsts = contents.firsts(chosen)
    np.copyto(kept, firsts, where=kept < 0)


def draw_from_train(verdicts: Verdicts, split: str, fraction: float, min_rows: int) -> int:
    """Move whole groups of good rows from train to `val` or `test`, and count the rows moved.

    Val takes the groups at the low end of the hash, test those at the high end: a group keeps
    its split when rows are added, and a larger test fraction takes groups from train alone.
    Where that gives fewer than `min_rows`, the next groups in hash order follow. A group is
    passed over if it would take more than half of what train has.
    """
    low = split == "val"
    chosen = verdicts.in_split(_TRAIN)
    places = np.sort(verdicts.place[chosen])
    starts = np.flatnonzero(np.diff(places, prepend=-1.0))  # a place is not below 0
    sizes = np.diff(starts, append=len(places))
    step = 1 if low else -1
    groups = zip(places[starts][::step], sizes[::step], strict=True)
    drawn: list[float] = []
    taken = 0
    for place, size in groups:
        inside = place < fraction if low else place >= 1 - fraction
        if not inside and taken >= min_rows:
            break
        if 2 * (taken + size) <= len(places):
            drawn.append(place)
            taken += int(size)
    found = np.sort(np.array([*drawn, np.inf]))
    for start in range(0, verdicts.rows, _BLOCK):
        rows = start + np.flatnonzero(chosen[start : start + _BLOCK])
        given = verdicts.place[rows]
        is_drawn = found[np.searchsorted(found, given)] == given
        verdicts.split[rows[is_drawn]] = SPLIT_CODES[split]
    return taken


def count_shared_groups(verdicts: Verdicts) -> int:
    """Count the groups that have good rows in more than one split."""
    rows = np.flatnonzero(verdicts.good & verdicts.grouped)
    places = np.unique(verdicts.place[rows])
    if not len(places):
        return 0
    group = np.searchsorted(places, verdicts.place[rows])
    splits = np.zeros((len(SPLIT_CODES), len(places)), bool)
    splits[verdicts.split[rows], group] = True
    return int((splits.sum(axis=0) > 1).sum())


def find_shared(verdicts: Verdicts, contents: Contents, examples: int) -> Iterator[SharedRows]:
    """Find good rows of one split whose content is in another one, by pair of splits.

    Args:
        verdicts: of all rows.
        contents: theirs.
        examples: how many rows are named of a pair.
    """
    firsts = {
        name: contents.firsts(verdicts.in_split(code)).astype(np.int64)
        for name, code in SPLIT_CODES.items()
    }
    for one, other in SPLIT_PAIRS:
        rows, codes = contents.held(verdicts.in_split(SPLIT_CODES[one]))
        others = firsts[other][codes]
        met = others >= 0
        if not met.any():
            continue
        order = np.lexsort((others[met], rows[met]))
        numbers, first = np.unique(rows[met][order], return_index=True)
        least = others[met][order][first]
        named = list(zip(numbers[:examples].tolist(), least[:examples].tolist(), strict=True))
        yield SharedRows(one, other, len(numbers), len(np.unique(rows)), named)


def find_shared_cells(verdicts: Verdicts, columns: Sequence[str]) -> Iterator[Leak]:
    """Rows of each split whose cell stands in another one, column by column."""
    for name in columns:
        cells = verdicts.cells(name)
        for split, other in SPLIT_PAIRS:
            _, codes = cells.held(verdicts.in_split(SPLIT_CODES[split]))
            there = cells.firsts(verdicts.in_split(SPLIT_CODES[other])) >= 0
            if shared := int(there[codes].sum()):
                yield Leak(
                    what=name, split=split, other=other, rows=shared, of=len(codes), examples=[]
                )
