"""The model card: what a model file is, for a person, in Markdown beside it.

Mitchell et al. (2019), Model cards for model reporting. FAT*. arXiv:1810.03993. It holds no clock time and no path, so
that the same ticks, settings and code give the same card.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timezone

import numpy as np

from service import __version__, autoencoder
from service.autoencoder import Model
from service.scorer import Scorer
from service.ticks import Ticks
from training.alarms import false_alarms
from training.fit import Epoch, Settings
from training.history import History

BUDGETS = (5.0, 20.0, 100.0)  # false alarms per 100,000 ticks that are promised, and then counted
MOST_STREAMS = 30  # with a row of their own

TEMPLATE = """\
# {id}: a {cell} autoencoder that says which ticks are not normal

## Model details
{details}

Features, causal and scale-free: {features}.

## Intended use
Finding ticks of a live or recorded feed (trades, quotes, or both) that do not fit what their stream did before: wrong prints,
stale or crossed quotes, outages, bursts. An alert is a reason to look: no evidence against anyone, and no advice to trade.

```
tickwatch replay TICKS --model {name} --output scores.parquet
tickwatch worker --model {name} --alert-budget 20
```

Any ONNX runtime opens it: `features` [T, B, {F}] (standardised, clipped to 5, 0 where missing) and `state` [B, {S}] (zeros for a
new stream) give `reconstruction` and `new_state`. Standardisation, tails and thresholds are JSON in its metadata.

## Training data
{data}

## Training
Truncated backpropagation with carried state and denoising; the epoch with the lowest validation loss is kept. Loss is the mean
Huber error in standard deviations. Epoch {best} of {epochs} was the best: {train:.4f} in training (input spoiled, dropout on),
{validation:.4f} in validation (input clean); the last one ended with {last_train:.4f} and {last_validation:.4f}.

{settings}

## Calibration
Errors become probabilities by generalised Pareto tails per channel, which go on adapting in every stream. The tails and these
thresholds were set on the whole history, the validation part too.

{thresholds}

## False alarms in the validation part
Alarms per 100,000 ticks, one in 50 ticks at most, scored by the code that serves. All of them count as false, though real ticks
hold true oddities. The thresholds have seen these ticks: another market, or another week, may keep the promise less well.

{alarms}

## Limits
- It knows the markets above. Another venue, kind of asset or feed may alert more or less often than promised, above all in a
  stream's first 2,000 ticks, in which its own statistics form.
