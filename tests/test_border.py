"""border.py on a ball of brain in a skull, whose edges are known to a fraction of a voxel."""

import numpy as np
import pytest
from scipy import ndimage

import border
from quality import dice
from volume import read_volume, regions, straighten

SIZE = 72  # voxels of 1 mm
FROM_CENTRE = np.indices((SIZE,) * 3) - (SIZE - 1) / 2
RADIUS = np.linalg.norm(FROM_CENTRE, axis=0)


def share(distance):
    """Of a voxel that lies inside a surface, by the distance of its middle to it."""
    return np.clip(0.5 - distance, 0, 1)


def skull(radius, bone=1200):
    """HU of a ball of brain in 5 mm of bone, edges as voxels average them."""
    brain, head = share(RADIUS - radius), share(RADIUS - radius - 5)
    return -1000 + head * (1000 + brain * 35 + (1 - brain) * bone)


def found(hu, distance, path, save_nifti_as, size=(1.0, 1.0, 1.0), doubt=None):
    """A scan (voxels of `size` mm), and its Border where the network's lies at `distance` 0.

    Where there is `doubt` (bool), one view of three sees nothing.
    """
    noise = 5 * np.random.default_rng(0).standard_normal(hu.shape)
    affine = np.diag([*size, 1.0])
    scan = read_volume(save_nifti_as(path / "ball.nii.gz", (hu + noise).astype(np.float32), affine))
    cubes, grid = straighten(scan.hu, scan, 1.5)
    coarse, _ = straighten(distance.astype(np.float32), scan, 1.5, outside=50)
    probability = 1 / (1 + np.exp(coarse / 0.7))
    if doubt is not None:
        probability *= 1 - straighten(doubt.astype(np.float32), scan, 1.5, outside=0)[0] / 3
    return scan, border.find_border(probability, cubes, grid, scan)


def refined(hu, distance, path, save_nifti_as, size=(1.0, 1.0, 1.0)):
    """The mask of that scan."""
    scan, edge = found(hu, distance, path, save_nifti_as, size)
    mask = np.zeros(scan.hu.shape, bool)
    for region in regions(edge.grid, scan):
        mask[region] = border.refine(edge, scan, region)
    return mask


def radius_of(mask):
    """Of the ball of a mask's volume, mm."""
    return (3 * mask.sum() / (4 * np.pi)) ** (1 / 3)


def test_the_border_goes_to_the_bone_wherever_the_network_put_it(tmp_path, save_nifti_as):
    """From 1.2 mm inside of the edge to 0.5 mm outside: one border, to a twentieth of a voxel."""
    hu = skull(22.3)
    radii = [radius_of(refined(hu, RADIUS - 22.3 - off, tmp_path, save_nifti_as))
             for off in (-1.2, -0.5, 0.0, 0.5)]  # fmt: skip
    assert np.ptp(radii) < 0.05
    edge = radius_of(RADIUS < 22.3)  # as voxels show it: 22.33
    assert edge - 1.3 < np.mean(radii) < edge + 0.005, "at the edge or inside, but for a hair"


def test_the_border_follows_an_edge_by_fractions_of_a_voxel(tmp_path, save_nifti_as):
    """Heads that grow by a quarter of a voxel, and a network that sees no difference."""
    edges = np.array([22.0, 22.25, 22.5, 22.75])
    radii = [radius_of(refined(skull(edge), RADIUS - 22, tmp_path, save_nifti_as))
             for edge in edges]  # fmt: skip
    np.testing.assert_allclose(np.diff(radii), 0.25, atol=0.12)
    assert radii[-1] - radii[0] == pytest.approx(0.75, abs=0.1)


