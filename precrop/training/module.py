"""The LightningModule that is trained: a network with its loss, learning rate and metrics."""

import math
import random
import time
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchmetrics import Metric, SumMetric
from torchmetrics.classification import MulticlassAccuracy

from precrop.errors import PrecropError
from precrop.modules.convolutions import SafeConvolutions
from precrop.modules.names import buffers_of, parameters_of
from precrop.plans.weights import versioned
from precrop.training.augment import Augment
from precrop.training.batches import Batches, Placement, held_out_batches, train_batches
from precrop.training.data import ImageData
from precrop.training.devices import ProcessLayout, uses_bf16
from precrop.training.kernels import CpuKernels
from precrop.training.networks import check_kept
from precrop.training.recipes import Recipe
from precrop.training.runs import Run

AUXILIARY = 0.3
"""Weight of the loss of auxiliary classifiers, as in the GoogLeNet and Inception papers."""
_CHECKED = 50
"""Steps between checks for a finite loss where a check makes the CPU wait for the device."""
_FUSED = ("cpu", "cuda", "mps")
"""Devices for which PyTorch has a fused optimizer step."""
_LARGEST_SEED = 2**31 - 1
FIGURES = ("accuracy", "loss", "seconds")
"""The metrics of an epoch in the history that a result is made from."""


class Classifier(pl.LightningModule):
    """A network from `precrop.training.networks.build` that is trained as an image classifier.

    ``compiled`` compiles it, batch norms included; ``workers`` processes decode images that do not
    fit in memory.
    """

    def __init__(
        self,
        run: Run,
        network: nn.Module,
        data: ImageData,
        places: ProcessLayout,
        *,
        compiled: bool,
        workers: int,
    ) -> None:
        super().__init__()
        self.run, self.recipe, self.network, self.data = run, run.recipe, network, data
        self.workers = workers
        self.bf16 = uses_bf16(run.recipe.precision, places.device)
        self.layout = torch.contiguous_format
        if places.accelerator in ("cpu", "cuda"):
            self.layout = torch.channels_last
            network.to(memory_format=self.layout)
        self.kernels: AbstractContextManager[Any] = nullcontext()
        if places.accelerator == "cpu":
            self.kernels = SafeConvolutions() if compiled else CpuKernels()
        if compiled:
            network.compile()
        self.params = sum(p.numel() for p in parameters_of(network).values())
        self.history: list[dict[str, float]] = []
        classes = len(run.classes)
        self.train_figures, self.test_figures = Figures(classes), Figures(classes)
        self.began = 0.0  # set when an epoch begins
        self._train_seconds = 0.0
        self._bad: Tensor | None = None

    # Data. The trainer asks for new batches at every epoch, which has its own order.

    def train_dataloader(self) -> Batches:
        """Return this process's batches of the current epoch."""
        return train_batches(
            self.data,
            self.recipe.batch_size,
            self._place,
            seed=self.run.seed,
            epoch=self.current_epoch,
            augment=augmentation(self.recipe),
        )

    def val_dataloader(self) -> Batches:
        """Return this process's batches of held-out images."""
        return held_out_batches(self.data, self.recipe.batch_size, self._place)

    @property
    def _place(self) -> Placement:
        return Placement(
            self.device,
            torch.bfloat16 if self.bf16 else torch.float32,
            self.trainer.global_rank,
            self.trainer.world_size,
            self.workers,
        )

    # Training.

    def configure_optimizers(self) -> Any:
        """Return the recipe's optimizer, and a scheduler that sets the rate at every step."""
        optimizer = _optimizer(self)
        steps = int(self.trainer.estimated_stepping_batches)
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: self.recipe.learning_rate(step, steps) / self.recipe.lr
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def on_fit_start(self) -> None:
        """Broadcast buffers (masks, too), so that processes start alike; DDP sends parameters."""
        if self.trainer.world_size > 1:
            for buffer in buffers_of(self.network).values():
                torch.distributed.broadcast(buffer, 0)

    def on_train_start(self) -> None:
        """Check the shapes of the optimizer's restored state, since its kernels do not check them.

        Raises:
            ValueError: the optimizer's state belongs to other weights.
        """
        for optimizer in self.trainer.optimizers:
            for weight, kept in optimizer.state.items():
                for name, value in kept.items():
                    shape = () if name == "step" else weight.shape
                    if isinstance(value, Tensor) and value.shape != shape:
                        raise ValueError(f"{name} has shape {tuple(value.shape)}, not {shape}")

    def on_train_epoch_start(self) -> None:
        """Seed every random generator anew, so that checkpoints need not store random states."""
        seed = np.random.SeedSequence([self.run.seed, self.current_epoch, self.global_rank])
        number = int(seed.generate_state(1)[0]) % _LARGEST_SEED
        torch.manual_seed(number)
        np.random.seed(number)  # noqa: NPY002 - a user's network may draw from it
        random.seed(number)
        self.began = time.perf_counter()

    def training_step(self, batch: tuple[Tensor, Tensor], step: int) -> Tensor:
        """Return the loss of one batch."""
        images, labels = batch
        logits, *auxiliary = self._outputs(images)
        loss = self._loss(logits, labels)
        for other in auxiliary:
            loss = loss + AUXILIARY * self._loss(other, labels)
        self._check_finite(loss.detach(), step)
        self.train_figures.update(loss.detach(), logits.detach(), labels)
        return loss

    def _outputs(self, images: Tensor) -> list[Tensor]:
        with self.kernels:
            return outputs(self.network(images.to(memory_format=self.layout)))

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits.float(), labels, label_smoothing=self.recipe.label_smoothing)

    def _check_finite(self, loss: Tensor, step: int) -> None:
        """Stop at a loss that is not finite; off the CPU it is noticed some steps later."""
        place = torch.where(loss.isfinite(), math.inf, float(self.global_step))
        self._bad = place if self._bad is None else torch.minimum(self._bad, place)
        last = step + 1 == self.trainer.num_training_batches
        if loss.device.type != "cpu" and step % _CHECKED and not last:
            return
        bad, self._bad = float(self._bad), None
        if math.isfinite(bad):
            rate = self.recipe.learning_rate(int(bad), int(self.trainer.estimated_stepping_batches))
            raise PrecropError(
                f"the loss is no longer a number at step {int(bad) + 1} in epoch "
                f"{self.current_epoch + 1}, at learning rate {rate:.4g}: try a lower --lr"
            )

    # Figures.

    def on_validation_epoch_start(self) -> None:
        """End the epoch's training: average batch norms' running statistics over all processes."""
        self._train_seconds = time.perf_counter() - self.began
        if self.trainer.world_size > 1:
            for module in self.network.modules():
                if isinstance(module, _BatchNorm) and module.running_mean is not None:
                    self.trainer.strategy.reduce(module.running_mean, reduce_op="mean")
                    self.trainer.strategy.reduce(module.running_var, reduce_op="mean")

    def validation_step(self, batch: tuple[Tensor, Tensor], step: int) -> None:
        """Add one batch of held-out images to the metrics."""
        images, labels = batch
        logits, *_ = self._outputs(images)
        loss = F.cross_entropy(logits.float(), labels)
        self.test_figures.update(loss, logits, labels)

    def on_validation_epoch_end(self) -> None:
        """Append the epoch's row to the history, and log it."""
        trained, tested = self.train_figures.total(), self.test_figures.total()
        steps, step = int(self.trainer.estimated_stepping_batches), self.global_step - 1
        seen = self.trainer.num_training_batches * self.recipe.batch_size
        row = {
            "lr": self.recipe.learning_rate(step, steps),
            **{f"train_{name}": value for name, value in trained.items()},
            **tested,
            "seconds": time.perf_counter() - self.began,
            "images_per_second": seen / max(self._train_seconds, 1e-9),
        }
        self.history.append({"epoch": self.current_epoch + 1, **row})
        self.log_dict(row, rank_zero_only=True)

    # Checkpoints.

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Assert what training must not change, and store the history."""
        check_kept(self.network, self.params)
        checkpoint["history"] = self.history

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the history, and give the weights the versions of the modules they belong to.

        Raises:
            KeyError, TypeError: the history or Lightning's loop state is missing or malformed.
        """
        checkpoint["state_dict"] = versioned(self, checkpoint["state_dict"])
        checkpoint["loops"]["fit_loop"]  # without it, Lightning would start over with these weights
        self.history = list(checkpoint["history"])
        for row in self.history:
            if not all(type(row[name]) in (int, float) for name in FIGURES):
                raise TypeError("the history is not of numbers")


