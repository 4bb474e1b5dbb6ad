"""Evaluation of trained weights: accuracy in all and per class, and which classes are confused."""

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from precrop.counting import count
from precrop.errors import PrecropError
from precrop.files import check_picture, drawn_name, new_figure, save_picture
from precrop.plans.weights import fill, load_tensors
from precrop.progress import Progress, say, silent
from precrop.sources import changed
from precrop.training import checkpoints
from precrop.training.batches import Placement, held_out_batches
from precrop.training.data import ImageData, load_again, load_shaped
from precrop.training.devices import layout, reading_processes, uses_bf16
from precrop.training.folder import BEST, LAST
from precrop.training.module import outputs
from precrop.training.networks import build
from precrop.training.runs import Run
from precrop.trust import Trust, code_of

_BATCH = 256
_LARGEST_LABELLED = 40
"""Most classes whose names a confusion picture shows."""
_LARGEST_DRAWN = 2000
"""Most classes that a confusion picture can show; more could not be told apart."""


@dataclass(frozen=True)
class Evaluation:
    """The result of evaluating a network on held-out images; masked weights are not counted."""

    run: str | None  # id of the run that trained the weights
    network: str | None  # the network's name
    input_shape: tuple[int, ...]  # of one image
    mean: tuple[float, ...]  # per channel, subtracted from the images
    std: tuple[float, ...]  # per channel, by which they were divided
    crop_pct: float  # share of their shorter side that the centre crop keeps
    accuracy: float  # share of the images that are classified correctly
    loss: float  # mean cross-entropy
    params: int
    macs: int  # multiply-accumulates at batch 1
    seconds: float  # duration of the evaluation
    classes: tuple[str, ...]  # their names
    labels: Tensor  # int64 (images,): index of the class of each held-out image
    taken: Tensor  # int64 (images,): index of its predicted class

    @property
    def images(self) -> list[int]:
        """The number of images of each class."""
        return self._counted(self.labels).tolist()

    @property
    def per_class(self) -> dict[str, float]:
        """The accuracy of each class by name; NaN for a class without images."""
        right = self._counted(self.labels[self.labels == self.taken]).double()
        shares = right / self._counted(self.labels)
        return dict(zip(self.classes, shares.tolist(), strict=True))

    def _counted(self, labels: Tensor) -> Tensor:
        return torch.bincount(labels, minlength=len(self.classes))

    def to_json(self) -> dict[str, Any]:
        """Return the fields in JSON's types, with the per-class accuracies, without the tensors."""
        per_class = {name: None if v != v else v for name, v in self.per_class.items()}
        fields = {**vars(self), "per_class": per_class}
        del fields["labels"], fields["taken"]
        return fields


def find_checkpoint(path: Path) -> Path:
    """Return a checkpoint's folder, given that folder, a file in it, or the folder of its run."""
    inside = path.parent if path.is_file() else path
    for candidate in (inside, inside / LAST, inside / BEST):
        found = checkpoints.stored(candidate)
        if found is not None:
            return found
    if (inside / "run.json").is_file():
        raise PrecropError(
            f"the run {path} has no checkpoint yet: repeat its command, `precrop train`"
        )
    plan = "; a plan goes with --weights FILE" if path.suffix == ".json" else ""
    raise PrecropError(
        f"{path} is not a checkpoint: give the folder of a run, or one with {checkpoints.CONTENT}"
        f"{plan}"
    )


class Trained(NamedTuple):
    """A checkpoint's folder, its run, and the network with its weights (zero where masked)."""

    folder: Path
    run: Run
    network: nn.Module


def load_trained(path: str | Path, trust: Trust = False) -> Trained:
    """Load the network of a checkpoint, found as by `find_checkpoint`.

    Prints a warning if the user's code has changed since the training.

    Args:
        path: of the checkpoint, as for `find_checkpoint`.
        trust: as for `Run.from_json`; a name must also be the name of the network.

    Raises:
        PrecropError: the checkpoint is broken, or its network is code that is not trusted.
    """
    folder = find_checkpoint(Path(path))
    run = Run.from_json(checkpoints.described(folder).get("run"), trust)
    if isinstance(trust, str) and trust != run.model.name:
        raise PrecropError(
            f"the network of {folder} is {run.model.name}, not {trust}: drop --model"
        )
    if files := changed(run.code, code_of({run.model.name: None})):
        say(f"warning: {folder} was trained with other code: {files} changed since")
    weights = folder / checkpoints.WEIGHTS
    tensors = load_tensors(weights)
    like = {name: tensor.shape for name, tensor in tensors.items()}
    network = build(run, masked=False, like=like, weights=weights).network
    fill(network, tensors, weights)
    return Trained(folder, run, network)


