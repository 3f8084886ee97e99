"""Feature maps of a frozen backbone, and the precision they are computed in."""

import pytest
import torch

from eval.backbone.features import FEATURE_PRECISIONS, Extractor
from eval.backbone.weights import load_backbone
from spd_weights.errors import SpdError
from tests.eval.helpers import RANDOM

IMAGES = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_bfloat16_features_are_nearly_the_same():
    single, half = (Extractor(RANDOM, 64, precision=precision)(IMAGES) for precision in ("fp32", "bf16"))
    for a, b in zip(single, half, strict=True):
        assert b.dtype == torch.float32
        assert not torch.equal(a, b)
        assert (a - b).norm() < 0.03 * a.norm()


@pytest.mark.parametrize("precision", FEATURE_PRECISIONS)
def test_tf32_is_used_if_asked_for_and_nowhere_else(precision):
    """torch's own default for convolutions on GPUs is TF32."""
    extractor, seen = Extractor(RANDOM, 64, precision=precision), set()
    backends = (torch.backends.cudnn.conv, torch.backends.cuda.matmul)
    before = [backend.fp32_precision for backend in backends]
    next(iter(extractor.network.children())).register_forward_pre_hook(
        lambda *_: seen.update(backend.fp32_precision for backend in backends)
    )
    extractor(IMAGES)
    assert seen == {"tf32" if precision == "tf32" else "ieee"}
    assert [backend.fp32_precision for backend in backends] == before


def test_chosen_layers_are_what_every_method_reads():
    extractor = Extractor(RANDOM, 64, (4, 32), layers=(-1, 2))
    maps = extractor(IMAGES)
    assert extractor.layers == [2, 4]
    assert [64 // one.shape[-1] for one in maps] == [8, 32]
    assert all(a is b for a, b in zip(extractor.select(maps, (4,)), maps, strict=True))
    assert extractor.layers_of((32,)) == [2, 4]
    with pytest.raises(SpdError, match=r"no layer 5; --layers chooses among 0 \(.*\), .*4 \(layer4\)"):
        Extractor(RANDOM, 64, layers=(5,))


def test_tokens_of_a_vision_transformer_have_passed_its_final_norm():
    extractor = Extractor("random:test_vit", 64, layers=(-1,))
    model, _ = load_backbone("random:test_vit", 64)
    torch.nn.init.normal_(model.norm.weight)  # of a new network it would change little
    extractor.network.load_state_dict(model.state_dict())
    with torch.no_grad():
        tokens = model.forward_features(extractor.normalised(IMAGES))[:, model.num_prefix_tokens :]
    torch.testing.assert_close(extractor(IMAGES)[0].flatten(2).mT, tokens, rtol=1e-4, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("architecture", ["resnet18", "vit_tiny_patch16_224"])
def test_a_gpu_gives_the_cpus_features_in_fp32_and_others_in_tf32(architecture):
    images = torch.randint(0, 256, (2, 3, 224, 224), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    exact, rounded = (Extractor(f"random:{architecture}", 224, precision=p) for p in ("fp32", "tf32"))
    assert exact.device.type == "cuda"
    pixels = exact.normalised(images).cpu()
    model = exact.network.cpu()
    expected = exact._maps(model, pixels)
    exact.network = model.cuda()
    for wanted, found, coarse in zip(expected, exact(images), rounded(images), strict=True):
        difference, coarser = ((wanted - maps.cpu()).norm() / wanted.norm() for maps in (found, coarse))
        assert difference < 1e-5
        assert coarser > 10 * difference
