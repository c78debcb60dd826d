"""How far a training is: the curve of its loss, and the bar that people see."""

import contextlib
import sys

from tqdm import tqdm

from cunet.recipe import TrainConfig


class Progress:
    """The loss curve of a training, and a bar over images, or over seconds where time is the budget.

    Args:
        config: gives the budget, `log_every` and the name.

    Attributes:
        loss_curve: pairs of the images seen and the mean loss over those since the pair before.
        window: sum of the losses, and number of the images, since the last pair.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.config, self.timed = config, config.max_seconds > 0
        self.loss_curve: list[list[float]] = []
        self.window = [0.0, 0]
        self._bar: tqdm | None = None

    def log(self, loss: float, step: int, elapsed: float, last: bool) -> None:
        """Add a step's loss to the curve and the bar.

        Args:
            loss: mean over the step's batch.
            step: how many steps are done, this one included.
            elapsed: seconds that they took, above 0.
            last: whether the budget is used, so that the curve ends here.
        """
        size, every = self.config.batch_size, self.config.log_every
        seen = step * size
        self.window[0] += loss * size
        self.window[1] += size
        if last or seen // every > (seen - size) // every:
            self.loss_curve.append([seen, self.window[0] / self.window[1]])
            self.window = [0.0, 0]
        if self._bar is not None:
            if step % 10 == 0:
                rate = {"images/s": f"{seen / elapsed:.1f}"} if self.timed else {}
                self._bar.set_postfix(loss=f"{loss:.4f}", **rate, refresh=False)
            self._bar.update((elapsed if self.timed else seen) - self._bar.n)

    def bar(self, step: int, elapsed: float, show: bool) -> contextlib.AbstractContextManager:
        """The bar, which begins at a step and its seconds; nothing if it is not to be shown."""
        if not show:
            return contextlib.nullcontext()
        config, timed, size = self.config, self.timed, self.config.batch_size
        self._bar = tqdm(
            desc=config.name,
            total=config.max_seconds if timed else -(-config.images // size) * size,
            initial=elapsed if timed else step * size,
            unit="s" if timed else " images",
            mininterval=0.5 if sys.stderr.isatty() else 30.0,
            bar_format="{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}" if timed else None,
        )
        return self._bar

    def tell(self, text: str) -> None:
        """A line above the bar, where there is one."""
        if self._bar is not None:
            self._bar.write(f"{self.config.name}: {text}", file=sys.stderr)
