from plumbline.report.figure_table import figure_table


def test_figures_of_one_whole_are_one_column_and_intervals_stand_with_them() -> None:
    table = figure_table({"accuracy": 0.5, "accuracy_high": 0.75, "accuracy_low": 0.25, "new": 3.0})
    assert table.parts == [""]
    assert table.rows == {"Accuracy": [("0.500", "0.250 to 0.750")], "New": [("3", "")]}


def test_every_part_has_a_column_and_what_belongs_to_all_is_last() -> None:
    metrics = {"b/accuracy": 0.5, "a/accuracy": 0.25, "samples": 4.0, "a/macro_f1": 1.0}
    table = figure_table(metrics)
    assert table.parts == ["b", "a", ""]
    assert table.rows["Accuracy"] == [("0.500", ""), ("0.250", ""), None]
    assert table.rows["Macro F1"] == [None, ("1.000", ""), None]
    assert table.rows["Samples"] == [None, None, ("4", "")]


def test_a_figure_that_only_ends_like_a_bound_is_kept() -> None:
    assert list(figure_table({"pitch_low": 1.0}).rows) == ["Pitch low"]
