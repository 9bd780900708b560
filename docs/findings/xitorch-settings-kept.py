# settings-kept × xitorch float64: global settings and random states are as before after any list of operations.
# With xitorch 0.5.1, torch 2.13.0+cpu, numpy 2.4.6.
import numpy as np
import torch
from xitorch.optimize import equilibrium


def solve(f, z0, x, *theta):
    return equilibrium(f, z0, (x, *theta), feat_ndims=z0.ndim - 1), "nothing but its warnings"


def f(z, x, A, gamma):  # the cell linear-softmax
    E = torch.exp(A - torch.amax(A, 0))
    return z @ (gamma * E / E.sum(0)).T + x


x = torch.tensor(np.array([[0.0004198359809834601, 0.00034698120538007775, 0.00038701890806817224, 0.00020183538676885886, 1.4160362524965073e-05, 0.0004022021742015784]]), dtype=torch.float64, requires_grad=True)
A = torch.tensor(np.array([[0.32150992475778584, 0.7643826632824864, 0.32306910951699913, 0.5468113777652077, -0.21560337847025157, 19.728375980557217], [19.39979422943156, 1.6407485111157083, 1.2727200344751646, 1.1949399222696337, 0.7634278204534288, -0.8701215374998782], [0.21776948412939606, 18.517090480939498, 0.6624757097148264, -0.12910055639287105, 1.5137472043649154, -1.0929424610119238], [0.4401372892539056, -0.7310373688565842, 20.670517740596253, -0.31159287638579175, -1.5025847211727625, 0.5731322488017899], [1.790220263645151, -0.1737013387015387, -0.18401542712114013, 20.101629868317186, 0.980906322774479, -0.5451827528253506], [-2.503130266470109, 1.6053180190690162, -0.7898618186113241, -1.226944282006525, 19.500299801831055, 1.342536795120542]]), dtype=torch.float64, requires_grad=True)
gamma = torch.tensor(np.array(0.5), dtype=torch.float64, requires_grad=True)
z0 = torch.tensor(np.array([[0.0, 0.0, 0.0, 0.0, 0.0, 0.0]]), dtype=torch.float64)
c = torch.tensor(np.array([[1.0, 1.0, 1.0, 1.0, 1.0, 1.0]]), dtype=torch.float64)  # the gradient of a loss in z

before = torch.get_rng_state()
z, said = solve(f, z0, x, A, gamma)
torch.autograd.grad(z, (x, A, gamma), c, allow_unused=True)
seen = bool((before == torch.get_rng_state()).all())
print("the library says:", said)
print('expected, the global random state is as before:', True)
print("seen:", seen)
