"""Distributions and torch's checked functions inside losses: the numbers of a plain loop over tasks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.distributions as D
import torch.nn.functional as F
from torch import Tensor

from scimeta import Task, maml
from scimeta.core.batchable import batchable, gaussian_nll_loss, one_hot
from scimeta.core.door import check_batch
from scimeta.core.recording import execution

TASKS, POINTS, LR = 2, 5, 0.1
W = torch.tensor([0.3, -0.2, 0.4], dtype=torch.float64)


def positive(z: Tensor) -> Tensor:
    return F.softplus(z) + 0.3


def covariance(z: Tensor) -> Tensor:
    """(..., 2) -> (..., 2, 2), positive definite."""
    return z[..., :, None] * z[..., None, :] + torch.eye(2, dtype=z.dtype)


def filled(z: Tensor, y: Tensor) -> Tensor:
    """Return z, zero where y is large, by an assignment to a boolean mask; rows of a matrix are zeroed as well."""
    one, rows = z * 1.0, torch.stack([z, z * z], -1)
    one[y > 0.5] = 0.0
    rows[y > 0.5] = 0.0
    return one + rows.sum(-1)


# Features (points, 3) of a task times w -> z (points,); y (points,) is what was measured, between 0 and 1.
DISTRIBUTIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Bernoulli": lambda z, y: D.Bernoulli(logits=z).log_prob((y > 0.5).double()),
    "Beta": lambda z, y: D.Beta(positive(z), positive(-z)).log_prob(y),
    "Binomial": lambda z, y: D.Binomial(4, logits=z).log_prob((4 * y).round()),
    "Categorical": lambda z, y: D.Categorical(logits=torch.stack([z, -z, 0 * z], -1)).log_prob((2 * y).round().long()),
    "Cauchy": lambda z, y: D.Cauchy(z, 1.5).log_prob(y),
    "Chi2": lambda z, y: D.Chi2(positive(z)).log_prob(y),
    "ContinuousBernoulli": lambda z, y: D.ContinuousBernoulli(logits=z).log_prob(y),
    "Dirichlet": lambda z, y: D.Dirichlet(torch.stack([positive(z), positive(-z)], -1)).log_prob(
        torch.stack([y, 1 - y], -1)
    ),
    "Exponential": lambda z, y: D.Exponential(positive(z)).log_prob(y),
    "Gamma": lambda z, y: D.Gamma(positive(z), positive(-z)).log_prob(y),
    "Geometric": lambda z, y: D.Geometric(logits=z).log_prob((4 * y).round()),
    "Gumbel": lambda z, y: D.Gumbel(z, 1.5).log_prob(y),
    "HalfNormal": lambda z, y: D.HalfNormal(positive(z)).log_prob(y),
    "Independent": lambda z, y: D.Independent(D.Normal(z, 1.0), 1).log_prob(y),
    "Kumaraswamy": lambda z, y: D.Kumaraswamy(positive(z), positive(-z)).log_prob(y),
    "Laplace": lambda z, y: D.Laplace(z + 2.0, 1.0).log_prob(y),
    "LogNormal": lambda z, y: D.LogNormal(z, 0.5).log_prob(y),
    "MixtureSameFamily": lambda z, y: D.MixtureSameFamily(
        D.Categorical(logits=torch.stack([z, -z], -1)), D.Normal(torch.stack([z, z + 1.0], -1), 0.5)
    ).log_prob(y),
    "Multinomial": lambda z, y: D.Multinomial(3, logits=torch.stack([z, -z, 0 * z], -1)).log_prob(
        torch.stack([(y > 0.5).double(), (y <= 0.5).double(), 2 + 0 * y], -1)
    ),
    "MultivariateNormal": lambda z, y: D.MultivariateNormal(
        torch.stack([z, -z], -1), covariance(torch.stack([z, 1 - z], -1))
    ).log_prob(torch.stack([y, 1 - y], -1)),
    "NegativeBinomial": lambda z, y: D.NegativeBinomial(positive(z), logits=-z).log_prob((4 * y).round()),
    "Normal": lambda z, y: D.Normal(z, positive(-z)).log_prob(y),
    "Pareto": lambda z, y: D.Pareto(0.01, positive(z)).log_prob(y),
    "Poisson": lambda z, y: D.Poisson(positive(z)).log_prob((4 * y).round()),
    "StudentT": lambda z, y: D.StudentT(4.0, z, positive(-z)).log_prob(y),
    "TransformedDistribution": lambda z, y: D.TransformedDistribution(
        D.Normal(z, 1.0), [D.transforms.SigmoidTransform()]
    ).log_prob(y),
    "VonMises": lambda z, y: D.VonMises(z, positive(z)).log_prob(y),
    "Weibull": lambda z, y: D.Weibull(positive(z), positive(-z)).log_prob(y),
    "kl of normals": lambda z, y: -D.kl_divergence(D.Normal(z, positive(z)), D.Normal(y, 1.0)),
    "entropy": lambda z, y: D.Categorical(logits=torch.stack([z, -z, y], -1)).entropy(),
    "gaussian_nll_loss": lambda z, y: -F.gaussian_nll_loss(z, y, positive(-z), reduction="none"),
    "gaussian_nll_loss, one number": lambda z, y: -F.gaussian_nll_loss(z, y, 0.5, full=True, reduction="none"),
    "a mask that is filled in": lambda z, y: filled(z, y),
    "one_hot": lambda z, y: (F.one_hot((2 * y).round().long(), 3) * torch.stack([z, -z, z * z], -1)).sum(-1),
}


def tasks() -> Task:
    """Return two tasks, features and measurements."""
    draw = torch.Generator().manual_seed(0)
    X = torch.randn(2, TASKS, POINTS, 3, generator=draw).double()
    y = 0.1 + 0.8 * torch.rand(2, TASKS, POINTS, generator=draw).double()
    return Task((X[0], y[0]), (X[1], y[1]))


def plain(loss: Callable, batch: Task) -> Tensor:
    """Return the meta-gradient by a loop over tasks, with torch's own functions and their checks."""
    w, total = W.clone().requires_grad_(), torch.zeros((), dtype=torch.float64)
    for i in range(TASKS):
        support, query = ([part[i] for part in half] for half in batch)
        (g,) = torch.autograd.grad(loss({"w": w}, support), w, create_graph=True)
        total = total + loss({"w": w - LR * g}, query)
    return torch.autograd.grad(total / TASKS, w)[0]


