# existence × xitorch[anderson] float64: what the residual of ẑ proves of ‖ẑ − z*‖ is within the claimed accuracy.
# With xitorch 0.5.1, torch 2.13.0+cpu, numpy 2.4.6.
import numpy as np
import torch
from xitorch.optimize import equilibrium


def solve(f, z0, x, *theta):
    return equilibrium(f, z0, (x, *theta), method='anderson_acc', feat_ndims=z0.ndim - 1), "nothing but its warnings"


def f(z, x, A, U):  # the cell linear
    return z @ A.T + x @ U.T


x = torch.tensor(np.array([[0.21843090383147432], [0.05105396136141305], [-1.1046984148331482]]), dtype=torch.float64)
A = torch.tensor(np.array([[0.0]]), dtype=torch.float64)
U = torch.tensor(np.array([[1.0]]), dtype=torch.float64)
z0 = torch.tensor(np.array([[0.0], [0.0], [0.0]]), dtype=torch.float64)

z, said = solve(f, z0, x, A, U)
seen = float(z[2, 0])
print("the library says:", said)
print('expected, z[2, 0]:', -1.1046984148331482)
print("seen:", seen)
