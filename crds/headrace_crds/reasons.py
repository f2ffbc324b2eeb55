"""The vocabulary of reasons: every one names a state that a person can act on.

The same words appear in conditions, events, log keys and metric labels.
"""

from enum import StrEnum


class Reason(StrEnum):
    # a task waits
    MODEL_NOT_FOUND = "ModelNotFound"
    MODEL_NOT_READY = "ModelNotReady"
    MODEL_LOADING = "ModelLoading"
    MODEL_SCALED_TO_ZERO = "ModelScaledToZero"
    QUEUED = "Queued"
    RETRY_BACKOFF = "RetryBackoff"
    # a task runs or ended
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    BACKOFF_LIMIT_EXCEEDED = "BackoffLimitExceeded"
    CONTEXT_LENGTH_EXCEEDED = "ContextLengthExceeded"
    INPUT_TOO_LARGE = "InputTooLarge"
    INVALID_SCHEMA = "InvalidSchema"
    UNSUPPORTED_SCHEMA = "UnsupportedSchema"
    INVALID_PARAMETERS = "InvalidParameters"
    INVALID_OUTPUT = "InvalidOutput"
    OUTPUT_TRUNCATED = "OutputTruncated"
    RESULT_TOO_LARGE = "ResultTooLarge"
    # an attempt ended without an outcome
    LEASE_EXPIRED = "LeaseExpired"
    ENGINE_LOST = "EngineLost"
    RUNNER_STOPPED = "RunnerStopped"
    MODEL_REPLACED = "ModelReplaced"
    QUEUE_STATE_LOST = "QueueStateLost"
    # a model
    SERVING = "Serving"
    SCALED_TO_ZERO = "ScaledToZero"
    WEIGHTS_VERIFIED = "WeightsVerified"
    SCHEDULED = "Scheduled"
    VERIFYING_WEIGHTS = "VerifyingWeights"
    LOADING_WEIGHTS = "LoadingWeights"
    WAITING_FOR_GPU = "WaitingForGPU"
    UNSCHEDULABLE = "Unschedulable"
    STARTING = "Starting"
    IMAGE_PULL_FAILED = "ImagePullFailed"
    VOLUME_NOT_READY = "VolumeNotReady"
    CLAIM_NOT_FOUND = "ClaimNotFound"
    POD_REFUSED = "PodRefused"
    CHILD_REFUSED = "ChildRefused"
    NAME_CONFLICT = "NameConflict"
    MODEL_FILE_NOT_FOUND = "ModelFileNotFound"
    INVALID_MODEL_FILE = "InvalidModelFile"
    CHECKSUM_MISMATCH = "ChecksumMismatch"
    ENGINE_CRASHED = "EngineCrashed"
    GPU_UNAVAILABLE = "GPUUnavailable"
    MODEL_LOAD_FAILED = "ModelLoadFailed"
    CONTEXT_TOO_LARGE = "ContextTooLarge"
    INVALID_SETTINGS = "InvalidSettings"
    SANDBOX_UNAVAILABLE = "SandboxUnavailable"
    RUNNER_CRASHED = "RunnerCrashed"
    RUNNER_SILENT = "RunnerSilent"