def augmentation(recipe: Recipe) -> Augment:
    """Return the augmentation of a recipe."""
    return Augment(crop=recipe.crop, flip=recipe.flip, cutout=recipe.cutout)


class Figures(nn.Module):
    """Loss and accuracy over the batches since the last `total`."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        # `MeanMetric` checks for NaN, which waits for the device; without that it ignores weights.
        self.loss, self.images = (
            SumMetric(nan_strategy="disable", sync_on_compute=False) for _ in range(2)
        )
        self.accuracy = MulticlassAccuracy(
            classes, average="micro", validate_args=False, sync_on_compute=False
        )

    def update(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Add one batch."""
        self.loss.update(loss * len(labels))
        self.images.update(len(labels))
        self.accuracy.update(logits, labels)

    def so_far(self) -> dict[str, float]:
        """Return loss and accuracy of this process, without a reset."""
        loss = self.loss.compute() / self.images.compute()
        return {"loss": float(loss), "accuracy": float(self.accuracy.compute())}

    def total(self) -> dict[str, float]:
        """Return loss and accuracy over all processes, and reset them."""
        metrics: tuple[Metric, ...] = (self.loss, self.images, self.accuracy)
        for metric in metrics:
            metric.sync()
        found = self.so_far()
        for metric in metrics:
            metric.reset()
        return found


def _optimizer(module: Classifier) -> torch.optim.Optimizer:
    recipe = module.recipe
    trained = [p for p in module.network.parameters() if p.requires_grad]
    shared: Any = {name: getattr(recipe, name) for name in ("lr", "momentum", "weight_decay")}
    if recipe.optimizer == "rmsprop":
        return torch.optim.RMSprop(trained, **shared)
    fused = all(p.is_floating_point() and p.device.type in _FUSED for p in trained)
    return torch.optim.SGD(trained, nesterov=recipe.nesterov, fused=fused, **shared)


def outputs(value: Any) -> list[Tensor]:
    """Return a network's logits, then those of auxiliary classifiers (torchvision's GoogLeNet's).

    An output without logits raises `PrecropError`.
    """
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, (list, tuple)) and value:
        named = value._asdict() if hasattr(value, "_asdict") else {"logits": value[0]}
        logits = named.pop("logits", None)
        if isinstance(logits, Tensor):
            return [logits, *(other for other in named.values() if isinstance(other, Tensor))]
    raise PrecropError(
        f"the network gives a {type(value).__name__}: a classifier gives logits, or a tuple that "
        "begins with them"
    )
