"""Uncertainty of the graph of sampled responses (Lin et al. 2023, sections 4.1 and 4.2).

The m samples are nodes; W, of shape (m, m), are their similarities, made symmetric by the mean of both directions; D is
the diagonal of W's row sums, and L = I - D^-1/2 W D^-1/2. Where all say the same, each confidence is 1.

    degree_matrix   1 - U_Deg, U_Deg = trace(m I - D) / m^2: the mean of W
    eigenvalues     1 / U_EigV, U_EigV = sum over the eigenvalues of L of max(0, 1 - eigenvalue), in [1, m]: a
                    continuous number of semantic sets
    eccentricity    exp(-U_Ecc), U_Ecc the Euclidean norm of all the samples' offsets from their mean in the space of
                    the eigenvectors of L whose eigenvalues are below 0.9

All three speak of the samples, and so of the question. Their confidence of one response by its degree, C_Deg, is
`self_consistency` with `estimator=degree`; that by its eccentricity is left out.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from conrad_bench.methods.base import Judge
from conrad_bench.methods.sampling.base import Array, Compared, Drawn, similarities

BELOW = 0.9
"""Eigenvectors with eigenvalues below this are the axes of the eccentricity (Lin et al.'s choice)."""
_DIGITS = 9
"""Decimals of eigenvalues and norms: what is equal must not differ by the noise of floats, which would break ties."""


class Graph(Compared):
    """A method of the similarity graph: implement `_of_graph`, and nothing else."""

    @abstractmethod
    def _of_graph(self, weights: Array) -> float:
        """Return the confidence from symmetric similarities of shape (m, m), 1 on the diagonal."""

    def _confidences(self, drawn: Sequence[Drawn], judge: Judge) -> list[float]:
        matrices = similarities(drawn, self.similarity, judge, self.entailment)
        return [min(1.0, self._of_graph((matrix + matrix.T) / 2)) for matrix in matrices]


class DegreeMatrix(Graph):
    """How similar the samples are to each other, on the average."""

    name: ClassVar[str] = "degree_matrix"
    summary: ClassVar[str] = "mean similarity of sampled responses to each other (1 - U_Deg)"
    source: ClassVar[str] = "Lin et al. 2023 (Generating with Confidence), section 4.2, U_Deg"

    def _of_graph(self, weights: Array) -> float:
        return float(weights.mean())


class Eigenvalues(Graph):
    """A continuous number of different meanings."""

    name: ClassVar[str] = "eigenvalues"
    summary: ClassVar[str] = "1 / sum of the graph Laplacian's eigenvalues below 1, each less than 1 (1 / U_EigV)"
    source: ClassVar[str] = "Lin et al. 2023 (Generating with Confidence), section 4.2, U_EigV"

    def _of_graph(self, weights: Array) -> float:
        values, _ = laplacian(weights)
        return float(1 / np.round(np.maximum(1 - values, 0).sum(), _DIGITS))


class Eccentricity(Graph):
    """How far the samples lie from their centre, in the space of the graph."""

    name: ClassVar[str] = "eccentricity"
    summary: ClassVar[str] = "exp(-distance) of sampled responses from their centre in the graph's space (U_Ecc)"
    source: ClassVar[str] = "Lin et al. 2023 (Generating with Confidence), section 4.2, U_Ecc"

    def _of_graph(self, weights: Array) -> float:
        values, vectors = laplacian(weights)
        axes = vectors[:, np.round(values, _DIGITS) < BELOW]
        return float(np.exp(-np.round(np.linalg.norm(axes - axes.mean(axis=0)), _DIGITS)))


def laplacian(weights: Array) -> tuple[Array, Array]:
    """Return eigenvalues (m,), ascending, and eigenvectors (m, m), in columns, of the normalised graph Laplacian."""
    scale = 1 / np.sqrt(weights.sum(axis=1))
    values, vectors = np.linalg.eigh(np.eye(len(weights)) - scale[:, None] * weights * scale)
    return values, vectors
