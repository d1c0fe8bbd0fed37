"""``python -m volssl``: the same commands as ``volssl``, for torchrun."""

from volssl.cli import main

if __name__ == "__main__":
    main()
