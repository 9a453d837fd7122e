"""The simple detectors that a network has to beat, each causal, and each fitted on nothing but history or a clean head.

Where a published method leaves a choice open, it is made in the baseline's favour: volatility over the very span in
which the injected anomalies are measured, scales that a constant price can't make zero, our own features as input.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from river.anomaly import HalfSpaceTrees
from scipy.ndimage import median_filter
from scipy.signal import lfilter
from scipy.spatial.distance import cdist
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.preprocessing import StandardScaler

from service import features
from service.features import CLIP, NO_PRIOR
from service.ticks import Ticks
from training.evaluate import Candidate, Detector
from training.linear import no_network, pca_autoencoder
from training.windowed import on_changes, on_price

WINDOW: Final = 30
HAMPEL_WINDOW: Final = 31

_SPAN: Final = 500  # ticks over which the EWMA looks back


def returns(ticks: Ticks) -> NDArray[np.float64]:
    """Log returns float64 [N] from tick to tick, 0 for the first; prices must be positive."""
    return np.diff(np.log(ticks.price), prepend=np.log(ticks.price[0]))


def ewma(head: Ticks) -> Detector:
    """How many EW standard deviations a return lies from the EW mean of those before it."""
    least = max(1e-2 * float(returns(head).std()), 1e-12)

    def score(ticks: Ticks) -> NDArray[np.float64]:
        r = returns(ticks)
        mean, square = (lfilter([1 / _SPAN], [1.0, 1 / _SPAN - 1.0], values) for values in (r, r * r))
        std = np.sqrt(np.maximum(square - mean**2, least**2))
        before = slice(0, -1)
        return np.asarray(np.r_[0.0, np.abs(r[1:] - mean[before]) / std[before]])

    return score


def hampel(head: Ticks) -> Detector:
    """Distance of a price from the median of the last prices, in their median absolute deviations.

    Hampel (1974), "The influence curve and its role in robust estimation", JASA 69(346).
    """
    moves = np.abs(np.diff(head.price))
    least = float(moves[moves > 0].mean()) if moves.any() else 1.0

    def score(ticks: Ticks) -> NDArray[np.float64]:
        past = np.pad(ticks.price, (HAMPEL_WINDOW - 1, 0), mode="edge")
        middle = median_filter(past, HAMPEL_WINDOW, origin=HAMPEL_WINDOW // 2)[HAMPEL_WINDOW - 1 :]
        windows = sliding_window_view(past, HAMPEL_WINDOW)
        chunks = np.array_split(np.arange(len(ticks)), len(ticks) // 20_000 + 1)
        spread = [np.median(np.abs(windows[rows] - middle[rows, None]), axis=1) for rows in chunks]
        return np.asarray(np.abs(ticks.price - middle) / np.maximum(1.4826 * np.concatenate(spread), least))

    return score


def sub_pca(head: Ticks) -> Detector:
    """Distances of the last 30 returns from each principal component, over the variance it explains.

    Shyu et al. (2003), "A novel anomaly detection scheme based on principal component classifier", on windows and with
    the score of PyOD and TSB-AD (Liu & Paparrizos 2024), whose best simple method it is.
    """
    scaler = StandardScaler().fit(_windows(returns(head)))
    pca = PCA(random_state=0).fit(scaler.transform(_windows(returns(head))))
    share = np.maximum(pca.explained_variance_ratio_, 1e-6)

    def score(ticks: Ticks) -> NDArray[np.float64]:
        windows = scaler.transform(_windows(returns(ticks)))
        return np.asarray((cdist(windows, pca.components_) / share).sum(axis=1))

    return score


def _windows(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The window float64 [N, WINDOW] that ends with each value, zeros before the first."""
    return sliding_window_view(np.pad(values, (WINDOW - 1, 0)), WINDOW)


def isolation_forest(head: Ticks) -> Detector:
    """Isolation Forest on our features. Liu, Ting & Zhou (2008), "Isolation forest", ICDM."""
    forest = IsolationForest(random_state=0).fit(_inputs(head))

    def score(ticks: Ticks) -> NDArray[np.float64]:
        return -np.asarray(forest.score_samples(_inputs(ticks)))

    return score


def half_space_trees(_head: Ticks) -> Detector:
    """River's half-space trees on our features, learning from tick to tick. Tan, Ting & Liu (2011), IJCAI."""

    def score(ticks: Ticks) -> NDArray[np.float64]:
        trees = HalfSpaceTrees(seed=0)
        scores = np.empty(len(ticks))
        for i, row in enumerate(((_inputs(ticks) + CLIP) / (2 * CLIP)).tolist()):
            x = dict(enumerate(row))
            scores[i] = trees.score_one(x)  # type: ignore[no-untyped-call]
            trees.learn_one(x)  # type: ignore[no-untyped-call]
        return scores

    return score


def _inputs(ticks: Ticks) -> NDArray[np.float32]:
    """Our features as the autoencoder sees them, lateness and repetition, float32 [N, F + 2]."""
    found = features.features(ticks, np.zeros(len(ticks), np.int64), np.zeros(1, features.MEMORY), NO_PRIOR)
    return np.minimum(np.column_stack([found.x, found.lateness, found.repeats]), CLIP)


def _by_itself(name: str, prepare: Callable[[Ticks], Detector]) -> Callable[[list[Ticks]], Candidate]:
    """A baseline that needs no history but a stream's clean head."""
    return lambda _history: Candidate(name, name, True, prepare)


# Each makes its candidate from the training part of every stream.
BASELINES: Final[dict[str, Callable[[list[Ticks]], Candidate]]] = {
    **{
        name: _by_itself(name, prepare)
        for name, prepare in {
            "EWMA z-score": ewma,
            "Hampel filter": hampel,
            "Sub-PCA": sub_pca,
            "Isolation Forest": isolation_forest,
            "half-space trees": half_space_trees,
        }.items()
    },
    "window LSTM, raw price": on_price,
    "window LSTM, changes": on_changes,
    "no network": no_network,
    "PCA autoencoder": pca_autoencoder,
}
