# status-nan × scipy float64: a batch with NaN features is never reported as converged.
# With scipy 1.17.1, numpy 2.4.6.
import numpy as np
from scipy.optimize import root


def solve(f, z0, x, *theta):
    answer = root(lambda z: f(z, x, *theta) - z, z0, method='anderson', options={'fatol': 6e-06})
    return answer.x, answer.message


def f(z, x, A, gamma):  # the cell linear-softmax
    E = np.exp(A - np.amax(A, 0))
    return z @ (gamma * E / E.sum(0)).T + x


x = np.array([[np.nan]])
A = np.array([[0.0]])
gamma = np.array(0.5)
z0 = np.array([[0.0]])

try:
    z, said = solve(f, z0, x, A, gamma)
    seen = float(z[0, 0])
except Exception as error:
    seen = f"{type(error).__name__}: {error}"
print('expected, z of the features that are NaN:', 'nan')
print("seen:", seen)
