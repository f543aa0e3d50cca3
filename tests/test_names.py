"""One rule for what becomes a word of a command, a folder or a file."""

import pytest

from plumbline.errors import ConfigError
from plumbline.names import MAX_NAME_CHARS, alike, check_keys, check_name, is_name

USABLE = ["scenes", "a", "0", "easy_vqa", "fashion-mnist", "A1", "x" * MAX_NAME_CHARS]
UNUSABLE = [
    "x;touch PWNED;#",
    "q&a",
    "my data",
    "v1.0",
    "../up",
    "a/b",
    "-rf",
    "_x",
    "",
    "größe",
    "a\n",
    "$(id)",
    "`id`",
    "{a}",
    "a@b",
    "x" * (MAX_NAME_CHARS + 1),
    1,
    None,
]


def test_letters_digits_dashes_and_underscores_make_a_name() -> None:
    assert [name for name in USABLE if not is_name(name)] == []
    assert [name for name in UNUSABLE if is_name(name)] == []


@pytest.mark.parametrize("group", ["datasets", "align", "tasks"])
@pytest.mark.parametrize("name", UNUSABLE)
def test_a_key_that_is_no_name_is_refused_with_its_group_and_the_rule(
    group: str, name: str
) -> None:
    with pytest.raises(ConfigError) as error:
        check_keys({group: {"good": {}, name: {}}})
    assert str(error.value).startswith(f"a key of {group}: {name!r} is not a name")
    assert "letters, digits, _ and - only" in str(error.value)


def test_keys_that_one_folder_would_hold_on_some_systems_are_refused() -> None:
    with pytest.raises(ConfigError, match="keys of tasks: VQA and vqa differ by case only"):
        check_keys({"tasks": {"vqa": {}, "other": {}, "VQA": {}}})
    check_keys({"tasks": {"vqa": {}}, "align": {"VQA": {}}, "datasets": None})
    assert alike(["b", "A", "a", "B", "c"]) == [("A", "a"), ("B", "b")]


def test_the_message_names_the_place() -> None:
    check_name("sweep", "lr_1")
    with pytest.raises(ConfigError, match=r"^sweep: 'a b' is not a name"):
        check_name("sweep", "a b")