- It sees one stream at a time: not that two venues disagree, and nothing of news, calendars or halts.
- What changes slowly within a stream's own habits is normal to it, whoever causes it.
- The ticks were not cleaned before training: an oddity that was frequent in them is normal to it.
- A lower loss does not make a better detector; compare detectors by what they find.
"""

Row = Sequence[object]


def describe(
    model: Model, name: str, settings: Settings, epochs: list[Epoch], history: History, used: dict[str, Ticks]
) -> str:
    """The card of a model, in a file of this name, that was fitted to `used`, the long enough streams of `history`."""
    card = model.card
    best = min(epochs, key=lambda epoch: epoch.validation)
    thresholds = [(budget, f"{threshold:.3f}") for budget, threshold in card.thresholds.items()]
    return TEMPLATE.format(
        id=model.id,
        name=name,
        cell=card.cell.upper(),
        features=", ".join(card.features),
        F=len(card.features),
        S=card.state_size,
        details=_table(("", ""), _details(model)),
        data=_table(("", ""), _data(model, settings, history, used)),
        best=epochs.index(best) + 1,
        epochs=len(epochs),
        train=best.train,
        validation=best.validation,
        last_train=epochs[-1].train,
        last_validation=epochs[-1].validation,
        settings=_table(("setting", "value"), list(asdict(settings).items())),
        thresholds=_table(("alert budget per 100,000 ticks", "threshold of the score"), thresholds),
        alarms=_alarms(model, settings, used),
    )


def _details(model: Model) -> list[Row]:
    card = model.card
    return [
        ("id", f"{model.id}: cell and first digits of the file's SHA-256"),
        ("made by", f"`tickwatch train` of tickwatch {__version__}, code revision `{card.code_revision}`"),
        ("kind", f"{card.cell.upper()} autoencoder, encoder and decoder of {card.hidden} hidden numbers each"),
        ("bottleneck", f"{card.bottleneck} numbers that each tick is squeezed into"),
        ("weights", f"{_weights(model):,}"),
        ("state", f"{card.state_size} float32 numbers per stream, carried from tick to tick"),
        ("input", f"{len(card.features)} features of set {card.feature_set}"),
        ("licence", "Apache-2.0 as tickwatch; what the licence of the data asks for holds for the weights too"),
    ]


def _data(model: Model, settings: Settings, history: History, used: dict[str, Ticks]) -> list[Row]:
    first, last = min(int(t.ts.min()) for t in used.values()), max(int(t.ts.max()) for t in used.values())
    return [
        ("origin", f"{history.origin}; {history.rejected:,} records could not be read"),
        ("ticks", f"{sum(map(len, used.values())):,} of {len(used):,} streams"),
        ("left out", f"{len(history.streams) - len(used):,} streams too short to learn from"),
        ("time", f"{_moment(first)} to {_moment(last)}"),
        ("fingerprint", f"`{model.card.data_fingerprint}`, SHA-256 of names and columns"),
        ("validation", f"the last {settings.validation:.0%} of each stream, which no weight was fitted to"),
    ]


def _alarms(model: Model, settings: Settings, used: dict[str, Ticks]) -> str:
    alarms = _realised(model, settings, used)
    shown = sorted(sorted(used, key=lambda name: (-len(used[name]), name))[:MOST_STREAMS])
    rows: list[Row] = [
        (name, f"{len(used[name]):,}", *_span(used[name]), *(f"{rate:.1f}" for rate in alarms[name])) for name in shown
    ]
    if len(used) > len(shown):
        rows.append((f"{len(used) - len(shown):,} shorter streams", *[""] * (3 + len(BUDGETS))))
    rows.append(("mean of all", "", "", "", *(f"{rate:.1f}" for rate in np.mean(list(alarms.values()), axis=0))))
    return _table(("stream", "ticks", "from", "to", *(f"{budget:g} promised" for budget in BUDGETS)), rows)


def _realised(model: Model, settings: Settings, used: dict[str, Ticks]) -> dict[str, list[float]]:
    """False alarms per 100,000 ticks at each of BUDGETS in every stream's validation part, its state carried there."""
    thresholds = [autoencoder.threshold(model.card, budget) for budget in BUDGETS]
    found = {}
    for name, ticks in used.items():
        scores = Scorer(model, BUDGETS[0], idle_hours=0.0).score(ticks).verdicts.score[settings.trained(len(ticks)) :]
        found[name] = [false_alarms(scores >= t, np.ones(len(scores), np.bool_)) for t in thresholds]
    return found


def _weights(model: Model) -> int:
    """Numbers that were fitted; the operators' second bias, always zero, is none of them."""
    card = model.card
    gates = {"rnn": 1, "gru": 3, "lstm": 4}[card.cell]
    features, hidden, bottleneck = len(card.features), card.hidden, card.bottleneck
    cells = sum(gates * hidden * (inputs + hidden + 1) for inputs in (features, bottleneck))
    return cells + bottleneck * (hidden + 1) + features * (hidden + 1)


def _span(ticks: Ticks) -> tuple[str, str]:
    return _moment(int(ticks.ts.min())), _moment(int(ticks.ts.max()))


def _moment(ts: int) -> str:
    return datetime.fromtimestamp(ts // 1_000_000_000, timezone.utc).strftime("%Y-%m-%d %H:%M")


def _table(head: Row, rows: Sequence[Row]) -> str:
    lines = (" | ".join(str(cell).replace("|", "/") for cell in row) for row in (head, ["---"] * len(head), *rows))
    return "\n".join(f"| {line} |" for line in lines)
