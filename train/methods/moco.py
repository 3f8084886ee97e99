"""MoCo (He et al., CVPR 2020) and MoCo v2 (Chen et al., arXiv 2003.04297)."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from spd_weights.errors import SpdError

from ..config import SpdConfig
from ..distributed import gather, rank
from ..recipes import MoCoConfig
from .heads import mlp
from .similarity import products, unit
from .spd import SpotTheDifference


class MoCoMethod(nn.Module):
    """A view has to find its partner among a queue of earlier images, as a slowly moving encoder sees them."""

    queue: Tensor
    position: Tensor

    def __init__(self, backbone: nn.Module, features: int, config: MoCoConfig, spd: SpdConfig, batch_size: int) -> None:
        """Add the head of the official code, the key encoder and the queue.

        Args:
            backbone: (B, 3, S, S) to (B, features).
            features: width of the pooled features.
            config: version, width, queue, momentum, temperature.
            spd: the SPD options.
            batch_size: global: so many keys enter the queue at once.

        Raises:
            SpdError: the queue does not hold a whole number of batches.
        """
        super().__init__()
        if config.queue_size % batch_size or config.queue_size < batch_size:
            raise SpdError(
                f"--moco.queue-size {config.queue_size} must be a multiple of --optim.batch-size {batch_size}: "
                f"every step replaces the oldest batch of keys"
            )
        self.config = config
        widths = [features, features, config.dim] if config.version == "v2" else [features, config.dim]
        self.backbone, self.projector = backbone, mlp(widths, batch_norm=False)
        self.key_backbone = copy.deepcopy(self.backbone).requires_grad_(False)
        self.key_projector = copy.deepcopy(self.projector).requires_grad_(False)
        self.spd = SpotTheDifference(backbone, features, spd)
        self.register_buffer("queue", F.normalize(torch.randn(config.queue_size, config.dim)))
        self.register_buffer("position", torch.zeros((), dtype=torch.long))

    def forward(self, views: dict[str, Tensor]) -> dict[str, Tensor]:
        """Compute the losses of a batch; the views are those of `SimSiamMethod.forward`.

        In training mode the key encoder moves and this batch's keys enter the queue. The SPD views go
        through the query encoder alone, and none of them enters the queue.

        Returns:
            `loss_base`, InfoNCE; `features`, the queries (B, D), detached; with SPD also `loss_spd` and
            `spd_accuracy`.
        """
        z1 = self.projector(self.backbone(views["anchor"]))
        keys = self._keys(views["second"])
        query = unit(z1)
        positive = (query * keys).sum(1, keepdim=True)
        # A clone, because the queue changes in place before the backward pass.
        logits = torch.cat([positive, products(query, self.queue.clone())], 1) / self.config.temperature
        loss = F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long, device=logits.device))
        if self.training:
            self._enqueue(keys)
        spd = self.spd(self.backbone, self.projector, views, z1)
        return {"loss_base": loss, "features": z1.detach(), **spd}

    @torch.no_grad()
    def _keys(self, images: Tensor) -> Tensor:
        """The key encoder's normalised embeddings, after it moved towards the query encoder.

        Batch statistics would tell which key belongs to which query, so on several processes each
        encodes keys of images that others hold the queries of ("ShuffleBN"): rank r takes every
        processes-th image from r on.
        """
        if self.training:
            move = get_ema_multi_avg_fn(self.config.momentum)
            for slow, fast in ((self.key_backbone, self.backbone), (self.key_projector, self.projector)):
                move(list(slow.parameters()), list(fast.parameters()), None)
        everyones = gather(images)
        per_process, world = len(images), len(everyones) // len(images)
        order = torch.arange(len(everyones), device=images.device).view(per_process, world).T.reshape(-1)
        mine = order[rank() * per_process : (rank() + 1) * per_process]
        keys = gather(unit(self.key_projector(self.key_backbone(everyones[mine]))))
        back = torch.empty_like(keys)
        back[order] = keys
        return back[rank() * per_process : (rank() + 1) * per_process]

    @torch.no_grad()
    def _enqueue(self, keys: Tensor) -> None:
        everyones = gather(keys)
        start = int(self.position)
        self.queue[start : start + len(everyones)] = everyones.to(self.queue.dtype)
        self.position.fill_((start + len(everyones)) % len(self.queue))
