"""`python -m harness`, for an environment whose console scripts are not on the path."""

from harness.cli.main import main

if __name__ == "__main__":
    main()
