"""Scans as a hospital sends them: a phantom cohort as folders of DICOM, with masks beside them."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from data_modules.cohort.table import Series, read_cohort


def write_folders(cohort: Path, out: Path) -> None:
    """Write `<out>/dicom/<series>/*.dcm` for each series of a cohort, and `<out>/labels/<series>.nii.gz`.

    Heads that are known to have no lesion are left out: a development split of one patient needs one with lesions.
    """
    (out / "labels").mkdir(parents=True)
    for series in read_cohort(cohort).series:
        if series.label is not None and not np.asarray(nib.load(series.label).dataobj).any():
            continue
        write_dicom(series, out / "dicom" / series.series_id)
        if series.label is not None:
            nib.save(in_dicom_order(series.label), out / "labels" / f"{series.series_id}.nii.gz")


def in_dicom_order(path: Path) -> nib.Nifti1Image:
    """An image with its voxels as DICOM has them (to the left, to the back, upwards), as ITK-SNAP saves a mask."""
    image = nib.load(path)
    wanted = nib.orientations.axcodes2ornt(("L", "P", "S"))
    return image.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(image.affine), wanted))


def write_dicom(series: Series, folder: Path) -> None:
    """One CT file a slice, with the geometry of the series' NIfTI file."""
    folder.mkdir(parents=True)
    image = in_dicom_order(series.image)
    hu = np.asarray(image.dataobj).astype("<i2")
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ image.affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    directions = lps[:3, :3] / spacing
    uid = generate_uid(entropy_srcs=[series.series_id])[:54]  # room for the number of a slice, of 64 characters
    for k in range(hu.shape[2]):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = CTImageStorage
        meta.MediaStorageSOPInstanceUID = f"{uid}.{k}"
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        slice_ = FileDataset(str(folder), {}, file_meta=meta, preamble=b"\0" * 128)
        slice_.SOPClassUID, slice_.SOPInstanceUID = CTImageStorage, f"{uid}.{k}"
        slice_.Modality, slice_.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
        slice_.SeriesInstanceUID, slice_.SeriesNumber, slice_.InstanceNumber = uid, 1, k + 1
        slice_.ImagePositionPatient = [round(float(v), 6) for v in (lps @ [0, 0, k, 1])[:3]]
        slice_.ImageOrientationPatient = [round(float(v), 8) for v in (*directions[:, 0], *directions[:, 1])]
        slice_.PixelSpacing = [round(float(spacing[1]), 6), round(float(spacing[0]), 6)]  # rows, then columns
        slice_.SliceThickness = series.slice_thickness_mm
        slice_.ConvolutionKernel, slice_.Manufacturer = series.kernel, series.manufacturer
        slice_.Rows, slice_.Columns, slice_.SamplesPerPixel = hu.shape[1], hu.shape[0], 1
        slice_.PhotometricInterpretation, slice_.PixelRepresentation = "MONOCHROME2", 1
        slice_.BitsAllocated, slice_.BitsStored, slice_.HighBit = 16, 16, 15
        slice_.RescaleSlope, slice_.RescaleIntercept = 1, 0
        slice_.PixelData = np.ascontiguousarray(hu[:, :, k].T).tobytes()
        slice_.save_as(folder / f"{k + 1:04d}.dcm", enforce_file_format=True)
