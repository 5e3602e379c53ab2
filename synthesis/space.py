"""Where each voxel of a scan lies in a head, and what the scan shall look like."""

from dataclasses import dataclass, fields

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from synthesis.head import Anatomy

ANY_WAY = 90  # degrees: with a larger tilt, the head lies in any direction


@dataclass(frozen=True)
class Look:
    """What a scan looks like. All lengths are in mm."""

    spacing: float  # of the cubic voxels
    width: float = 230.0  # of the field of view, across
    length: float = 200.0  # of the field of view, from top to bottom
    phase: str = "none"  # of the contrast: "none", "arterial" or "venous"
    tilt: float = 5.0  # standard deviation of the head's angles, degrees; above ANY_WAY, any
    plain: bool = True  # neither disease, surgery nor metal
    surgery: str = "some"  # that opened the skull, where not plain: "some" have it, "none", "large"
    above: float = 10.0  # how far above the vertex the field of view begins
    thickness: float = 1.0  # of the slices
    sharpness: float = 0.5  # standard deviation of the blur
    noise: float = 5.0  # standard deviation, HU
    pixel: float = 0.0  # size of the pixels; 0 if it is `spacing`


@dataclass(frozen=True)
class Space:
    """Where the voxels (X, Y, Z) of a scan lie in a head; inner and outer as in `head.Anatomy`."""

    tissue: np.ndarray  # indices (`head.INDEX`)
    inner: np.ndarray  # mm
    outer: np.ndarray  # mm
    along: np.ndarray  # mm along the canal from the foramen magnum, positive below
    offset: np.ndarray  # (3, X, Y, Z): mm from the foramen magnum in the head's own axes
    spacing: float  # mm

    def squared_distance(self, point) -> np.ndarray:
        """Each voxel's squared distance in mm2 from a point (3,) given as `offset` is."""
        return np.sum((self.offset - np.float32(point)[:, None, None, None]) ** 2, 0)

    def slab(self, rows: slice) -> "Space":
        """The slices `rows` alone."""
        arrays = [getattr(self, f.name) for f in fields(self)[:-1]]
        return Space(*(array[..., rows] for array in arrays), self.spacing)


def pose_head(head: Anatomy, look: Look, rng) -> Space:
    """Turn, scale and bend a head into the field of view of a scan."""
    shape = [int(round(s / look.spacing)) for s in (look.width, look.width, look.length)]
    matrix = draw_turn(look.tilt, rng)
    top = np.abs(matrix.T @ np.array([0, 0, 80]))[2] + 12
    coarse = [np.linspace(0, n - 1, max(n // 9, 6)) for n in shape]
    grid = np.stack(np.meshgrid(*coarse, indexing="ij")).astype(np.float32)
    size = np.array(shape)[:, None, None, None]
    mm = (grid - (size - 1) / 2) * look.spacing
    mm[0] += rng.normal(0, 10)
    mm[1] += rng.normal(0, 10)
    mm[2] = (grid[2] - (size[2] - 1)) * look.spacing + top + look.above
    points = np.einsum("ij,jxyz->ixyz", matrix, mm)
    for sigma, strength in ((2.2, 4.0), (1.2, 1.2)):  # bends of some 40 and 20 mm
        bend = ndimage.gaussian_filter(rng.standard_normal(points.shape), (0, *[sigma] * 3))
        points += strength * rng.uniform(0.2, 1) * bend / bend.std()
    points += head.centre[:, None, None, None]
    zoom = np.divide(shape, points.shape[1:])
    points = np.stack([ndimage.zoom(p.astype(np.float32), zoom, order=1) for p in points])
    return sample_head(head, points, look.spacing)


def draw_turn(tilt: float, rng) -> np.ndarray:
    """Draw a matrix (3, 3) that turns, scales and shears the scan's mm to the head's."""
    if tilt > ANY_WAY:
        turn = Rotation.random(random_state=int(rng.integers(2**31)))
    else:
        angles = rng.normal(0, tilt, 3) * (1, 0.7, 1)
        turn = Rotation.from_euler("xyz", angles, degrees=True)
    scale = rng.uniform(0.84, 1.06) * rng.uniform(0.95, 1.05, 3)
    shear = np.eye(3)
    shear[1, 2] = np.tan(np.radians(rng.normal(0, 6)))
    return turn.as_matrix() @ shear / scale


def sample_head(head: Anatomy, points: np.ndarray, spacing: float) -> Space:
    """Look up the head at `points`, its voxels (3, X, Y, Z) float32."""
    tissue = ndimage.map_coordinates(head.tissue, points, order=0)
    inner, outer = (
        ndimage.map_coordinates(f.astype(np.float32), points, order=1, cval=float(f.max()))
        for f in (head.inner, head.outer)
    )
    offset = points - head.base[:, None, None, None].astype(np.float32)
    along = np.einsum("i,ixyz->xyz", head.down.astype(np.float32), offset)
    return Space(tissue, inner, outer, along, offset, spacing)


def smooth_noise(shape, rng, size: float) -> np.ndarray:
    """Noise of unit variance (float32) whose grain is some `size` voxels wide."""
    coarse = [max(int(np.ceil(n / size)) + 3, 4) for n in shape]
    field = rng.standard_normal(coarse).astype(np.float32)
    starts = rng.uniform(0, 1, 3)
    for axis, (n, start) in enumerate(zip(shape, starts, strict=True)):
        at = np.arange(n, dtype=np.float32) / size + start
        low = at.astype(int)
        weight = (at - low).reshape([-1 if a == axis else 1 for a in range(3)])
        field = field.take(low, axis) * (1 - weight) + field.take(low + 1, axis) * weight
    return field / field.std()
