"""Heads on features of a frozen backbone: fitted in well under a second, judged on slides that they have not seen.

Arrays in, arrays out: nothing here knows slides, files or pixels. Features are shape (N, D), float16 or float32;
labels and slides are whole numbers, -1 in no place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from napari_slidecorr.errors import CohortError, ModelError, TrainingError
from napari_slidecorr.events import check_interrupted
from napari_slidecorr.fast_config import HeadConfig
from napari_slidecorr.geometry import PatchGeometry
from napari_slidecorr.learning.necks import make_neck
from napari_slidecorr.learning.objectives import Output, make_objective
from napari_slidecorr.learning.randomness import seeded
from napari_slidecorr.learning.softmax_solver import solve
from napari_slidecorr.patches import PatchTable
from napari_slidecorr.sampling import slide_batches

DEFAULT_PENALTY = 1.0
"""Of a linear head when nothing can be held out to choose it."""

PREDICT_ROWS = 4096

Numbers = NDArray[np.floating]
Labels = NDArray[np.integer]
Probabilities = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class LinearHead:
    """Logistic regression: ``softmax(features @ weight.T + bias)`` on features as the backbone gives them.

    Attributes
    ----------
    weight : ndarray, shape (K, D), float32
    bias : ndarray, shape (K,), float32
    penalty : float
        What it was fitted with.
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    penalty: float = DEFAULT_PENALTY

    @property
    def classes(self) -> int:
        """K."""
        return len(self.bias)

    def predict(self, features: Numbers) -> Probabilities:
        """Give class probabilities, shape (N, K), float32."""
        weight, bias = torch.from_numpy(self.weight.T.copy()), torch.from_numpy(self.bias)
        return _in_pieces(features, len(self.bias), lambda x: torch.addmm(bias, x, weight))


@dataclass(frozen=True, eq=False)
class NetHead:
    """An MLP or adapter with its linear layer.

    Attributes
    ----------
    kind : str
        ``mlp`` or ``adapter``.
    neck : Module
        (N, D) to (N, H); standardizes first.
    linear : Linear
        (N, H) to logits (N, K).
    """

    kind: str
    neck: nn.Module
    linear: nn.Linear

    @property
    def classes(self) -> int:
        """K."""
        return self.linear.out_features

    def predict(self, features: Numbers) -> Probabilities:
        """Give class probabilities, shape (N, K), float32."""
        self.neck.eval()
        return _in_pieces(features, self.classes, lambda x: self.linear(self.neck(x)))


Head = LinearHead | NetHead


def balance_weights(labels: Labels, slide_index: Labels, classes: int) -> NDArray[np.float32]:
    """Give weights of patches, shape (N,), adding up to 1: classes count alike, and in each class its slides do."""
    slides, member = np.unique(slide_index, return_inverse=True)
    counts = np.zeros((len(slides), classes))
    np.add.at(counts, (member, labels), 1)
    slides_of_class = (counts > 0).sum(axis=0)
    present = np.count_nonzero(slides_of_class)
    weight = 1 / (counts[member, labels] * slides_of_class[labels] * max(present, 1))
    return np.asarray(weight, np.float32)


def fit_head(
    features: Numbers,
    labels: Labels,
    slide_index: Labels,
    config: HeadConfig,
    *,
    classes: int | None = None,
    start: Head | None = None,
) -> Head:
    """Fit a head to labelled patches; slides and classes count alike, however many patches they have.

    Parameters
    ----------
    features : ndarray, shape (N, D), float16 or float32
    labels : ndarray, shape (N,)
        0 to K - 1.
    slide_index : ndarray, shape (N,)
        Which slide each patch is of.
    config : HeadConfig
        A penalty of None means `DEFAULT_PENALTY` here; `held_out.choose_penalty` finds one.
    classes : int, optional
        K; one more than the largest label when left out. A class without patches gets next to no probability.
    start : Head, optional
        An earlier head to go on from, which saves passes after a small change; of another kind or shape it is left out.
        The result of a linear head is the same with and without.

    Raises
    ------
    CohortError
        If fewer than two classes have patches, or the arrays do not fit each other.
    ModelError
        If a feature is not a finite number; names the row.
    TrainingError
        If the loss of an mlp or adapter is no longer a number.
    """
    count = classes if classes is not None else int(np.max(labels, initial=-1)) + 1
    check_arrays(features, labels, slide_index, count)
    if config.net == "linear":
        return _fit_linear(features, labels, slide_index, config.penalty or DEFAULT_PENALTY, count, start)
    return _fit_net(features, labels, slide_index, config, count)


def check_arrays(features: Numbers, labels: Labels, slide_index: Labels, classes: int) -> None:
    """Make sure that arrays fit each other, hold two classes or more, and nothing but finite numbers.

    Raises
    ------
    CohortError, ModelError
        If not.
    """
    if not len(features) == len(labels) == len(slide_index):
        raise CohortError(f"{len(features)} features, {len(labels)} labels and {len(slide_index)} slides do not fit.")
    present = np.unique(labels)
    if len(present) < 2 or present[0] < 0 or present[-1] >= classes:
        raise CohortError("A head needs patches of at least two classes; label another class, or a larger region.")
    sums = features.sum(axis=1, dtype=np.float32)
    if not np.isfinite(sums).all():
        row = int(np.flatnonzero(~np.isfinite(sums))[0])
        raise ModelError(
            f"The features of patch {row} (slide {int(slide_index[row])}) are no finite numbers; choose other weights."
        )