@pytest.mark.parametrize("radius", [3, 6])
def test_contrast_beside_bone_stays(radius, tmp_path, save_nifti_as):
    """A vessel full of contrast against the inner table, as an artery or a sinus lies there."""
    hu, edge, (x, y, _) = skull(24), 24, FROM_CENTRE
    away = np.hypot(x - (edge - radius), y)
    vessel = (away < radius) & (edge - 1.5 > RADIUS)  # the last voxel before the bone aside
    filled = np.where(edge > RADIUS, hu + share(away - radius) * (500 - hu), hu)
    mask = refined(filled, RADIUS - edge, tmp_path, save_nifti_as)
    assert mask[vessel].mean() > 0.98
    assert RADIUS[mask].max() < edge + 0.5


def with_artery(hu, contrast=400):
    """HU with a vessel from the middle of the ball to the bone and along it; how far it is away."""
    x, y, z = FROM_CENTRE
    along = np.hypot(x - 20, z) - 4 + 100 * (np.abs(y) > 12)
    away = np.minimum(along, np.hypot(y, z) - 4 + 100 * (x < 0))
    return np.where(RADIUS < 24, hu + share(away) * (contrast - hu), hu), away


def test_a_thick_vessel_beside_soft_bone_stays_where_the_network_takes_it_for_bone(
    tmp_path, save_nifti_as
):
    """The vessel is brighter than the middle between brain and bone, as bone's own face is."""
    hu, away = with_artery(skull(24, bone=650))
    vessel = (away < 0) & (RADIUS < 22.5)
    network = RADIUS - 24 + 3.5 * ((away < 1) & (RADIUS > 16))  # its border runs through it
    mask = refined(hu, network, tmp_path, save_nifti_as)
    assert mask[vessel].mean() > 0.98
    assert RADIUS[mask].max() < 24 + 1, "no farther than the next voxel"


@pytest.mark.parametrize(
    ("thickness", "blur", "followed"), [(1, 0, True), (3, 0, False), (1, 1.5, False)]
)
def test_vessels_are_followed_in_thin_and_sharp_slices_only(
    thickness, blur, followed, tmp_path, save_nifti_as, monkeypatch
):
    """In others, bone that is cut aslant looks like one."""
    hu, _ = with_artery(skull(24, bone=1200))
    hu, distance = (x.reshape(SIZE, SIZE, -1, thickness).mean(-1).astype(np.float32)
                    for x in (ndimage.gaussian_filter(hu, blur), RADIUS - 24))  # fmt: skip
    path = save_nifti_as(tmp_path / "ball.nii.gz", hu, np.diag([1, 1, thickness, 1]))
    scan = read_volume(path)
    cubes, grid = straighten(scan.hu, scan, 1.5)
    away, _ = straighten(distance, scan, 1.5, outside=50)
    asked = []

    def no_vessels(cubes, distance):
        asked.append(True)
        return np.zeros(cubes.shape, bool)

    monkeypatch.setattr(border, "thick_vessels", no_vessels)
    border.find_border(1 / (1 + np.exp(away / 0.7)), cubes, grid, scan)
    assert bool(asked) == followed


@pytest.mark.parametrize(("contrast", "found"), [(38, False), (400, True), (2500, False)])
def test_only_contrast_is_followed(contrast, found):
    """Not plain brain, and not metal."""
    hu, away = with_artery(skull(24, bone=650), contrast)
    vessels = border.thick_vessels(hu, RADIUS - 24)
    assert vessels.any() == found
    from_vessel = ndimage.distance_transform_edt(away > 0.5)
    assert from_vessel[vessels].max(initial=0) <= 1, "and no farther than the next voxel"


def test_a_sinus_may_be_brighter_than_most_vessels():
    """In an early phase thin veins are many and faint; what is thick and even is a vessel, too."""
    rng = np.random.default_rng(0)
    hu, away = with_artery(skull(24, bone=650), 440)
    hu += 5 * rng.standard_normal(hu.shape)
    x, y, z = np.indices(hu.shape)
    thin = (x % 3 == 0) & (y % 3 == 0) & (z % 3 == 0) & (RADIUS < 20) & (away > 3)
    hu[thin] = 200
    network = RADIUS - 24 + 16 * ((away < 1) & (RADIUS > 8))  # sees but the vessel's beginning
    assert border.thick_vessels(hu, network)[(away < 0) & (RADIUS < 7)].all()


