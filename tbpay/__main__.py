"""``python -m tbpay``."""

from tbpay.cli import main

if __name__ == "__main__":
    main()
