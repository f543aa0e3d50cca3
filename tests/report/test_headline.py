import pytest
import yaml

from plumbline.report import headline
from plumbline.report.collect import Export
from plumbline.report.headline import headlines, summary, task_headlines


def test_the_summary_is_a_table_that_ends_with_the_place_of_the_page(project) -> None:
    lines = summary(headlines(project.chosen())).splitlines()
    assert lines[0] == (
        "alignment image  Recall@1, image to text  0.875  95 % interval 0.750 to 1.000"
    )
    assert " ".join(lines[2].split()) == (
        "task vqa Exact match 0.500 0.250 from the question alone"
    )
    assert lines[-1] == "report: report/index.html"
    assert len(lines) == 8


def test_the_module_prints_the_selection_of_params_yaml(
    project, capsys: pytest.CaptureFixture[str]
) -> None:
    (project.root / "params.yaml").write_text(yaml.safe_dump(project.selection))
    headline.main()
    assert capsys.readouterr().out == summary(headlines(project.chosen())) + "\n"


def test_missing_metrics_are_one_line_and_exit_1(
    project, capsys: pytest.CaptureFixture[str]
) -> None:
    (project.root / "params.yaml").write_text(yaml.safe_dump(project.selection))
    (project.root / "metrics/align/image.json").unlink()
    with pytest.raises(SystemExit, match="1"):
        headline.main()
    assert capsys.readouterr().err == "error: metrics/align/image.json: missing; run dvc repro\n"


def test_an_empty_selection_is_said() -> None:
    assert summary({}) == "nothing is selected\nreport: report/index.html"


def test_the_worst_format_stands_for_the_export() -> None:
    good = {"token_agreement": 1.0, "max_logits_difference": 1e-6}
    poor = {"token_agreement": 0.995, "max_logits_difference": 3e-5}
    export = Export(files={}, parity={"onnx": good, "torchscript": poor}, failed={"other": "why"})
    (only,) = task_headlines({}, export)
    assert only.shown == "0.995"
    assert only.note == (
        "of tokens agree in onnx and torchscript; logits within 3e-05; other failed"
    )


def test_weights_alone_are_an_export_without_parity() -> None:
    (only,) = task_headlines({}, Export(files={"model.safetensors": 1}, parity={}, failed={}))
    assert only.note == "weights alone are exported"
