# pickles × torchdeq float64: an implementation that went through pickle answers as the original.
# With torchdeq 0.1.0, torch 2.13.0+cpu, numpy 2.4.6.
import numpy as np
import torch
from torchdeq import get_deq

deq = get_deq(ift=False, hook_ift=False, f_tol=0.001, b_tol=1e-06, f_solver='fixed_point_iter', f_stop_mode='abs', f_max_iter=40, b_solver='fixed_point_iter', b_stop_mode='abs', b_max_iter=40).train()


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

try:
    import pickle
    
    z, said = solve(f, z0, x, A, gamma)
    seen = type(pickle.dumps(deq)).__name__
except Exception as error:
    seen = f"{type(error).__name__}: {error}"
print('expected, the type of its pickle:', 'bytes')
print("seen:", seen)
