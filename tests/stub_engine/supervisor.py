"""An engine without a model, for tests and benchmarks that are about everything around it.

`python -P -m tests.stub_engine.supervisor` (with the checkout on PYTHONPATH) stands where `headrace-engine` stands: it
is the real supervisor with its cage, its state file and its back-off, whose child is `tests.stub_engine.child`, or the
module that STUB_ENGINE_CHILD names.
"""

import os
import sys

from headrace_runner.engine import supervisor


def main() -> int:
    """Run until SIGTERM or SIGINT; gives the exit code."""
    supervisor._CHILD_MODULE = os.environ.get("STUB_ENGINE_CHILD", "tests.stub_engine.child")
    return supervisor.main()


if __name__ == "__main__":
    sys.exit(main())
