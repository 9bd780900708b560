# second-order × torchopt float64: the derivative of the gradient is right, or is refused with an error.
# With torchopt 0.7.3, torch 2.13.0+cpu, numpy 2.4.6.
import numpy as np
import torch
from torchopt.diff.implicit import custom_root
from torchopt.linear_solve import solve_normal_cg


def solve(f, z0, x, *theta):
    argnums = tuple(range(1, len(theta) + 2))

    @custom_root(lambda z, *given: f(z, *given) - z, argnums=argnums, solve=solve_normal_cg(rtol=1e-05))
    def picard(z, *given):
        for _ in range(2000):
            image = f(z, *given)
            if not (image - z).norm() > 1e-05 * image.norm():
                return z
            z = image
        return z

    return picard(z0, x, *theta), "nothing"


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
seen = 0.0 if found[2] is None else float(found[2])
print("the library says:", said)
print('expected, ∂⟨∂⟨c, z⟩, d⟩/∂gamma:', 12.0)
print("seen:", seen)
