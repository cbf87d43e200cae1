"""`python -m flowkit`, and what `accelerate launch -m flowkit` starts."""

from flowkit.cli import main

if __name__ == "__main__":
    main()
