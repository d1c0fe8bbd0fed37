"""What files are called (torch-free): the ends of names by which a kind is known."""

from __future__ import annotations

IMAGES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
DICOM = (".dcm", ".dicom", ".ima")
NIFTI = (".nii", ".nii.gz")
SLIDES = (".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".scn", ".bif", ".svslide", ".czi")
TIFF = (".tif", ".tiff")  # a slide, or a picture
UNREAD = (  # images that nothing here reads
    *(".nii.bz2", ".nii.xz", ".nii.zst", ".hdr", ".img", ".mgh", ".mgz", ".mha", ".mhd", ".mnc", ".nhdr", ".nrrd"),
    *(".par", ".rec", ".vtk", ".vti", ".heic", ".j2k", ".jp2", ".jpx", ".jxl", ".webp"),
)
VIDEOS = (".avi", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv")
