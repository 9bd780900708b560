# status-forward × scipy[del2] float64: an equilibrium whose residual exceeds the claimed tolerance is reported as not converged.
# With scipy 1.17.1, numpy 2.4.6.
import numpy as np
from scipy.optimize import fixed_point


def solve(f, z0, x, *theta):
    return fixed_point(lambda z: f(z, x, *theta), z0, xtol=1e-08, method='del2'), "nothing"


def f(z, x, A, gamma):  # the cell linear-softmax
    E = np.exp(A - np.amax(A, 0))
    return z @ (gamma * E / E.sum(0)).T + x


x = np.array([[-3.7414441915671115e+50, 0.0], [3.7414441915671115e+50, 5.612166287350667e+50], [3.7414441915671115e+50, 0.0]])
A = np.array([[0.8155300385591543, 31.626281706250403], [28.520214078635934, -0.9826429234958832]])
gamma = np.array(0.9)
z0 = np.array([[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]])

z, said = solve(f, z0, x, A, gamma)
seen = float(z[1, 0])
print("the library says:", said)
print('expected, z[1, 0]:', 4.6275757106245057e+51)
print("seen:", seen)
