# second-order × deepinv float64: the derivative of the gradient is right, or is refused with an error.
# With deepinv 0.5.0, torch 2.14.1, numpy 2.4.6.
import numpy as np
import torch
from deepinv.optim import BaseOptim, DEQConfig
from deepinv.optim.optim_iterators import OptimIterator


def solve(f, z0, x, *theta):
    class Step(OptimIterator):
        def forward(self, X, *given, **more):
            return {"est": (f(X["est"][0], x, *theta),), "cost": None}

    model = BaseOptim(Step(has_cost=False), DEQ=DEQConfig(anderson_acceleration_backward=False, max_iter_backward=50), max_iter=100, thres_conv=1e-05, early_stop=True, trainable_params=[])
    return model(z0, None, init=(z0,)), {"has_converged": model.has_converged}


def f(z, x, A, gamma):  # the cell linear-softmax
    E = torch.exp(A - torch.amax(A, 0))
    return z @ (gamma * E / E.sum(0)).T + x


x = torch.tensor(np.array([[1.0]]), dtype=torch.float64, requires_grad=True)
A = torch.tensor(np.array([[0.0]]), dtype=torch.float64, requires_grad=True)
gamma = torch.tensor(np.array(0.5), dtype=torch.float64, requires_grad=True)
z0 = torch.tensor(np.array([[0.0]]), dtype=torch.float64)
c = torch.tensor(np.array([[1.0]]), dtype=torch.float64)  # the gradient of a loss in z
d = (torch.tensor(np.array([[1.0]]), dtype=torch.float64), torch.tensor(np.array([[1.0]]), dtype=torch.float64), torch.tensor(np.array(0.5), dtype=torch.float64),)  # a direction in x and the parameters

z, said = solve(f, z0, x, A, gamma)
first = torch.autograd.grad(z, (x, A, gamma), c, allow_unused=True, create_graph=True)
slope = sum((g * e).sum() for g, e in zip(first, d) if g is not None)
found = torch.autograd.grad(slope, (x, A, gamma), allow_unused=True)
seen = 0.0 if found[0] is None else float(found[0][0, 0])
print("the library says:", said)
print('expected, ∂⟨∂⟨c, z⟩, d⟩/∂x[0, 0]:', 2.0)
print("seen:", seen)
