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
    """A query has to find its key, the other view of the same image, among a queue of earlier images' keys."""

    queue: Tensor
    queue_ptr: Tensor

    def __init__(
        self, backbone: nn.Module, feature_width: int, config: MoCoConfig, spd: SpdConfig, batch_size: int
    ) -> None:
        """Add the head of the official code, the key encoder and the queue.

        Args:
            backbone: (B, 3, S, S) to (B, F).
            feature_width: width F of the pooled features.
            config: version, width, queue, momentum, temperature.
            spd: the SPD options.
            batch_size: number of keys that enter the queue per step, over all processes.

        Raises:
            SpdError: the queue size is not a multiple of the batch size.
        """
        super().__init__()
        if config.queue_size % batch_size or config.queue_size < batch_size:
            raise SpdError(
                f"--moco.queue-size {config.queue_size} must be a multiple of --optim.batch-size {batch_size}: "
                f"every step replaces the oldest batch of keys"
            )
        self.config = config
        hidden = [feature_width] if config.version == "v2" else []
        self.backbone, self.projector = backbone, mlp([feature_width, *hidden, config.dim], batch_norm=False)
        self.key_backbone = copy.deepcopy(self.backbone).requires_grad_(False)
        self.key_projector = copy.deepcopy(self.projector).requires_grad_(False)
        self.spd = SpotTheDifference(backbone, feature_width, spd)
        self.register_buffer("queue", F.normalize(torch.randn(config.queue_size, config.dim)))
        self.register_buffer("queue_ptr", torch.zeros((), dtype=torch.long))

    def forward(self, views: dict[str, Tensor]) -> dict[str, Tensor]:
        """Compute the losses of a batch.

        Nothing changes here except batch statistics: call `after_step` once the optimiser has stepped. The SPD
        views pass through the query encoder only, and none of them enters the queue.

        Args:
            views: as for `SimSiamMethod.forward`.

        Returns:
            `loss_base`, InfoNCE; `features`, the query embeddings (B, D), detached; `keys`, the normalised key
            embeddings (B, D); with SPD also `loss_spd` and `spd_accuracy`.
        """
        z = self.projector(self.backbone(views["anchor"]))
        q = unit(z)
        k = self._encode_keys(views["second"])

        l_pos = (q * k).sum(1, keepdim=True)
        l_neg = products(q, self.queue)
        logits = torch.cat([l_pos, l_neg], 1) / self.config.temperature
        labels = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
        loss = F.cross_entropy(logits, labels)

        spd = self.spd(self.backbone, self.projector, views, z)
        return {"loss_base": loss, "features": z.detach(), "keys": k, **spd}

    def after_step(self, keys: Tensor) -> None:
        """Move the key encoder and let the step's keys enter the queue. Call it once per step, not once per part.

        The official code moves the key encoder before the next step's keys are computed, which is the same.

        Args:
            keys: of all parts of this process's share of the batch, (B, D).
        """
        self._momentum_update_key_encoder()
        self._dequeue_and_enqueue(keys)

    @torch.no_grad()
    def _momentum_update_key_encoder(self) -> None:
        update = get_ema_multi_avg_fn(self.config.momentum)
        for key_module, module in ((self.key_backbone, self.backbone), (self.key_projector, self.projector)):
            update(list(key_module.parameters()), list(module.parameters()), None)

    @torch.no_grad()
    def _encode_keys(self, images: Tensor) -> Tensor:
        """The key encoder's normalised embeddings: (B, 3, S, S) to (B, D).

        Batch statistics could reveal which key belongs to which query. So with several processes, each encodes
        keys whose queries are on other processes ("ShuffleBN"): rank r takes every processes-th image, from r on.
        """
        images_all = gather(images)
        per_process, world = len(images), len(images_all) // len(images)
        # Every world-th image from 0 on, then from 1 on, and so on: per_process of them for each process in turn.
        shuffle = torch.arange(len(images_all), device=images.device).view(per_process, world).T.reshape(-1)
        mine = shuffle[rank() * per_process : (rank() + 1) * per_process]
        k_all = gather(unit(self.key_projector(self.key_backbone(images_all[mine]))))
        unshuffled = torch.empty_like(k_all)
        unshuffled[shuffle] = k_all
        return unshuffled[rank() * per_process : (rank() + 1) * per_process]

    @torch.no_grad()
    def _dequeue_and_enqueue(self, keys: Tensor) -> None:
        """Replace the oldest keys of the queue by this batch's, of all processes."""
        keys = gather(keys)
        # The position stays on the device: reading it would make the CPU wait for the step.
        rows = (self.queue_ptr + torch.arange(len(keys), device=keys.device)) % len(self.queue)
        self.queue.index_copy_(0, rows, keys.to(self.queue.dtype))
        self.queue_ptr.add_(len(keys)).remainder_(len(self.queue))
