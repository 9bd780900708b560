# adjoint-certificate × torchdeq[ift] float64: what the residual of Λ̂ proves of ‖Λ̂ − Λ‖ is within the claimed accuracy.
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


x = torch.tensor(np.array([[0.35270164118335134, -0.613309320219414, 0.5363947493990024, -2.312185863647101], [0.47465427833551044, 1.599400594029333, 0.24760767196730965, -0.9798597808870153], [0.1602119609663568, 2.3416289781412565, -0.2688287571698438, 1.253344865565692], [-0.3015284944599524, 0.9309744787254197, -0.5381052667323751, 2.3342300227132893], [-0.4860450426496786, -1.3356136630217887, -0.31265027566074166, 1.2690348618315686]]), dtype=torch.float64, requires_grad=True)
A = torch.tensor(np.array([[-1.250936487767442, 4.518281464428902, -4.6431849037374295, 4.660448232741761], [-2.0768258543907776, -0.6718610183139744, -1.1969991066126686, 0.015644832209894148], [3.623436924653925, -0.18966500194093094, 0.061504299136446755, -1.0290933912199014], [0.4956277741452043, 1.8397111931624717, -2.1332999909017065, -0.6704135287709054]]), dtype=torch.float64, requires_grad=True)
gamma = torch.tensor(np.array(0.75), dtype=torch.float64, requires_grad=True)
z0 = torch.tensor(np.array([[0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]), dtype=torch.float64)
c = torch.tensor(np.array([[0.2670537338016004, 1.0823312925405657, -0.50227810974292, 1.0651110476348848], [1.3131717586210236, 0.9044817129242574, -1.2016558777117858, 0.7413557833588268], [0.20700450635980153, 0.7447054621883191, -1.6899398732222597, -0.5553875140831548], [1.782813521180949, 0.47055358300102784, -1.580641174677863, -0.5640865125518889], [-1.1992552859016505, -0.0284759483136206, 0.5679658726411636, 0.9918226973653862]]), dtype=torch.float64)  # the gradient of a loss in z

z, said = solve(f, z0, x, A, gamma)
found = torch.autograd.grad(z, (x, A, gamma), c, allow_unused=True)
seen = 0.0 if found[1] is None else float(found[1][2, 2])
print("the library says:", said)
print('expected, ∂⟨c, z⟩/∂A[2, 2]:', -4.452910015941136)
print("seen:", seen)
