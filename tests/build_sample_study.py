"""Make the sample study, `worker/sample`: the scans that a first `slicewise run` scores.

It is run by hand, and its output is committed; nothing of slicewise imports it. With the versions below two runs
give the same bytes (a minute, 1 GB)::

    python3.11 -m venv /tmp/sample
    /tmp/sample/bin/pip install nilearn==0.14.1 nibabel==5.4.2 scipy==1.17.1 numpy==2.4.6 pydicom==3.0.2 \
        pillow==13.0.0 pylibjpeg==2.1.0 pylibjpeg-openjpeg==2.6.0 pyjpegls==1.5.1 python-gdcm==3.2.6
    /tmp/sample/bin/python tests/build_sample_study.py

The brain is the ICBM 152 average (2009a, nonlinear, symmetric), T1, as the nilearn wheel ships it: 1 mm, without
skull. Round it this script models cerebrospinal fluid, skull, scalp, and a rough face and neck, so that a slice
looks like a T1 slice of a whole head; bends it a little, so that it is no longer mirror-symmetric; and paints
masses. `worker/sample/README.md` says so too, with the notice of the template.

Points are ``(rows, columns, 3) float32`` in mm, RAS: x to the right, y to the front, z up, as in the template.
Signal is ``float32`` with 0 for air and 1 for white matter.
"""

from __future__ import annotations

import argparse
import csv
import io
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import gdcm
import nibabel
import numpy as np
import pydicom
from nilearn.datasets.struct import MNI152_FILE_PATH
from PIL import Image
from pydicom import Dataset, uid
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from scipy import ndimage

SEED = 152
OUTPUT = Path(__file__).parents[1] / "worker" / "sample"

# Template grey levels of fluid and of white matter, measured; they become signal 0.08 and 1.
_FLUID_LEVEL, _WHITE_LEVEL = 76.0, 228.0
# Stored value of white matter: an ordinary scanner's scale, and scalp fat still fits in 12 bits.
_WHITE_STORED = 1000.0
_NOISE = 0.014
_WINDOW = (0.0, 1500.0)

Points = np.ndarray
Signal = np.ndarray


# --- The head ---------------------------------------------------------------------------------------------------


def soft_step(value: np.ndarray, at: float, width: float) -> np.ndarray:
    """0 below `at`, 1 above, with a soft edge: tissue borders share pixels."""
    return (0.5 + 0.5 * np.tanh((value - at) / (2 * width))).astype(np.float32)


def ellipsoid(p: Points, centre: tuple[float, ...], radii: tuple[float, ...]) -> np.ndarray:
    """Distance from the centre in radii: below 1 is inside."""
    return np.linalg.norm((p - np.float32(centre)) / np.float32(radii), axis=-1)


class Noise:
    """Smooth random field with unit variance on all of space, drawn on a lattice of `scale` mm.

    Parameters
    ----------
    name
        Fixes the draw, together with `SEED`.
    scale
        Lattice distance in mm, one number or one for each axis.
    """

    def __init__(self, name: str, scale: float | tuple[float, float, float]) -> None:
        generator = np.random.default_rng([SEED, *name.encode()])
        # The cubic spline through white noise loses about a third of its spread between the lattice's points.
        self._lattice = generator.standard_normal((24, 24, 24)).astype(np.float32) * 1.4
        self._scale = np.float32(scale)

    def __call__(self, p: Points) -> np.ndarray:
        at = np.moveaxis(p / self._scale, -1, 0)
        return ndimage.map_coordinates(self._lattice, at, order=2, mode="grid-wrap")


