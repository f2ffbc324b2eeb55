"""Which local file stands for the GGUF on a model's volume."""

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

    def find(self, model: LLMModel) -> Path:
        """The model's file. Raises WeightsError."""
        local = model.spec.local
        source = local.source.persistent_volume_claim if local else None
        if source is None:
            raise WeightsError(f"LLMModel {model.metadata.name} names no file on a PersistentVolumeClaim")
        if self.file is not None:
            candidates = [self.file]
        elif self.folder is not None:
            candidates = [self.folder / source.path, self.folder / source.claim_name / source.path]
        else:
            raise WeightsError(
                f"LLMModel {model.metadata.name} takes {source.path} from the claim {source.claim_name}, which is in a "
                "cluster: name a local copy by --weights FILE or its folder by --model-dir DIR"
            )
        for candidate in candidates:
            if candidate.is_file():
                return candidate.resolve()
        tried = " nor ".join(str(candidate) for candidate in candidates)
        raise WeightsError(f"LLMModel {model.metadata.name}: no file {tried}; see --weights and --model-dir")
