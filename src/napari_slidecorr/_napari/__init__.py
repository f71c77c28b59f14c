"""napari, Qt and magicgui live here and nowhere else."""
