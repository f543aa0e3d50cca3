"""A slice of the campaign of damaged and odd media; `media_mutations` itself is run by hand."""

import pytest

from tests.faults.media_mutations import LEVELS, MEDIA, SOURCES, run


@pytest.mark.parametrize("medium", MEDIA)
def test_validation_cache_and_bundle_agree_on_damaged_media(medium: str) -> None:
    outcome = run(400, 3, (medium,))
    assert outcome.wrong == []
    assert outcome.counts["clean"] > 50, "the mutations leave nothing to decode"
    assert outcome.counts["refused"] > 50, "the mutations damage nothing"
    assert set(outcome.missed) == set(LEVELS[:2])


def test_the_campaign_sees_a_decoder_that_disagrees(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = MEDIA["features"]
    monkeypatch.setitem(MEDIA, "features", honest._replace(read=lambda data: [data]))
    assert len(run(1, 0, ("features",)).wrong) > 5
    monkeypatch.setitem(MEDIA, "features", honest._replace(check=lambda data, level: None))
    assert run(100, 0, ("features",)).wrong
    assert len(SOURCES) == len(MEDIA)
