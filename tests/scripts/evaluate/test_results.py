"""The JSON comes back as it was, and the tables say what is in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.evaluate import tables
from scripts.evaluate.errors import BadInput
from scripts.evaluate.evaluate import _verdict
from scripts.evaluate.results import Evaluation
from tests.scripts.evaluate.synthetic import evaluation
from tests.support import composed


@pytest.mark.parametrize(
    ("greedy", "sampled"), [(["c", "w", "c"], ["cw", "ww", "cc"]), (["c", "g", "i"], ["ci", "gg", "ii"])]
)
def test_it_is_read_as_it_was_written(tmp_path: Path, greedy: list[str], sampled: list[str]) -> None:
    one = evaluation("model", greedy, sampled)
    one.write(tmp_path / "a.json")
    again = Evaluation.read(tmp_path / "a.json")
    again.write(tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert tables.markdown(again) == tables.markdown(one)


def test_another_file_is_named(tmp_path: Path) -> None:
    for content in ("{}", "[]", "x", '{"format": 99}'):
        (tmp_path / "x.json").write_text(content)
        with pytest.raises(BadInput, match=r"x\.json: is no evaluation that can be read"):
            Evaluation.read(tmp_path / "x.json")


def test_the_page() -> None:
    page = tables.markdown(evaluation("model", ["c", "w", "c", "c"], ["cw", "ww", "cc", "cw"]))
    assert "| set | problems | greedy | avg@k | pass@2 | ungraded | tokens, mean | truncated |" in page
    assert "| math500 | 4 | 0.750 (0.301 to 0.954) | 0.500 (k = 2; 0.125 to 0.875) | 0.750 (" in page
    # Wilson's interval of 2 of 2, and of 1 of 2.
    assert "| Algebra | 2 | 1.000 (0.342 to 1.000) |" in page
    assert "| Geometry | 2 | 0.500 (0.095 to 0.905) |" in page
    assert "| math500, sampled | 8 | 4 | 4 |" in page


def test_the_page_of_what_could_not_be_graded() -> None:
    page = tables.markdown(evaluation("model", ["c", "g"], ["ci", "cc"]))
    # The greedy accuracy is 1 of 1; with the other it is between 1/2 and 1.
    assert "| **2 (accuracy 0.500 to 1.000; accuracy 0.750 to 1.000)** |" in page


def test_without_samples_or_without_greedy() -> None:
    both = evaluation("model", ["c", "w"], ["cw", "ww"])
    only_greedy, only_sampled = (
        both.sets[0].__class__("a", 2, both.sets[0].greedy, None),
        both.sets[0].__class__("b", 2, None, both.sets[0].sampled),
    )
    page = tables.markdown(Evaluation("model", both.model, [only_greedy, only_sampled], both.made_with))
    assert "| a | 2 | 0.500 (0.095 to 0.905) | – | – | 0 |" in page
    assert "| b | 2 | – | 0.250 (k = 2;" in page


def test_it_fails_where_too_much_was_never_graded(capsys: pytest.CaptureFixture[str]) -> None:
    config = composed("++reward.reward_kwargs.max_infra_error_frac=0.25")
    assert _verdict(config, evaluation("model", ["c", "w"], ["cw", "wi"])) == 0
    assert capsys.readouterr().err == ""
    assert _verdict(config, evaluation("model", ["c", "i"], ["cw", "ww"])) == 1
    assert capsys.readouterr().err.startswith("evaluate: math500, greedy: 50.0% of the responses were never graded")
    assert _verdict(config, evaluation("model", ["c", "g"], ["ii", "ww"])) == 1
    assert capsys.readouterr().err.startswith("evaluate: math500, 2 samples: 50.0% of")
