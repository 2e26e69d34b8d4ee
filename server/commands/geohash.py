"""Places on the earth as numbers: the geohashes of GEOADD, distances, and the cells to search for what is near.

Longitude and latitude are cut in half 26 times each, and the 52 halves, in turn, make one integer: the score of a
member of a sorted set. Places in one cell of a coarser grid have scores in one range, so what is near a place lies in
the ranges of its cell and of the eight around it, in a grid whose cells are as large as the search.

The constants, the order of the cells and of every operation on doubles are Redis's, so that scores, distances and the
order of results without a wish for one are, too.
"""

from __future__ import annotations

from math import asin, cos, inf, isfinite, pi, sin, sqrt
from typing import Final

# The latitudes of the Mercator projection.
LATITUDE_MOST: Final = 85.05112878
LONGITUDE_MOST: Final = 180.0
STEPS: Final = 26
_EARTH_RADIUS_M: Final = 6372797.560856
# Half the way around the earth in that projection.
_MERCATOR_MOST: Final = 20037726.37
_RADIANS: Final = pi / 180.0
_ALPHABET: Final = b"0123456789bcdefghjkmnpqrstuvwxyz"

Area = tuple[float, float, float, float]


# -- cells ------------------------------------------------------------------------------------------------------------


def _spread(number: int) -> int:
    # Bit n to bit 2n, of 32 bits.
    number = (number | number << 16) & 0x0000FFFF0000FFFF
    number = (number | number << 8) & 0x00FF00FF00FF00FF
    number = (number | number << 4) & 0x0F0F0F0F0F0F0F0F
    number = (number | number << 2) & 0x3333333333333333
    return (number | number << 1) & 0x5555555555555555


def _gather(number: int) -> int:
    # Bit 2n to bit n.
    number &= 0x5555555555555555
    number = (number | number >> 1) & 0x3333333333333333
    number = (number | number >> 2) & 0x0F0F0F0F0F0F0F0F
    number = (number | number >> 4) & 0x00FF00FF00FF00FF
    number = (number | number >> 8) & 0x0000FFFF0000FFFF
    return (number | number >> 16) & 0x00000000FFFFFFFF


def _cell_of(longitude: float, latitude: float, steps: int, latitude_most: float) -> tuple[int, int]:
    # Column and row in a grid of 2^steps × 2^steps.
    column = (longitude + LONGITUDE_MOST) / (2 * LONGITUDE_MOST) * (1 << steps)
    row = (latitude + latitude_most) / (latitude_most - -latitude_most) * (1 << steps)
    return int(column) & 0xFFFFFFFF, int(row) & 0xFFFFFFFF


def _area_of(column: int, row: int, steps: int) -> Area:
    # West, south, east, north.
    scale = LATITUDE_MOST - -LATITUDE_MOST
    size = float(1 << steps)
    return (
        -LONGITUDE_MOST + column / size * 360.0,
        -LATITUDE_MOST + row / size * scale,
        -LONGITUDE_MOST + (column + 1) / size * 360.0,
        -LATITUDE_MOST + (row + 1) / size * scale,
    )


def score_of(longitude: float, latitude: float) -> int:
    """The score of a place, 52 bits."""
    column, row = _cell_of(longitude, latitude, STEPS, LATITUDE_MOST)
    return _spread(row) | _spread(column) << 1


def place_of(points: float) -> tuple[float, float]:
    """Longitude and latitude of a score: the middle of its cell."""
    # What is no place is taken as the processor would take it.
    bits = int(points) & (1 << 64) - 1 if -inf < points < inf else 1 << 63
    west, south, east, north = _area_of(_gather(bits >> 1), _gather(bits), STEPS)
    longitude = (west + east) / 2
    latitude = (south + north) / 2
    return (
        max(-LONGITUDE_MOST, min(LONGITUDE_MOST, longitude)),
        max(-LATITUDE_MOST, min(LATITUDE_MOST, latitude)),
    )


def text_of(points: float) -> bytes:
    """The geohash of a score as others write it: eleven characters, of which the last is always 0."""
    longitude, latitude = place_of(points)
    # Others cut the whole globe, up to the poles.
    column, row = _cell_of(longitude, latitude, STEPS, 90.0)
    bits = _spread(row) | _spread(column) << 1
    return bytes(_ALPHABET[bits >> 52 - 5 * at & 31] for at in range(1, 11)) + b"0"


# -- distances --------------------------------------------------------------------------------------------------------


def _along_meridian(latitude: float, other: float) -> float:
    return _EARTH_RADIUS_M * abs(other * _RADIANS - latitude * _RADIANS)


def distance(longitude: float, latitude: float, other_longitude: float, other_latitude: float) -> float:
    """Metres between two places on a sphere (haversine)."""
    v = sin((other_longitude * _RADIANS - longitude * _RADIANS) / 2)
    if v == 0.0:
        return _along_meridian(latitude, other_latitude)
    from_r = latitude * _RADIANS
    to_r = other_latitude * _RADIANS
    u = sin((to_r - from_r) / 2)
    return 2.0 * _EARTH_RADIUS_M * asin(sqrt(u * u + cos(from_r) * cos(to_r) * v * v))


