# empty-batch × torchopt[inv,tight] float64: a batch of no data points gets an answer of shape (0, *state), and zero gradients.
# With torchopt 0.7.3, torch 2.13.0+cpu, numpy 2.4.6.
import numpy as np
import torch
from torchopt.diff.implicit import custom_root
from torchopt.linear_solve import solve_inv


def solve(f, z0, x, *theta):
    argnums = tuple(range(1, len(theta) + 2))

    @custom_root(lambda z, *given: f(z, *given) - z, argnums=argnums, solve=solve_inv())
    def picard(z, *given):
        for _ in range(5000):
            image = f(z, *given)
            if not (image - z).norm() > 1e-12 * image.norm():
                return z
            z = image
        return z

    return picard(z0, x, *theta), "nothing"


def f(z, x, A, gamma):  # the cell linear-softmax
    E = torch.exp(A - torch.amax(A, 0))
    return z @ (gamma * E / E.sum(0)).T + x


x = torch.tensor(np.zeros((0, 1)), dtype=torch.float64, requires_grad=True)
A = torch.tensor(np.array([[0.0]]), dtype=torch.float64, requires_grad=True)
gamma = torch.tensor(np.array(0.5), dtype=torch.float64, requires_grad=True)
z0 = torch.tensor(np.zeros((0, 1)), dtype=torch.float64)
c = torch.tensor(np.zeros((0, 1)), dtype=torch.float64)  # the gradient of a loss in z

try:
    z, said = solve(f, z0, x, A, gamma)
    found = torch.autograd.grad(z, (x, A, gamma), c, allow_unused=True)
    seen = 0.0 if found[1] is None else tuple(found[1].shape)
except Exception as error:
    seen = f"{type(error).__name__}: {error}"
print('expected, ∂⟨c, z⟩/∂A[0, 0]:', 0.0)
print("seen:", seen)
