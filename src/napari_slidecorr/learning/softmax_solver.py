"""Many penalized logistic regressions on the same features at once, to their optimum, in a few passes.

Folds and penalties differ in row weights and strengths alone, so one product with the features serves them all.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from napari_slidecorr.events import check_interrupted

MEMORY = 8
MAX_STEPS = 60
TOLERANCE = 2e-7
"""Steps end when the next is expected to lower the penalized mean cross-entropy by less than half of this."""

GRAM_ROWS = 4096
_SHRINK, _TRIES, _ARMIJO = 0.35, 8, 1e-4


@dataclass(frozen=True)
class Solution:
    """What `solve` gives: logits are ``features @ weight[p].T + bias[p]``, on features as they came.

    Attributes
    ----------
    weight : Tensor, shape (P, K, D), float32
    bias : Tensor, shape (P, K), float32
    steps : int
        Passes of the optimizer.
    """

    weight: Tensor
    bias: Tensor
    steps: int


def solve(
    features: Tensor,
    label: Tensor,
    row_weight: Tensor,
    penalty: Tensor,
    classes: int,
    *,
    start: tuple[Tensor, Tensor] | None = None,
) -> Solution:
    r"""Fit P penalized softmax regressions.

    Parameters
    ----------
    features : Tensor, shape (N, D), float32
    label : Tensor, shape (N,), int64
    row_weight : Tensor, shape (P, N), float32
        Not negative; each row sums to 1. 0 leaves a patch out of that problem altogether.
    penalty : Tensor, shape (P,), float32
        Above 0.
    classes : int
        K.
    start : (Tensor (P, K, D), Tensor (P, K)), optional
        An earlier solution to go on from.

    Notes
    -----
    Minimized is ``sum_i w_i CE_i + penalty / 2 * |V|^2`` with ``V`` the weights on features that are standardized over
    the rows with weight; the bias is free. L-BFGS, preconditioned by ``(G / 2 + penalty)^-1`` with ``G`` the correlation
    of standardized features: ``G / 2`` is Böhning's bound of the curvature, so that whole steps go downwards.

    References
    ----------
    Böhning, "Multinomial logistic regression algorithm", Annals of the Institute of Statistical Mathematics, 1992.
    """
    problems = _Problems(features, label, row_weight, penalty, classes)
    point = problems.start_of(start)
    point, steps = _minimize(problems, point)
    return Solution(*problems.raw(point), steps)


class _Tall:
    """``A^T A + penalty`` for rows ``A``, shape (n, D), of which there are more than columns."""

    def __init__(self, part: Tensor, gram: Tensor, penalty: Tensor) -> None:  # noqa: ARG002 (as `_Wide`)
        self.factor = _factor(gram, penalty)

    @staticmethod
    def gram(part: Tensor) -> Tensor:
        return part.T @ part

    def undo(self, values: Tensor) -> Tensor:
        """Give the product of the inverse with values, shape (D, C)."""
        return torch.cholesky_solve(values, self.factor)


class _Wide:
    """The same for fewer rows than columns, by Woodbury's identity: all that is factored is n x n."""

    def __init__(self, part: Tensor, gram: Tensor, penalty: Tensor) -> None:
        self.part, self.penalty, self.factor = part, penalty, _factor(gram, penalty)

    @staticmethod
    def gram(part: Tensor) -> Tensor:
        return part @ part.T

    def undo(self, values: Tensor) -> Tensor:
        """Give the product of the inverse with values, shape (D, C)."""
        return (values - self.part.T @ torch.cholesky_solve(self.part @ values, self.factor)) / self.penalty


_Curvature = _Tall | _Wide


def _factor(gram: Tensor, penalty: Tensor) -> Tensor:
    matrix = gram.clone()
    matrix.diagonal().add_(penalty)
    factor: Tensor = torch.linalg.cholesky(matrix)
    return factor


