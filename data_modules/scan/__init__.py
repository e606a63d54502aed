"""One CT scan: its voxels in HU, their geometry, the thickness of its slices, and changes of grid."""
