# existence × scipy[claim=relative] float64: what the residual of ẑ proves of ‖ẑ − z*‖ is within the claimed accuracy.
# With scipy 1.17.1, numpy 2.4.6.
import numpy as np
from scipy.optimize import root


def solve(f, z0, x, *theta):
    answer = root(lambda z: f(z, x, *theta) - z, z0, method='anderson', options={'fatol': 6e-06})
    return answer.x, answer.message


def f(z, x, A, gamma):  # the cell linear-softmax
    E = np.exp(A - np.amax(A, 0))
    return z @ (gamma * E / E.sum(0)).T + x


x = np.array([[0.0009765625]])
A = np.array([[0.0]])
gamma = np.array(0.5)
z0 = np.array([[0.0]])

z, said = solve(f, z0, x, A, gamma)
seen = float(z[0, 0])
print("the library says:", said)
print('expected, z[0, 0]:', 0.001953125)
print("seen:", seen)
