"""``python -m adalora_ref`` is ``adalora-ref``."""

from adalora_ref.cli import main

if __name__ == "__main__":
    main(prog_name="adalora-ref")
