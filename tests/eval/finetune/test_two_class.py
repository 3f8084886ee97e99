"""The 2-class protocols: what trains, what it trains on, and that nothing else decides."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from eval.data.datasets import load_categories
from eval.finetune.two_class import TwoClassPredictor
from eval.metrics.metrics import IMAGE_METRICS, PIXEL_METRICS, pixel_metrics
from eval.protocols import check
from eval.report.html import write_report
from eval.run import Request, evaluate
from spd_weights.errors import SpdError
from spd_weights.files import read_json
from tests.eval.helpers import (
    RANDOM,
    TINY,
    mvtec_category,
    photo,
    read_split,
    rows,
    save,
    values,
    visa_tree,
    write_split,
)

ABLE = replace(TINY, batch_size=4, min_steps=40, lr=1e-3)
TWO_CLASS = ("2cls_highshot", "2cls_5shot", "2cls_10shot")


def request(data, out, **changes):
    return Request(**{"weights": [RANDOM], "data": data, "out": out, "training": TINY, "workers": 0,
                      "protocols": ["2cls_5shot"], **changes})  # fmt: skip


def cells(out):
    return {path.parent.name: path.parent for path in out.rglob("cell.json")}


@pytest.fixture
def tile(tmp_path):
    return mvtec_category(tmp_path / "set" / "tile", train=20, normal=10, anomalous=24)


def test_defects_are_learnt_and_found(tile, tmp_path):
    out = tmp_path / "out"
    evaluate(request(tile, out, protocols=["2cls_highshot"], training=ABLE, save_maps=True))
    assert values(out, method="classifier")["image_auroc"] == 1.0
    found = values(out, method="unet")
    assert found["pixel_auroc"] > 0.85
    assert found["image_auroc"] > 0.9
    assert all(values(out, method="classifier")[metric] is None for metric in PIXEL_METRICS)
    saved = np.load(cells(out)["2cls_highshot-unet-seed0"] / "maps.npz")
    masks = np.zeros(saved["maps"].shape, bool)
    masks[["spot" in name for name in saved["images"]], 5:16, 19:26] = True  # the rectangle at 32 pixels
    assert saved["maps"].dtype == np.float16
    assert found["pixel_auroc"] == pytest.approx(roc_auc_score(masks.ravel(), saved["maps"].ravel()), abs=0.01)
    for name, metric in pixel_metrics(saved["maps"], saved["masks"]).items():
        assert found[name] == pytest.approx(metric.value, abs=1e-3), name
    anomalous = masks.any(axis=(1, 2))
    np.testing.assert_allclose(saved["maps"].max(axis=(1, 2)), saved["scores"], rtol=2**-11)  # maps are float16
    assert found["image_aupr"] == pytest.approx(average_precision_score(anomalous, saved["scores"]))


def test_labels_without_a_cause_give_chance(tmp_path):
    """Images of both classes are the same noise. The AUROC of n and m scores then has the deviation below."""
    tile = mvtec_category(tmp_path / "set" / "tile", train=150, normal=150, anomalous=300)
    rng = np.random.default_rng(1)
    for image in (tile / "test" / "spot").iterdir():
        save(photo(rng), image)
    evaluate(request(tile, tmp_path / "out", protocols=["2cls_highshot"], methods=["classifier"], training=ABLE))
    n = m = 120
    deviation = np.sqrt((n + m + 1) / (12 * n * m))
    assert abs(values(tmp_path / "out")["image_auroc"] - 0.5) < 3.3 * deviation < 0.13


def test_training_and_test_images_are_disjoint_files_and_draws_nested(tile, tmp_path):
    out = tmp_path / "out"
    evaluate(request(tile, out, protocols=TWO_CLASS, methods=["classifier"], seeds=2, save_maps=True))
    evaluate(request(tile, out, methods=["unet"], save_maps=True))
    assert len(cells(out)) == 7
    trained = {name: (folder / "train.txt").read_text().split() for name, folder in cells(out).items()}
    for name, folder in cells(out).items():
        tested = set(np.load(folder / "maps.npz")["images"])
        assert tested
        assert not tested & set(trained[name])
    for seed in (0, 1):
        five, ten = (trained[f"2cls_{k}shot-classifier-seed{seed}"] for k in (5, 10))
        assert (len(five), len(ten)) == (10, 20)
        assert set(five) < set(ten) < set(trained["2cls_highshot-classifier-seed0"])
    assert trained["2cls_5shot-unet-seed0"] == trained["2cls_5shot-classifier-seed0"]
    assert trained["2cls_5shot-classifier-seed0"] != trained["2cls_5shot-classifier-seed1"]
    assert trained["2cls_highshot-classifier-seed0"] == trained["2cls_highshot-classifier-seed1"]
    assert {r["n_train"] for r in rows(out) if r["protocol"] == "2cls_10shot"} == {20}


def test_workers_change_nothing_and_seeds_do(tile, tmp_path):
    evaluate(request(tile, tmp_path / "one", seeds=2))
    evaluate(request(tile, tmp_path / "two", workers=2))
    one, two = (
        {name: read_json(folder / "cell.json")["scores"] for name, folder in cells(tmp_path / out).items()}
        for out in ("one", "two")
    )
    for method in ("classifier", "unet"):
        assert one[f"2cls_5shot-{method}-seed0"] == two[f"2cls_5shot-{method}-seed0"]
        assert one[f"2cls_5shot-{method}-seed0"] != one[f"2cls_5shot-{method}-seed1"]


def test_finished_cells_are_kept_and_one_class_may_follow(tile, tmp_path, monkeypatch):
    out, calls = tmp_path / "out", []
    original = TwoClassPredictor.predict

    def spy(self, category, runs, *rest):
        calls.extend(run.seed for run in runs)
        return original(self, category, runs, *rest)

    monkeypatch.setattr(TwoClassPredictor, "predict", spy)
    evaluate(request(tile, out, methods=["classifier"]))
    first = rows(out)
    evaluate(request(tile, out, methods=["classifier"], seeds=2))
    assert calls == [0, 1]
    assert rows(out)[: len(first)] == first
    with pytest.raises(SpdError, match=r"min_steps = 2, not 3"):
        evaluate(request(tile, out, training=replace(TINY, min_steps=3)))
    evaluate(request(tile, out, protocols=["1cls"], methods=["knn"], training=replace(TINY, min_steps=3)))
    assert {row["protocol"] for row in rows(out)} == {"2cls_5shot", "1cls"}
    assert calls == [0, 1]


def test_two_class_may_follow_one_class(tile, tmp_path):
    evaluate(request(tile, tmp_path, protocols=["1cls"], methods=["knn"]))
    evaluate(request(tile, tmp_path, methods=["classifier"]))
    with pytest.raises(SpdError, match="min_steps"):
        evaluate(request(tile, tmp_path, methods=["classifier"], training=replace(TINY, min_steps=3)))


def test_without_masks_the_unet_is_left_out_with_the_reason(tmp_path):
    folder = mvtec_category(tmp_path / "alien", train=10, anomalous=20, masks=False)
    evaluate(request(folder, tmp_path / "out"))
    unet = [row for row in rows(tmp_path / "out") if row["method"] == "unet"]
    assert {row["metric"] for row in unet} == {*IMAGE_METRICS, *PIXEL_METRICS}
    assert all(row["value"] is None and "no masks" in row["reason"] for row in unet)
    assert values(tmp_path / "out", method="classifier")["image_auroc"] is not None


def test_one_class_to_learn_from_is_refused(tmp_path):
    root = visa_tree(tmp_path / "visa", ("pcb1",))
    table = root / "split_csv" / "1cls.csv"
    table.rename(table.with_stem("2cls_highshot"))
    (category,) = load_categories(root, "2cls_highshot")
    with pytest.raises(SpdError, match=r"pcb1 has no anomalous training image"):
        check(category, "2cls_highshot")
    images = [f"pcb1/Data/Images/Anomaly/{i:03d}.JPG" for i in range(3)]
    masks = [f"pcb1/Data/Masks/Anomaly/{i:03d}.png" for i in range(3)]
    write_split(root, [["pcb1", "train", "anomaly", *pair] for pair in zip(images, masks, strict=True)])
    table.replace(table.with_stem("2cls_highshot"))
    with pytest.raises(SpdError, match=r"pcb1 has no normal training image"):
        evaluate(request(root, tmp_path / "out", protocols=["2cls_highshot"]))


def test_report_says_how_it_trained_and_leaves_published_numbers_out_for_another_split(tmp_path):
    root = visa_tree(tmp_path / "visa", ("pcb1",))
    split = [
        ["train" if row[3].endswith(("Anomaly/000.JPG", "Anomaly/001.JPG")) else row[1]] for row in read_split(root)
    ]
    write_split(root, [[row[0], *part, *row[2:]] for row, part in zip(read_split(root), split, strict=True)])
    (root / "split_csv" / "1cls.csv").rename(root / "split_csv" / "2cls_highshot.csv")
    out = tmp_path / "out"
    evaluate(request(root, out, protocols=["2cls_highshot"]))
    page, markdown = write_report(out).read_text(), (out / "tables.md").read_text()
    for method, numbers in (("unet", (53.8, 59.7, 65.1, 71.9)), ("classifier", (97.5, 98.3, 99.5, 99.7))):
        part = page.split(f">visa · 2cls_highshot · {method}</h2>")[1].split("<h2")[0]
        assert not any(f">{number}<" in part for number in numbers)
        assert f"### visa · 2cls_highshot · {method} (%)" in markdown
    assert "1 epochs, but at least 2 steps" in " ".join(page.split())


def test_cells_of_other_settings_do_not_count(tile, tmp_path):
    out = tmp_path / "out"
    evaluate(request(tile, out, methods=["classifier"]))
    (out / "results.json").unlink()  # as where a process was killed before the first one finished a cell
    before = next(out.rglob("cell.json")).stat().st_mtime_ns
    evaluate(request(tile, out, methods=["classifier"]))
    assert next(out.rglob("cell.json")).stat().st_mtime_ns == before
    assert {row["method"] for row in rows(out)} == {"classifier"}
    (out / "results.json").unlink()
    evaluate(request(tile, out, methods=["classifier"], training=replace(TINY, min_steps=3)))
    assert next(out.rglob("cell.json")).stat().st_mtime_ns != before


def test_method_of_another_protocol_is_refused(tile, tmp_path):
    with pytest.raises(SpdError, match=r"--method padim: protocol 2cls_5shot has classifier, unet"):
        evaluate(request(tile, tmp_path / "out", methods=["padim"]))


def test_a_vision_transformer_is_a_classifier_but_no_unet(tile, tmp_path):
    evaluate(request(tile, tmp_path, weights=["random:test_vit"], methods=["classifier"]))
    assert values(tmp_path)["image_auroc"] is not None
    with pytest.raises(SpdError, match=r"random:test_vit.*unet.*leave out --method unet"):
        evaluate(request(tile, tmp_path, weights=["random:test_vit"]))


def test_bf16_trains_and_scores_in_float32(tile, tmp_path):
    for precision in ("no", "bf16"):
        training = replace(ABLE, precision=precision, min_steps=12)
        evaluate(request(tile, tmp_path / precision, methods=["classifier"], training=training, save_maps=True))
    full, half = (np.load(next((tmp_path / p).rglob("maps.npz")))["scores"] for p in ("no", "bf16"))
    assert not np.array_equal(full, half)
    assert len(np.unique(half)) > 0.9 * len(half)
    assert np.corrcoef(full, half)[0, 1] > 0.9


def test_divergence_is_named(tile, tmp_path):
    with pytest.raises(SpdError, match=r"random:test_resnet.*tile diverged; lower --lr"):
        evaluate(request(tile, tmp_path, methods=["classifier"], training=replace(TINY, lr=1e30, min_steps=8)))
