"""``python -m napari_slidecorr`` is ``slidecorr``; what ``torchrun -m`` starts."""

from napari_slidecorr.cli import main

if __name__ == "__main__":
    main()
