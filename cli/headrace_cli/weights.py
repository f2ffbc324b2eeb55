"""Which local files stand for the GGUFs on a model's volume."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from headrace_crds.model import LLMModel


class WeightsError(Exception):
    """There is no such file; the message says what to do."""


@dataclass(frozen=True)
class Weights:
    """``file`` stands for any model's file, ``folder`` for the volume."""

    file: Path | None
    folder: Path | None

    def find(self, model: LLMModel) -> Mapping[str, Path]:
        """The model's files, weights first, by their paths inside the volume. Raises WeightsError."""
        local = model.spec.local
        if model.spec.remote is not None:
            raise WeightsError(
                f"LLMModel {model.metadata.name} is remote: `headrace run` executes local models alone; submit its "
                "tasks to a cluster, or name a local model in modelRef"
            )
        paths = [part.path for part in local.source.parts] if local else []
        if local is None or not paths:
            raise WeightsError(f"LLMModel {model.metadata.name} names no weights")
        claim = local.source.persistent_volume_claim
        where = f"the claim {claim.claim_name}" if claim is not None else "its source"
        paths += [adapter.path for adapter in local.adapters or ()]
        if self.file is not None and len(paths) > 1:
            raise WeightsError(
                f"LLMModel {model.metadata.name} has {len(paths)} files: name their folder by --model-dir"
            )
        folder = claim.claim_name if claim is not None else "."
        return {path: self._find(path, folder, where, model.metadata.name) for path in paths}

    def _find(self, path: str, claim_name: str, where: str, model: str) -> Path:
        if self.file is not None:
            candidates = [self.file]
        elif self.folder is not None:
            candidates = [self.folder / path, self.folder / claim_name / path]
        else:
            raise WeightsError(
                f"LLMModel {model} takes {path} from {where}, which is a cluster's affair: name a local copy "
                "by --weights FILE or its folder by --model-dir DIR"
            )
        for candidate in candidates:
            if candidate.is_file():
                return candidate.resolve()
        tried = " nor ".join(str(candidate) for candidate in candidates)
        raise WeightsError(f"LLMModel {model}: no file {tried}; see --weights and --model-dir")
