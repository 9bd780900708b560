# second-order × torchdeq[ift] float64: the derivative of the gradient is right, or is refused with an error.
# With torchdeq 0.1.0, torch 2.13.0+cpu, numpy 2.4.6.
import numpy as np
import torch
from torchdeq import get_deq

deq = get_deq(ift=True, hook_ift=False, f_tol=0.001, b_tol=1e-06, f_solver='fixed_point_iter', f_stop_mode='abs', f_max_iter=40, b_solver='fixed_point_iter', b_stop_mode='abs', b_max_iter=40).train()


def solve(f, z0, x, *theta):
    states, info = deq(lambda z: f(z, x, *theta), z0)
    return states[-1], {'abs_lowest': info['abs_lowest'].tolist()}


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
