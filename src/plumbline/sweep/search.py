"""One search: which project, settings and commit, and the experiments that its points make."""

from dataclasses import dataclass
from pathlib import Path

from plumbline.errors import ConfigError
from plumbline.files import STATE_DIR, digest_of
from plumbline.sweep.config import SweepConfig
from plumbline.sweep.overrides import check_keys, check_point
from plumbline.sweep.space import combinations, ends


@dataclass(frozen=True)
class Search:
    """A sweep bound to the commit that its experiments start from."""

    root: Path
    name: str
    config: SweepConfig
    baseline: str

    def runs(self, point: tuple[str, ...]) -> dict[str, str]:
        """Seed to experiment name; the key is empty where the sweep names no seeds.

        The name holds the digest of what makes the run: overrides, targets and commit.
        """
        names = {}
        for seed in [str(seed) for seed in self.config.seeds] or [""]:
            made_by = [self.baseline, self.config.targets, self.overrides(point, seed)]
            names[seed] = f"{self.name}-{digest_of(made_by)[:10]}"
        return names

    def overrides(self, point: tuple[str, ...], seed: str) -> list[str]:
        """All overrides of one run: those that points share, the point's own, the seed."""
        return [*self.config.overrides, *point, *([f"seed={seed}"] if seed else [])]


def sweep_folder(root: Path, name: str) -> Path:
    """Where a sweep keeps what it knows, its table and its plot."""
    return root / STATE_DIR / "sweeps" / name


def check_sweep(root: Path, config: SweepConfig) -> None:
    """Refuse a sweep with a key that conf/ does not have, or a value that no stage accepts.

    Every choice and both ends of every range are tried, the other keys at their first value.

    Raises:
        ConfigError: one line.
    """
    if config.sampler == "grid" and combinations(config.space) is None:
        endless = [key for key, d in config.space.items() if combinations({key: d}) is None]
        raise ConfigError(f"space.{(endless or ['it'])[0]}: a grid needs a choice, a step or int")
    check_keys(root / "conf", config.overrides, list(config.space))
    first = {key: ends(dimension)[0] for key, dimension in config.space.items()}
    seed = [f"seed={config.seeds[0]}"] if config.seeds else []
    seen = set()
    for key, dimension in config.space.items():
        for value in ends(dimension):
            point = tuple(f"{k}={v}" for k, v in (first | {key: value}).items())
            if point not in seen:
                seen.add(point)
                check_point(root, [*config.overrides, *point, *seed])
