import numpy as np

from plumbline.tokenization.framing import frame_ids


def test_ids_stand_between_bos_and_eos_cut_to_the_limit() -> None:
    ids = np.array([7, 8, 9], np.int32)
    assert frame_ids(ids, 1, 2, limit=8).tolist() == [1, 7, 8, 9, 2]
    assert frame_ids(ids, 1, 2, limit=2).tolist() == [1, 7, 8, 2]
    assert frame_ids(ids, 1, 2, limit=8).dtype == np.int64


def test_the_empty_text_still_has_tokens() -> None:
    assert frame_ids(np.array([], np.int32), 1, 2, limit=8).tolist() == [1, 2]
