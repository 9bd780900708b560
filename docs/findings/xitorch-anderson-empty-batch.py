# empty-batch × xitorch[anderson] float64: a batch of no data points gets an answer of shape (0, *state), and zero gradients.
# With xitorch 0.5.1, torch 2.13.0+cpu, numpy 2.4.6.
import numpy as np
import torch
from xitorch.optimize import equilibrium


def solve(f, z0, x, *theta):
    return equilibrium(f, z0, (x, *theta), method='anderson_acc', feat_ndims=z0.ndim - 1), "nothing but its warnings"


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
