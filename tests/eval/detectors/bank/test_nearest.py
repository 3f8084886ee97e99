"""Nearest patches against all distances in float64, and what cells save."""

import importlib.util
import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from eval.detectors.bank.nearest import NearestPatches, nearest_patches


def normal(rng, rows, channels):
    return torch.from_numpy(rng.normal(size=(rows, channels)).astype(np.float32))


def clustered(rng, rows, channels):
    """Ten clusters, far apart compared with their size."""
    return 8 * normal(np.random.default_rng(0), 10, channels)[rng.integers(0, 10, rows)] + normal(rng, rows, channels)


def repeated(rng, rows, channels):
    return normal(np.random.default_rng(0), 7, channels)[rng.integers(0, 7, rows)]


def equal(rng, rows, channels):
    return torch.full((rows, channels), 3.0)


def on_a_line(rng, rows, channels):
    return torch.linspace(-1, 1, rows)[:, None] * torch.ones(channels)


def assert_nearest(index, patches, bank):
    """Each index is that of a nearest patch, up to the rounding that `NearestPatches` states."""
    squared = cdist(patches.double(), bank.double(), "sqeuclidean")
    found = squared[np.arange(len(patches)), index]
    centred = patches - bank.mean(dim=0), bank - bank.mean(dim=0)
    norms = [part.double().square().sum(dim=1).numpy() for part in centred]
    assert (found <= squared.min(axis=1) + 2e-6 * (norms[0] + norms[1].max())).all()


BANKS = [normal, clustered, repeated, equal, on_a_line]


@pytest.mark.parametrize("cells", [1, 2, 9])
@pytest.mark.parametrize("channels", [1, 3, 50])
@pytest.mark.parametrize("kind", BANKS)
@pytest.mark.parametrize("offset", [0, 100])
def test_equals_a_search_of_all_distances(kind, channels, cells, offset):
    rng = np.random.default_rng(1)
    bank = kind(rng, 1500, channels) + offset
    near = bank[::5] + 0.3 * normal(rng, 300, channels)
    search = NearestPatches(bank, cells)
    for patches in (near, 5 * normal(rng, 200, channels) + offset, bank[:100], normal(rng, 1, channels)):
        assert_nearest(search(patches), patches, bank)


@given(st.integers(0, 2**31), st.integers(1, 300), st.integers(1, 4), st.integers(1, 6), st.integers(1, 16))
@settings(deadline=None)
def test_any_small_bank_of_few_values(seed, rows, channels, values, cells):
    rng = np.random.default_rng(seed)
    bank, patches = (torch.from_numpy(rng.integers(0, values, (n, channels)).astype(np.float32)) for n in (rows, 20))
    assert_nearest(NearestPatches(bank, min(cells, rows))(patches), patches, bank)


def search_everywhere(search, extended):
    """Each patch's smallest product with the whole bank, and the cell that it is in."""
    _, products, _, _ = search._search(extended, torch.ones(len(extended), len(search._sizes), dtype=torch.bool))
    return products.view(len(search._sizes), -1).min(dim=0)


@given(st.integers(0, 2**31), st.integers(20, 300), st.integers(1, 4), st.integers(2, 6))
@settings(deadline=None)
def test_bounds_never_exclude_the_cell_of_the_nearest(seed, rows, channels, cells):
    """Patches of few values often lie on the planes between cells, where rounding decides."""
    rng = np.random.default_rng(seed)
    bank, patches = (torch.from_numpy(rng.integers(0, 5, (n, channels)) / 3).float() for n in (rows, 50))
    search = NearestPatches(bank, cells)
    extended = search._extended(patches)
    products, cells_of_nearest = search_everywhere(search, extended)
    assert search._visits(extended, products).gather(1, cells_of_nearest[:, None]).all()


def test_the_nearest_patch_is_often_in_another_cell():
    """Otherwise the tests above would not see whether bounds are right."""
    rng = np.random.default_rng(2)
    bank, patches = normal(rng, 1500, 8), normal(rng, 400, 8)
    search = NearestPatches(bank, 9)
    extended = search._extended(patches)
    own = (extended @ search.centres).argmin(dim=1)
    assert (search_everywhere(search, extended)[1] != own).float().mean() > 0.3


def test_cells_are_skipped_only_where_that_saves_time():
    rng = np.random.default_rng(3)
    assert len(nearest_patches(normal(rng, 9000, 2))._sizes) == 8
    for plain in (normal(rng, 5000, 20), clustered(rng, 2000, 20), equal(rng, 3000, 4), normal(rng, 1, 20)):
        assert len(nearest_patches(plain)._sizes) == 1


@pytest.mark.parametrize("cells", [1, 9])
def test_neighbours_are_the_nearest_in_order(cells):
    rng = np.random.default_rng(4)
    bank, patches = clustered(rng, 1500, 20), clustered(rng, 3, 20)
    expected = cdist(patches, bank).argsort(axis=1)
    np.testing.assert_array_equal(NearestPatches(bank, cells).neighbours(patches, 9), expected[:, :9])
    few = NearestPatches(bank[:5], 2).neighbours(patches, 5)  # what fills cells is none of them
    np.testing.assert_array_equal(few, cdist(patches, bank[:5]).argsort(axis=1))


def runs(content):
    """The graph in each runtime installed."""
    if importlib.util.find_spec("onnxruntime"):
        import onnxruntime

        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        yield lambda patches: session.run(None, {"patches": patches})[0]
    if importlib.util.find_spec("openvino"):
        import openvino

        core = openvino.Core()
        options = {"INFERENCE_PRECISION_HINT": "f32"}
        compiled = core.compile_model(core.read_model(io.BytesIO(content)), "CPU", options)
        yield lambda patches: compiled(patches)[0]


def test_exported_graph_finds_the_same_for_any_number_of_patches():
    pytest.importorskip("onnxscript", reason="exporting needs it")
    rng = np.random.default_rng(5)
    bank, patches = clustered(rng, 3000, 20), clustered(rng, 200, 20)
    search = NearestPatches(bank, 3)
    dynamic = ({0: torch.export.Dim("count")},)
    program = torch.onnx.export(
        search.eval(), (patches[:8],), input_names=["patches"], dynamic_shapes=dynamic, opset_version=18, verbose=False
    )
    assert "NonZero" in {node.op_type for node in program.model_proto.graph.node}
    for run in runs(program.model_proto.SerializeToString()):
        for part in (patches, patches[:1], patches[:7]):  # in the last ones, some cells are visited by none
            np.testing.assert_array_equal(run(part.numpy()), search(part))
