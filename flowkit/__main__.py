"""`flowkit`, `python -m flowkit`, and what `accelerate launch -m flowkit` starts."""

import gc
import os
import sys


def main() -> None:
    """Run the command line. Ctrl-C while it is loaded leaves like Ctrl-C later."""
    # Threads of OpenMP that wait for one another by spinning slow a busy machine down fifteenfold. Read when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    gc.disable()  # until a command runs: nothing that loading makes is garbage, and looking for it takes time
    try:
        from flowkit.cli import main as run
    except KeyboardInterrupt:
        print("interrupted: nothing was done", file=sys.stderr)
        raise SystemExit(130) from None
    run()


if __name__ == "__main__":
    main()
