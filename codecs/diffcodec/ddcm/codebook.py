"""A codebook of K random atoms; a signed sum of M atoms is the noise of one step.

The sender sends the indices of the M atoms with the largest |<z_i, x0 - D>| and the signs of these
inner products (Vaisman et al. 2026, Sec. 3.2). The signed sum, scaled to unit standard deviation,
is the noise on both sides.

The atoms of level t are the rows of matrix number t of `diffcodec.coding.hadamard`, cut to the
length of the latent. Two fast transforms compute all inner products, and two more a sum of atoms,
which is exact in integers before its scaling.
"""

import math
from statistics import NormalDist

import torch
from torch import Tensor

from diffcodec.coding.bits import BitReader, BitWriter
from diffcodec.coding.bitstream import BitstreamError
from diffcodec.coding.combinations import num_bits, rank, unrank
from diffcodec.coding.hadamard import inner_products, random_signs, walsh_hadamard

_KEY = 0  # key of the shared randomness


class Codebook:
    """Sends a vector as M of K atoms and their signs.

    Atom i has the number 2 i with the sign +1, and 2 i + 1 with the sign -1.

    Args:
        size: K, a power of two, at least the length of the vectors.
        atoms: M, in 1 to K / 2.

    Raises:
        ValueError: M is out of range.
    """

    def __init__(self, size: int, atoms: int) -> None:
        if not 1 <= atoms <= size // 2:
            raise ValueError(f"the number of atoms must be in 1 to {size // 2}, got {atoms}")
        self.size, self.atoms = size, atoms
        self._rank_bits = num_bits(size, atoms)

    @property
    def num_bits(self) -> int:
        """The number of bits of a level, ceil(log2 C(K, M)) + M."""
        return self._rank_bits + self.atoms

    def useful_bits(self, length: int) -> float:
        """The KL divergence, in bits, that the sum of atoms corresponds to.

        It is the KL of a mu whose length equals the mean projection of the sum on mu. Each atom
        contributes the mean of the M largest of K absolute values of standard normal numbers.

        Args:
            length: length d of the vectors.
        """
        normal, share = NormalDist(), self.atoms / self.size
        mean = 2 * normal.pdf(normal.inv_cdf(1 - share / 2)) / share
        squared = self.atoms * mean**2
        return squared * length / (length + squared) / (2 * math.log(2))

    def encode(self, mu: Tensor, key: int) -> tuple[Tensor, Tensor]:
        """Choose the M atoms with the largest absolute inner products with mu.

        Args:
            mu: vector (1, d), float32 or float64.
            key: number of the level.

        Returns:
            The atoms' numbers, (M,) increasing, on the CPU, and the noise (1, d) with unit standard
            deviation.
        """
        signs = random_signs(_KEY, key, 1, self.size, mu.device)
        numbers = choose(inner_products(mu, *signs)[0], self.atoms)
        return numbers.cpu(), self._sum(numbers, mu.shape[1], *signs)

    def decode(self, indices: Tensor, length: int, key: int) -> Tensor:
        """The noise that `encode` returned, (1, length) float32."""
        signs = random_signs(_KEY, key, 1, self.size, indices.device)
        return self._sum(indices, length, *signs)

    def write(self, numbers: Tensor, writer: BitWriter) -> None:
        """Append the numbers of atoms: the rank of their set, then their signs."""
        writer.write(rank((numbers >> 1).tolist()), self._rank_bits)
        for sign in (numbers & 1).tolist():
            writer.write(sign, 1)

    def read(self, reader: BitReader) -> Tensor:
        """Inverse of `write`.

        Raises:
            EndOfBitsError: the bits end within the level.
            BitstreamError: the rank is out of range.
        """
        number = reader.read(self._rank_bits)
        if number >= math.comb(self.size, self.atoms):
            raise BitstreamError(f"no set of {self.atoms} of {self.size} atoms has that rank")
        chosen = torch.tensor(unrank(number, self.atoms, self.size))
        return 2 * chosen + torch.tensor([reader.read(1) for _ in range(self.atoms)])

    def _sum(self, numbers: Tensor, length: int, signs_1: Tensor, signs_2: Tensor) -> Tensor:
        # Integers until the scaling. float64, because autocast and fast float32 matrix products
        # would round them.
        coefficients = torch.zeros(1, self.size, dtype=torch.float64, device=numbers.device)
        coefficients[0, numbers >> 1] = 1 - 2 * (numbers & 1).double()
        whole = walsh_hadamard(signs_2.double() * walsh_hadamard(coefficients))
        exact = whole[:, :length] * signs_1[:, :length]
        # These sums are exact as well, so the standard deviation does not depend on their order.
        total, squares = float(exact.sum()), float(exact.square().sum())
        variance = (squares - total**2 / length) / max(1, length - 1)
        return (exact / math.sqrt(max(variance, 1.0))).float()  # variance 0: all values are equal


def choose(scores: Tensor, atoms: int) -> Tensor:
    """Inner products (K,) -> the numbers of the M largest by absolute value, (M,) increasing."""
    best = scores.abs().topk(atoms).indices.sort().values
    return 2 * best + (scores[best] < 0).long()
