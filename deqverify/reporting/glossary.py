"""The symbols that laws are stated in, one line each (theory: notation)."""

from __future__ import annotations

import re

GLOSSARY: dict[str, str] = {
    "S": "softmax of every column of the weights A, (m, m): S > 0, 1ᵀS = 1ᵀ (theory: notation)",
    "U": "I − γS, (m, m), γ in (0, 1) (theory: notation)",
    "z*": "the equilibrium of one data point, the fixed point of f(z) = γSz + φ (theory: contraction)",
    "ẑ": "an implementation's answer for z*",
    "Z": "the equilibria U⁻¹Φ, (m, n), one data point a column as in the features Φ (theory: contraction)",
    "F": "outputs BZ, (p, n), B (p, m) the readout (theory: notation)",
    "dF": "∂L/∂F, (p, n) (theory: notation)",
    "L": "the objective, a sum over data points and no mean (theory: notation)",
    "L*": "the infimum of L (theory: notation)",
    "Λ": "the adjoint U⁻ᵀc, (m, n), which solves λ = γSᵀλ + c for a cotangent c (theory: adjoint)",
    "M": "γΛZᵀ, (m, m) (theory: gradient)",
    "W": "the shallow model BU⁻¹, (p, m), of the same outputs WΦ; g = vec ∇L₀(W) (theory: notation)",
    "L₀": "the objective as a function of W alone, convex (theory: notation)",
    "J_k": "diag(S_:k) − S_:k S_:kᵀ, (m, m), the softmax's Jacobian at column k (theory: notation)",
    "D": "(U⁻ᵀ⊗I)(I + γ² blkdiag_k(W J_k² Wᵀ))(U⁻¹⊗I), (pm, pm): along gradient flow vec Ẇ = −Dg (theory: flow)",
    "H": "∇²L₀(W), (pm, pm) (theory: trust-region)",
    "𝒢": "D⁻¹ − δH, (pm, pm), the trust region's metric, δ > 0 small enough for it to be one (theory: trust-region)",
    "κ": "a constant with ½‖∇L₀‖² ≥ κ(L₀ − L*) (theory: constants)",
    "λ̲": "1/(m(1+γ)²), a lower bound on the eigenvalues of D (theory: floor)",
    "τ": "Dobrushin's ½ max_{i,j} ‖S_:i − S_:j‖₁; what has zero mass contracts at γτ (theory: zero-mass)",
}
"""Definitions by symbol, in the order in which they build on each other."""


def symbols(text: str) -> dict[str, str]:
    """The entries of GLOSSARY that ``text`` needs: its own symbols, and those of their definitions."""
    found: set[str] = set()
    while new := {symbol for symbol in GLOSSARY if symbol not in found and _stands_in(symbol, text)}:
        found |= new
        text = " ".join(GLOSSARY[symbol] for symbol in new)
    return {symbol: meaning for symbol, meaning in GLOSSARY.items() if symbol in found}


def _stands_in(symbol: str, text: str) -> bool:
    """Alone or in a product such as ``BU⁻¹`` or ``Dg``; not in a word (Solve, BLAS, L-BFGS) nor in ``D²⟨c, z*⟩``."""
    before, after = "(?<![a-z])(?<![A-Z]{2})", "(?![a-fh-z*₀]|[A-Z]{2}|-[A-Z]|²⟨)"
    return bool(re.search(before + re.escape(symbol) + after, text))


def linked(text: str, page: str) -> str:
    """``text`` with every reference such as ``theory: mass`` a Markdown link to ``page``."""
    return re.sub(r"\btheory: ([a-z][a-z-]*[a-z])", rf"theory: [\1]({page}#\1)", text)
