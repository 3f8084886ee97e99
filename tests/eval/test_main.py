"""`python -m eval` as a process: exit codes and messages."""

import pytest

from eval.__main__ import _parser, main
from eval.detectors.methods import Settings
from eval.finetune.training import Training
from eval.metrics.metrics import IMAGE_METRICS, PIXEL_METRICS
from eval.metrics.spotdiff import SPOT_DIFF_METRICS
from eval.options import settings_of, training_of
from spd_weights.files import read_json
from tests.eval.helpers import mvtec_category


def test_measures_prints_and_renders_again(tmp_path, run_python, capsys):
    mvtec_category(tmp_path / "set" / "tile")
    out = tmp_path / "out"
    options = ["--image-size", "32", "--padim-dims", "4", "--workers", "1"]
    done = run_python(
        "-m", "eval", "--weights", "random:test_resnet", "--data", str(tmp_path / "set"), "--out", str(out), *options
    )
    assert done.returncode == 0, done.stderr
    assert "tile" in done.stdout
    assert "mean" in done.stdout
    assert done.stderr == ""  # no progress bar where nobody looks
    page = (out / "report.html").read_bytes()
    (out / "report.html").unlink()
    assert main(["report", str(out)]) == 0
    assert capsys.readouterr().out == done.stdout
    assert (out / "report.html").read_bytes() == page


def test_official_metrics_stand_beside_the_exact_ones(tmp_path, capsys):
    mvtec_category(tmp_path / "tile")
    asked = ["--weights", "random:test_resnet", "--data", str(tmp_path / "tile"), "--out", str(tmp_path / "out")]
    options = ["--image-size", "32", "--padim-dims", "4", "--workers", "0", "--metrics", "spot-diff"]
    assert main([*asked, *options]) == 0
    values = {row["metric"]: row["value"] for row in read_json(tmp_path / "out" / "results.json")["rows"]}
    assert set(values) == {*IMAGE_METRICS, *PIXEL_METRICS, *SPOT_DIFF_METRICS}
    assert values["pixel_auroc_spotdiff"] == pytest.approx(values["pixel_auroc"], abs=0.01)
    assert "(spot-diff)" in capsys.readouterr().out
    assert main([*asked, *options[:-2]]) == 2  # other metrics need another folder


def test_bad_input_ends_with_two_and_one_line(tmp_path, run_python):
    folder = mvtec_category(tmp_path / "tile")
    broken = folder / "test" / "spot" / "002.png"
    broken.write_bytes(broken.read_bytes()[:900])
    done = run_python(
        "-m", "eval", "--weights", "random:test_resnet", "--data", str(folder), "--out", str(tmp_path / "out"),
        "--image-size", "32", "--workers", "1",
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {broken}: damaged")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out" / "results.json").exists()


@pytest.mark.slow
def test_unreachable_hub_ends_with_two_and_says_so(tmp_path, run_python):
    folder = mvtec_category(tmp_path / "tile")
    done = run_python(
        "-m", "eval", "--weights", "hf-hub:acme/none", "--data", str(folder), "--out", str(tmp_path / "out"),
        HF_HUB_OFFLINE="1",
    )  # fmt: skip
    assert done.returncode == 2
    assert "acme/none" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_teaches(capsys):
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    assert left.value.code == 0
    text = capsys.readouterr().out
    for word in ("python -m eval --weights", "python -m eval report", "train/good", "hf-hub:", "--image-size"):
        assert word in text


def test_a_mistyped_command_is_named_with_the_nearest(capsys):
    assert main(["reprot", "runs/eval"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: python -m eval reprot: no such command; did you mean report?")
    assert "--weights" in error.splitlines()[0]


def test_a_negative_number_of_workers_is_refused(capsys):
    with pytest.raises(SystemExit) as left:
        main(["--weights", "random:test_resnet", "--data", ".", "--out", "out", "--workers", "-1"])
    assert left.value.code == 2
    assert "argument --workers: -1 is negative" in capsys.readouterr().err


def test_every_setting_has_its_option_and_its_default():
    given = _parser().parse_args(["--weights", "w", "--data", "d", "--out", "o"])
    assert settings_of(given) == Settings()
    assert training_of(given) == Training()
    assert set(vars(Settings())) | set(vars(Training())) <= set(vars(given))
