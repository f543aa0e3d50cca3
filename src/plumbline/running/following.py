"""How far a pipeline is: what DVC says, line by line, and what is left by earlier runs."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from plumbline.reproduction.own import KEYS
from plumbline.stage import count
from plumbline.tracking.progress import duration

RUNNING = re.compile(r"Running stage '(.+)':")
PASSED = re.compile(r"Stage '(.+)' (?:didn't change, skipping|is cached - skipping run.*)")
EXPERIMENT = re.compile(r"Ran experiment\(s\): (\S+)")


@dataclass
class Followed:
    """What is known of a pipeline while it runs."""

    stages: Sequence[str]
    """All of them, with their keys."""
    usual_s: Mapping[str, float]
    """Seconds that a stage took the last time."""
    ran: list[str] = field(default_factory=list)
    """Stages that were run, in their order: the last one may not have come to its end."""
    passed: set[str] = field(default_factory=set)
    """Stages that had nothing to do."""
    experiment: str | None = None
    """What DVC calls the run."""

    def hear(self, line: str) -> str | None:
        """Take in a line of DVC, and say what there is to say of it."""
        if match := RUNNING.fullmatch(line):
            self.ran.append(match[1])
            return self._where(match[1])
        if match := PASSED.fullmatch(line):
            self.passed.add(match[1])
        elif match := EXPERIMENT.fullmatch(line):
            self.experiment = match[1]
        return None

    def _where(self, stage: str) -> str:
        done = len(self.ran) + len(self.passed & set(self.stages))
        words = [f"stage {done} of {len(self.stages)}: {stage}"]
        if stage in self.usual_s:
            words.append(f"{duration(self.usual_s[stage])} the last time")
        if left := self._left(stage):
            words.append(left)
        return ", ".join(words)

    def _left(self, stage: str) -> str:
        """The time of this stage and those behind it, as far as it is known.

        Stages that will turn out to have nothing to do are counted: DVC says so when it is there.
        """
        over = {*self.ran[:-1], *self.passed, *KEYS}  # those keep the books, in no time
        ahead = [name for name in self.stages if name not in over]
        known = [self.usual_s[name] for name in ahead if name in self.usual_s]
        if not known:
            return ""
        unknown = len(ahead) - len(known)
        more = f" and {count(unknown, 'stage')} that never ran here" if unknown else ""
        return f"at most {duration(sum(known))}{more} left"