def evaluate_checkpoint(
    path: str | Path, data: str | None = None, *, trust: Trust = False, progress: Progress = silent
) -> Evaluation:
    """Evaluate a checkpoint of `precrop.training.loop.train`.

    Args:
        path: as for `find_checkpoint`.
        data: images to use instead of the run's, with as many classes.
        trust: as for `load_trained`.
        progress: shows the progress over batches.

    Raises:
        PrecropError: the checkpoint is broken, or the images do not fit it.
    """
    folder, run, network = load_trained(path, trust)
    images = images_of(run, data)
    if len(images.classes) != len(run.classes):
        raise PrecropError(
            f"{images.name} has {len(images.classes)} classes, the run {len(run.classes)}"
        )
    kept = checkpoints.read_masks(folder)
    return evaluate(network, images, run.model.name, run=run, kept=kept, progress=progress)


def images_of(run: Run, data: str | None = None) -> ImageData:
    """Load a run's images, or others, in the shape and normalisation that its network needs."""
    if data is None:
        images = load_again(run.data, run.input_shape, run.data_digest)
    else:
        images = load_shaped(data, run.input_shape)
    if run.mean is None or run.std is None:
        return images
    return dataclasses.replace(images, mean=run.mean, std=run.std)


def evaluate(
    network: nn.Module,
    data: ImageData,
    name: str | None = None,
    *,
    run: Run | None = None,
    kept: Mapping[str, Tensor] | None = None,
    progress: Progress = silent,
) -> Evaluation:
    """Evaluate a network on the held-out images.

    Args:
        network: with trained weights, zero where masked; it is moved to the device.
        data: the images.
        name: the network's name.
        run: the run that trained the weights; its precision is used. Without it, float32.
        kept: masks by parameter name; masked weights are not counted.
        progress: shows the progress over batches.
    """
    start = time.perf_counter()
    counted = count(network, data.shape, masks=kept)
    device = layout(1).device
    bf16 = uses_bf16("fp32" if run is None else run.recipe.precision, device)
    network = network.to(device).eval()
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        found = judge(
            lambda images: outputs(network(images))[0].float(),
            data,
            device=device,
            dtype=torch.bfloat16 if bf16 else torch.float32,
            progress=progress,
        )
    return Evaluation(
        run=None if run is None else run.id,
        network=name,
        input_shape=data.shape,
        mean=data.mean,
        std=data.std,
        crop_pct=data.crop_pct,
        accuracy=found.accuracy,
        seconds=time.perf_counter() - start,
        classes=data.classes,
        params=counted.params,
        macs=counted.macs,
        **found._asdict(),
    )


class Judgement(NamedTuple):
    """The predictions for held-out images, and their loss."""

    labels: Tensor  # int64 (images,): the classes of the images
    taken: Tensor  # int64 (images,): the classes with the largest logits
    loss: float  # mean cross-entropy

    @property
    def accuracy(self) -> float:
        """The share of the images that are classified correctly."""
        return int((self.labels == self.taken).sum()) / len(self.labels)


def judge(
    logits: Callable[[Tensor], Tensor],
    data: ImageData,
    *,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    batch_size: int = _BATCH,
    progress: Progress = silent,
) -> Judgement:
    """Evaluate a function from images to logits, such as an exported file, on held-out images."""
    known: list[Tensor] = []
    taken: list[Tensor] = []
    losses = torch.zeros((), dtype=torch.float64)
    place = Placement(device, dtype, workers=reading_processes(data, layout(1)))
    with torch.inference_mode():
        batches = held_out_batches(data, batch_size, place)
        for inputs, labels in progress(batches, "evaluating", len(batches)):
            found = logits(inputs)
            known.append(labels.cpu())
            taken.append(found.argmax(1).cpu())
            losses += F.cross_entropy(found, labels, reduction="sum").cpu().double()
    labels = torch.cat(known)
    return Judgement(labels, torch.cat(taken), float(losses) / len(labels))


def draw_confusion(evaluation: Evaluation, path: Path) -> None:
    """Draw which share of each class is classified as which.

    Raises:
        PrecropError: matplotlib is missing, the file cannot be written, or there are more classes
            than a picture can show.
    """
    check_picture(path)
    classes = len(evaluation.classes)
    if classes > _LARGEST_DRAWN:
        raise PrecropError(f"{path} cannot show {classes:,} classes: up to {_LARGEST_DRAWN:,} fit")
    pairs = torch.bincount(evaluation.labels * classes + evaluation.taken, minlength=classes**2)
    confusion = pairs.view(classes, classes).double()
    shares = confusion / confusion.sum(1, keepdim=True).clamp(min=1)
    side = min(12.0, 3 + 0.3 * classes)
    figure = new_figure(side, side)
    axes = figure.subplots()
    picture = axes.imshow(shares.numpy(), vmin=0, vmax=1, cmap="Blues")
    if classes <= _LARGEST_LABELLED:
        places = range(classes)
        names = list(map(drawn_name, evaluation.classes))
        axes.set_xticks(places, names, rotation=90, parse_math=False)
        axes.set_yticks(places, names, parse_math=False)
    axes.set_xlabel("taken for")
    axes.set_ylabel("class")
    axes.set_title(f"{evaluation.accuracy:.2%} right")
    figure.colorbar(picture, ax=axes, shrink=0.8)
    save_picture(figure, path, dpi=120)