@pytest.mark.parametrize("hole", [3, 8])
def test_the_mask_does_not_leak_through_a_hole_in_the_bone(hole, tmp_path, save_nifti_as):
    _, y, z = FROM_CENTRE
    open_skull = np.where((np.hypot(y, z) < hole) & (RADIUS > 23.5), 40, skull(24))
    mask = refined(open_skull, RADIUS - 24, tmp_path, save_nifti_as)
    assert RADIUS[mask].max() < 24 + border.GROW + 0.5, "no farther than it may go anywhere"
    assert radius_of(mask) < 24 + 0.1


@pytest.mark.parametrize(("bone", "grows"), [(1200, True), (350, False)])
def test_beside_faint_bone_the_mask_does_not_grow(bone, grows, tmp_path, save_nifti_as):
    """A network that stays 1 mm inside: what is not bright may be bone that is faint."""
    hu = skull(22.3, bone)
    there, back = (radius_of(refined(hu, RADIUS - 22.3 + off, tmp_path, save_nifti_as))
                   for off in (0, 1))  # fmt: skip
    assert (there - back < 0.2) == grows


@pytest.mark.parametrize(("size", "least"), [(2, 0.965), (3, 0.95)])
def test_in_coarse_pixels_the_edge_is_amid_them(size, least, tmp_path, save_nifti_as):
    """Noise is taken off within NOISE mm, and their width is not taken for the scanner's blur."""
    hu, distance = np.stack([skull(22.3), RADIUS - 22.3]).reshape(
        2, SIZE // size, size, SIZE // size, size, SIZE // size, size).mean((2, 4, 6))  # fmt: skip
    mask = refined(hu, distance, tmp_path, save_nifti_as, size=(size, size, size))
    assert dice(mask, distance < 0) > least


def test_in_coarse_pixels_a_face_that_is_aslant_shows_no_strong_blur(tmp_path, save_nifti_as):
    """As of the dome of a large head, in voxels of 4 mm."""
    x, y, z = np.meshgrid(*2 * [np.arange(-79.5, 80)], np.arange(30.5, 70), indexing="ij")
    away = np.minimum(np.sqrt(x**2 + y**2 + z**2) - 50, 30)
    brain, head = share(away), share(away - 6)
    fine = -1000 + head * (1000 + brain * 35 + (1 - brain) * 1200)
    hu, distance = np.stack([fine, away]).reshape(2, 40, 4, 40, 4, 10, 4).mean((2, 4, 6))
    mask = refined(hu, distance, tmp_path, save_nifti_as, size=(4.0, 4.0, 4.0))
    assert dice(mask, distance < 0) > 0.99


def in_thick_slices(blur, thickness=6):
    """HU of the ball as slices of 6 mm average it, and how far from its edge their middles are."""
    hu = ndimage.gaussian_filter(skull(22.3), blur).reshape(SIZE, SIZE, -1, thickness).mean(-1)
    middle = thickness // 2
    return hu, (RADIUS[..., middle::thickness] + RADIUS[..., middle - 1 :: thickness]) / 2 - 22.3


def test_in_thick_slices_an_aslant_border_is_amid_the_slice(tmp_path, save_nifti_as):
    """There a voxel holds some bone long before its middle is bone."""
    hu, distance = in_thick_slices(0.6)
    mask = refined(hu, distance, tmp_path, save_nifti_as, size=(1.0, 1.0, 6.0))
    shares = mask.sum((0, 1)) / np.maximum((distance < 0).sum((0, 1)), 1)
    assert (shares[3:9] > 0.9).all() and (shares < 1.02).all(), shares  # the ends aside


def test_the_scanners_blur_is_told_from_the_slices_thickness(tmp_path, save_nifti_as):
    for blur in (0.5, 1.0):
        thin = ndimage.gaussian_filter(skull(22.3), blur)
        thick, distance = in_thick_slices(blur)
        _, usual = found(thin, RADIUS - 22.3, tmp_path, save_nifti_as)
        _, same = found(thick, distance, tmp_path, save_nifti_as, size=(1.0, 1.0, 6.0))
        assert same.blur == pytest.approx(usual.blur, rel=0.1)


def test_where_no_bone_is_the_network_decides(tmp_path, save_nifti_as):
    soft = np.where(RADIUS < 34, 40.0, -1000)
    mask = refined(soft, RADIUS - 20, tmp_path, save_nifti_as)
    assert radius_of(mask) == pytest.approx(20, abs=0.3)  # smoothed: balls shrink


def sinus_and_thin_vessels(sinus, thin):
    """HU of a sinus along the bone and four thin vessels deep in the brain; where the sinus is."""
    x, y, z = FROM_CENTRE
    away = np.hypot(x - 20, z) - 4 + 100 * (np.abs(y) > 7)
    from_thin = np.hypot(np.abs(x) - 6, np.abs(y) - 6) - 1
    hu = skull(24)
    for distance, contrast in ((from_thin, thin), (away, sinus)):
        hu = np.where(RADIUS < 24, hu + share(distance) * (contrast - hu), hu)
    noise = 5 * np.random.default_rng(0).standard_normal(hu.shape)
    return hu + noise, (away < -1) & (RADIUS < 24)


def test_a_bright_sinus_is_followed_where_vessels_deep_in_the_brain_are_fainter():
    """Even one of which the network takes but the innermost part."""
    hu, sinus = sinus_and_thin_vessels(sinus=470, thin=200)
    x, _, z = FROM_CENTRE
    network = RADIUS - 24 + 5.2 * (np.hypot(x - 20, z) < 5)
    assert (network[sinus] > 0).mean() > 0.75
    assert border.thick_vessels(hu, network)[sinus & (network < border.BEYOND)].all()


def test_uneven_bone_is_not_followed_where_vessels_are_fainter():
    """A spur of bone is no brighter than a vessel may be, but joined to what is brighter still."""
    hu, sinus = sinus_and_thin_vessels(sinus=200, thin=200)
    x, y, z = FROM_CENTRE
    spur = (np.hypot(y, z - 4) < 3) & (x > 0) & (RADIUS > 20.5) & (RADIUS < 24)
    hu = np.where(spur, 300 + 100 * (RADIUS - 20.5), hu)
    vessels = border.thick_vessels(hu, RADIUS - 24)
    assert vessels[sinus & ~spur].mean() > 0.98
    assert not vessels[spur].any()


@pytest.mark.parametrize(("specks", "followed"), [(8, False), (27, True)])
def test_of_few_vessels_the_brightest_is_not_sought_beside_bone(specks, followed):
    """In a plain CT, what is bright is lime, and at the border specks of bone."""
    x, y, z = FROM_CENTRE
    hu = skull(26)
    middles = np.linspace(28, 44, round(specks ** (1 / 3))).astype(int)
    hu[np.ix_(middles, middles, middles)] = 200
    hu[np.ix_([12, 59], [32, 36, 40], [32, 36, 40])] = 500  # RADIUS of 23.5 to 24.4
    clump = (np.hypot(x, z) < 3) & (y > 0) & (RADIUS > 20) & (RADIUS < 26)
    hu = np.where(clump, 300 + 30 * (RADIUS - 20), hu)
    assert border.thick_vessels(hu, RADIUS - 24)[clump].any() == followed


@pytest.mark.parametrize(("blur", "decides"), [(0.0, True), (2.5, False)])
def test_where_one_view_of_three_sees_no_brain_the_others_decide(
    blur, decides, tmp_path, save_nifti_as
):
    """But not in averaged templates, whose blur is more than their voxels'."""
    hu = ndimage.gaussian_filter(skull(28), blur)
    doubt = FROM_CENTRE[0] > 10
    _, edge = found(hu, RADIUS - 28, tmp_path, save_nifti_as, doubt=doubt)
    middle = edge.distance[32:38, 20:28, 20:28]  # 14 to 20 mm from the centre: 8 from the bone
    assert (middle < -border.SHRINK).all() == decides