@dataclass(frozen=True)
class Volume:
    """Values on a grid, asked for at points.

    Parameters
    ----------
    values : numpy.ndarray
        ``(x, y, z) float32``.
    origin : numpy.ndarray
        Position of ``values[0, 0, 0]``, mm.
    spacing : float
        Grid distance, mm.
    outside : float
        The value beyond the grid.
    """

    values: np.ndarray
    origin: np.ndarray
    spacing: float
    outside: float

    def __call__(self, p: Points, order: int = 3) -> np.ndarray:
        at = np.moveaxis((p - self.origin) / self.spacing, -1, 0)
        # Only the slab round the points is filtered for the spline: a whole volume takes seconds.
        flat = at.reshape(3, -1)
        low = np.clip(np.floor(flat.min(axis=1)).astype(int) - 8, 0, None)
        high = np.maximum(np.ceil(flat.max(axis=1)).astype(int) + 9, low + 1)
        slab = self.values[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
        shifted = at - low.reshape(3, 1, 1)
        return ndimage.map_coordinates(slab, shifted, order=order, mode="constant", cval=self.outside)


def signed_distance(inside: np.ndarray, spacing: float) -> np.ndarray:
    """Distance from the surface of a mask in mm: negative inside."""
    outer = ndimage.distance_transform_edt(~inside)
    inner = ndimage.distance_transform_edt(inside)
    # Smoothed: on a coarse grid the surface of a mask is a staircase.
    return ndimage.gaussian_filter((outer - inner) * spacing, 1.0).astype(np.float32)


@dataclass(frozen=True)
class Mass:
    """A painted mass.

    Parameters
    ----------
    kind
        ``rim`` (bright ragged rim, dark core, oedema), ``dural`` (bright, even, on the dura) or ``sella``.
    centre, radii
        mm. For ``sella`` this is the part in the fossa; a smaller part stands above it.
    """

    kind: str
    centre: tuple[float, float, float]
    radii: tuple[float, float, float]


class Head:
    """The average brain in a modelled head; `signal` gives T1 signal at points."""

    def __init__(self) -> None:
        image = nibabel.load(MNI152_FILE_PATH)
        levels = np.asanyarray(image.dataobj).astype(np.float32)
        origin = image.affine[:3, 3].astype(np.float32)
        self._brain = Volume(levels, origin, 1.0, 0.0)
        self._covered = Volume(ndimage.gaussian_filter((levels > 0).astype(np.float32), 0.7), origin, 1.0, 0.0)
        self._thickness = Noise("thickness", 42.0)
        self._marrow, self._fine = Noise("marrow", 9.0), Noise("fine", 2.2)
        self._streaks = Noise("streaks", (7.0, 9.0, 22.0))
        self._bends = [Noise(f"bend {axis}", 38.0) for axis in "xyz"]
        self._bias = Noise("bias", 90.0)
        self._hull, self._skin = self._surfaces(levels > 0, origin)

    def _surfaces(self, brain: np.ndarray, origin: np.ndarray) -> tuple[Volume, Volume]:
        """Signed distances from the brain's hull (the inside of the skull) and from the skin, on a 2 mm grid."""
        before, after = (22, 26, 70), (24, 32, 26)
        padded = np.pad(brain, list(zip(before, after, strict=True)))[::2, ::2, ::2]
        start = origin - np.float32(before)
        # Closing by 12 mm bridges the sulci and the cisterns.
        dilated = ndimage.distance_transform_edt(~padded) <= 6
        closed = (ndimage.distance_transform_edt(dilated) > 6) | padded
        hull = signed_distance(ndimage.gaussian_filter(closed.astype(np.float32), 1.2) > 0.5, 2.0)
        p = np.moveaxis(np.indices(hull.shape, np.float32), 0, -1) * 2 + start
        face = np.minimum(ellipsoid(p, (0, 34, -56), (66, 50, 66)), ellipsoid(p, (0, 82, -62), (13, 18, 18)))
        neck = np.where(p[..., 2] < -35, ellipsoid(p, (0, -24, 0), (64, 58, 1e6)), 9)
        scalp = hull < 13.5 * self._thick(p)
        body = ndimage.gaussian_filter(((face < 1) | (neck < 1) | scalp).astype(np.float32), 2.2) > 0.5
        skin = signed_distance(body | (hull < 9.5), 2.0)
        return Volume(hull, start, 2.0, 90.0), Volume(skin, start, 2.0, 90.0)

    def _thick(self, p: Points) -> np.ndarray:
        return 1 + 0.13 * np.clip(self._thickness(p), -2, 2)

    def bent(self, p: Points) -> Points:
        """The same points, each moved by a few mm: no head is mirror-symmetric."""
        return p + 1.7 * np.stack([bend(p) for bend in self._bends], -1)

    def signal(self, points: Points, mass: Mass | None = None) -> Signal:
        """T1 signal, with the receiver coil's uneven sensitivity but without noise."""
        p = self.bent(points)
        made = self._around(p)
        pushed = p if mass is None else _pushed(p, mass)
        covered = np.clip(self._covered(pushed), 0, 1)
        made = made * (1 - covered) + self._brain_signal(pushed) * covered
        if mass is not None:
            made = _PAINTERS[mass.kind](made, p, mass, self._hull(p))
        return made * (1 + 0.07 * self._bias(points))

    def hounsfield(self, points: Points) -> np.ndarray:
        """The head as computed tomography shows it, in HU."""
        p = self.bent(points)
        covered, skull, skin = np.clip(self._covered(p), 0, 1), self._skull(p), self._skin(p)
        made = np.where(skin < -4.5, 55.0, -95.0) * (1 - covered) + self._brain_hounsfield(p) * covered
        made = np.where(self._hull(p) < -1, np.minimum(made, 40.0 * covered + 8), made)
        made = made * (1 - skull) + 1000 * skull
        return made * soft_step(-skin, 0, 0.4) - 1000 * soft_step(skin, 0, 0.4)

    def _brain_signal(self, p: Points) -> Signal:
        level = self._brain(p)
        # Averaging 152 brains blurred them: give the edges back.
        level = level + 0.8 * (level - ndimage.gaussian_filter(level, 1.6))
        return np.clip(0.08 + 0.92 * (level - _FLUID_LEVEL) / (_WHITE_LEVEL - _FLUID_LEVEL), 0.03, 1.1)

    def _brain_hounsfield(self, p: Points) -> np.ndarray:
        signal = self._brain_signal(p)
        # Fluid is 5 HU, grey matter about 38, white matter a little less.
        return 5 + 33 * soft_step(signal, 0.35, 0.08) - 8 * soft_step(signal, 0.8, 0.06)

    def _skull(self, p: Points) -> np.ndarray:
        s = self._hull(p) / self._thick(p)
        return soft_step(s, 1.5, 0.2) * soft_step(-s, -8.2, 0.25)

    def _around(self, p: Points) -> Signal:
        """Everything but the brain."""
        hull, skin, thick = self._hull(p), self._skin(p), self._thick(p)
        made = self._soft_tissue(p, -skin, thick)
        s = hull / thick
        # Outer and inner table are dark, the marrow between them is not.
        bone = 0.04 + (0.48 + 0.10 * self._marrow(p)) * soft_step(s, 3.0, 0.25) * soft_step(-s, -6.9, 0.25)
        skull = self._skull(p)
        made = made * (1 - skull) + bone * skull
        for shape, value in self._landmarks(p):
            weight = soft_step(-shape, -1, 0.05)
            made = made * (1 - weight) + value * weight
        fluid = soft_step(-hull, -1.5, 0.25) * (1 - soft_step(-ellipsoid(p, (0, 4, -35), (15, 13, 8)), -1, 0.05))
        made = made * (1 - fluid) + 0.11 * fluid
        return made * soft_step(-skin, 0.3, 0.3)

    def _soft_tissue(self, p: Points, depth: np.ndarray, thick: np.ndarray) -> Signal:
        muscle = 0.38 + 0.03 * self._marrow(p) + 0.02 * self._fine(p)
        streaks = soft_step(self._streaks(p) + 0.12 * self._fine(p), 1.0, 0.2)
        made = muscle + 0.5 * streaks
        # Fat under the skin is the brightest tissue in T1, and thicker below the skull.
        fat = 1.6 + 3.6 * thick * (1 + 0.6 * np.clip(-(p[..., 2] + 20) / 60, 0, 1))
        made = made + (1.12 + 0.05 * self._marrow(p) - made) * soft_step(fat - depth, 0, 0.4)
        return made + (0.5 - made) * soft_step(-depth, -1.4, 0.3)

    def _landmarks(self, p: Points) -> Iterator[tuple[np.ndarray, float | np.ndarray]]:
        """Shapes below 1 inside, and their signal: what the face and the skull base need to be recognised."""
        side = np.abs(p[..., 0])
        mirrored = np.stack([side, p[..., 1], p[..., 2]], -1)
        yield ellipsoid(mirrored, (33, 50, -38), (18, 26, 17)), 0.98  # orbital fat
        yield ellipsoid(mirrored, (33, 64, -38), (12, 12.5, 12)), 0.16  # globe
        yield ellipsoid(mirrored, (31, 50, -70), (13, 16, 14)), 0.02  # maxillary sinus
        yield ellipsoid(mirrored, (45, -38, -42), (12, 11, 14)), 0.12  # mastoid cells
        yield ellipsoid(p, (0, 28, -42), (13, 13, 10)), 0.02  # sphenoid sinus
        yield ellipsoid(p, (0, 55, -40), (10, 20, 14)), 0.06  # ethmoid cells
        yield ellipsoid(p, (0, 60, -66), (12, 26, 14)), 0.16 + 0.1 * self._streaks(p)  # nasal cavity
        yield ellipsoid(p, (0, 4, -84), (11, 9, 34)), 0.02  # pharynx
        yield ellipsoid(p, (0, 44, -98), (24, 28, 17)), 0.50 + 0.04 * self._fine(p)  # tongue
        along = (p[..., 1] + 6) * 0.6 + (p[..., 2] + 36) * 0.8
        across = (p[..., 1] + 6) * 0.8 - (p[..., 2] + 36) * 0.6
        clivus = ((across / 5) ** 4 + (side / 11) ** 4 + ((along + 12) / 20) ** 4) ** 0.25
        yield clivus, 0.05
        yield clivus * 1.35, 0.62
        spine = np.stack([p[..., 0], p[..., 1] + 0.12 * (p[..., 2] + 70), np.maximum(p[..., 2] + 82, 0)], -1)
        yield ellipsoid(spine, (0, -8, 0), (14, 9, 14)), 0.5  # vertebral bodies
        yield ellipsoid(spine, (0, -30, 0), (11, 10, 20)), 0.12  # spinal canal
        yield ellipsoid(spine, (0, -30, 0), (6, 5.5, 20)), 0.72  # cord
        yield ellipsoid(p, (0, 3, -35), (7, 5, 4)), 0.75  # pituitary gland


# --- Masses -----------------------------------------------------------------------------------------------------

_RAGGED = Noise("ragged border", 11.0)
_PATCHY = Noise("patchy", 5.0)


def _pushed(p: Points, mass: Mass) -> Points:
    """Where the tissue now at `p` lay before the mass grew: nearer to the mass's centre."""
    rho = ellipsoid(p, mass.centre, mass.radii)[..., None]
    return p - (p - np.float32(mass.centre)) * (0.5 * np.exp(-((rho / 1.3) ** 2)))


def _blend(under: Signal, value: float | np.ndarray, weight: np.ndarray) -> Signal:
    return under * (1 - weight) + value * weight


def _paint_rim(under: Signal, p: Points, mass: Mass, hull: np.ndarray) -> Signal:
    """Like a glioblastoma after contrast medium: necrotic core, ragged bright rim, oedema along the white matter."""
    rho = ellipsoid(p, mass.centre, mass.radii) + 0.10 * _RAGGED(p)
    oedema = soft_step(-(rho + 0.12 * _PATCHY(p)), -1.6, 0.16) * soft_step(under, 0.72, 0.05) * soft_step(-hull, 3, 1)
    made = _blend(under, 0.56, 0.75 * oedema)
    made = _blend(made, 1.28 + 0.09 * _PATCHY(p), soft_step(-rho, -1, 0.035))
    return _blend(made, 0.27 + 0.04 * _PATCHY(p), soft_step(-(rho + 0.05 * _PATCHY(p)), -0.72, 0.04))


def _paint_dural(under: Signal, p: Points, mass: Mass, hull: np.ndarray) -> Signal:
    """Like a meningioma after contrast medium: even, round, broad on the dura, a dark cleft, a tail."""
    rho = ellipsoid(p, mass.centre, mass.radii) + 0.03 * _RAGGED(p)
    inside = soft_step(-hull, 0.2, 0.3)
    made = _blend(under, 0.22, 0.7 * soft_step(-rho, -1.10, 0.03) * inside)
    tail = soft_step(-np.abs(hull + 0.8), -1.0, 0.25) * soft_step(-rho, -1.55, 0.06)
    made = _blend(made, 1.2, 0.85 * tail)
    return _blend(made, 1.2 + 0.035 * _PATCHY(p), soft_step(-rho, -1, 0.03) * inside)


def _paint_sella(under: Signal, p: Points, mass: Mass, hull: np.ndarray) -> Signal:
    """Like a pituitary macroadenoma after contrast medium: out of the sella and waisted by the diaphragm above it."""
    x, y, z = mass.centre
    fossa = ellipsoid(p, mass.centre, mass.radii)
    above = ellipsoid(p, (x, y, z + 1.25 * mass.radii[2]), tuple(0.82 * r for r in mass.radii))
    # A smooth minimum of the two.
    rho = -np.logaddexp(-9 * fossa, -9 * above) / 9 + 0.03 * _RAGGED(p)
    made = _blend(under, 0.12, soft_step(-rho, -1.10, 0.03))
    return _blend(made, 1.15 + 0.035 * _PATCHY(p), soft_step(-rho, -1, 0.03))


_PAINTERS: dict[str, Callable[[Signal, Points, Mass, np.ndarray], Signal]] = {
    "rim": _paint_rim,
    "dural": _paint_dural,
    "sella": _paint_sella,
}


# --- The scanner ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plane:
    """A slice's place: `orientation` and the position of its centre, in mm RAS, on a grid of `spacing` mm."""

    orientation: str
    centre: tuple[float, float, float]
    rows: int = 256
    columns: int = 208
    spacing: float = 0.9375

    @property
    def directions(self) -> tuple[np.ndarray, np.ndarray]:
        """Along a row and down a column, LPS (PS3.3 C.7.6.2.1.1)."""
        left, back, down = np.float64([1, 0, 0]), np.float64([0, 1, 0]), np.float64([0, 0, -1])
        return {"AX": (left, back), "COR": (left, down), "SAG": (back, down)}[self.orientation]

    @property
    def position(self) -> np.ndarray:
        """Centre of the first pixel, LPS."""
        along, down = self.directions
        centre = np.float64(self.centre) * (-1, -1, 1)
        return centre - self.spacing * ((self.columns - 1) / 2 * along + (self.rows - 1) / 2 * down)

    def points(self) -> Points:
        """Every pixel's centre, RAS."""
        along, down = self.directions
        rows, columns = np.arange(self.rows)[:, None, None], np.arange(self.columns)[None, :, None]
        lps = self.position + self.spacing * (columns * along + rows * down)
        return (lps * (-1, -1, 1)).astype(np.float32)


def acquire(head: Head, plane: Plane, mass: Mass | None = None) -> np.ndarray:
    """One slice as a scanner stores it: ``(rows, columns) uint16``, 12 bits, with Rician noise."""
    generator = np.random.default_rng([SEED, *repr((plane, mass)).encode()])
    signal = ndimage.gaussian_filter(head.signal(plane.points(), mass), 0.45)
    real, imaginary = generator.normal(0, _NOISE, (2, *signal.shape))
    return np.clip(np.rint(np.hypot(signal + real, imaginary) * _WHITE_STORED), 0, 4095).astype(np.uint16)


def displayed(stored: np.ndarray) -> np.ndarray:
    """The slice through its window, ``uint8``: what a person exports as a picture."""
    low, high = _WINDOW
    return np.rint(np.clip((stored - low) / (high - low), 0, 1) * 255).astype(np.uint8)


# --- DICOM ------------------------------------------------------------------------------------------------------

_COMMENT = (
    "Not a patient. Cut from the ICBM 152 average brain, copyright (C) 1993-2004 Louis Collins, McConnell Brain "
    "Imaging Centre, Montreal Neurological Institute, McGill University; skull, scalp and any mass are painted."
)


def made_uid(*names: str) -> str:
    """A UID under pydicom's root, the same in every run."""
    return uid.generate_uid(prefix=uid.PYDICOM_ROOT_UID, entropy_srcs=["slicewise sample", str(SEED), *names])


@dataclass(frozen=True)
class Series:
    """What the slices of one series share."""

    number: int
    description: str
    body_part: str = "BRAIN"
    contrast: bool = False
    slope: float = 1.0


def header(name: str, series: Series, sop_class: str = uid.MRImageStorage) -> Dataset:
    """The modules that every object of the study has: patient, study, series, equipment, SOP common."""
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND"]
    ds.SOPClassUID = sop_class
    ds.SOPInstanceUID = made_uid("instance", name)
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = "20000101"
    ds.StudyTime = ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = "120000"
    ds.AccessionNumber = ""
    ds.Modality = "MR"
    ds.Manufacturer = "slicewise"
    ds.ManufacturerModelName = "tests/build_sample_study.py"
    ds.ReferringPhysicianName = ""
    ds.StudyDescription = "MR BRAIN SAMPLE"
    ds.SeriesDescription = ds.ProtocolName = series.description
    ds.PatientName = "SLICEWISE^SAMPLE"
    ds.PatientID = "SAMPLE-1"
    ds.PatientBirthDate = ""
    ds.PatientSex = "O"
    ds.BodyPartExamined = series.body_part
    ds.StudyInstanceUID = made_uid("study")
    ds.SeriesInstanceUID = made_uid("series", str(series.number))
    ds.FrameOfReferenceUID = made_uid("frame of reference")
    ds.PositionReferenceIndicator = ""
    ds.StudyID = "1"
    ds.SeriesNumber = series.number
    ds.ImageComments = _COMMENT
    return ds


def add_acquisition(ds: Dataset, series: Series) -> None:
    """MR Image module (PS3.3 C.8.3.1): a 3D inversion-recovery gradient echo."""
    ds.ScanningSequence = ["GR", "IR"]
    ds.SequenceVariant = ["SP", "MP"]
    ds.ScanOptions = ""
    ds.MRAcquisitionType = "3D"
    ds.RepetitionTime, ds.EchoTime, ds.InversionTime, ds.FlipAngle = 2300, 2.98, 900, 9
    ds.MagneticFieldStrength = 3
    ds.EchoTrainLength = 1
    ds.PatientPosition = "HFS"
    if series.contrast:
        ds.ContrastBolusAgent = "GADOLINIUM"


def add_place(ds: Dataset, plane: Plane, instance: int) -> None:
    """Image Plane module (PS3.3 C.7.6.2)."""
    ds.InstanceNumber = instance
    ds.SliceThickness = 1
    ds.PixelSpacing = [plane.spacing, plane.spacing]
    ds.ImageOrientationPatient = [float(v) for direction in plane.directions for v in direction]
    ds.ImagePositionPatient = [round(float(v), 4) for v in plane.position]


def add_pixels(ds: Dataset, stored: np.ndarray, *, monochrome1: bool = False) -> None:
    """Image Pixel module (PS3.3 C.7.6.3), 12 bits in 16; `stored` is ``([frames,] rows, columns) uint16``."""
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME1" if monochrome1 else "MONOCHROME2"
    if stored.ndim == 3:
        ds.NumberOfFrames = len(stored)
    ds.Rows, ds.Columns = stored.shape[-2:]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.PixelData = (4095 - stored if monochrome1 else stored).astype("<u2").tobytes()
    ds["PixelData"].VR = "OW"


def add_scale(ds: Dataset, slope: float, *, monochrome1: bool = False) -> None:
    """Rescale and window; the window is in rescaled units (PS3.3 C.11.2.1.2)."""
    low, high = _WINDOW
    centre = (low + high) / 2
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = 0, slope, "US"
    ds.WindowCenter = (4095 - centre if monochrome1 else centre) * slope
    ds.WindowWidth = (high - low) * slope


def classic(
    name: str, series: Series, plane: Plane, stored: np.ndarray, *, instance: int = 1, monochrome1: bool = False
) -> Dataset:
    """An MR Image Storage object."""
    ds = header(name, series)
    add_acquisition(ds, series)
    add_place(ds, plane, instance)
    add_pixels(ds, stored, monochrome1=monochrome1)
    add_scale(ds, series.slope, monochrome1=monochrome1)
    return ds


def enhanced(name: str, series: Series, planes: list[Plane], stored: np.ndarray) -> Dataset:
    """An Enhanced MR Image Storage object: geometry, rescale and window stand in functional groups (PS3.3 C.7.6.16)."""
    ds = header(name, series, uid.EnhancedMRImageStorage)
    ds.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    ds.AcquisitionDateTime = "20000101120000"
    ds.AcquisitionNumber = ds.InstanceNumber = 1
    ds.ContentQualification = "RESEARCH"
    ds.PixelPresentation, ds.VolumetricProperties, ds.VolumeBasedCalculationTechnique = "MONOCHROME", "VOLUME", "NONE"
    ds.ComplexImageComponent, ds.AcquisitionContrast = "MAGNITUDE", "T1"
    ds.BurnedInAnnotation, ds.LossyImageCompression, ds.PresentationLUTShape = "NO", "00", "IDENTITY"
    organisation = Dataset()
    organisation.DimensionOrganizationUID = made_uid("dimensions", name)
    ds.DimensionOrganizationSequence = [organisation]
    index = Dataset()
    index.DimensionOrganizationUID = organisation.DimensionOrganizationUID
    index.DimensionIndexPointer = pydicom.datadict.tag_for_keyword("InStackPositionNumber")
    index.FunctionalGroupPointer = pydicom.datadict.tag_for_keyword("FrameContentSequence")
    ds.DimensionIndexSequence = [index]
    ds.SharedFunctionalGroupsSequence = [_shared_groups(ds, planes[0], series)]
    ds.PerFrameFunctionalGroupsSequence = [_frame_groups(plane, n) for n, plane in enumerate(planes, 1)]
    add_pixels(ds, stored)
    return ds


def _shared_groups(ds: Dataset, plane: Plane, series: Series) -> Dataset:
    place, scale, kind, anatomy, region = Dataset(), Dataset(), Dataset(), Dataset(), Dataset()
    add_place(place, plane, 1)
    add_scale(scale, series.slope)
    kind.FrameType = ds.ImageType
    kind.PixelPresentation, kind.VolumetricProperties = "MONOCHROME", "VOLUME"
    kind.VolumeBasedCalculationTechnique, kind.ComplexImageComponent = "NONE", "MAGNITUDE"
    kind.AcquisitionContrast = "T1"
    region.CodeValue, region.CodingSchemeDesignator, region.CodeMeaning = "12738006", "SCT", "Brain"
    anatomy.FrameLaterality = "B"
    anatomy.AnatomicRegionSequence = [region]
    groups = Dataset()
    groups.PixelMeasuresSequence = [_only(place, "PixelSpacing", "SliceThickness")]
    groups.PlaneOrientationSequence = [_only(place, "ImageOrientationPatient")]
    groups.PixelValueTransformationSequence = [_only(scale, "RescaleIntercept", "RescaleSlope", "RescaleType")]
    groups.FrameVOILUTSequence = [_only(scale, "WindowCenter", "WindowWidth")]
    groups.MRImageFrameTypeSequence = [kind]
    groups.FrameAnatomySequence = [anatomy]
    return groups


def _frame_groups(plane: Plane, number: int) -> Dataset:
    place, content = Dataset(), Dataset()
    add_place(place, plane, number)
    content.StackID, content.InStackPositionNumber, content.DimensionIndexValues = "1", number, [number]
    content.FrameAcquisitionNumber = 1
    groups = Dataset()
    groups.FrameContentSequence = [content]
    groups.PlanePositionSequence = [_only(place, "ImagePositionPatient")]
    return groups


def _only(ds: Dataset, *names: str) -> Dataset:
    taken = Dataset()
    for name in names:
        taken[name] = ds[name]
    return taken


def encoded(ds: Dataset, syntax: str) -> bytes:
    """The Part 10 file in one transfer syntax."""
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    plugins = {uid.RLELossless: "pydicom", uid.JPEGLSLossless: "pyjpegls", uid.JPEG2000Lossless: "pylibjpeg"}
    if syntax in plugins:
        ds.compress(syntax, encoding_plugin=plugins[syntax], generate_instance_uid=False)
    elif syntax == uid.JPEGLosslessSV1:
        ds.PixelData = encapsulate([_jpeg_lossless(ds)])
        ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
    elif syntax == uid.ExplicitVRBigEndian:
        # pydicom swaps the elements' numbers, never the pixels.
        ds.PixelData = np.frombuffer(ds.PixelData, "<u2").astype(">u2").tobytes()
    ds.file_meta.TransferSyntaxUID = syntax
    buffer = io.BytesIO()
    # A new data set knows no encoding of its own; save_as takes it from the transfer syntax.
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _jpeg_lossless(ds: Dataset) -> bytes:
    """The codestream by GDCM, the one encoder with a wheel. It works on files, and only its pixels are kept."""
    with tempfile.TemporaryDirectory() as folder:
        plain, packed = f"{folder}/plain.dcm", f"{folder}/packed.dcm"
        ds.save_as(plain, enforce_file_format=True)
        reader = gdcm.ImageReader()
        reader.SetFileName(plain)
        change = gdcm.ImageChangeTransferSyntax()
        change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
        if not reader.Read() or not (change.SetInput(reader.GetImage()) or change.Change()):
            raise RuntimeError("GDCM did not encode the slice")
        writer = gdcm.ImageWriter()
        writer.SetFileName(packed)
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        writer.Write()
        return next(pydicom.encaps.generate_frames(pydicom.dcmread(packed).PixelData, number_of_frames=1))


# --- The study --------------------------------------------------------------------------------------------------

AXIAL = Series(1, "T1 MPRAGE AX")
CORONAL = Series(2, "T1 MPRAGE COR", body_part="HEAD", slope=2.5)
SAGITTAL = Series(3, "T1 MPRAGE SAG", body_part="HEAD")
STACK = Series(4, "T1 MPRAGE AX ENHANCED", slope=0.5)
RIM = Series(5, "T1 MPRAGE AX POST GD", contrast=True)
DURAL = Series(6, "T1 MPRAGE AX POST GD", contrast=True)
SELLA = Series(7, "T1 MPRAGE COR POST GD", body_part="HEAD", contrast=True)
SCOUT = Series(8, "T1 SAG", body_part="HEAD")
CT = Series(9, "CT HEAD", body_part="HEAD")


def axial(z: float) -> Plane:
    """An axial slice."""
    return Plane("AX", (0, -17, z))


RIM_MASS = Mass("rim", (31, 2, 27), (19, 23, 19))
DURAL_MASS = Mass("dural", (-52, -22, 42), (19, 19, 18))
SELLA_MASS = Mass("sella", (0, 3, -31), (14, 12, 10))

RIM_PLANE = axial(27)
CORONAL_PLANE = Plane("COR", (0, -20, 6), rows=208, columns=208)
SAGITTAL_PLANE = Plane("SAG", (16, -8, -8), rows=256, columns=256)
SELLA_PLANE = Plane("COR", (0, 3, 4), rows=208, columns=208)


@dataclass(frozen=True)
class Entry:
    """One file of the study and its line in the manifest; `reason` is empty for what is to be assessed."""

    file: str
    data: bytes = field(repr=False)
    note: str
    reason: str = ""
    frames: int = 1


def to_assess(head: Head) -> Iterator[Entry]:
    """The slices that a model can be asked about."""

    def one(name: str, syntax: str, series: Series, plane: Plane, note: str, mass: Mass | None = None) -> Entry:
        return Entry(name, encoded(classic(name, series, plane, acquire(head, plane, mass)), syntax), note)

    explicit, implicit, big_endian = uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian
    deflated = uid.DeflatedExplicitVRLittleEndian
    yield one("brain_axial_explicit.dcm", explicit, AXIAL, axial(10), "basal ganglia")
    yield one("brain_axial_rle.dcm", uid.RLELossless, AXIAL, axial(22), "lateral ventricles")
    name = "brain_axial_monochrome1_jpeglossless.dcm"
    inverted = classic(name, AXIAL, axial(36), acquire(head, axial(36)), instance=3, monochrome1=True)
    yield Entry(name, encoded(inverted, uid.JPEGLosslessSV1), "above the ventricles; white is the lowest value")
    yield one("brain_coronal_bigendian.dcm", big_endian, CORONAL, CORONAL_PLANE, "brain stem")
    yield one("brain_sagittal_deflated.dcm", deflated, SAGITTAL, SAGITTAL_PLANE, "beside the midline")
    name, stack = "brain_axial_multiframe_rle.dcm", [Plane("AX", (0, -17, z), 192, 160, 1.25) for z in (44, 48, 52)]
    frames = enhanced(name, STACK, stack, np.stack([acquire(head, plane) for plane in stack]))
    yield Entry(name, encoded(frames, uid.RLELossless), "Enhanced MR; near the vertex", frames=3)
    yield one("mass_rim_jpeg2000.dcm", uid.JPEG2000Lossless, RIM, RIM_PLANE, "painted like a glioma", RIM_MASS)
    yield one("mass_dural_jpegls.dcm", uid.JPEGLSLossless, DURAL, axial(42), "painted like a meningioma", DURAL_MASS)
    yield one("mass_sella_implicit.dcm", implicit, SELLA, SELLA_PLANE, "painted like a pituitary tumour", SELLA_MASS)
    yield Entry("brain_axial.jpg", picture(acquire(head, axial(16)), "JPEG"), "a slice exported as a picture")
    yield Entry("brain_axial.png", picture(acquire(head, axial(30)), "PNG"), "a slice exported as a picture")
    rim = picture(acquire(head, RIM_PLANE, RIM_MASS), "JPEG")
    yield Entry("mass_rim.jpg", rim, "the slice of mass_rim_jpeg2000.dcm exported as a picture")


def to_refuse(head: Head) -> Iterator[Entry]:
    """What must come back with a reason and no label."""
    name = "refuse_ct.dcm"
    yield Entry(name, encoded(computed_tomography(name, head), uid.JPEGLSLossless), "a CT head", "wrong_modality", 0)
    name, plane = "refuse_localiser.dcm", Plane("SAG", (0, -8, -8), 160, 160, 1.75)
    scout = classic(name, SCOUT, plane, acquire(head, plane))
    scout.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    yield Entry(name, encoded(scout, uid.RLELossless), "plans the examination", "localiser", 0)
    name, plane = "refuse_blank.dcm", axial(110)
    blank = classic(name, AXIAL, plane, np.zeros((plane.rows, plane.columns), np.uint16), instance=4)
    yield Entry(name, encoded(blank, uid.RLELossless), "every pixel is 0", "blank", 0)
    name = "refuse_truncated.dcm"
    whole = encoded(classic(name, AXIAL, axial(14), acquire(head, axial(14)), instance=5), uid.ExplicitVRLittleEndian)
    yield Entry(name, whole[: len(whole) * 2 // 5], "cut off within the pixel data", "truncated_pixels", 0)
    text = b"This is a text file. Its name ends in .dcm, which makes it no scan.\n"
    yield Entry("refuse_text.dcm", text, "a text file with the wrong name", "unreadable", 0)
    yield Entry("refuse_colour.jpg", colour_gradient(), "a colour picture", "colour", 0)


def picture(stored: np.ndarray, kind: str) -> bytes:
    """The windowed slice as JPEG or PNG."""
    buffer = io.BytesIO()
    Image.fromarray(displayed(stored)).save(buffer, kind, quality=92, optimize=True)
    return buffer.getvalue()


def colour_gradient() -> bytes:
    """A JPEG of all hues."""
    y, x = np.mgrid[0:240, 0:240].astype(np.float32) / 239
    channels = (x, y, 1 - (x + y) / 2)
    buffer = io.BytesIO()
    rgb = np.rint(np.stack(channels, -1) * 255).astype(np.uint8)
    Image.fromarray(rgb).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def computed_tomography(name: str, head: Head) -> Dataset:
    """A CT Image Storage object of the same head, stored from -1024 HU on."""
    plane = axial(10)
    ds = header(name, CT, uid.CTImageStorage)
    ds.Modality = "CT"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.KVP, ds.AcquisitionNumber, ds.PatientPosition = 120, 1, "HFS"
    add_place(ds, plane, 1)
    noise = np.random.default_rng([SEED, 9]).normal(0, 4, (plane.rows, plane.columns))
    values = ndimage.gaussian_filter(head.hounsfield(plane.points()), 0.6) + noise
    add_pixels(ds, np.clip(np.rint(values + 1024), 0, 4095).astype(np.uint16))
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = -1024, 1, "HU"
    ds.WindowCenter, ds.WindowWidth = 40, 80
    return ds


def build(output: Path) -> None:
    """Write `output`/study and `output`/manifest.csv anew."""
    study = output / "study"
    shutil.rmtree(study, ignore_errors=True)
    study.mkdir(parents=True)
    head = Head()
    with (output / "manifest.csv").open("w", newline="") as lines:
        manifest = csv.writer(lines, lineterminator="\n")
        manifest.writerow(["file", "expected", "reason", "frames", "note"])
        for entry in [*to_assess(head), *to_refuse(head)]:
            (study / entry.file).write_bytes(entry.data)
            expected = "refuse" if entry.reason else "assess"
            manifest.writerow([entry.file, expected, entry.reason, entry.frames, entry.note])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Make the sample study anew.")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="folder to write to (default: worker/sample)")
    build(parser.parse_args().output)