class _Problems:
    """Losses and gradients of all problems at a point, shape (P, D + 1, K): standardized weights, then the bias."""

    def __init__(self, features: Tensor, label: Tensor, row_weight: Tensor, penalty: Tensor, classes: int) -> None:
        self.x, self.label, self.row_weight, self.penalty, self.classes = features, label, row_weight, penalty, classes
        self.rows = torch.arange(len(label))
        used = (row_weight > 0).float()
        used = used / used.sum(dim=1, keepdim=True).clamp(min=1)
        self.mean = used @ features  # (P, D)
        variance = used @ features.square() - self.mean.square()
        spread = variance.clamp(min=0).sqrt()
        self.scale = torch.where(spread > 1e-5, spread, torch.ones_like(spread))
        self.curvatures = self._curvatures()

    def _curvatures(self) -> list[tuple[Tensor, _Curvature]]:
        """For each penalty which problems have it, and what undoes its curvature."""
        used = self.x[self.row_weight.sum(dim=0) > 0]
        part = used[:: max(1, len(used) // GRAM_ROWS)]
        part = (part - self.mean.mean(dim=0)) / (self.scale.mean(dim=0) * (2 * len(part)) ** 0.5)
        make = _Wide if len(part) < part.shape[1] else _Tall
        gram = make.gram(part)
        return [
            (torch.nonzero(self.penalty == value)[:, 0], make(part, gram, value))
            for value in torch.unique(self.penalty)
        ]

    def start_of(self, start: tuple[Tensor, Tensor] | None) -> Tensor:
        count, dim = len(self.penalty), self.x.shape[1]
        if start is None:
            return self.x.new_zeros(count, dim + 1, self.classes)
        weight, bias = start[0].transpose(1, 2), start[1]
        bias = bias + torch.einsum("pd,pdk->pk", self.mean, weight)
        return torch.cat([weight * self.scale[:, :, None], bias[:, None]], dim=1)

    def raw(self, point: Tensor) -> tuple[Tensor, Tensor]:
        weight = point[:, :-1] / self.scale[:, :, None]
        bias = point[:, -1] - torch.einsum("pd,pdk->pk", self.mean, weight)
        return weight.transpose(1, 2).contiguous(), bias

    def at(self, point: Tensor) -> tuple[Tensor, Tensor]:
        """Loss, shape (P,), and gradient, shape (P, D + 1, K)."""
        count, dim = len(self.penalty), self.x.shape[1]
        weight = point[:, :-1] / self.scale[:, :, None]
        bias = point[:, -1] - torch.einsum("pd,pdk->pk", self.mean, weight)
        flat = weight.permute(1, 0, 2).reshape(dim, count * self.classes)
        logits = torch.addmm(bias.reshape(-1), self.x, flat).view(-1, count, self.classes)
        log_p = torch.log_softmax(logits, dim=2)
        by_row = self.row_weight.T  # (N, P)
        loss = -(log_p[self.rows, :, self.label] * by_row).sum(dim=0)
        residual = log_p.exp_()
        residual[self.rows, :, self.label] -= 1
        residual *= by_row[:, :, None]
        sums = residual.sum(dim=0)  # (P, K)
        slope = (self.x.T @ residual.view(-1, count * self.classes)).view(dim, count, self.classes).permute(1, 0, 2)
        slope = (slope - self.mean[:, :, None] * sums[:, None]) / self.scale[:, :, None]
        slope = slope + self.penalty[:, None, None] * point[:, :-1]
        loss = loss + self.penalty / 2 * point[:, :-1].square().sum(dim=(1, 2))
        return loss, torch.cat([slope, sums[:, None]], dim=1)

    def precondition(self, gradient: Tensor) -> Tensor:
        out = gradient * 2  # of the bias: its curvature is 1/2 at most
        for problems, curvature in self.curvatures:
            part = gradient[problems, :-1].permute(1, 0, 2)
            solved = curvature.undo(part.reshape(part.shape[0], -1))
            out[problems, :-1] = solved.view(part.shape).permute(1, 0, 2)
        return out


def _minimize(problems: _Problems, point: Tensor) -> tuple[Tensor, int]:
    loss, gradient = problems.at(point)
    moves: list[tuple[Tensor, Tensor, Tensor]] = []
    for step in range(MAX_STEPS):
        check_interrupted()
        direction = -_two_loop(problems, gradient, moves)
        slope = _dot(gradient, direction)
        active = -slope > TOLERANCE
        if not active.any():
            return point, step
        new, new_loss, new_gradient = _descend(problems, (point, loss, gradient), direction, slope, active)
        moved, bent = new - point, new_gradient - gradient
        curve = _dot(moved, bent)
        if not (curve > 0).any():
            return point, step
        moves = [*moves[1 - MEMORY :], (moved, bent, torch.where(curve > 0, 1 / curve.clamp(min=1e-30), 0.0))]
        point, loss, gradient = new, new_loss, new_gradient
    return point, MAX_STEPS


def _descend(
    problems: _Problems, now: tuple[Tensor, Tensor, Tensor], direction: Tensor, slope: Tensor, active: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Take a step downwards in each problem that is active; shorter ones where the whole does not go down enough."""
    point, loss, gradient = now
    length = active.float()
    for _ in range(_TRIES):
        new = point + length[:, None, None] * direction
        new_loss, new_gradient = problems.at(new)
        good = new_loss <= loss + _ARMIJO * length * slope + 1e-7
        if good.all():
            return new, new_loss, new_gradient
        length = torch.where(good, length, length * _SHRINK)
    keep = good[:, None, None]
    return torch.where(keep, new, point), torch.where(good, new_loss, loss), torch.where(keep, new_gradient, gradient)


def _two_loop(problems: _Problems, gradient: Tensor, moves: list[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """Product of the inverse curvature with a gradient (Nocedal and Wright, algorithm 7.4), for each problem."""
    rest, kept = gradient, []
    for moved, bent, inverse in reversed(moves):
        share = inverse * _dot(moved, rest)
        kept.append(share)
        rest = rest - share[:, None, None] * bent
    out = problems.precondition(rest)
    for (moved, bent, inverse), share in zip(moves, reversed(kept), strict=True):
        back = share - inverse * _dot(bent, out)
        out = out + back[:, None, None] * moved
    return out


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(dim=(1, 2))
