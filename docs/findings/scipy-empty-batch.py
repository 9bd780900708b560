# empty-batch × scipy float64: a batch of no data points gets an answer of shape (0, *state), and zero gradients.
# With scipy 1.17.1, numpy 2.4.6.
import numpy as np
from scipy.optimize import root


def solve(f, z0, x, *theta):
    answer = root(lambda z: f(z, x, *theta) - z, z0, method='anderson', options={'fatol': 6e-06})
    return answer.x, answer.message


def f(z, x, A, gamma):  # the cell linear-softmax
    E = np.exp(A - np.amax(A, 0))
    return z @ (gamma * E / E.sum(0)).T + x


x = np.zeros((0, 1))
A = np.array([[0.0]])
gamma = np.array(0.5)
z0 = np.zeros((0, 1))

try:
    z, said = solve(f, z0, x, A, gamma)
    seen = tuple(z.shape)
except Exception as error:
    seen = f"{type(error).__name__}: {error}"
print('expected, the shape of z:', (0, 1))
print("seen:", seen)