@pytest.mark.parametrize("mode", ["recorded", "eager"])
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_the_meta_gradient_is_that_of_a_plain_loop(name: str, mode: str):
    def loss(p: dict[str, Tensor], d: tuple[Tensor, Tensor]) -> Tensor:
        return -DISTRIBUTIONS[name](d[0] @ p["w"], d[1]).mean()

    batch = tasks()
    learner = maml(loss, {"w": W}, lr=LR)
    check_batch(learner, batch)
    with execution(mode):
        gradient = learner.meta_gradient(learner.meta, batch, 0)[1].init["w"]
    torch.testing.assert_close(gradient, plain(loss, batch), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("shape", [(4, 3), (4,), (4, 1)])
def test_the_gaussian_likelihood_is_torchs(shape: tuple[int, ...], full: bool, reduction: str):
    draw = torch.Generator().manual_seed(1)
    mean, y = torch.randn(2, 4, 3, generator=draw)
    var = torch.rand(shape, generator=draw)
    var.view(-1)[0] = 0.0  # below the least, where the gradient goes through
    found, wanted = [], []
    for function, result in ((gaussian_nll_loss, found), (F.gaussian_nll_loss, wanted)):
        leaves = [mean.clone().requires_grad_(), var.clone().requires_grad_()]
        value = function(leaves[0], y, leaves[1], full=full, reduction=reduction, eps=1e-2)
        result += [value, *torch.autograd.grad(value.sum(), leaves)]
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("var, reduction", [(torch.ones(2), "mean"), (torch.ones(4, 3), "max"), (-1.0, "mean")])
def test_the_gaussian_likelihood_refuses_what_torch_refuses(var: Tensor | float, reduction: str):
    mean = torch.zeros(4, 3)
    for function in (gaussian_nll_loss, F.gaussian_nll_loss):
        with pytest.raises(ValueError):
            function(mean, mean, var, reduction=reduction)


def test_one_hot_is_torchs_and_asks_for_the_number_of_classes():
    labels = torch.tensor([[0, 2], [1, 1]])
    torch.testing.assert_close(one_hot(labels, 4), F.one_hot(labels, 4))
    with pytest.raises(ValueError, match=r"pass it: one_hot\(labels, classes\)"):
        one_hot(labels)


def test_a_label_that_is_no_class_is_refused_at_the_door():
    def loss(p: dict[str, Tensor], d: tuple[Tensor, Tensor]) -> Tensor:
        return (F.one_hot((5 * d[1]).long(), 3)[:, 0] * (d[0] @ p["w"])).mean()

    with pytest.raises(ValueError, match="labels are 0 to 2; got 1 to 3"):
        check_batch(maml(loss, {"w": W}, lr=LR), tasks())


def test_the_checks_of_distributions_are_as_they_were_afterwards():
    with pytest.raises(RuntimeError, match="stop"), batchable():
        D.Normal(0.0, -1.0)
        raise RuntimeError("stop")
    with pytest.raises(ValueError, match="scale"):
        D.Normal(0.0, -1.0)


def test_a_distribution_that_insists_on_its_checks_is_refused_in_words():
    def loss(p: dict[str, Tensor], d: tuple[Tensor, Tensor]) -> Tensor:
        return -D.Normal(d[0] @ p["w"], 1.0, validate_args=True).log_prob(d[1]).mean()

    with pytest.raises(ValueError, match="leave validate_args=True out of distributions"):
        check_batch(maml(loss, {"w": W}, lr=LR), tasks())


def test_picking_by_a_mask_is_refused_with_what_to_write_instead():
    def loss(p: dict[str, Tensor], d: tuple[Tensor, Tensor]) -> Tensor:
        return (d[0] @ p["w"])[d[1] > 0.5].square().mean()

    with pytest.raises(ValueError, match=r"picks another number of values in every task; .*torch\.where"):
        check_batch(maml(loss, {"w": W}, lr=LR), tasks())
