"""What a program of its own may write as metrics; its checkpoints: see the two trainers."""

from pathlib import Path

import pytest

from weft.errors import TrainingFailed
from weft.node.errors import NotFinite
from weft.node.external_results import read_metrics


@pytest.mark.parametrize(
    ("document", "error"),
    [("{", TrainingFailed), ("[1]", TrainingFailed), ('{"a": "b"}', TrainingFailed),
     ('{"a": true}', TrainingFailed), ('{"val_loss": Infinity}', NotFinite)],
)  # fmt: skip
def test_metrics_are_a_json_object_of_numbers(
    document: str, error: type[Exception], tmp_path: Path
) -> None:
    (tmp_path / "m").write_text(document)
    with pytest.raises(error):
        read_metrics(tmp_path / "m", "round 1")


def test_metrics_are_floats_and_may_be_missing(tmp_path: Path) -> None:
    (tmp_path / "m").write_text('{"steps": 3, "auc": NaN}')
    assert read_metrics(tmp_path / "m", "round 1") == {"steps": 3.0}
    assert read_metrics(tmp_path / "none", "round 1") == {}