def _in_pieces(features: Numbers, classes: int, logits: Callable[[Tensor], Tensor]) -> Probabilities:
    out = np.empty((len(features), classes), np.float32)
    with torch.inference_mode():
        for start in range(0, len(features), PREDICT_ROWS):
            part = _tensor(features[start : start + PREDICT_ROWS])
            out[start : start + PREDICT_ROWS] = torch.softmax(logits(part), dim=1).numpy()
    return out


def _tensor(features: Numbers) -> Tensor:
    return torch.from_numpy(np.require(features, requirements=["C", "W"])).float()


def _fit_linear(
    features: Numbers, labels: Labels, slide_index: Labels, penalty: float, classes: int, start: Head | None
) -> LinearHead:
    weight = torch.from_numpy(balance_weights(labels, slide_index, classes))[None]
    begun = None
    if isinstance(start, LinearHead) and start.weight.shape == (classes, features.shape[1]):
        begun = torch.from_numpy(start.weight)[None], torch.from_numpy(start.bias)[None]
    target = torch.from_numpy(labels.astype(np.int64))
    with torch.inference_mode():
        found = solve(_tensor(features), target, weight, torch.tensor([penalty]), classes, start=begun)
    return LinearHead(found.weight[0].numpy(), found.bias[0].numpy(), penalty)


def fit_linear_folds(
    features: Numbers,
    labels: Labels,
    slide_index: Labels,
    fold: NDArray[np.int64],
    folds: int,
    penalties: Sequence[float],
    classes: int,
) -> list[list[LinearHead]]:
    """Fit linear heads of all penalties and folds in one go, ``[penalty][fold]``; a fold's head has not seen its rows."""
    weights = np.zeros((folds, len(labels)), np.float32)
    for held in range(folds):
        rows = fold != held
        weights[held, rows] = balance_weights(labels[rows], slide_index[rows], classes)
    x, target = _tensor(features), torch.from_numpy(labels.astype(np.int64))
    out = []
    begun = None
    for penalty in sorted(penalties, reverse=True):  # from the strongest on, each starts where the last ended
        check_interrupted()
        with torch.inference_mode():
            each = torch.full((folds,), float(penalty))
            found = solve(x, target, torch.from_numpy(weights), each, classes, start=begun)
        begun = found.weight, found.bias
        heads = [LinearHead(w.numpy(), b.numpy(), penalty) for w, b in zip(found.weight, found.bias, strict=True)]
        out.append((penalty, heads))
    by_penalty = dict(out)
    return [by_penalty[penalty] for penalty in penalties]


def _fit_net(features: Numbers, labels: Labels, slide_index: Labels, config: HeadConfig, classes: int) -> NetHead:
    slides, member = np.unique(slide_index, return_inverse=True)
    x = _tensor(features)
    with seeded(config.seed):
        neck, width = make_neck(config.net, features.shape[1])
        linear = nn.Linear(width, classes)
        objective = make_objective(config.objective, feature_dim=width, slide_count=len(slides))
    neck[0].fit(x)  # type: ignore[index]
    parts = nn.ModuleList([neck, linear, objective])
    optimizer = torch.optim.AdamW(parts.parameters(), lr=config.learning_rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.learning_rate, total_steps=config.steps)
    target, of_slide = torch.from_numpy(labels.astype(np.int64)), torch.from_numpy(member.astype(np.int64))
    parts.train()
    with seeded(config.seed, 1):
        for step, rows in enumerate(_batches(labels, member, len(slides), classes, config)):
            check_interrupted()
            objective.progress = step / config.steps
            found = neck(x[rows])
            loss = objective(Output(linear(found), found), target[rows], of_slide[rows]).total
            if not torch.isfinite(loss):
                raise TrainingError(
                    f"In step {step + 1} the loss became infinite or not a number. Lower the learning rate or beta."
                )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
    neck.eval()
    return NetHead(config.net, neck.requires_grad_(False), linear.requires_grad_(False))


def _batches(
    labels: Labels, member: Labels, slides: int, classes: int, config: HeadConfig
) -> Iterator[NDArray[np.int64]]:
    """Batches as in training from pixels, epoch after epoch, until there were enough steps."""
    nowhere = np.zeros(len(labels), np.int64)
    names = tuple(map(str, range(slides))), tuple(map(str, range(classes)))
    geometry = PatchGeometry(1)
    table = PatchTable(
        nowhere, nowhere, member.astype(np.int32), labels.astype(np.int16), *names, ((1, 1),) * slides, geometry
    )
    left, epoch = config.steps, 0
    while left > 0:
        for rows in slide_batches(
            table,
            slides_per_batch=config.slides_per_batch,
            patches_per_slide=config.patches_per_slide,
            seed=config.seed,
            epoch=epoch,
        )[:left]:
            left -= 1
            yield rows
        epoch += 1
