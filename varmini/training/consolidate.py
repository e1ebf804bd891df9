"""From the training state of a run, split or not, to the folder that `from_pretrained` loads."""

from __future__ import annotations

from pathlib import Path

from ..model.tokenizer import MultiScaleVQVAE
from ..model.transformer import VAR
from ..runtime import distributed
from ..runtime.files import read_json
from ..runtime.pretrained import build
from . import checkpoint

AVERAGES = "/parts/ema/module."
"""How the names of the averaged weights begin in a checkpoint."""


def consolidate(run: Path) -> Path:
    """Writes config.json and model.safetensors: the averaged weights of the newest checkpoint.

    One process does this, on a CPU, however many the run had; under torchrun it is the first one.
    A run split by FSDP2 ends with it; called by hand it makes a model of a run that was stopped.

    Args:
        run: the folder of a tokenizer's or a transformer's run.

    Returns:
        The folder.

    Raises:
        ValueError: when there is no such run, no checkpoint, or none that is intact.
    """
    run = Path(run)
    if not (run / "run.json").exists():
        raise ValueError(f"{run} holds no run.json: give the folder of a training run")
    told = read_json(run / "run.json")
    kinds = {cls.kind: cls for cls in (MultiScaleVQVAE, VAR)}
    if str(told.get("kind")) not in kinds:
        raise ValueError(
            f"{run}/run.json does not tell what is trained: an older varmini wrote it; "
            f"--resume the run once"
        )
    path = checkpoint.newest(run / "state")
    if path is None:
        raise ValueError(f"{run} has no checkpoint yet: wait for the first one")
    if distributed.is_main():
        cls = kinds[told["kind"]]
        whole = told.get("config")
        values = whole.get("model") if isinstance(whole, dict) else None
        if not isinstance(values, dict):
            raise ValueError(f"{run}/run.json describes no {told['kind']}: restore the folder")
        source = f"{run}/run.json"
        weights = checkpoint.read(path, prefix=AVERAGES)[1]
        weights = {name.removeprefix(AVERAGES): t for name, t in weights.items()}
        model = build(cls, values, weights, source, str(path))
        model.save_pretrained(run)
    distributed.wait()
    return run
