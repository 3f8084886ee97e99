"""Episodes: the scores and the ranking of naive loops, with their gradients."""

import math

import pytest
import torch
from torch import Tensor

from eval.detectors.patches import patches_of
from train.methods.episodes import patches, ranking_loss, scores


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_patches_are_those_of_the_detector():
    maps = [random(2, 5, 12, 10).float(), random(2, 7, 6, 5).float()]
    torch.testing.assert_close(patches(maps), patches_of(maps).flatten(1, 2), rtol=1e-5, atol=1e-6)


def naive_scores(queries: Tensor, normal: Tensor) -> Tensor:
    unit = normal.detach().square().sum(2).mean()
    episodes = []
    for query, bank in zip(queries, normal, strict=True):
        squared = [min((q - n).square().sum() for n in bank) for q in query]
        episodes.append(torch.stack([0.5 * (s + 1e-4 * unit).log() for s in squared]))
    return torch.stack(episodes)


def test_scores_and_their_gradients_are_those_of_a_naive_loop():
    queries, normal = random(2, 6, 4).requires_grad_(), random(2, 9, 4, seed=1).requires_grad_()
    weights = random(2, 6, seed=2)
    found, expected = scores(queries, normal), naive_scores(queries, normal)
    torch.testing.assert_close(found, expected)
    ours = torch.autograd.grad((found * weights).sum(), (queries, normal))
    naive = torch.autograd.grad((expected * weights).sum(), (queries, normal))
    torch.testing.assert_close(ours, naive)
    assert all((gradient != 0).any() for gradient in ours)


def naive_loss(normal: Tensor, perturbed: Tensor, alpha: Tensor, temperature: float) -> tuple[float, float]:
    def sigma(x: float) -> float:
        return temperature * math.log1p(math.exp(x / temperature))

    losses, found = [], []
    cell = alpha.shape[-1] // perturbed.shape[-1]
    for image in range(len(normal)):
        ordered = sorted(normal[image].flatten().tolist(), reverse=True)
        hard = ordered[: max(1, round(0.05 * len(ordered)))]
        total = weights = 0.0
        highest = -math.inf
        for row in range(perturbed.shape[1]):
            for column in range(perturbed.shape[2]):
                covered = alpha[image, 0, cell * row : cell * (row + 1), cell * column : cell * (column + 1)].mean()
                if covered <= 0.1:
                    continue
                s, weight = perturbed[image, row, column].item(), min(1.0, 2 * covered.item())
                against_hard = sum(sigma(h - s) for h in hard) / len(hard)
                against_all = sum(sigma(n - s) for n in ordered) / len(ordered)
                total, weights = total + weight * (against_hard + against_all) / 2, weights + weight
                highest = max(highest, s)
        losses.append(total / max(weights, 0.1))
        found.append(highest > ordered[0])
    return sum(losses) / len(losses), sum(found) / len(found)


def test_ranking_loss_is_that_of_a_naive_loop():
    normal, perturbed = random(4, 8, 8), random(4, 8, 8, seed=1)
    alpha = torch.zeros(4, 1, 32, 32, dtype=torch.float64)
    alpha[0, 0, 3:9, 4:17] = 1
    alpha[1, 0, 20:30, 20:30] = 0.4
    alpha[2, 0, 5, 5] = 1  # covers too little of its cell
    alpha[3, 0, :8, :8] = 1
    perturbed[3, 0, 0] = 9.0
    normal[0, 7, 7], perturbed[0, 1, 2] = 8.0, 5.0  # above all normal scores but one
    out = ranking_loss(normal, perturbed, alpha, 0.3)
    loss, accuracy = naive_loss(normal, perturbed, alpha, 0.3)
    assert out["loss_spd"].item() == pytest.approx(loss, rel=1e-6)
    assert out["spd_accuracy"].item() == pytest.approx(accuracy)
    assert 0 < accuracy < 1


def test_scaling_all_features_changes_nothing():
    """Otherwise the loss could be lowered by growing features."""
    query, other, normal = random(2, 16, 4), random(2, 16, 4, seed=1), random(2, 20, 4, seed=2)
    alpha = torch.ones(2, 1, 8, 8, dtype=torch.float64)

    def loss(scale: float) -> float:
        found = (scores(scale * q, scale * normal).unflatten(1, (4, 4)) for q in (query, other))
        return ranking_loss(*found, alpha, 0.2)["loss_spd"].item()

    assert loss(8.0) == pytest.approx(loss(1.0), rel=1e-9)


def test_the_gradient_lifts_what_was_perturbed_and_lowers_what_was_not():
    normal, perturbed = random(1, 8, 8).requires_grad_(), random(1, 8, 8, seed=1).requires_grad_()
    alpha = torch.zeros(1, 1, 8, 8, dtype=torch.float64)
    alpha[..., 2:4, 2:4] = 1
    ranking_loss(normal, perturbed, alpha, 0.2)["loss_spd"].backward()
    assert (normal.grad >= 0).all()
    assert normal.grad.max() > 0
    assert (perturbed.grad[0, 2:4, 2:4] < 0).all()
    assert perturbed.grad.count_nonzero() == 4
