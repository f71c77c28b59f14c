"""Do clusters of features follow the class or the slide?"""

from __future__ import annotations

import numpy as np

from napari_slidecorr.diagnostics.feature_table import FeatureTable, Measure

NAME = "clustering_score"
MOST = 12
PER_SLIDE = 60


def clustering_score(table: FeatureTable, *, seed: int = 0) -> Measure:
    """Adjusted Rand index of k-means clusters with the class minus that with the slide.

    Returns
    -------
    Measure
        Above 0: clusters are tissue. Undefined below two classes, two slides or twenty patches; without an interval.

    Notes
    -----
    On up to 50 principal components; the number of clusters, 2 to 12, is that of the highest silhouette (PathoROB,
    arXiv:2507.17845).
    """
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA
    from sklearn.metrics import adjusted_rand_score, silhouette_score

    table = table.at_most(PER_SLIDE, seed)
    if len(np.unique(table.label)) < 2 or len(np.unique(table.slide_index)) < 2 or len(table) < 20:
        return Measure.undefined(NAME, "Clusters need two classes, two slides and twenty patches.", table)
    parts = PCA(min(50, *table.features.shape), random_state=seed).fit_transform(table.features)
    best, clusters = -np.inf, np.zeros(len(table), np.int64)
    for count in range(2, min(MOST, len(table) - 1) + 1):
        found = KMeans(count, n_init=4, random_state=seed).fit_predict(parts)
        score = silhouette_score(parts, found) if len(np.unique(found)) > 1 else -1.0
        if score > best:
            best, clusters = score, found
    value = adjusted_rand_score(table.label, clusters) - adjusted_rand_score(table.slide_index, clusters)
    note = f"{len(np.unique(clusters))} clusters; no interval."
    slides = len(np.unique(table.slide_index))
    return Measure(NAME, float(value), chance=0.0, n_slides=slides, n_patches=len(table), note=note)
