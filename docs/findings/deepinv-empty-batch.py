# empty-batch × deepinv float64: a batch of no data points gets an answer of shape (0, *state), and zero gradients.
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


x = torch.tensor(np.zeros((0, 1)), dtype=torch.float64)
A = torch.tensor(np.array([[0.0]]), dtype=torch.float64)
gamma = torch.tensor(np.array(0.5), dtype=torch.float64)
z0 = torch.tensor(np.zeros((0, 1)), dtype=torch.float64)

try:
    z, said = solve(f, z0, x, A, gamma)
    seen = tuple(z.shape)
except Exception as error:
    seen = f"{type(error).__name__}: {error}"
print('expected, the shape of z:', (0, 1))
print("seen:", seen)
