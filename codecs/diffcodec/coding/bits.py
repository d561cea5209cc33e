"""Reading and writing of integers with any number of bits."""


class EndOfBitsError(Exception):
    """The data ends before the next number, for example because the stream was cut."""


class BitWriter:
    """Writes integers, each with a given number of bits, most significant bit first."""

    def __init__(self) -> None:
        self.num_bits = 0
        self._bytes = bytearray()
        self._open = 0  # the bits after the last complete byte

    def write(self, value: int, width: int) -> None:
        """Append a number in [0, 2^width)."""
        have = self.num_bits % 8 + width
        open_bits = self._open << width | value
        whole, rest = divmod(have, 8)
        self._bytes += (open_bits >> rest).to_bytes(whole, "big")
        self._open = open_bits & ((1 << rest) - 1)
        self.num_bits += width

    def to_bytes(self) -> bytes:
        """All bits, padded with zeros to a whole byte."""
        rest = self.num_bits % 8
        return bytes(self._bytes) + (bytes([self._open << (8 - rest)]) if rest else b"")


class BitReader:
    """Inverse of `BitWriter`."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    @property
    def num_read(self) -> int:
        """The number of bits read so far."""
        return self._position

    @property
    def num_left(self) -> int:
        """The number of bits left."""
        return 8 * len(self._data) - self._position

    def read(self, width: int) -> int:
        """Read the next number.

        Raises:
            EndOfBitsError: fewer than `width` bits are left.
        """
        end = self._position + width
        if end > 8 * len(self._data):
            raise EndOfBitsError
        last = -(-end // 8)
        number = int.from_bytes(self._data[self._position // 8 : last], "big")
        self._position = end
        return number >> (8 * last - end) & ((1 << width) - 1)