# -- searching --------------------------------------------------------------------------------------------------------


class Shape:
    """What is searched: a circle, or a box whose sides run east and north, around a place. Lengths are in `unit_m`."""

    __slots__ = ("height", "is_box", "latitude", "longitude", "radius", "unit_m", "width")

    def __init__(self) -> None:
        self.longitude = 0.0
        self.latitude = 0.0
        self.is_box = False
        self.radius = 0.0
        self.width = 0.0
        self.height = 0.0
        # Metres of the unit.
        self.unit_m = 1.0

    def distance_if_inside(self, points: float) -> tuple[float, float, float] | None:
        """Metres from the middle, longitude and latitude of a score; None when it lies outside."""
        longitude, latitude = place_of(points)
        if not self.is_box:
            away = distance(self.longitude, self.latitude, longitude, latitude)
            return None if away > self.radius * self.unit_m else (away, longitude, latitude)
        if _along_meridian(latitude, self.latitude) > self.height * self.unit_m / 2:
            return None
        if distance(longitude, latitude, self.longitude, latitude) > self.width * self.unit_m / 2:
            return None
        return distance(self.longitude, self.latitude, longitude, latitude), longitude, latitude

    def _bounds(self) -> Area:
        # West, south, east, north of what is searched. Towards a pole the same length spans more degrees.
        height = self.unit_m * (self.height / 2 if self.is_box else self.radius)
        width = self.unit_m * (self.width / 2 if self.is_box else self.radius)
        up = height / _EARTH_RADIUS_M / _RADIANS
        aside = inf
        # A length may be infinite: around all of the globe.
        if isfinite(up):
            nearer_pole = self.latitude - up if self.latitude < 0 else self.latitude + up
            narrowing = cos(nearer_pole * _RADIANS)
            if narrowing:
                aside = width / _EARTH_RADIUS_M / narrowing / _RADIANS
        return self.longitude - aside, self.latitude - up, self.longitude + aside, self.latitude + up

    def _steps(self) -> int:
        # A grid whose cells are about as large as what is searched.
        reach = self.radius
        if self.is_box:
            reach = sqrt((self.width / 2) * (self.width / 2) + (self.height / 2) * (self.height / 2))
        reach *= self.unit_m
        if reach == 0:
            return STEPS
        steps = 1
        while reach < _MERCATOR_MOST:
            reach *= 2
            steps += 1
        steps -= 2
        if abs(self.latitude) > 66:
            steps -= 2 if abs(self.latitude) > 80 else 1
        return max(1, min(STEPS, steps))

    def score_ranges(self) -> list[tuple[int, int]]:
        """The ranges of scores (first, end) in which everything inside lies, nine at most."""
        west, south, east, north = bounds = self._bounds()
        steps = self._steps()
        if steps > 1 and self._is_too_fine(steps, bounds):
            steps -= 1
        column, row = _cell_of(self.longitude, self.latitude, steps, LATITUDE_MOST)
        area = _area_of(column, row, steps)
        # Cells that cannot have anything of it are left out.
        without = (False, False, False, False)
        if steps >= 2:
            without = (area[0] < west, area[1] < south, area[2] > east, area[3] > north)
        ranges: list[tuple[int, int]] = []
        for east_by, north_by in _AROUND:
            if (
                (without[0] and east_by < 0)
                or (without[1] and north_by < 0)
                or (without[2] and east_by > 0)
                or (without[3] and north_by > 0)
            ):
                continue
            bits = _spread(_moved(row, north_by, steps)) | _spread(_moved(column, east_by, steps)) << 1
            shift = 2 * (STEPS - steps)
            cell = (bits << shift, bits + 1 << shift)
            # In a grid of four cells neighbours are the same.
            if len(ranges) < 2 or cell != ranges[-1]:
                ranges.append(cell)
        return ranges

    def _is_too_fine(self, steps: int, bounds: Area) -> bool:
        # Does what is searched reach beyond the cells around?
        column, row = _cell_of(self.longitude, self.latitude, steps, LATITUDE_MOST)
        return (
            _area_of(column, _moved(row, 1, steps), steps)[3] < bounds[3]
            or _area_of(column, _moved(row, -1, steps), steps)[1] > bounds[1]
            or _area_of(_moved(column, 1, steps), row, steps)[2] < bounds[2]
            or _area_of(_moved(column, -1, steps), row, steps)[0] > bounds[0]
        )


def _moved(place: int, by: int, steps: int) -> int:
    # Around the globe. The eastern and the northern edge lie one cell outside of the grid, and stay there.
    return (place + by) % (1 << steps) if by else place


# The cell itself and those around it, as steps to the east and to the north, in the order of the search.
_AROUND: Final = ((0, 0), (0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (-1, 1), (1, -1), (-1, -1))
