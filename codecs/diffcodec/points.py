"""Operating points as data: what chooses the bytes, what the picture, and which line it is on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any, TypeVar

Setting = str | int | float | bool | None
"""One value of a setting; JSON has a type for each."""

T = TypeVar("T", str, int, float, bool)


@dataclass(frozen=True)
class Point:
    """One operating point of a codec, reachable without retraining.

    Settings go by the names of the constructor's arguments that choose them, so that a comparison
    knows which parts of a config are told apart by the points already.

    Attributes:
        name: unique within the codec; made of the settings, and never taken apart again.
        rate: settings that move along the curve and change the bytes, such as `level` or `lmbda`.
        encoding: settings of the encoder that change the bytes but make another line of a figure.
        decoding: settings of the decoder: another picture of the same bytes, on another line.
        series: which line of a figure it belongs to; "" where the codec has but one.
    """

    name: str
    rate: Mapping[str, Setting] = field(default_factory=dict, hash=False)
    encoding: Mapping[str, Setting] = field(default_factory=dict, hash=False)
    decoding: Mapping[str, Setting] = field(default_factory=dict, hash=False)
    series: str = ""

    @property
    def settings(self) -> dict[str, Setting]:
        """All settings by name."""
        return {**self.rate, **self.encoding, **self.decoding}

    def setting(self, name: str, kind: type[T], default: T | None = None) -> T:
        """The value of a setting, typed.

        Args:
            name: name of the setting.
            kind: its type; an integer is also a float.
            default: value if the point has no such setting.

        Raises:
            KeyError: the point has no such setting, and there is no default.
            TypeError: the value is of another type.
        """
        value = self.settings[name] if default is None else self.settings.get(name, default)
        if kind is float and isinstance(value, int):
            value = float(value)
        if not isinstance(value, kind):
            raise TypeError(f"{name} of {self.name!r} is {value!r}, not of type {kind.__name__}")
        return value

    @property
    def line(self) -> dict[str, Setting]:
        """The settings that tell lines of a figure apart: all but those of the rate."""
        return {**self.encoding, **self.decoding}

    def shares_bytes_with(self, other: "Point", *, progressive: bool = False) -> bool:
        """Whether an encoder writes the same streams at both points.

        Args:
            other: a point of the same codec.
            progressive: whether a point whose stream is a prefix of the other's counts as well.
        """
        return self.encoding == other.encoding and (progressive or self.rate == other.rate)

    def to_json(self) -> dict[str, Any]:
        """The point as `curve.json` holds it."""
        return {
            "name": self.name,
            "rate": dict(self.rate),
            "encoding": dict(self.encoding),
            "decoding": dict(self.decoding),
            "series": self.series,
        }

    @classmethod
    def from_json(cls, data: Any) -> "Point":
        """Inverse of `to_json`; a bare name, as older files have it, is a point without settings.

        Raises:
            ValueError: the data are neither.
        """
        if isinstance(data, str):
            return cls(data)
        if not isinstance(data, Mapping) or not isinstance(data.get("name"), str):
            raise ValueError(f"{data!r} is not an operating point: it has no name")
        groups = {key: data.get(key) or {} for key in ("rate", "encoding", "decoding")}
        for key, group in groups.items():
            if not isinstance(group, Mapping):
                raise ValueError(f"{key} of operating point {data['name']!r} is not a mapping")
            odd = [name for name, value in group.items() if not isinstance(value, _SCALARS)]
            if odd:
                raise ValueError(
                    f"{odd[0]} of operating point {data['name']!r} is not a single value"
                )
        return cls(data["name"], series=str(data.get("series") or ""), **groups)


CEILING = Point("ceiling", series="ceiling")
"""The best picture that a codec could give at any rate; no stream makes it."""


def combine(
    *,
    rate: Mapping[str, Any] | None = None,
    encoding: Mapping[str, Any] | None = None,
    decoding: Mapping[str, Any] | None = None,
) -> tuple[Point, ...]:
    """The operating points that settings make: a list of values makes one point for each.

    Several lists make all combinations, the rate's first. A point is named by its rate and by those
    other settings of which a list was given, as in `level=3,gamma=0.8`; a codec without any has the
    one point `default`. The series is that name without the rate.

    Args:
        rate, encoding, decoding: as of `Point`, each value alone or in a list.

    Raises:
        ValueError: a list is empty, or two points would be the same.
    """
    groups = [dict(group or {}) for group in (rate, encoding, decoding)]
    values = [{key: listed(value) for key, value in group.items()} for group in groups]
    for key, choices in (item for group in values for item in group.items()):
        if not choices:
            raise ValueError(f"{key} is an empty list: a codec needs at least one operating point")
    several = {
        key for group in groups for key, value in group.items() if not isinstance(value, _SCALARS)
    }
    points = []
    for combination in product(*(choices for group in values for choices in group.values())):
        remaining = iter(combination)
        chosen = [{key: next(remaining) for key in group} for group in values]
        line = {**chosen[1], **chosen[2]}
        series = ",".join(f"{key}={shown(line[key])}" for key in line if key in several)
        along = ",".join(f"{key}={shown(value)}" for key, value in chosen[0].items())
        name = ",".join(filter(None, (along, series))) or "default"
        points.append(Point(name, chosen[0], chosen[1], chosen[2], series))
    names = [point.name for point in points]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"operating points have duplicate names: {', '.join(twice)}")
    return name_lines(points)


def name_lines(points: Sequence[Point]) -> tuple[Point, ...]:
    """The points; if all are of one series, it needs no name and has none."""
    if len({point.series for point in points}) > 1:
        return tuple(points)
    return tuple(replace(point, series="") for point in points)


def listed(value: Any) -> list[Any]:
    """One value of a setting or several -> a list of them."""
    return [value] if isinstance(value, _SCALARS) else list(value)


def shown(value: Setting) -> str:
    """A value as it is typed on a command line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def group_by_bytes(
    points: Sequence[Point], *, progressive: bool = False
) -> list[tuple[Point, ...]]:
    """Points in groups that are encoded once, in the order of their first members.

    Args:
        points: of a codec.
        progressive: whether streams of a lower rate begin those of a higher one, so that points
            that differ only in their rate are also encoded once.
    """
    groups: list[list[Point]] = []
    for point in points:
        for group in groups:
            if group[0].shares_bytes_with(point, progressive=progressive):
                group.append(point)
                break
        else:
            groups.append([point])
    return [tuple(group) for group in groups]


def find_points(points: Sequence[Point], wanted: object) -> tuple[Point, ...]:
    """All points (None), or the one of a name or of a rate, as in `level=3` or `3`.

    Raises:
        ValueError: none or several points match; the message lists the names.
    """
    if wanted is None:
        return tuple(points)
    text = str(wanted)
    exact = [point for point in points if point.name == text]
    by_rate = [point for point in points if text in {shown(v) for v in point.rate.values()}]
    found = exact or by_rate
    if len(found) != 1:
        names = ", ".join(point.name for point in points)
        raise ValueError(
            f"{'several operating points match' if found else 'unknown operating point'} {text!r}, "
            f"choose from {names}"
        )
    return (found[0],)


_SCALARS = (str, int, float, bool, type(None))
